"""The verdict on two arms: patients and seeds are both samples.

An interval that treats only the patients, or only the seeds, as sampled claims differences that are not there. Here
`SE^2 = V_patients + s_A^2 / S_A + s_B^2 / S_B`, less the patient x seed interaction, which is in both kinds of term,
with Satterthwaite's degrees of freedom, and at a difference of the margin not less than the metric would have there
(`interval.py`). How well that holds its error rate is measured in `benchmarks/verdict_simulation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import SpecError
from transfuse.metrics import find_metric
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.bootstrap import Replicates
from transfuse.statistics.estimate import Estimate, estimate, estimate_arm
from transfuse.statistics.holm import rejected
from transfuse.statistics.interval import Tested
from transfuse.statistics.planning import Components, needed_patients, needed_seeds
from transfuse.statistics.variance import Spread, column_of, honest, spread_of

__all__ = ["Comparison", "Components", "Estimate", "Verdict", "compare", "compare_arms", "estimate", "estimate_arm"]

Verdict = Literal["helps", "hurts", "equivalent", "undecided"]
LEVEL = 0.05
"""Of every test."""
NO_PATIENTS = (
    "No patient ids: every sample counts as a patient of its own. If some patients have several samples, the interval "
    "is too narrow."
)


@dataclass(frozen=True, repr=False)
class Comparison:
    """Arm A against arm B on the same patients. Every difference is signed so that **positive means A is better**.

    Args:
        difference: mean over A's seeds less mean over B's (the other way round where lower is better).
        low: lower end of the 95 % interval; -inf where none can be given.
        high: upper end.
        verdict: "equivalent" (less than the margin apart; takes precedence), "helps" (A better), "hurts" (A worse), or
            "undecided".
        margin: the largest difference that does not matter, in units of the metric, chosen before training.
        metric: name of the metric.
        standard_error: of the difference.
        df: Satterthwaite degrees of freedom.
        patients: number of patients.
        seeds_a: number of A's seeds.
        seeds_b: number of B's seeds.
        values_a: the metric of each of A's seeds, in the metric's own direction.
        values_b: of each of B's seeds.
        equivalence: the 90 % interval, which lies inside the margin where two one-sided tests at 5 % say so.
        components: what the variance is made of.
        needed_patients: at these seeds, patients that would decide with 80 % power; None if no number would do.
        needed_seeds: at these patients, seeds an arm that would decide with 80 % power; None if no number would do.
        p_difference: of the two-sided test of no difference; NaN without a test (one seed, no variance).
        p_equivalence: of the two one-sided tests of a difference of the margin or more, the larger.
        p_not_worse: of the one-sided test that A is worse by the margin or more.
        family: how many comparisons were looked at together for this verdict (`compare_all`).
        level: at which they were, all together.
        per_class: the same comparison for each defined class; empty for metrics without classes. Their verdicts are
            corrected for the number of classes.
        notes: what is to be said of the samples and the variance.
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
    p_difference: float = math.nan
    p_equivalence: float = math.nan
    p_not_worse: float = math.nan
    family: int = 1
    level: float = LEVEL
    per_class: dict[int, Comparison] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        from transfuse.statistics.verdict_text import headline

        return f"<Comparison {headline(self)}>"

    def __str__(self) -> str:
        from transfuse.statistics.verdict_text import lines

        return "\n".join(lines(self))

    @property
    def not_worse(self) -> bool:
        """Whether A is not worse than B by the margin or more, at a level of 5 % (non-inferiority, by itself)."""
        return self.p_not_worse <= LEVEL

    @property
    def caveats(self) -> tuple[str, ...]:
        """Sentences that belong to the verdict: the notes, and what the verdict leaves out."""
        said = list(self.notes)
        if self.verdict == "equivalent" and self.p_difference <= self.level:
            said.append("The difference is statistically significant, but smaller than the margin.")
        if self.verdict == "equivalent" and self.values_a == self.values_b:
            said.append(
                "Both arms have the same values, seed by seed: unless they are the same runs on purpose, look whether "
                "one file was read twice."
            )
        alone = _verdict(self.p_difference <= self.level, self.p_equivalence <= self.level, self.difference)
        if self.verdict == "undecided" and alone != "undecided" and self.family > 1:
            said.append(
                f"By itself this comparison would be called {alone!r}; among {self.family} comparisons that is no "
                "evidence enough (Holm's correction)."
            )
        elif self.verdict == "undecided" and self.needed_patients is not None and self.needed_patients <= self.patients:
            said.append(
                "The study is precise enough to decide between no difference and a difference of the margin; the true "
                "one seems to lie between them, and more data will help only slowly."
            )
        return tuple(said)


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
    EQUIVALENT is two one-sided tests at 5 % (Schuirmann 1987); at a difference of the margin the variance is not taken
    to be less than the metric would have there (`Components.error_at`). Where all runs of both arms have the same value
    on every resample, as collapsed networks and copies of one run do, there is no variance to test with: undecided,
    with a caveat. With `folds` the metric is the mean over folds of the metric within a fold, and the variance between
    folds beyond that of patients is added with the factor `1/K + 1/(K-1)` of Nadeau and Bengio 2003, which allows for
    training sets that overlap.

    Args:
        target: `(N,)` class index, or `(N, C)` of 0, 1, NaN (unlabelled).
        scores_a: `(seeds, N)` or `(seeds, N, C)` of arm A.
        scores_b: the same of arm B; the numbers of seeds may differ.
        patients: `(N,)` patient id of each sample; None: each sample is its own patient, which becomes a caveat.
        margin: > 0, in units of the metric.
        metric: key of `transfuse.metrics.METRICS`.
        folds: `(N,)` fold in which a sample was tested, under cross-validation.
        seed: of the resamples.

    Returns:
        The `Comparison`: `difference` with its 95 % interval `low` to `high` (positive: A is better), the `verdict`
        ("helps", "hurts", "equivalent" or "undecided"), `needed_patients` and `needed_seeds` that would decide it,
        `per_class` with the same for each class, and `caveats`. Printed, it is a few lines. The calibration error
        ("ece") gets a difference without interval and verdict, as its estimate is too large by chance; the Brier score
        has both.

    Raises:
        SpecError: a margin that is not between 0 and the metric's range, an unknown metric, a seed that is no integer
            >= 0.
        DataError: shapes that do not fit, NaN scores, a metric that no class defines, a patient in two folds.

    >>> generator = np.random.default_rng(0)
    >>> target = np.repeat([0, 1], 100)
    >>> good, poor = (target * d + generator.normal(size=(4, 200)) for d in (3.0, 0.5))
    >>> found = compare(target, good, poor, patients=range(200), margin=0.02)
    >>> found.verdict, found.needed_patients, found.needed_seeds
    ('helps', None, 54)
    >>> print(found)
    helps: +0.336 AUROC (95 % interval +0.272 to +0.404), margin 0.02
    200 patients, 4 seeds an arm
    """
    checked_margin(margin, metric, find_metric(metric).bounds)
    patients = None if patients is None else patients if hasattr(patients, "__array__") else list(patients)
    a = arm_of_scores(target, scores_a, patients, metric, folds, seed, name="scores_a")
    return compare_arms(a, arm_of_scores(target, scores_b, patients, metric, folds, seed, name="scores_b"), margin)


def compare_arms(a: Arm, b: Arm, margin: float) -> Comparison:
    """`compare` for arms that were resampled before, so that an arm of many comparisons is resampled once.

    Raises:
        SpecError: a margin that is not between 0 and the metric's range.
        DataError: arms with other samples, patients, metrics or resamples.
    """
    checked_margin(margin, a.metric.name, a.metric.bounds)
    parts = a.beside(b)
    notes = [*a.notes, *(note for note in b.notes if note not in a.notes)]
    if a.anonymous:
        notes.insert(0, NO_PATIENTS)
    # Undefined means undefined in every fold: a class that one fold lacks is averaged over the others.
    lost = sorted(set.intersection(*(set(part.undefined) for part in parts)))
    for c in lost:
        has = parts[0].counts[c]
        where = " in the first fold" if len(parts) > 1 else ""
        notes.append(
            f"Class {c} is left out of the mean: {has.positives} positives and {has.negatives} negatives{where}."
        )
    classes = sorted(set().union(*(part.classes for part in parts)))
    of_classes = [_column(a, b, margin, [(part, column_of(part, c)) for part in parts]) for c in classes]
    overall = _column(a, b, margin, [(part, 0) for part in parts])
    alone = [c for c in classes if any(part.support[column_of(part, c)] < 2 for part in parts if c in part.classes)]
    if alone and math.isfinite(overall.standard_error):
        notes.append(
            f"No verdict on the mean: class {', '.join(map(str, alone))} has positives or negatives of fewer than two "
            "patients, so its part of the variance is unknown. Leave it out, or test on more patients."
        )
        overall = _untested(overall)
    per_class = dict(zip(classes, decided(of_classes), strict=True))
    (overall,) = decided([overall])
    return replace(overall, per_class=per_class, notes=(*notes, *overall.notes))


def decided(comparisons: Sequence[Comparison], level: float = LEVEL) -> list[Comparison]:
    """The comparisons with their verdicts when they are looked at together; their classes stay as they are.

    Raises:
        SpecError: a level outside (0, 1).
    """
    sure = rejected(
        np.array([(one.p_difference, one.p_equivalence) for one in comparisons]).reshape(len(comparisons), 2), level
    )
    family = sum(not math.isnan(one.p_difference) for one in comparisons)
    return [
        replace(one, verdict=_verdict(apart, near, one.difference), family=family, level=level)
        for one, (apart, near) in zip(comparisons, sure, strict=True)
    ]


def checked_margin(margin: float, metric: str, bounds: tuple[float, float] = (-math.inf, math.inf)) -> None:
    """Raise SpecError unless a margin is a number above 0, and less than the distance of the metric's bounds."""
    number = isinstance(margin, int | float | np.number) and not isinstance(margin, bool)
    if not (number and math.isfinite(margin) and margin > 0):
        raise SpecError(
            f"margin is {margin!r}; expected a number > 0 in units of {metric}: the largest difference that would not "
            "matter to you, chosen before training (0.02 of AUROC, say)"
        )
    low, high = bounds
    if margin >= high - low:
        percent = f": did you mean {margin / 100:g}?" if margin / 100 < high - low else ""
        raise SpecError(
            f"margin is {margin!r}, but {metric} lies between {low:g} and {high:g}, so any two arms would be "
            f"equivalent; expected a number above 0 and below {high - low:g} in units of {metric}{percent}"
        )


def _column(a: Arm, b: Arm, margin: float, columns: list[tuple[Replicates, int]]) -> Comparison:
    """The comparison of one class, or of the overall value, before it is decided."""
    spread = honest(spread_of(columns, a.seeds, b.seeds, a.metric.bounds), a.metric)
    components = spread.components
    better = 1 if a.metric.higher_is_better else -1
    found = Comparison(
        difference=better * spread.difference,
        low=-math.inf,
        high=math.inf,
        verdict="undecided",
        margin=float(margin),
        metric=a.metric.name,
        standard_error=math.inf,
        df=math.nan,
        patients=a.patients,
        seeds_a=a.seeds,
        seeds_b=b.seeds,
        values_a=tuple(spread.points[: a.seeds].tolist()),
        values_b=tuple(spread.points[a.seeds :].tolist()),
        equivalence=(-math.inf, math.inf),
        components=components,
        needed_patients=None,
        needed_seeds=None,
        notes=tuple(_notes(a, b, spread)),
    )
    if spread.reason:
        return found
    tested = Tested(spread.difference, components, a.seeds, b.seeds)
    (low, high), inner = (_turned(tested.interval(p), better) for p in (1 - LEVEL / 2, 1 - LEVEL))
    error, df = components.precision(a.seeds, b.seeds)
    found = replace(
        found,
        low=low,
        high=high,
        standard_error=error,
        df=df,
        equivalence=inner,
        needed_patients=needed_patients(components, margin, a.patients, a.seeds, b.seeds),
        needed_seeds=needed_seeds(components, margin),
    )
    if 1 in (a.seeds, b.seeds):
        return found
    not_worse, not_better = (tested.p_value(-better * side * margin, better * side) for side in (1, -1))
    return replace(
        found,
        p_difference=min(1.0, 2 * min(tested.p_value(0.0, side) for side in (-1, 1))),
        p_equivalence=max(not_worse, not_better),
        p_not_worse=not_worse,
    )


def _turned(interval: tuple[float, float], better: int) -> tuple[float, float]:
    """An interval of a metric's difference as one of how much better arm A is."""
    low, high = interval
    return (low, high) if better > 0 else (-high, -low)


def _untested(comparison: Comparison) -> Comparison:
    return replace(comparison, p_difference=math.nan, p_equivalence=math.nan, p_not_worse=math.nan)


def _verdict(apart: bool, near: bool, difference: float) -> Verdict:
    if near:
        return "equivalent"
    if apart:
        return "helps" if difference > 0 else "hurts"
    return "undecided"


def _notes(a: Arm, b: Arm, spread: Spread) -> list[str]:
    notes: list[str] = []
    if spread.lost_resamples > 0.01:
        notes.append(
            f"{spread.lost_resamples:.0%} of the resamples of patients "
            + ("lacked a class, which few patients have, " if spread.by_class else "gave the metric no value ")
            + "and were left out."
        )
    if spread.reason:
        return [*notes, f"No interval: {spread.reason}. {spread.cure}."]
    single = (a.seeds == 1) + (b.seeds == 1)
    if single:
        which = "Both arms have" if single == 2 else "One of the arms has"
        notes.append(
            f"{which} one seed, so how much training varies is unknown: the interval does not cover it and no verdict "
            "would hold its error rate. Train at least 3 seeds an arm."
        )
    return notes
