"""A mean over classes of which one has few patients: its degrees of freedom, and the resamples that lack the class."""

from __future__ import annotations

import numpy as np
import pytest

from transfuse.statistics import bootstrap, comparison
from transfuse.statistics.arm import arm_of_scores
from transfuse.statistics.comparison import compare


def labels(generator: np.random.Generator, positives: tuple[int, ...], size: int = 100) -> list[np.ndarray]:
    """Labels `(N, C)` and the scores of two arms `(3, N, C)` that are equally good; their patients differ."""
    target = np.zeros((size, len(positives)))
    for index, count in enumerate(positives):
        target[generator.choice(size, count, replace=False), index] = 1
    arms = [
        target + generator.normal(size=target.shape) + 0.05 * generator.normal(size=(3, *target.shape))
        for _ in range(2)
    ]
    return [target, *arms]


def test_a_mean_with_a_rare_class_holds_its_error_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No true difference, 50 and 2 positives among 100 patients. With the degrees of freedom of both classes added up
    12 % of studies claim one. The bound is 5 % with the Monte-Carlo error of 150 studies (one-sided, 95 %)"""
    monkeypatch.setattr(bootstrap.resample, "__defaults__", (0, 300))
    for name in ("needed_patients", "needed_seeds"):
        monkeypatch.setattr(comparison, name, lambda *_: None)
    generator = np.random.default_rng(1)
    found = [compare(*labels(generator, (50, 2)), None, 0.02) for _ in range(150)]
    tested = [one for one in found if np.isfinite(one.standard_error)]
    assert len(tested) > 145
    assert np.mean([one.p_difference <= 0.05 for one in tested]) <= 0.08
    assert np.median([one.df for one in tested]) < 5


def test_degrees_of_freedom_are_satterthwaites_of_the_classes() -> None:
    """From the definition, where seeds add nothing; and as many as before where the classes are alike."""
    target, a, b = labels(np.random.default_rng(4), (40, 8))
    a, b = a[[0, 0]], b[[0, 0]]
    found = compare(target, a, b, None, 0.1)
    first, second = (arm_of_scores(target, one, None).parts[0].values[0] for one in (a, b))
    n, plain = np.array([40, 8]), np.nanvar((first - second)[1:], axis=1, ddof=1)
    scaled = plain * n / (n - 1)
    assert found.df == pytest.approx(scaled.sum() ** 2 / (scaled**2 / (n - 1)).sum(), rel=1e-9)
    overall = (first - second)[0]
    variance = overall[np.isfinite(overall)].var(ddof=1) * scaled.sum() / plain.sum()
    assert found.standard_error == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert compare(*labels(np.random.default_rng(4), (50, 50)), None, 0.1).df > 60


def test_a_resample_that_lacks_a_class_has_no_mean() -> None:
    """Else it would be a mean of other classes; the mean says how many were left out, as the class does."""
    target, a, b = labels(np.random.default_rng(2), (50, 3))
    values = arm_of_scores(target, a, None).parts[0].values
    assert np.array_equal(np.isnan(values[:, 0]), np.isnan(values[:, 1:]).any(axis=1))
    found = compare(target, a, b, None, 0.1)
    (said,) = [note for note in found.notes if "of the resamples of patients lacked a class" in note]
    assert said in found.per_class[1].notes
