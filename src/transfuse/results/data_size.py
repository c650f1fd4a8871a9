"""What a study at several numbers of training patients says: how many it takes, and what more of them are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transfuse.results import phrases

if TYPE_CHECKING:
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.crossover import Crossover
    from transfuse.statistics.data_size import DataSizeCurve, SizeEstimate, Worth

MORE = 100
"""The further patients whose worth is told."""
_MOST_TOLD = 3


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
    """

    model: str
    arms: tuple[ArmDataSize, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


def data_sizes(model: str, tested: Mapping[str, Mapping[int, Arm]], baseline: str, margin: float) -> DataSizes:
    """The curve of every arm of a network, and where the baseline comes up to each.

    Args:
        model: the network's label.
        tested: of each arm, by its number of training patients, what it was on the test patients.
        baseline: the arm that the others are held against.
        margin: the difference that does not matter.
    """
    from transfuse.statistics.crossover import crossover
    from transfuse.statistics.data_size import FEWEST_SIZES, data_size_curve, worth

    curves: dict[str, DataSizeCurve] = {}
    missing = {}
    for arm, of_size in tested.items():
        sizes = sorted(of_size)
        if len(sizes) < FEWEST_SIZES:
            missing[arm] = f"{len(sizes)} sizes have a result, and a curve takes {FEWEST_SIZES}"
            continue
        curves[arm] = data_size_curve(sizes, [of_size[size] for size in sizes])
    scratch = curves.get(baseline)
    rows = []
    for arm, curve in curves.items():
        within = crossing = None
        if scratch is not None and arm != baseline:
            within, crossing = (crossover(scratch, curve, most) for most in (margin, 0.0))
        rows.append(ArmDataSize(arm, curve, worth(curve, MORE), within, crossing))
    return DataSizes(model, tuple(rows), missing)


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
    lines = [_meeting(row, scratch, subjects.get(row.arm, row.arm)) for row in told]
    gains = [row for row in found.arms if row.arm == baseline or row in told]
    if gains:
        lines.append(_more(gains, subjects))
    lines += [f"No curve of {subjects.get(arm, arm)}: {reason}." for arm, reason in found.missing.items()]
    return [phrases.sentence(line) for line in lines]


def notes(found: DataSizes) -> list[str]:
    """What is to be said of the shape of the curves, each once, with its arms."""
    by_note: dict[str, list[str]] = {}
    for row in found.arms:
        for note in row.curve.notes:
            by_note.setdefault(note, []).append(row.arm)
    return [
        phrases.sentence(note if len(named) == len(found.arms) else f"{phrases.listed(named)}: {note}")
        for note, named in by_note.items()
    ]


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


def _meeting(row: ArmDataSize, scratch: str, other: str) -> str:
    from transfuse.statistics.data_size import FARTHEST

    found = row.within
    if found is None:
        return ""
    most, name = phrases.trimmed(found.margin), phrases.metric_name(row.curve.metric.name)
    near = f"within {most} {name} of {other}"
    level = f"{100 * row.curve.confidence:g} % interval"
    sure = between(found) if found.low == 0 else f"{level} {between(found)}"
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
    return (
        f"{MORE} training patients more than the {first.curve.largest:,} of this study would improve test {name} by "
        f"{phrases.listed(sums)}: a forecast of the curves, with {100 * first.curve.confidence:g} % intervals"
    )


def _gain(gain: SizeEstimate) -> str:
    value, low, high = (phrases.number(number, 4 if abs(gain.value) < 0.01 else 3) for number in gain)
    return f"{value} ({low} to {high})" if math.isfinite(gain.low) else f"{value} (no interval can be given)"
