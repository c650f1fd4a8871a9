"""The Fréchet distance against scipy's square root of a matrix, closed forms, rank-deficient sets, streaming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from transfuse.analysis.frechet import Gaussian, frechet_between, frechet_distance, frechet_of, gaussian_of
from transfuse.errors import AnalysisError, AnalysisWarning


def correlated(count: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))


@pytest.mark.parametrize("width", [2, 7, 40])
def test_the_formula_with_scipy_s_square_root(width: int) -> None:
    x, y = correlated(200, width, 0), correlated(150, width, 1)
    found = frechet_distance(x, y)
    assert float(found) == found.value == pytest.approx(by_scipy(x, y), rel=1e-9)
    assert (found.samples, found.rank) == ((200, 150), (width, width))
    assert found.means == pytest.approx(((x.mean(0) - y.mean(0)) ** 2).sum())
    assert found.value == found.means + found.covariances


def test_closed_forms() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    mean = rng.normal(size=6)
    x, y = Gaussian(np.zeros(6), np.diag(one), 1000), Gaussian(mean, np.diag(two), 1000)
    wanted = (mean**2).sum() + ((np.sqrt(one) - np.sqrt(two)) ** 2).sum()
    assert frechet_of(x, y).value == pytest.approx(wanted, rel=1e-12)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    turned = (Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T, 1000) for g in (x, y))
    assert frechet_of(*turned).value == pytest.approx(wanted, rel=1e-12)
    features = correlated(300, 5, 2)
    assert frechet_distance(features, features + np.array([3, 0, 0, 4, 0])).value == pytest.approx(25, rel=1e-9)
    centred = features - features.mean(0)
    trace = np.trace(np.cov(features, rowvar=False))
    assert frechet_distance(3 * centred, centred).value == pytest.approx(4 * trace, rel=1e-9)  # (3 - 1)^2 tr S


def test_invariances() -> None:
    x, y = correlated(100, 6, 0), correlated(80, 6, 1)
    value = frechet_distance(x, y).value
    assert frechet_distance(y, x).value == pytest.approx(value, rel=1e-12)
    assert frechet_distance(x[::-1], y).value == pytest.approx(value, rel=1e-9)
    assert frechet_distance(x + 1e6, y + 1e6).value == pytest.approx(value, rel=1e-6)
    assert frechet_distance(1e-6 * x, 1e-6 * y).value == pytest.approx(1e-12 * value, rel=1e-9)
    same = frechet_distance(x, x)
    assert 0 <= same.value < 1e-10 * np.trace(np.cov(x, rowvar=False))


def test_rank_deficient_sets_are_exact_and_real() -> None:
    x, y = correlated(500, 3, 0), correlated(500, 3, 1)
    wide = np.random.default_rng(2).normal(size=(3, 20))
    wide = np.linalg.qr(wide.T)[0].T  # three directions of twenty
    found = frechet_distance(x @ wide, y @ wide)
    assert found.value == pytest.approx(by_scipy(x, y), rel=1e-9)
    assert found.rank == (3, 3)
    dead = np.zeros((500, 4))
    assert frechet_distance(np.hstack([x, dead]), np.hstack([y, dead])).value == pytest.approx(by_scipy(x, y), rel=1e-9)
    constant = frechet_distance(np.ones((5, 3)), np.zeros((5, 3)))
    assert (constant.value, constant.rank, constant.by_chance) == (3.0, (0, 0), 0.0)
    apart = frechet_distance(np.hstack([x, dead[:, :3]]), np.hstack([dead[:, :3], x]))  # nothing in common
    trace = np.trace(np.cov(x, rowvar=False))
    assert apart.covariances == pytest.approx(2 * trace, rel=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_by_chance_is_what_one_distribution_gives(decay: float) -> None:
    rng, scale = np.random.default_rng(0), np.arange(1, 33) ** -decay
    pairs = [frechet_distance(*(rng.normal(size=(count, 32)) * scale for count in (320, 640))) for _ in range(8)]
    mean, told = np.mean([p.value for p in pairs]), np.mean([p.by_chance for p in pairs])
    assert 0.85 < told / mean < 1.05


def test_fewer_samples_than_dimensions_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    with pytest.warns(
        AnalysisWarning, match=r"20 samples for 64 dimensions: .* biased upwards.* at least 64 samples"
    ) as told:
        found = frechet_distance(rng.normal(size=(20, 64)), rng.normal(size=(100, 64)))
    assert told[0].filename == __file__
    assert found.rank == (19, 64)
    assert found.by_chance > 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_type_and_any_batches(dtype: torch.dtype) -> None:
    x, y = torch.tensor(correlated(101, 4, 0)).to(dtype), torch.tensor(correlated(50, 4, 1)).to(dtype)
    wanted = by_scipy(x.double().numpy(), y.double().numpy())
    assert frechet_distance(x, y).value == pytest.approx(wanted, rel=1e-6)
    for size in (1, 20, 100):  # a last batch of 1
        parts = gaussian_of(x.split(size))
        np.testing.assert_allclose(parts.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-6)
        assert frechet_of(parts, gaussian_of([y])).value == pytest.approx(wanted, rel=1e-6)


def test_between_two_sets_of_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).train()
    a, b = torch.rand(30, 3, 8, 8), torch.rand(20, 3, 8, 8) + 0.5
    found = frechet_between(model, a.split(7), [(part, "ignored") for part in b.split(20)], "0")
    with torch.no_grad():
        x, y = (model[0](images).mean((2, 3)).numpy() for images in (a, b))
    assert found.value == pytest.approx(by_scipy(x, y), rel=1e-4)
    assert found.samples == (30, 20)
    assert model.training
    assert not model[0]._forward_hooks
    assert frechet_between(model, [a], [b], "0", view="positions").samples == (30 * 36, 20 * 36)


def test_messages() -> None:
    good = correlated(20, 3, 0)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(AnalysisError, match=r"'x' has 1 of 60 activations that are NaN"):
        frechet_distance(bad, good)
    with pytest.raises(AnalysisError, match=r"y: 1 sample\(s\); a covariance needs 2"):
        frechet_distance(good, good[:1])
    with pytest.raises(AnalysisError, match=r"shape \(20,\); expected \(N, D\)"):
        frechet_distance(good[:, 0], good)
    with pytest.raises(
        AnalysisError, match=r"y has mean \(2,\), covariance \(2, 2\) and 20 samples; expected \(3,\), "
    ):
        frechet_distance(good, good[:, :2])
    with pytest.raises(AnalysisError, match=r"expected 3, as before"):
        gaussian_of([good, good[:, :2]])
    with pytest.raises(AnalysisError, match=r"features: 0 sample\(s\)"):
        gaussian_of([])
    with pytest.raises(AnalysisError, match=r"x has a mean or covariance that is NaN"):
        frechet_of(Gaussian(np.zeros(2), np.full((2, 2), np.nan), 9), Gaussian(np.zeros(2), np.eye(2), 9))
    layer = nn.Conv2d(3, 3, 3)
    model, images = nn.Sequential(layer, nn.ReLU(), layer), torch.rand(5, 3, 9, 9)
    with pytest.raises(AnalysisError, match=r"unknown view 'flat' for the Fréchet distance: .*pooled"):
        frechet_between(model, [images], [images], "0", view="flat")
    with pytest.raises(AnalysisError, match=r"block '0' runs 2 times in a pass"):
        frechet_between(model, [images], [images], "0")
    with pytest.raises(AnalysisError, match=r"batches_b: there are no batches"):
        frechet_between(model, [images], [], "1")
    with pytest.raises(AnalysisError, match=r"no module 'conv'"):
        frechet_between(model, [images], [images], "conv")
    with pytest.raises(AnalysisError, match=r"block '1' of batches_a\" has \d+ of \d+ activations that are NaN"):
        frechet_between(model, [images * torch.nan], [images], "1")
