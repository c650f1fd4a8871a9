"""Metrics on arrays: their values, per class and overall, plain and under weights (numpy only, no torch)."""

from __future__ import annotations

from transfuse.metrics.cases import ClassCounts
from transfuse.metrics.table import (
    METRICS,
    Metric,
    MetricValue,
    Prepared,
    evaluate,
    find_metric,
    prepare,
    referable_score,
)

__all__ = [
    "METRICS",
    "ClassCounts",
    "Metric",
    "MetricValue",
    "Prepared",
    "evaluate",
    "find_metric",
    "prepare",
    "referable_score",
]
