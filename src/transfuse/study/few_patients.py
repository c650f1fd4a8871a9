"""Whether a test part is so small that the margin can hardly be decided on, known before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.results import phrases
from transfuse.specs import StudySpec
from transfuse.statistics.planning import POWER, Components, equivalence_power, needed_patients, t_quantile

if TYPE_CHECKING:
    from transfuse.data import Part

LEVEL = 0.9
"""Of the metric, taken for both arms."""
SHARED = 0.9
"""Correlation, over draws of the test patients, of two arms tested on the same ones: high, so that little is said."""
HOPELESS = 0.5
"""Probability of an equivalence that is there being shown, below which it is said that it hardly will be."""

_RANKS, _REFERABLE, _SHARES, _RECALLS = (
    ("auroc",),
    ("referable_auroc", "referable_auroc_max"),
    ("accuracy", "top5"),
    ("macro_recall",),
)


class _Variance(NamedTuple):
    """Of one arm's metric over draws of the patients, and the fewest patients of one kind that it rests on."""

    value: float
    fewest: int
    kind: str


def few_patients_note(study: StudySpec, part: Part) -> str:
    """What to know where even many seeds can hardly show two arms to be equal within the margin; empty if they can.

    A rough bound in favour of the study: every training agrees (so seeds cost nothing), both arms have a metric of
    `LEVEL`, and their luck with the patients is shared as `SHARED` says. All images of a patient count as one.

    Args:
        study: its metric and margin count; of metrics without a simple variance (kappa, precision-recall, calibration)
            nothing is said.
        part: the test part.
    """
    variance = _variance(study.metric, part)
    if variance is None:
        return ""
    patients = len(set(part.patient_ids))
    df = max(1.0, patients - 2)
    components = Components(2 * (1 - SHARED) * variance.value, 0.0, 0.0, 0.0, 0.0, patients_df=df)
    error, _ = components.precision(1, 1)
    if equivalence_power(study.margin, error, components.terms(1, 1)) >= HOPELESS:
        return ""
    unit = "patient" if part.dataset.patients_known else "image"
    told = (t_quantile(0.975, df) + t_quantile(POWER, df)) * error
    needed = needed_patients(components, study.margin, patients, 1, 1)
    few = f" ({variance.fewest} {variance.kind})" if variance.kind else ""
    smallest = f" below {phrases.trimmed(float(f'{told:.1g}'))}" if told < 0.5 else ""
    name, margin = phrases.metric_name(study.metric), phrases.trimmed(study.margin)
    takes = "" if needed is None else f", which takes about {phrases.counted(_round(needed), unit)}"
    return (
        f"the test part has {phrases.counted(patients, unit)}{few}: whatever the number of seeds, hardly a "
        f"difference{smallest} in test {name} will be told from none, and the margin is {margin}{takes} (roughly, for "
        f"arms at {LEVEL:g} that err on much the same {unit}s)"
    )


def _round(number: int) -> int:
    """To two digits, upwards."""
    step = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def _variance(metric: str, part: Part) -> _Variance | None:
    patients = np.unique(np.asarray(part.patient_ids), return_inverse=True)[1]
    classes, targets = part.dataset.info.classes, part.targets
    labels = np.arange(len(classes)) == targets[:, None] if targets.ndim == 1 else targets == 1
    others = ~labels if targets.ndim == 1 else targets == 0

    def count(rows: np.ndarray) -> int:
        return len(np.unique(patients[rows]))

    share = LEVEL * (1 - LEVEL)
    if metric in _SHARES:
        return _Variance(share / count(np.ones(len(patients), bool)), 0, "")
    if metric in _RANKS or metric in _RECALLS:
        found = [(count(labels[:, k]), count(others[:, k]), f"of {name!r}") for k, name in enumerate(classes)]
    elif metric in _REFERABLE and targets.ndim == 1:
        ill, other = count(targets >= 2), count(targets < 2)
        found = [(ill, other, "with referable disease") if ill <= other else (other, ill, "without referable disease")]
    else:
        return None
    fewest, _, kind = min(found)
    if min(min(positives, negatives) for positives, negatives, _ in found) < 1:
        return None  # the metric itself is a problem there
    if metric in _RECALLS:
        each = [share / positives for positives, _, _ in found]
    else:
        each = [hanley_mcneil(LEVEL, positives, negatives) for positives, negatives, _ in found]
    if len(found) == 2 and metric in _RANKS and targets.ndim == 1:
        return _Variance(each[1], fewest, kind)  # of two classes there is one curve
    return _Variance(sum(each) / len(each) ** 2, fewest, kind)


def hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """The variance of an area under the ROC curve (Hanley and McNeil 1982, Radiology 143, equation 1).

    >>> round(hanley_mcneil(0.9, 40, 60) ** 0.5, 4)
    0.0349
    """
    both = area / (2 - area), 2 * area**2 / (1 + area)
    more = (positives - 1) * (both[0] - area**2) + (negatives - 1) * (both[1] - area**2)
    return (area * (1 - area) + more) / (positives * negatives)
