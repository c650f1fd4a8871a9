"""Metrics on arrays: their values, per class and overall, plain and under weights (numpy only, no torch)."""

from __future__ import annotations

from transfuse.metrics.cases import ClassCounts
from transfuse.metrics.overlap import mean_overlap, overlap, overlap_terms
from transfuse.metrics.table import (
    COUNT_METRICS,
    EVERY_METRIC,
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
    "COUNT_METRICS",
    "EVERY_METRIC",
    "METRICS",
    "ClassCounts",
    "Metric",
    "MetricValue",
    "Prepared",
    "evaluate",
    "find_metric",
    "mean_overlap",
    "overlap",
    "overlap_terms",
    "prepare",
    "referable_score",
]
