"""What to do and how sure that is, in one or two plain sentences without numbers, as one may read them aloud."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transfuse.results import phrases
from transfuse.results.arms import ArmComparison
from transfuse.results.claims import EQUIVALENT, HELPS, HURTS, UNDECIDED, UNLEARNED, Case, kind_of_verdict

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison


def advice(case: Case, row: ArmComparison) -> str:
    """The advice of one network.

    Args:
        case: of the network.
        row: the comparison that decides, of an arm with the baseline.
    """
    found, kind = row.comparison, kind_of_verdict(row)
    arm, base = _named(case, row.arm), _named(case, row.baseline)
    if kind == HELPS:
        size = "by enough to matter" if found.low >= found.margin else "though perhaps by less than what matters to you"
        said = f"Use {arm} for {case.model}. They did better than {base}, by more than luck explains, {size}."
        return said + (_NOT_READY if row.at_chance is not None else "")
    if kind == HURTS:
        said = f"For {case.model}, use {base}, not {arm}. The latter did worse, by more than luck explains."
        return said + (_NOT_READY if row.at_chance is not None else "")
    if kind == EQUIVALENT:
        return (
            f"For {case.model} either will do: {arm} and {base} differ by less than what matters to you, and luck does "
            f"not explain that. Choose by what it costs; {base} are enough."
        )
    if kind == UNLEARNED:
        return (
            f"Don't decide yet for {case.model}: neither arm is shown to have learned the task. First get one to learn "
            "it: train longer, at other learning rates or on more data, or test on more patients."
        )
    return f"Don't decide yet for {case.model}: {_because(row, arm, base)}"


_NOT_READY = " But neither is shown to be better than chance, so neither is ready for use."


def joint_advice(parts: Sequence[tuple[Case, ArmComparison | None]]) -> str:
    """The advice for several networks in one sentence; each card says how sure it is.

    Args:
        parts: of each network its case and the comparison that decides, None without any.
    """
    groups: dict[str, list[str]] = {}
    for case, row in parts:
        groups.setdefault(_in_few_words(case, row), []).append(case.model)
    if len(groups) == 1:
        (what,) = groups
        return phrases.sentence(f"{what}, for {'both' if len(parts) == 2 else f'each of the {len(parts)}'} networks")
    return phrases.sentence("; ".join(f"for {phrases.listed(names)}, {what}" for what, names in groups.items()))


def _in_few_words(case: Case, row: ArmComparison | None) -> str:
    if row is None:
        return "there is no result yet"
    return {
        HELPS: f"use {_named(case, row.arm)}",
        HURTS: f"use {_named(case, row.baseline)}",
        EQUIVALENT: f"either will do, and {_named(case, row.baseline)} are enough",
        UNDECIDED: "don't decide yet",
        UNLEARNED: "get an arm to learn the task before you decide",
    }[kind_of_verdict(row)]


def _named(case: Case, arm: str) -> str:
    """An arm as it is called in a sentence, with its label where that is another word."""
    subject = case.subjects[arm]
    return subject if arm in subject.replace("(", " ").replace(")", " ").split() else f"{subject} (arm {arm})"


def _because(row: ArmComparison, arm: str, base: str) -> str:
    """Why an undecided comparison is, and what to do."""
    found = row.comparison
    open_ = f"these runs can't tell whether {arm} help."
    if row.rising:
        return f"training was still improving when it stopped, so {open_} Train longer."
    if min(found.seeds_a, found.seeds_b) < 2:
        return f"one training says nothing of what the next would give, so {open_} Train more seeds."
    if not math.isfinite(found.low):
        return f"{open_} Test on more patients."
    if taken := phrases.taken_away(found):
        seems = {HELPS: "seem to help", HURTS: "seem to hurt"}.get(taken, f"and {base} seem to be alike")
        return (
            f"{arm} {seems}, but several comparisons were made, and among so many one like this may be luck. Repeat "
            "this one alone, with new patients, before you rely on it."
        )
    return f"{open_} {_cure(found)}"


def _cure(found: Comparison) -> str:
    """What would decide, as `claims.needed` says with numbers."""
    patients, seeds, have = found.needed_patients, found.needed_seeds, min(found.seeds_a, found.seeds_b)
    if (patients is not None and patients <= found.patients) or (seeds is not None and seeds <= have):
        return "If they differ, it is by about what matters to you, and more data would help only slowly."
    if patients and seeds:
        return "Test on more patients or train more seeds first."
    if patients:
        return "Test on more patients first."
    if seeds:
        return "Train more seeds first."
    return "Test on more patients and train more seeds first."
