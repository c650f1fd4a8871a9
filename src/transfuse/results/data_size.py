"""What a study at several numbers of training patients says: how many it takes, and what more of them are worth."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from transfuse.results import phrases

if TYPE_CHECKING:
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.crossover import Crossover
    from transfuse.statistics.data_size import DataSizeCurve, SizeEstimate, Worth

MORE = 100
"""The further patients whose worth is told."""
_MOST_TOLD = 3
RISING = "training had not levelled off"


@dataclass(frozen=True)
class ArmDataSize:
    """One arm of a network over the number of training patients.

    Args:
        arm: its label.
        curve: its fit.
        worth: what `MORE` patients would add.
        within: from where on the baseline is within the margin of it; None for the baseline itself, and without one.
        crossing: from where on the baseline is as good.
    """

    arm: str
    curve: DataSizeCurve
    worth: Worth
    within: Crossover | None = None
    crossing: Crossover | None = None


@dataclass(frozen=True)
class DataSizes:
    """The arms of one network over the number of training patients.

    Args:
        model: the network's label.
        arms: those that have a curve, in the study's order.
        missing: the others, each with the reason.
        unmet: why it is not said where the baseline comes up to an arm that has a curve, by arm.
        rising: numbers of training patients at which the training of an arm had not levelled off, by arm.
    """

    model: str
    arms: tuple[ArmDataSize, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    unmet: Mapping[str, str] = field(default_factory=dict)
    rising: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def data_sizes(
    model: str,
    tested: Mapping[str, Mapping[int, Arm]],
    baseline: str,
    margin: float,
    rising: Mapping[str, Collection[int]] | None = None,
) -> DataSizes:
    """The curve of every arm of a network, and where the baseline comes up to each.

    Of arms whose training had not levelled off at some size the curve is drawn, and nothing is read off it: it tells of
    trainings that were cut short.

    Args:
        model: the network's label.
        tested: of each arm, by its number of training patients, what it was on the test patients.
        baseline: the arm that the others are held against.
        margin: the difference that does not matter.
        rising: of each arm, the numbers of training patients at which its training had not levelled off.
    """
    from transfuse.statistics.crossover import crossover
    from transfuse.statistics.data_size import FEWEST_SIZES, SizeEstimate, Worth, data_size_curve, worth

    curves: dict[str, DataSizeCurve] = {}
    missing = {}
    for arm, of_size in tested.items():
        sizes = sorted(of_size)
        if len(sizes) < FEWEST_SIZES:
            missing[arm] = f"{len(sizes)} sizes have a result, and a curve takes {FEWEST_SIZES}"
            continue
        curves[arm] = data_size_curve(sizes, [of_size[size] for size in sizes])
    still = {arm: tuple(sorted(sizes)) for arm, sizes in (rising or {}).items() if sizes and arm in curves}
    scratch = curves.get(baseline)
    rows, unmet = [], {}
    for arm, curve in curves.items():
        within = crossing = None
        if scratch is not None and arm != baseline:
            if reason := _unmet(baseline, scratch, arm, curve, still):
                unmet[arm] = reason
            else:
                within, crossing = (crossover(scratch, curve, most) for most in (margin, 0.0))
        more = worth(curve, MORE)
        if arm in still:
            more = Worth(MORE, SizeEstimate(math.nan, -math.inf, math.inf), f"{RISING} {_at(still[arm])}")
        rows.append(ArmDataSize(arm, curve, more, within, crossing))
    return DataSizes(model, tuple(rows), missing, unmet, still)


def _unmet(
    baseline: str, scratch: DataSizeCurve, arm: str, curve: DataSizeCurve, still: Mapping[str, tuple[int, ...]]
) -> str:
    """Why two curves cannot be held against each other, or nothing."""
    if max(scratch.patients[0], curve.patients[0]) >= min(scratch.largest, curve.largest):
        spans = [f"{one.patients[0]:,} to {one.largest:,}" for one in (scratch, curve)]
        return f"{baseline} has results at {spans[0]} training patients and {arm} at {spans[1]}: no range in common"
    rose = [name for name in (baseline, arm) if name in still]
    return phrases.listed([f"the training of {name} had not levelled off {_at(still[name])}" for name in rose])


def _at(sizes: Sequence[int]) -> str:
    return f"at {phrases.listed([f'{size:,}' for size in sizes])} training patients"


def sentences(found: DataSizes, baseline: str, subjects: Mapping[str, str], transfer: Sequence[str]) -> list[str]:
    """The answer for one network: where the baseline comes up to transfer, and what more patients are worth.

    Args:
        found: the curves.
        baseline: its label.
        subjects: what the arms are called in a sentence, plural.
        transfer: the arms that start from pretrained weights; the first of them are told of.
    """
    told = [row for row in found.arms if row.arm in transfer and row.within is not None][:_MOST_TOLD]
    scratch = subjects.get(baseline, baseline)
    base = [row.curve for row in found.arms if row.arm == baseline]
    lines = [_meeting(row, scratch, subjects.get(row.arm, row.arm), base) for row in told]
    gains = [row for row in found.arms if (row.arm == baseline or row in told) and row.arm not in found.rising]
    if gains:
        lines.append(_more(gains, subjects))
    lines += [
        f"from how many training patients on {scratch} are as good as {subjects.get(arm, arm)} is not said: {reason}"
        for arm, reason in list(found.unmet.items())
        if arm in transfer
    ][:_MOST_TOLD]
    lines += [f"No curve of {subjects.get(arm, arm)}: {reason}." for arm, reason in found.missing.items()]
    return [phrases.sentence(line) for line in lines]


def cannot_tell(found: Crossover, *curves: DataSizeCurve) -> str:
    """Why no number of patients can be told where two curves meet; empty where one can.

    The interval may be all that can be said of any study, from the smallest size or fewer to beyond what is followed;
    and no curves meet within the sizes where neither of them, by its own interval, changes with the size.

    Args:
        found: where they meet.
        curves: of both arms.
    """
    if found.low == 0:
        return "no interval can be given"
    if found.low <= found.smallest and math.isinf(found.high):
        return f"the interval holds every number that could be told, {between(found)}"
    inside = found.smallest < found.patients < math.inf
    if inside and curves and all(_is_flat(curve) for curve in curves):
        return "no difference between the sizes can be told from chance"
    return ""


def _is_flat(curve: DataSizeCurve) -> bool:
    change = curve.gain(curve.patients[0], curve.largest)
    return change.low <= 0 <= change.high


def mean_of_seeds(row: ArmDataSize, place: int = -1) -> float:
    """The mean over seeds at one of the sizes, the largest by default."""
    return fmean(row.curve.values[place])


def _off_the_curve(row: ArmDataSize) -> str:
    """Sizes at which the fitted curve is not where the mean of the seeds is, by half the margin or more."""
    if row.within is None or not row.within.margin:
        return ""
    off = []
    for place, size in enumerate(row.curve.patients):
        fitted, mean = row.curve.at(size).value, mean_of_seeds(row, place)
        if abs(fitted - mean) >= row.within.margin / 2:
            off.append(f"{phrases.number(fitted)} at {size:,} patients, where its seeds have {phrases.number(mean)}")
    if not off:
        return ""
    return f"The fitted curve of {row.arm} misses the means of its seeds by half the margin or more: {'; '.join(off)}."


def notes(found: DataSizes) -> list[str]:
    """What is to be said of the shape of the curves, each once, with its arms."""
    by_note: dict[str, list[str]] = {}
    for row in found.arms:
        for note in row.curve.notes:
            by_note.setdefault(note, []).append(row.arm)
    for arm, sizes in found.rising.items():
        by_note.setdefault(f"{RISING} {_at(sizes)}, so nothing is read off this curve: train longer", []).append(arm)
    lines = [
        phrases.sentence(note if len(named) == len(found.arms) else f"{phrases.listed(named)}: {note}")
        for note, named in by_note.items()
    ]
    return [*lines, *filter(None, map(_off_the_curve, found.arms))]


def about(patients: float) -> str:
    """A number of patients to two digits.

    >>> about(1174.4), about(48), about(212.0)
    ('1,200', '48', '210')
    """
    digits = max(0, len(str(round(patients))) - 2)
    return f"{round(patients, -digits):,.0f}"


def end(patients: float, found: Crossover) -> str:
    """A number of patients in words, also where it lies at one of the ends that can be told."""
    from transfuse.statistics.data_size import FARTHEST

    if math.isinf(patients):
        return f"more than {FARTHEST * found.largest:,}"
    return f"{found.smallest:,} or fewer" if patients <= found.smallest else about(patients)


def between(found: Crossover) -> str:
    """The interval of a number of patients in words."""
    if found.low == 0:
        return "no interval can be given"
    low, high = end(found.low, found), end(found.high, found)
    return low if low == high else f"{low} to {high}"


def _meeting(row: ArmDataSize, scratch: str, other: str, base: Sequence[DataSizeCurve]) -> str:
    from transfuse.statistics.data_size import FARTHEST

    found = row.within
    if found is None:
        return ""
    most, name = phrases.trimmed(found.margin), phrases.metric_name(row.curve.metric.name)
    near = f"within {most} {name} of {other}"
    if why := cannot_tell(found, row.curve, *base):
        return f"from how many training patients on {scratch} are {near} can't be told: {why}"
    sure = f"{100 * row.curve.confidence:g} % interval {between(found)}"
    if math.isinf(found.patients):
        return (
            f"{scratch} stay more than {most} {name} behind {other} up to {FARTHEST * found.largest:,} training "
            f"patients, {FARTHEST} x those of this study; beyond that nothing is said ({sure})"
        )
    if found.patients <= found.smallest:
        return f"{scratch} are {near} at every size, from {found.smallest:,} training patients on ({sure})"
    start = f"from about {about(found.patients)} training patients on, {scratch} are {near} ({sure})"
    if found.patients > found.largest:
        start += f"; no size that was trained is as large (up to {found.largest:,}), so this is extrapolated"
    return start


def _more(rows: Sequence[ArmDataSize], subjects: Mapping[str, str]) -> str:
    first = rows[0]
    sums = [f"{_gain(row.worth.gain)} with {subjects.get(row.arm, row.arm)}" for row in rows]
    if math.isnan(first.worth.gain.value):
        return f"what {MORE} more training patients would add is not said: {first.worth.note}"
    name = phrases.metric_name(first.curve.metric.name)
    effect = "improve" if min(row.worth.gain.value for row in rows) >= 0 else "change (above 0 is better)"
    return (
        f"{MORE} training patients more than the {first.curve.largest:,} of this study would {effect} test {name} by "
        f"{phrases.listed(sums)}: a forecast of the curves, with {100 * first.curve.confidence:g} % intervals"
        + ("; where one holds 0 it may be nothing" if any(row.worth.gain.low <= 0 for row in rows) else "")
    )


def _gain(gain: SizeEstimate) -> str:
    value, low, high = (phrases.number(number, 4 if abs(gain.value) < 0.01 else 3) for number in gain)
    return f"{value} ({low} to {high})" if math.isfinite(gain.low) else f"{value} (no interval can be given)"
