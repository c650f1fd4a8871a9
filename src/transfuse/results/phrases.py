"""Numbers, intervals, durations and metric names as people read them; the sentences and tables are made of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfuse.metrics import EVERY_METRIC

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison

MINUS = "\N{MINUS SIGN}"
# Where the title of `METRICS` would not read well in the middle of a sentence.
METRIC_NAMES = {
    "auprc": "AUPRC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "macro_recall": "macro recall",
    "kappa": "quadratic kappa",
    "ece": "calibration error",
    "referable_auroc": "referable-disease AUROC",
}


def metric_name(name: str) -> str:
    """The name of a metric as it is written in a sentence; a class follows in brackets.

    >>> metric_name("auroc"), metric_name("auroc/grade 2"), metric_name("my_score")
    ('AUROC', 'AUROC (grade 2)', 'my score')
    """
    quantity, _, label = name.partition("/")
    known = EVERY_METRIC[quantity].title if quantity in EVERY_METRIC else quantity.replace("_", " ")
    readable = METRIC_NAMES.get(quantity, known)
    return f"{readable} ({label})" if label else readable


def smaller_is_better(name: str) -> bool:
    """Whether a smaller value of this quantity is the better one (loss, calibration error, Brier score)."""
    quantity = name.partition("/")[0]
    return quantity == "loss" or (quantity in EVERY_METRIC and not EVERY_METRIC[quantity].higher_is_better)


def bounds(name: str) -> tuple[float, float]:
    """The smallest and the largest possible value of a metric; infinite where they are not known.

    >>> bounds("auroc"), bounds("kappa/grade 2"), bounds("my_score")
    ((0.0, 1.0), (-1.0, 1.0), (-inf, inf))
    """
    quantity = name.partition("/")[0]
    return EVERY_METRIC[quantity].bounds if quantity in EVERY_METRIC else (-math.inf, math.inf)


def span(name: str) -> float:
    """The largest possible difference of two values of a metric.

    >>> span("auroc"), span("kappa"), span("my_score")
    (1.0, 2.0, inf)
    """
    low, high = bounds(name)
    return high - low


def number(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign; "undefined" where there is none.

    >>> number(0.9123), number(-0.5, 1), number(float("nan"))
    ('0.912', '−0.5', 'undefined')
    """
    if value is None or not math.isfinite(value):
        return "undefined"
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) != 0
    return f"{MINUS}{text}" if negative else text


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: always with its sign, except for a rounded zero.

    >>> signed(0.0384), signed(-0.0384), signed(0.0001)
    ('+0.038', '−0.038', '0.000')
    """
    text = number(value, digits)
    if value is None or not math.isfinite(value) or text.startswith(MINUS) or float(text) == 0:
        return text
    return f"+{text}"


def sides(data: Mapping[str, Any], sign: str = " x ") -> str:
    """How large the images are, by the facts of a run about its data.

    >>> sides({"image_size": 64}), sides({"image_size": 28, "spatial_dims": 3})
    ('64 x 64 pixels', '28 x 28 x 28 voxels')
    """
    dims = data.get("spatial_dims", 2)
    return f"{sign.join([str(data['image_size'])] * dims)} {'voxels' if dims == 3 else 'pixels'}"


def trimmed(value: float) -> str:
    """A setting such as a margin, without needless zeros.

    >>> trimmed(0.02), trimmed(0.5), trimmed(1.0)
    ('0.02', '0.5', '1')
    """
    return f"{value:g}"


def interval(low: float | None, high: float | None, confidence: float = 0.95) -> str:
    """An interval of a difference; an infinite one is none.

    >>> interval(0.011, 0.065)
    '95 % interval +0.011 to +0.065'
    >>> interval(float("-inf"), float("inf"))
    'no interval can be given'
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval can be given"
    return f"{100 * confidence:g} % interval {signed(low)} to {signed(high)}"


def counted(count: float, singular: str, plural: str = "") -> str:
    """A count with its noun; thousands are set apart by a comma.

    >>> counted(1, "seed"), counted(2200, "patient"), counted(2, "class", "classes")
    ('1 seed', '2,200 patients', '2 classes')
    """
    noun = singular if count == 1 else (plural or f"{singular}s")
    return f"{count:,.0f} {noun}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """Items as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def why_undecided(found: Comparison) -> str:
    """Why a comparison decides nothing although its interval may look decided: one seed in an arm, or others beside it.

    Else nothing.
    """
    if str(found.verdict) != "undecided":
        return ""
    if min(found.seeds_a, found.seeds_b) < 2:
        return "1 seed"
    return f"Holm, {counted(found.family, 'comparison')}" if taken_away(found) else ""


def taken_away(found: Comparison) -> str:
    """The verdict that a comparison has by itself, where the correction for several of them takes it away; else "".

    Tests are at 5 %, as those of `transfuse.compare`.
    """
    if str(found.verdict) != "undecided":
        return ""
    if found.p_equivalence <= 0.05:
        return "equivalent"
    apart = "helps" if found.difference > 0 else "hurts"
    return apart if found.p_difference <= 0.05 else ""


def duration(seconds: float | None) -> str:
    """A time span in the two units that matter.

    >>> duration(8.25), duration(192), duration(3840), duration(None)
    ('8.2 s', '3 min 12 s', '1 h 04 min', 'unknown')
    """
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop.

    >>> sentence("one run diverged")
    'One run diverged.'
    """
    text = text.strip()
    if not text:
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
