"""From comparisons to a sentence: are pretrained weights worth it here, for which network, where, and how sure is that?

No sentence rests on a point estimate: what is claimed follows from the verdict of `transfuse.compare`, which treats
patients and seeds as sampled, and everything that limits the claim is said next to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from transfuse.results import arms, caveats, chance, claims, phrases
from transfuse.results.advice import advice, joint_advice
from transfuse.results.arms import ArmComparison, ArmEstimate, ArmSpeed
from transfuse.results.claims import EQUIVALENT, HELPS, HURTS, UNDECIDED, UNLEARNED, Case

MIXED, NONE = "mixed", "none"
ONE_ARM = "One arm: nothing to compare."
CANT_TELL, NOTHING, BY_NETWORK = "can't tell", "no result", "by network"


@dataclass(frozen=True)
class Recommendation:
    """What to do, in words, with its evidence.

    Attributes:
        choice: the label of the arm to use, "can't tell", "no result", or "by network" where the networks differ.
        verdict: helps, hurts, equivalent, undecided, mixed or none: of the pretrained weights against the baseline.
        headline: the verdict in a few words.
        advice: what to do and how sure that is, in plain words without numbers; empty without a comparison.
        sentence: the verdict with its numbers.
        reasons: where the gain sits, what the other arms did, how fast it came.
        evidence: the comparisons this rests on.
        caveats: everything that limits the claim.
        model: the network's label; empty for the whole study.
        models: the recommendation of each network; empty in those.
    """

    choice: str
    verdict: str
    headline: str
    sentence: str
    reasons: tuple[str, ...] = ()
    evidence: tuple[ArmComparison, ...] = ()
    caveats: tuple[str, ...] = ()
    model: str = ""
    models: tuple[Recommendation, ...] = ()
    advice: str = ""


class _Part(NamedTuple):
    """The recommendation of one network, what its headline is about, its verdict and the comparison it rests on."""

    found: Recommendation
    subject: str
    verdict: str
    row: ArmComparison | None


def recommend(
    study: Mapping[str, Any],
    comparisons: Sequence[ArmComparison],
    estimates: Sequence[ArmEstimate] = (),
    *,
    runs: pd.DataFrame | None = None,
    history: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
    failures: Sequence[Mapping[str, Any]] = (),
) -> Recommendation:
    """The recommendation of a study, per network and over all of them.

    Args:
        study: the keys `metric`, `margin`, `threshold`, `baseline`, `arms` (label -> init settings), `models`, `data`
            and `seeds` are used, each may be missing.
        comparisons: every comparison that was made. Pairs of pretrained against Mean Var, Mean Var against random,
            transfusion against pretrained and tuned against frozen weights tell where the gain sits.
        estimates: the test metric of each arm, for the numbers of the sentence.
        runs, history: the tables of the study, for speed, failures and unfinished training.
        notes: sentences about the data that limit the claim (synthetic, without patient ids, ...).
        failures: one mapping a run without a record: model, arm, seed, run_id, role (arm or source), state (failed,
            interrupted, running or waiting) and reason; without role and state it is an arm's run that failed.
    """
    runs = pd.DataFrame() if runs is None else runs
    history = pd.DataFrame() if history is None else history
    comparisons = chance.withheld(comparisons, estimates, study)
    cases = _cases(study, comparisons, estimates, runs, history)
    limits = caveats.of_study(
        study, comparisons, runs=runs, history=history, notes=notes, failures=failures, estimates=estimates
    )
    found = [_of_model(case, limits.get(case.model, ())) for case in cases]
    parts, shared = tuple(part.found for part in found), limits.get("", ())
    first = caveats.unfinished(study, runs, failures)
    if len(parts) == 1:
        one = parts[0]
        own = tuple(caveat[:1].upper() + caveat[1:] for caveat in one.caveats)
        return dataclasses.replace(one, caveats=(*first, *own, *shared), model="", models=parts)
    limited: dict[str, list[str]] = {}
    for part in parts:
        for caveat in part.caveats:
            limited.setdefault(caveat, []).append(part.model)
    own = tuple(f"{phrases.listed(models)}: {caveat}" for caveat, models in limited.items())
    return _over_models(found, cases, (*first, *own, *shared))


def _cases(
    study: Mapping[str, Any],
    comparisons: Sequence[ArmComparison],
    estimates: Sequence[ArmEstimate],
    runs: pd.DataFrame,
    history: pd.DataFrame,
) -> list[Case]:
    settings, data = dict(study.get("arms") or {}), study.get("data") or {}
    found = [(row.model, row.arm) for row in estimates] + [(row.model, row.arm) for row in comparisons]
    found += [(row.model, row.baseline) for row in comparisons]
    for _, arm in found:
        settings.setdefault(arm, {"overrides": "unknown"})
    models = list(dict.fromkeys([*(study.get("models") or {}), *(model for model, _ in found)]))
    metric, limit = str(study.get("metric") or "auroc"), study.get("threshold")
    speeds: tuple[ArmSpeed, ...] = ()
    quantity = arms.monitored_quantity(runs, history, metric)
    if limit is not None and not runs.empty:
        speeds = arms.steps_to_threshold(runs, history, quantity, float(limit))
    values = {
        (row.model, row.arm): float(row.estimate.value)
        for row in estimates
        if row.estimate is not None and math.isfinite(row.estimate.value)
    }
    return [
        Case(
            model=model,
            dataset=str(data.get("dataset") or data.get("name") or "this data"),  # what it is called, else its path
            metric=phrases.metric_name(metric),
            baseline=str(study.get("baseline") or next(iter(settings), "")),
            kinds={arm: arms.kind_of(value) for arm, value in settings.items()},
            subjects=arms.subjects(settings),
            comparisons=tuple(row for row in comparisons if row.model == model),
            values={arm: value for (net, arm), value in values.items() if net == model},
            speeds={speed.arm: speed for speed in speeds if speed.model == model},
            threshold=(phrases.metric_name(quantity), float(limit)) if limit is not None else None,
            settings=settings,
            network=(study.get("models") or {}).get(model) or {},
            unit="patient" if data.get("patients_known", True) else "image",
        )
        for model in models
    ]


def _of_model(case: Case, limits: Sequence[str]) -> _Part:
    main = [row for row in case.comparisons if row.baseline == case.baseline and row.arm != case.baseline]
    rank = {arms.FULL: 0, arms.PARTIAL: 1}
    main.sort(key=lambda row: rank.get(case.kinds[row.arm], 2))  # stable: the study's order within each kind
    defined = [row for row in main if claims.is_defined(row.comparison)]
    evidence = case.comparisons
    if len(case.kinds) == 1 and case.baseline in case.values:
        value = phrases.number(case.values[case.baseline])
        text = (
            f"{case.model} on {case.dataset} has one arm, {case.subjects[case.baseline]}: test {case.metric} {value}. "
            "There is nothing to compare it with."
        )
        one = Recommendation(case.baseline, NONE, ONE_ARM, text, (), evidence, tuple(limits), case.model)
        return _Part(one, "", NONE, None)
    if not defined:
        why = (
            "none of its arms can be compared with the baseline yet"
            if not main
            else (f"the test {case.metric} is undefined for the arms that finished")
        )
        text = f"For {case.model} on {case.dataset} there is no result: {why}."
        none = Recommendation(NOTHING, NONE, "No result yet.", text, (), evidence, tuple(limits), case.model)
        return _Part(none, "", NONE, None)
    primary = defined[0]
    helpful = [row for row in defined if row.comparison.verdict == HELPS]
    chosen = primary
    if primary.comparison.verdict != HELPS and helpful:
        # The safest of those that help: the largest lower limit, not the largest point estimate.
        chosen = max(helpful, key=lambda row: row.comparison.low)
    verdict = chosen.comparison.verdict
    choice = {HELPS: chosen.arm, UNDECIDED: CANT_TELL}.get(verdict, case.baseline)
    text = claims.claim(case, chosen)
    if chosen is not primary:
        text += f" {phrases.sentence(claims.short_claim(primary, case.subjects[primary.arm]))}"
    reasons = (*claims.gains(case), *claims.others(case, defined, chosen, primary), *claims.speed(case, chosen))
    subject = case.subjects[chosen.arm]
    kind = claims.kind_of_verdict(chosen)
    found = Recommendation(
        choice,
        verdict,
        claims.headline(subject, kind),
        text,
        reasons,
        evidence,
        tuple(limits),
        case.model,
        advice=advice(case, chosen),
    )
    return _Part(found, subject, kind, chosen)


def _over_models(found: Sequence[_Part], cases: Sequence[Case], limits: Sequence[str]) -> Recommendation:
    """One recommendation over several networks: their verdicts side by side, never averaged."""
    parts = [part.found for part in found]
    evidence = tuple(row for part in parts for row in part.evidence)
    if parts and all(part.headline == ONE_ARM for part in parts):
        text = " ".join(part.sentence for part in parts)
        return Recommendation(parts[0].choice, NONE, ONE_ARM, text, (), evidence, tuple(limits), "", tuple(parts))
    if all(part.verdict == NONE for part in parts):
        text = "No network has results that can be compared yet."
        return Recommendation(NOTHING, NONE, "No result yet.", text, (), evidence, tuple(limits), "", tuple(parts))
    choices, verdicts = {part.choice for part in parts}, {part.verdict for part in parts}
    choice = choices.pop() if len(choices) == 1 else BY_NETWORK
    verdict = verdicts.pop() if len(verdicts) == 1 else MIXED
    text = " ".join(part.sentence for part in parts) if len(parts) <= 2 else _counts(parts, cases)
    headline = _joint_headline(found)
    said = joint_advice([(case, part.row) for case, part in zip(cases, found, strict=True)])
    return Recommendation(choice, verdict, headline, text, (), evidence, tuple(limits), "", tuple(parts), said)


def _joint_headline(parts: Sequence[_Part]) -> str:
    """The networks' headlines in one line, grouped by verdict; the subject is said once where it is the same."""
    groups: dict[tuple[str, str], list[str]] = {}
    for verdict in (HELPS, HURTS, EQUIVALENT, UNDECIDED, UNLEARNED, NONE):
        for part in parts:
            if part.verdict == verdict:
                groups.setdefault((verdict, part.subject), []).append(part.found.model)
    (first, about), names = next(iter(groups.items()))
    head = claims.headline(about, first)[:-1]
    if len(groups) == 1:
        return f"{head}, for {'both' if len(parts) == 2 else f'all {len(parts)}'} networks."
    clauses = [f"{head} for {_networks(names, len(parts))}"]
    for (verdict, subject), names in list(groups.items())[1:]:
        who = _networks(names, len(parts))
        if subject not in (about, ""):
            stem = claims.headline(subject, verdict)[:-1]
            clauses.append(f"{stem[0].lower()}{stem[1:]} for {who}")
        else:
            verb = {
                HURTS: "they hurt",
                EQUIVALENT: "no difference that matters",
                UNDECIDED: "can't tell",
                UNLEARNED: "nothing learned that can be told from chance",
            }
            clauses.append(f"{verb.get(verdict, 'no result yet')} for {who}")
    return "; ".join(clauses) + "."


def _networks(names: Sequence[str], total: int) -> str:
    return phrases.listed(names) if len(names) <= 2 else f"{len(names)} of {total} networks"


def _counts(parts: Sequence[Recommendation], cases: Sequence[Case]) -> str:
    words = {
        HELPS: "a gain",
        HURTS: "a loss",
        EQUIVALENT: "no difference that matters",
        UNDECIDED: "no decision",
        NONE: "no result",
    }
    counts = [
        f"{word} for {phrases.listed([part.model for part in parts if part.verdict == verdict])}"
        for verdict, word in words.items()
        if any(part.verdict == verdict for part in parts)
    ]
    return f"On {cases[0].dataset}: {'; '.join(counts)}."
