"""The sentences of a recommendation: what one comparison, or several of one network, allow to be said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transfuse.results import causes, phrases, plateaus
from transfuse.results.arms import ArmComparison, ArmSpeed

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison

HELPS, HURTS, EQUIVALENT, UNDECIDED = "helps", "hurts", "equivalent", "undecided"
UNLEARNED = "unlearned"
"""Undecided, as neither arm is shown to be better than chance."""


@dataclass(frozen=True)
class Case:
    """What is known about one network."""

    model: str
    dataset: str
    metric: str
    baseline: str
    kinds: Mapping[str, str]
    subjects: Mapping[str, str]
    comparisons: tuple[ArmComparison, ...]
    values: Mapping[str, float]
    speeds: Mapping[str, ArmSpeed]
    threshold: tuple[str, float] | None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "patient"  # "image" where the data name no patients, so that each image counted as one

    def step(self, row: ArmComparison) -> causes.Step | None:
        """The cause of the gain that a comparison isolates; None where its arms differ in more, or in other things."""
        return causes.step_of(row, self.settings, self.network)


def is_defined(comparison: Comparison) -> bool:
    """Whether there is a difference at all; its interval may still be infinite."""
    return math.isfinite(comparison.difference)


def kind_of_verdict(row: ArmComparison) -> str:
    """The verdict, and `UNLEARNED` for one that is open because neither arm is shown to be better than chance."""
    held = row.comparison.verdict == UNDECIDED and row.at_chance is not None and not row.rising
    return UNLEARNED if held else row.comparison.verdict


def headline(subject: str, verdict: str) -> str:
    """The verdict in a few words."""
    return {
        HELPS: f"{phrases.sentence(subject)[:-1]} help.",
        HURTS: f"{phrases.sentence(subject)[:-1]} hurt.",
        EQUIVALENT: f"{phrases.sentence(subject)[:-1]} make no difference that matters.",
        UNDECIDED: f"Can't tell whether {subject} help.",
        UNLEARNED: f"Nothing learned that can be told from chance, so nothing can be said of {subject}.",
    }[verdict]


def _from(case: Case, arm: str) -> str:
    return "from random initialisation" if case.subjects[arm] == "random weights" else f"with {case.subjects[arm]}"


def _sample(case: Case, comparison: Comparison) -> str:
    a, b = comparison.seeds_a, comparison.seeds_b
    seeds = phrases.counted(a, "seed") + " per arm" if a == b else f"{a} and {b} seeds"
    unknown = ", patients unknown" if case.unit == "image" else ""
    return f"{phrases.counted(comparison.patients, f'test {case.unit}')}{unknown}, {seeds}"


def claim(case: Case, row: ArmComparison) -> str:
    """The main sentence of one network."""
    found, subject = row.comparison, case.subjects[row.arm]
    lead = f"For {case.model} on {case.dataset}"
    margin = phrases.trimmed(found.margin)
    numbers = ""
    if row.arm in case.values and row.baseline in case.values:
        numbers = (
            f"test {case.metric} {phrases.number(case.values[row.arm])} versus "
            f"{phrases.number(case.values[row.baseline])} {_from(case, row.baseline)} "
        )
    noun = "improvement" if phrases.smaller_is_better(found.metric) else "difference"
    difference = f"{noun} {phrases.signed(found.difference)}, {phrases.interval(found.low, found.high)}"
    evidence = f"{numbers}({difference}; {_sample(case, found)}; margin {margin})"
    if found.verdict == HELPS:
        return f"{lead}, {subject} help: {evidence}."
    if found.verdict == HURTS:
        return f"{lead}, {subject} hurt: {evidence}. Train {_from(case, row.baseline)}."
    if found.verdict == EQUIVALENT:
        return f"{lead}, {subject} make no difference that matters, that is, none as large as {margin}: {evidence}."
    if row.rising:
        return f"{lead}, we can't tell whether {subject} help: {_rising(row)}. So far: {evidence}. {_longer(row)}"
    if kind_of_verdict(row) == UNLEARNED and row.at_chance is not None:
        return (
            f"{lead}, nothing can be said of {subject}: neither arm is shown to be better than chance, {case.metric} "
            f"{phrases.trimmed(round(row.at_chance, 3))}, and arms that have not learned the task are alike whatever "
            f"they started from. So far: {evidence}."
        )
    return f"{lead}, we can't tell whether {subject} help: {evidence}. {_holm(case, row)}{_needed(found, case.unit)}"


def _holm(case: Case, row: ArmComparison) -> str:
    """Why an interval that excludes zero, or lies within the margin, decides nothing among several comparisons."""
    found = row.comparison
    if not (taken := phrases.taken_away(found)):
        return ""
    inside = "its 90 % interval lies within the margin"
    alone = {HELPS: "a gain: its own interval excludes zero", HURTS: "a loss: its own interval excludes zero"}
    return (
        f"By itself the comparison of {case.subjects[row.arm]} with {case.subjects[row.baseline]} would be called "
        f"{alone.get(taken, f'equivalent: {inside}')}. It is one of {phrases.counted(found.family, 'comparison')} of "
        "this network, and among so many that is not evidence enough (Holm's correction). "
    )


def _rising(row: ArmComparison) -> str:
    return f"training had not levelled off ({plateaus.gained(row.rising, row.comparison.metric)})"


def _longer(row: ArmComparison) -> str:
    """What would decide a comparison whose arms had not levelled off."""
    level = phrases.trimmed(row.comparison.margin / 2)
    seeds = min(row.comparison.seeds_a, row.comparison.seeds_b)
    more = ", with at least 3 seeds per arm" if seeds < 2 else ""
    return f"To decide it, train longer, until less than {level}, half the margin, is gained there{more}."


def _needed(found: Comparison, unit: str) -> str:
    """What would decide an undecided comparison (80 % power, `planning.needed_patients`)."""
    if min(found.seeds_a, found.seeds_b) < 2:
        return "One seed can't decide it: at least 3 seeds per arm are needed."
    if not math.isfinite(found.low):
        return f"More test {unit}s are needed before anything can be said."
    patients, seeds = found.needed_patients, found.needed_seeds
    have = min(found.seeds_a, found.seeds_b)
    if (patients is not None and patients <= found.patients) or (seeds is not None and seeds <= have):
        return (
            "These runs could tell a difference as large as the margin from none; the true one seems to lie "
            "between, so more data will help only slowly."
        )
    more_patients = "" if patients is None else phrases.counted(patients, f"test {unit}")
    more_seeds = "" if seeds is None else f"{phrases.counted(seeds, 'seed')} per arm"
    if patients and seeds:
        return (
            f"To decide it, about {more_patients} (with these seeds) or {more_seeds} (with these {unit}s) are needed."
        )
    if patients:
        return f"To decide it, about {more_patients} are needed; more seeds alone would not do."
    if seeds:
        return f"To decide it, about {more_seeds} are needed; more test {unit}s alone would not do."
    return f"To decide it, both more test {unit}s and more seeds are needed: neither alone would do."


def short_claim(row: ArmComparison, subject: str) -> str:
    """One comparison with the study's baseline in a line."""
    found = row.comparison
    numbers = f"{phrases.signed(found.difference)}, {phrases.interval(found.low, found.high)}"
    verdict = {
        HELPS: "help",
        HURTS: "hurt",
        EQUIVALENT: "make no difference that matters",
    }.get(found.verdict, "")
    if not verdict:
        return f"For {subject}, we can't tell ({numbers}{_why(row)})"
    return f"{subject} {verdict} ({numbers})"


def _why(row: ArmComparison) -> str:
    """Why a comparison decides nothing although its interval may look decided, as the end of a bracket."""
    if row.rising:
        return "; training had not levelled off"
    if kind_of_verdict(row) == UNLEARNED:
        return "; neither is shown to be better than chance"
    if phrases.taken_away(row.comparison):
        return f"; not evidence enough among {phrases.counted(row.comparison.family, 'comparison')}, by Holm"
    return ""


def gains(case: Case) -> list[str]:
    """Where the gain sits, a line for each part; nothing is claimed that an interval does not support."""
    found_by: dict[str, dict[str, dict[tuple[str, str], str]]] = {}
    for row in case.comparisons:
        step = case.step(row)
        if step is None or not step.is_defined:
            continue
        numbers = f"{phrases.signed(step.difference)}, {phrases.interval(*step.interval)}"
        size = f"{case.subjects[step.arm]} against {case.subjects[step.baseline]}: {numbers}{_why(row)}"
        found_by.setdefault(step.cause, {}).setdefault(step.verdict, {})[step.arm, step.baseline] = size
    return [
        f"{part}: "
        + "; ".join(
            f"{GAIN_TEXTS[part][verdict]} ({'; '.join(sizes.values())})" for verdict, sizes in found_by[part].items()
        )
        + "."
        for part in causes.CAUSES
        if part in found_by
    ]


GAIN_TEXTS = {
    causes.FEATURE_REUSE: {
        HELPS: "the learned features themselves help, beyond the scale of the weights",
        HURTS: "the learned features do harm, compared with random weights of the same scale",
        EQUIVALENT: "the learned features add nothing that matters to random weights of the same scale",
        UNDECIDED: "whether the learned features add to the scale of the weights can't be told",
    },
    causes.WEIGHT_SCALE: {
        HELPS: "the mean and variance of the pretrained weights alone, without any feature, already help",
        HURTS: "the mean and variance of the pretrained weights alone do harm",
        EQUIVALENT: "the mean and variance of the pretrained weights alone make no difference that matters",
        UNDECIDED: "whether the mean and variance of the pretrained weights alone help can't be told",
    },
    causes.UPPER_LAYERS: {
        HELPS: "transferring only the lower layers is better than transferring all of them",
        HURTS: "the lower layers are not enough: transferring all of them is better",
        EQUIVALENT: "the lower layers are enough: transferring the rest makes no difference that matters",
        UNDECIDED: "whether the lower layers are enough can't be told",
    },
    causes.ADAPTATION: {
        HELPS: "training the transferred layers further is better than keeping them frozen",
        HURTS: "training the transferred layers further does harm: they are better kept frozen",
        EQUIVALENT: "training the transferred layers further makes no difference that matters: they may stay frozen",
        UNDECIDED: "whether training the transferred layers further helps can't be told",
    },
}


def others(case: Case, rows: Sequence[ArmComparison], chosen: ArmComparison, primary: ArmComparison) -> list[str]:
    """The other arms against the baseline, in lines, or grouped where they are many."""
    told = {(row.arm, row.baseline) for row in (chosen, primary)}
    rest = [row for row in rows if (row.arm, row.baseline) not in told and case.step(row) is None]
    if len(rest) <= 5:
        return [phrases.sentence(short_claim(row, case.subjects[row.arm])) for row in rest]
    words = {HELPS: "help", HURTS: "hurt", EQUIVALENT: "make no difference that matters", UNDECIDED: "can't be told"}
    lines = []
    for verdict, word in words.items():
        names = [row.arm for row in rest if row.comparison.verdict == verdict]
        if names:
            lines.append(f"Of the other arms, {len(names)} {word}: {phrases.listed(names)}.")
    return lines


def speed(case: Case, chosen: ArmComparison) -> list[str]:
    """How many steps the chosen arm and the baseline took to the threshold, as a description without a claim."""
    if case.threshold is None or chosen.arm not in case.speeds or case.baseline not in case.speeds:
        return []
    quantity, limit = case.threshold
    parts = []
    for arm in (chosen.arm, case.baseline):
        speed = case.speeds[arm]
        total, median = len(speed.seeds), speed.median
        if speed.never == total:
            text = f"by none of {phrases.counted(total, 'seed')}"
        elif median is None:
            text = f"by only {total - speed.never} of {total} seeds"
        else:
            text = f"after {median:,.0f} steps (median of {phrases.counted(total, 'seed')}"
            text += f", {speed.never} of them never)" if speed.never else ")"
        parts.append(f"{text} {_from(case, arm)}")
    return [f"Speed: validation {quantity} {phrases.trimmed(limit)} was reached {parts[0]}, {parts[1]}."]
