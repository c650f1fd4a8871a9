from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch

from transfuse.analysis.procrustes import procrustes
from transfuse.errors import AnalysisError, AnalysisWarning


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def related(count: int = 400, wide: int = 12, narrow: int = 12) -> tuple[np.ndarray, np.ndarray]:
    shared = drawn(count, 5)
    x = shared @ drawn(5, wide, seed=1) + drawn(count, wide, seed=2) + 3
    return x, shared @ drawn(5, narrow, seed=3) + drawn(count, narrow, seed=4)


def unit(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(0)
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("widths", [(12, 12), (12, 7), (7, 12)])
def test_value_and_distance_are_those_of_scipy(widths: tuple[int, int]) -> None:
    x, y = related(400, *widths)
    filled = [np.pad(side, ((0, 0), (0, 12 - side.shape[1]))) for side in (x, y)]
    a, b = unit(filled[0]), unit(filled[1])
    rotation, scale = scipy.linalg.orthogonal_procrustes(b, a)
    value = procrustes(x, y).value
    assert value == pytest.approx(scale, abs=1e-12)
    assert np.linalg.norm(a - b @ rotation) ** 2 == pytest.approx(2 - 2 * value, abs=1e-10)
    assert scipy.spatial.procrustes(*filled)[2] == pytest.approx(1 - value**2, abs=1e-10)


def test_invariant_to_rotation_scale_and_shift_but_not_to_any_invertible_map() -> None:
    x, y = related()
    before = procrustes(x, y).value
    rotation = np.linalg.qr(drawn(12, 12, seed=8))[0]
    for changed in (y @ rotation, 5 * y, y + 100, y[:, ::-1]):
        assert procrustes(x, changed).value == pytest.approx(before, abs=1e-9)
    assert procrustes(x, x).value == pytest.approx(1, abs=1e-12)
    assert procrustes(x, x @ drawn(12, 12, seed=9)).value < 0.95
    assert procrustes(y, x).value == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize(("samples", "widths"), [(1000, (20, 8)), (120, (12, 12))])
def test_independent_is_the_value_of_gaussian_features_with_these_spectra(
    samples: int, widths: tuple[int, int]
) -> None:
    scales = [np.geomspace(1, 8, width) for width in widths]
    found = [
        procrustes(drawn(samples, widths[0], seed=k) * scales[0], drawn(samples, widths[1], seed=99 + k) * scales[1])
        for k in range(20)
    ]
    level = np.mean([similarity.independent for similarity in found])
    assert np.mean([similarity.value for similarity in found]) == pytest.approx(level, rel=0.06)


def test_samples_ranks_and_types() -> None:
    x, y = related()
    x[:, 3] = 0
    result = procrustes(torch.from_numpy(x).half(), y.astype(np.float32))
    assert (result.rank, result.samples, result.measure, len(result.coefficients)) == ((11, 12), 400, "procrustes", 0)
    assert result.value == pytest.approx(procrustes(x, y).value, abs=1e-3)
    assert procrustes(x * 1e-30, y).value == pytest.approx(procrustes(x, y).value, abs=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    x, y = related()
    with pytest.raises(AnalysisError, match="x is constant: none of its 12 columns"):
        procrustes(0 * x + 2, y)
    with pytest.raises(AnalysisError, match="x has 399 samples and y 400"):
        procrustes(x[1:], y)
    with pytest.raises(AnalysisError, match="'y' has 400 of 4800 activations that are NaN"):
        procrustes(x, np.where(np.arange(12) == 3, np.nan, y))
    with pytest.warns(AnalysisWarning, match="119 samples of 12 neurons") as seen:
        procrustes(x[:119], y[:119])
    assert seen[0].filename == __file__
