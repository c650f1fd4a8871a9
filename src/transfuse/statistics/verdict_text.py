"""A comparison in a few lines, as `print` shows it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from transfuse.metrics import EVERY_METRIC

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison

_MOST_CLASSES = 12


def headline(found: Comparison) -> str:
    """The verdict, the difference with its interval, and the margin."""
    metric = EVERY_METRIC[found.metric].title if found.metric in EVERY_METRIC else found.metric
    return f"{found.verdict}: {_difference(found, metric)}, margin {found.margin:g}"


def lines(found: Comparison) -> list[str]:
    """The headline; patients and seeds, with those that would decide; a line a class; the caveats."""
    said = [headline(found), f"{found.patients} patients, {_seeds(found)}{_needed(found)}"]
    classes = list(found.per_class.items()) if len(found.per_class) > 1 else []
    said += [f"  class {label}: {one.verdict}, {_difference(one)}" for label, one in classes[:_MOST_CLASSES]]
    if len(classes) > _MOST_CLASSES:
        said.append(f"  and {len(classes) - _MOST_CLASSES} classes more, in per_class")
    return [*said, *(f"- {caveat}" for caveat in found.caveats)]


def _difference(found: Comparison, metric: str = "") -> str:
    digits = 3 if found.margin >= 0.005 else 5
    value = f"{found.difference:+.{digits}f}" + (f" {metric}" if metric else "")
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{value} (no interval)"
    return f"{value} (95 % interval {found.low:+.{digits}f} to {found.high:+.{digits}f})"


def _seeds(found: Comparison) -> str:
    if found.seeds_a != found.seeds_b:
        return f"{found.seeds_a} and {found.seeds_b} seeds"
    return f"{found.seeds_a} seed{'s' if found.seeds_a > 1 else ''} an arm"


def _needed(found: Comparison) -> str:
    """What would decide, where the verdict is open and something would."""
    would = []
    if found.verdict == "undecided" and found.needed_patients is not None and found.needed_patients > found.patients:
        would.append(f"{found.needed_patients} patients")
    fewest = min(found.seeds_a, found.seeds_b)
    if found.verdict == "undecided" and found.needed_seeds is not None and found.needed_seeds > fewest:
        would.append(f"{found.needed_seeds} seeds an arm")
    return f"; would decide (80 % power): {' or '.join(would)}" if would else ""
