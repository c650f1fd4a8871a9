"""LogME against the evidence maximised by hand, the paper's own fixed point, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import ortho_group

from transfuse.analysis import logme
from transfuse.errors import AnalysisError


def features(count: int, width: int, classes: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return rng.normal(0.5, 1, (count, width)) + signal * rng.normal(size=(classes, width))[labels], labels


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The evidence is log of the density of y under N(0, 1/beta + x x' / alpha); its maximum from several starts."""

    def evidence(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -25, 25))
        covariance = np.eye(len(y)) / beta + x @ x.T / alpha
        return -0.5 * float(
            y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1] + len(y) * np.log(2 * np.pi)
        )

    starts = [(-2.0, 0.0), (3.0, 3.0), (8.0, 1.0)]
    options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 600}
    best = [minimize(lambda logs: -evidence(logs), start, method="Nelder-Mead", options=options) for start in starts]
    return max(-one.fun for one in best) / len(y)


@pytest.mark.parametrize(("count", "width"), [(40, 6), (40, 30), (25, 60)])
@pytest.mark.parametrize("signal", [0.3, 1.0])
def test_it_is_the_maximum_of_the_evidence(count: int, width: int, signal: float) -> None:
    x, labels = features(count, width, 3, signal)
    expected = np.mean([by_hand(x, (labels == one).astype(float)) for one in range(3)])
    assert logme(x, labels) == pytest.approx(expected, abs=1e-5)


def test_the_fixed_point_of_the_paper_ends_there() -> None:
    x, labels = features(200, 12, 2, 0.4)
    found = []
    for y in ((labels == 0).astype(float), (labels == 1).astype(float)):
        alpha = beta = 1.0
        for _ in range(500):
            inverse = np.linalg.inv(alpha * np.eye(12) + beta * x.T @ x)
            m = beta * inverse @ x.T @ y
            gamma = 12 - alpha * np.trace(inverse)
            alpha, beta = gamma / (m @ m), (200 - gamma) / ((y - x @ m) @ (y - x @ m))
        a = alpha * np.eye(12) + beta * x.T @ x
        residual = (y - x @ m) @ (y - x @ m)
        found.append(
            (100 * np.log(beta) + 6 * np.log(alpha) - 100 * np.log(2 * np.pi) - beta / 2 * residual)
            - alpha / 2 * (m @ m)
            - 0.5 * np.linalg.slogdet(a)[1]
        )
    assert logme(x, labels) == pytest.approx(np.mean(found) / 200, abs=1e-8)


@pytest.mark.parametrize("width", [8, 90])
def test_what_does_not_change_it(width: int) -> None:
    x, labels = features(60, width, 3, 0.5)
    value = logme(x, labels)
    assert logme(x @ ortho_group.rvs(width, random_state=0), labels) == pytest.approx(value, abs=1e-9)
    assert logme(1e-9 * x, labels) == pytest.approx(value, abs=1e-9)
    assert logme(np.hstack([x, np.zeros((60, 7))]), labels) == pytest.approx(value, abs=1e-9)
    assert logme(x, 2 - labels) == pytest.approx(value, abs=1e-9)
    assert logme(x, labels + 1) == pytest.approx(value, abs=1e-9)  # a class without images is none
    assert logme(x, np.eye(3)[labels]) == pytest.approx(value, abs=1e-9)
    order = np.random.default_rng(0).permutation(60)
    assert logme(x[order], labels[order]) == pytest.approx(value, abs=1e-9)


def test_it_tells_features_with_more_signal() -> None:
    values = [logme(*features(300, 20, 4, signal)) for signal in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values)


def test_missing_labels_leave_an_image_out_of_their_class_only() -> None:
    x, labels = features(80, 6, 2, 0.5)
    many = np.column_stack([labels, (np.arange(80) % 5 == 0)]).astype(float)
    many[:30, 0] = np.nan
    first, second = logme(x[30:], many[30:, :1]), logme(x, many[:, 1:])
    assert logme(x, many) == pytest.approx((first + second) / 2, abs=1e-12)


def test_features_that_say_nothing_or_all() -> None:
    labels = np.arange(50) % 2
    nothing = by_hand(np.zeros((50, 1)), labels.astype(float))
    assert logme(np.zeros((50, 3)), labels) == pytest.approx(nothing, abs=1e-6)
    everything = logme(np.eye(2)[labels], labels)
    assert np.isfinite(everything)
    assert everything > 5


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (np.ones((4, 2)), [0, 0, 0, 0], "no class has both"),
        (np.ones((4, 2)), [0, 1, 0], "4 features and 3 targets"),
        (np.ones(4), [0, 1, 0, 1], r"features have shape \(4,\)"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "8 of 8 features are NaN"),
        (np.ones((4, 2)), [0, 1, 0.5, 1], "targets hold 0.5"),
        (np.ones((4, 2)), [[0], [2], [0], [1]], "targets hold 2"),
        (np.ones((4, 2)), ["a", "b", "a", "b"], "targets have shape"),
    ],
)
def test_messages(x: np.ndarray, labels: list, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        logme(x, labels)
