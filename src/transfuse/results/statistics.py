"""The verdict on two arms, and the interval of one: patients and seeds are both samples.

An interval that treats only the patients, or only the seeds, as sampled claims differences that are not there. Here
`SE^2 = V_patients + s_A^2 / S_A + s_B^2 / S_B`, less the patient x seed interaction, which is in both kinds of term,
with Satterthwaite's degrees of freedom. How well that holds its error rate is measured in
`benchmarks/verdict_simulation.py`: without a true difference it does; at a true difference of exactly a wide margin
(0.1 AUROC and more) the symmetric interval is somewhat short on one side, because AUROC varies less the higher it is,
and 6 to 8 % are called equivalent instead of 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError
from transfuse.metrics import Metric, find_metric
from transfuse.results.bootstrap import Replicates, read_runs, resample_folds
from transfuse.results.convergence import StepsTo, steps_to
from transfuse.results.planning import Components, needed_patients, needed_seeds
from transfuse.results.variance import Spread, column_of, half_width, spread_of

__all__ = ["Comparison", "Components", "Estimate", "StepsTo", "Verdict", "compare", "estimate", "steps_to"]

Verdict = Literal["helps", "hurts", "equivalent", "undecided"]
NO_PATIENTS = (
    "No patient ids: every sample counts as a patient of its own. If some patients have several samples, the interval "
    "is too narrow."
)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        value: the estimate.
        low: lower end; -inf where no interval can be given.
        high: upper end; inf where no interval can be given.
        confidence: of the interval, in (0, 1).
        method: how the interval was made, in words.
        n: number of patients.
    """

    value: float
    low: float
    high: float
    confidence: float
    method: str
    n: int


@dataclass(frozen=True)
class Comparison:
    """Arm A against arm B on the same patients. Every difference is signed so that **positive means A is better**.

    Args:
        difference: mean over A's seeds less mean over B's (the other way round where lower is better).
        low: lower end of the 95 % interval; -inf where none can be given.
        high: upper end.
        verdict: "equivalent" (90 % interval inside the margin; takes precedence), "helps" (A better), "hurts" (A
            worse), or "undecided".
        margin: the largest difference that does not matter, in units of the metric, chosen before training.
        metric: name of the metric.
        standard_error: of the difference.
        df: Satterthwaite degrees of freedom.
        patients: number of patients.
        seeds_a: number of A's seeds.
        seeds_b: number of B's seeds.
        values_a: the metric of each of A's seeds, in the metric's own direction.
        values_b: of each of B's seeds.
        equivalence: the 90 % interval of the two one-sided tests.
        components: what the variance is made of.
        needed_patients: at these seeds, patients that would decide with 80 % power; None if no number would do.
        needed_seeds: at these patients, seeds an arm that would decide with 80 % power; None if no number would do.
        per_class: the same comparison for each defined class; empty for metrics without classes.
        caveats: sentences that belong to the verdict.
    """

    difference: float
    low: float
    high: float
    verdict: Verdict
    margin: float
    metric: str
    standard_error: float
    df: float
    patients: int
    seeds_a: int
    seeds_b: int
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    equivalence: tuple[float, float]
    components: Components
    needed_patients: int | None
    needed_seeds: int | None
    per_class: dict[int, Comparison] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()


def compare(
    target: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    margin: float,
    metric: str = "auroc",
    folds: ArrayLike | None = None,
    seed: int = 0,
) -> Comparison:
    """Whether arm A is better than arm B, worse, equivalent within a margin, or undecided.

    The two arms are trained with independent seeds and scored on the same samples. The variance over patients is that
    of 2,000 resamples of patients, the same for all runs; the variance over seeds is added; the patient x seed
    interaction, in both, is subtracted once (clipped at 0); Student's t with Satterthwaite's degrees of freedom.
    EQUIVALENT is two one-sided tests at 5 % (Schuirmann 1987). Where all runs of both arms have the same value on every
    resample, as collapsed networks and copies of one run do, there is no variance to test with: undecided, with a
    caveat. With `folds` the metric is the mean over folds of the
    metric within a fold, and the variance between folds beyond that of patients is added with the factor `1/K +
    1/(K-1)` of Nadeau and Bengio 2003, which allows for training sets that overlap.

    Args:
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        scores_a: `(seeds, N)` or `(seeds, N, C)` of arm A.
        scores_b: the same of arm B; the numbers of seeds may differ.
        patients: `(N,)` patient id of each sample; None: each sample is its own patient, which becomes a caveat.
        margin: > 0, in units of the metric.
        metric: key of `transfuse.metrics.METRICS`.
        folds: `(N,)` fold in which a sample was tested, under cross-validation.
        seed: of the resamples.

    Raises:
        SpecError: a margin that is not positive, an unknown metric.
        DataError: shapes that do not fit, NaN scores, a metric that no class defines, a patient in two folds.

    >>> generator = np.random.default_rng(0)
    >>> target = np.repeat([0, 1], 100)
    >>> good, poor = (target * d + generator.normal(size=(4, 200)) for d in (3.0, 0.5))
    >>> compare(target, good, poor, patients=range(200), margin=0.02).verdict
    'helps'
    """
    kind = find_metric(metric)
    if not (isinstance(margin, int | float | np.number) and math.isfinite(margin) and margin > 0):
        raise SpecError(
            f"margin is {margin!r}; expected a number > 0 in units of {metric}: the largest difference that would not "
            "matter to you, chosen before training (0.02 of AUROC, say)"
        )
    labels = np.asarray(target)
    a, b = read_runs("scores_a", scores_a, labels), read_runs("scores_b", scores_b, labels)
    if a.shape[2:] != b.shape[2:]:
        raise DataError(
            f"scores_a has shape {a.shape} and scores_b {b.shape}; both arms need the same classes: (seeds, N[, C])"
        )
    parts, counts = resample_folds(metric, labels, [*a, *b], patients, folds, seed)
    study = _Study(kind, float(margin), len(a), len(b), counts)
    notes = [] if patients is not None else [NO_PATIENTS]
    # Undefined means undefined in every fold: a class that one fold lacks is averaged over the others.
    lost = sorted(set.intersection(*(set(part.undefined) for part in parts)))
    for c in lost:
        has = parts[0].counts[c]
        where = " in the first fold" if len(parts) > 1 else ""
        notes.append(
            f"Class {c} is left out of the mean: {has.positives} positives and {has.negatives} negatives{where}."
        )
    classes = sorted(set().union(*(part.classes for part in parts)))
    per_class = {c: _column(study, [(part, column_of(part, c)) for part in parts]) for c in classes}
    overall = _column(study, [(part, 0) for part in parts])
    alone = [c for c in classes if any(part.support[column_of(part, c)] < 2 for part in parts if c in part.classes)]
    if alone and math.isfinite(overall.standard_error):
        notes.append(
            f"No verdict on the mean: class {', '.join(map(str, alone))} has positives or negatives of fewer than two "
            "patients, so its part of the variance is unknown. Leave it out, or test on more patients."
        )
        overall = replace(overall, verdict="undecided")
    return replace(overall, per_class=per_class, caveats=(*notes, *overall.caveats))


def estimate(
    target: ArrayLike,
    scores: ArrayLike,
    patients: Sequence[object] | np.ndarray | None,
    metric: str = "auroc",
    folds: ArrayLike | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """One arm's mean metric over its seeds, with an interval for new patients and new seeds.

    The same variance as in `compare`, with one arm. The interval is cut at the metric's bounds. With one seed it covers
    patients only, and `method` says so.

    Args:
        target: `(N,)` or `(N, C)`, as for `compare`.
        scores: `(seeds, N)` or `(seeds, N, C)`.
        patients: `(N,)` ids, or None.
        metric: key of `transfuse.metrics.METRICS`.
        folds: `(N,)` fold of each sample, under cross-validation.
        seed: of the resamples.
        confidence: in (0, 1).

    Raises:
        SpecError: a confidence outside (0, 1), an unknown metric.
        DataError: as `compare`.
    """
    bounds = find_metric(metric).bounds
    if not 0 < confidence < 1:
        raise SpecError(f"confidence is {confidence!r}; expected a number between 0 and 1, as 0.95")
    labels = np.asarray(target)
    runs = read_runs("scores", scores, labels)
    parts, number = resample_folds(metric, labels, list(runs), patients, folds, seed)
    spread = spread_of([(part, 0) for part in parts], len(runs), 0, bounds)
    half = half_width(spread, len(runs), 1, 0.5 + confidence / 2)
    if not math.isfinite(half):
        method = f"no interval: {spread.reason}"
    elif len(runs) == 1:
        method = "bootstrap of patients, one seed: what another seed would give is not covered"
    else:
        df = spread.components.precision(len(runs), 1)[1]
        method = f"patients and seeds, Satterthwaite t with {df:.1f} degrees of freedom"
    if patients is None:
        method += ", each sample taken as a patient"
    low, high = spread.difference - half, spread.difference + half
    if math.isfinite(half):
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(spread.difference, low, high, confidence, method, number)


@dataclass(frozen=True)
class _Study:
    metric: Metric
    margin: float
    seeds_a: int
    seeds_b: int
    patients: int


def _column(study: _Study, columns: list[tuple[Replicates, int]]) -> Comparison:
    spread = spread_of(columns, study.seeds_a, study.seeds_b, study.metric.bounds)
    difference = spread.difference if study.metric.higher_is_better else -spread.difference
    parts = spread.components
    error, df = (math.inf, math.nan) if spread.reason else parts.precision(study.seeds_a, study.seeds_b)
    half, half_90 = (half_width(spread, study.seeds_a, study.seeds_b, p) for p in (0.975, 0.95))
    low, high = difference - half, difference + half
    inner = (difference - half_90, difference + half_90)
    verdict, caveats = _verdict(study, spread, (low, high), inner)
    more_patients = more_seeds = None
    if not spread.reason:
        more_patients = needed_patients(parts, study.margin, study.patients, study.seeds_a, study.seeds_b)
        more_seeds = needed_seeds(parts, study.margin)
    if verdict == "undecided" and more_patients is not None and more_patients <= study.patients:
        caveats.append(
            "The study is precise enough to decide between no difference and a difference of the margin; the true "
            "one seems to lie between them, and more data will help only slowly."
        )
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        verdict=verdict,
        margin=study.margin,
        metric=study.metric.name,
        standard_error=error,
        df=df,
        patients=study.patients,
        seeds_a=study.seeds_a,
        seeds_b=study.seeds_b,
        values_a=tuple(spread.points[: study.seeds_a].tolist()),
        values_b=tuple(spread.points[study.seeds_a :].tolist()),
        equivalence=inner,
        components=parts,
        needed_patients=more_patients,
        needed_seeds=more_seeds,
        caveats=tuple(caveats),
    )


def _verdict(
    study: _Study, spread: Spread, interval: tuple[float, float], inner: tuple[float, float]
) -> tuple[Verdict, list[str]]:
    caveats: list[str] = []
    if spread.lost_resamples > 0.01:
        caveats.append(
            f"{spread.lost_resamples:.0%} of the resamples of patients lacked a class, which few patients have, and "
            "were left out."
        )
    if spread.reason:
        caveats.append(f"No interval: {spread.reason}. {spread.cure}.")
        return "undecided", caveats
    single = (study.seeds_a == 1) + (study.seeds_b == 1)
    if single:
        which = "Both arms have" if single == 2 else "One of the arms has"
        caveats.append(
            f"{which} one seed, so how much training varies is unknown: the interval does not cover it and no verdict "
            "would hold its error rate. Train at least 3 seeds an arm."
        )
        return "undecided", caveats
    if -study.margin < inner[0] and inner[1] < study.margin:
        if interval[0] > 0 or interval[1] < 0:
            caveats.append("The difference is statistically significant, but smaller than the margin.")
        return "equivalent", caveats
    if interval[0] > 0:
        return "helps", caveats
    if interval[1] < 0:
        return "hurts", caveats
    return "undecided", caveats
