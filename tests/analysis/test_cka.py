from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch

from transfuse.analysis import grams
from transfuse.analysis.cka import cka
from transfuse.errors import AnalysisError, AnalysisWarning


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def related(count: int = 40, wide: int = 12, narrow: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations that share some of their directions."""
    shared = drawn(count, 4, seed=seed)
    return (
        np.maximum(shared @ drawn(4, wide, seed=seed + 1) + drawn(count, wide, seed=seed + 2), 0) + 0.5,
        shared @ drawn(4, narrow, seed=seed + 3) + 2 * drawn(count, narrow, seed=seed + 4),
    )


def hsic_by_definition(k: np.ndarray, m: np.ndarray, debiased: bool) -> float:
    """Gretton et al. 2005 (biased), Song et al. 2012, equation 5 (unbiased), term by term."""
    n = len(k)
    if not debiased:
        h = np.eye(n) - np.ones((n, n)) / n
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    terms = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (terms - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


def by_definition(x: np.ndarray, y: np.ndarray, debiased: bool = True, bandwidth: float | None = None) -> float:
    k, m = x @ x.T, y @ y.T
    if bandwidth is not None:
        k, m = (rbf_by_definition(z, bandwidth) for z in (x, y))
    across, within, other = (hsic_by_definition(a, b, debiased) for a, b in ((k, m), (k, k), (m, m)))
    return across / np.sqrt(within * other)


def rbf_by_definition(x: np.ndarray, bandwidth: float) -> np.ndarray:
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    width = bandwidth * np.median(distances[np.triu_indices(len(x), 1)])
    return np.exp(-(distances**2) / (2 * width**2))


SHAPES = [(40, 12, 7), (40, 300, 7), (40, 7, 300), (40, 90, 200), (40, 40, 41), (9, 3, 2), (4, 6, 5)]


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("count", "wide", "narrow"), SHAPES)
def test_linear_cka_is_the_textbook_formula(count: int, wide: int, narrow: int, debiased: bool) -> None:
    x, y = related(count, wide, narrow)
    assert float(cka(x, y, debiased)) == pytest.approx(by_definition(x, y, debiased), abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("count", [4, 5, 40])
def test_rbf_cka_is_the_textbook_formula(count: int, bandwidth: float, debiased: bool) -> None:
    x, y = related(count)
    result = cka(x, y, debiased, kernel="rbf", bandwidth=bandwidth)
    assert float(result) == pytest.approx(by_definition(x, y, debiased, bandwidth), abs=1e-10)
    assert result.measure == "rbf_cka"


def test_agrees_with_a_published_implementation() -> None:
    ckatorch = pytest.importorskip("ckatorch", reason="comes with the extra test")
    x, y = (torch.from_numpy(z) for z in related(50, 60, 20))
    for debiased in (True, False):
        theirs = float(ckatorch.cka_base(x, y, unbiased=debiased))
        assert float(cka(x, y, debiased)) == pytest.approx(theirs, abs=1e-10)


def test_a_result_says_what_it_rests_on() -> None:
    x, y = related()
    x[:, 3] = x[:, 2] * 2
    x[:, 5] = 7
    result = cka(x, y)
    assert (result.samples, result.rank, result.measure, result.independent) == (40, (10, 7), "cka", 0.0)
    assert result.coefficients.size == 0
    assert cka(x, x, kernel="rbf").rank == (10, 10)
    assert cka(drawn(20, 100), drawn(20, 5)).rank == (19, 5)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("shape", [(60, 10), (20, 64)])
def test_invariant_to_rotation_scale_shift_and_permutation_only(
    shape: tuple[int, int], kernel: str, debiased: bool
) -> None:
    x, y = drawn(*shape), drawn(*shape, seed=5) + drawn(*shape)
    rotation = np.linalg.qr(drawn(shape[1], shape[1], seed=9))[0]
    order = np.random.default_rng(1).permutation(shape[1])
    before = float(cka(x, y, debiased, kernel=kernel))
    for same in (x @ rotation, -3.5 * x, x[:, order], x + 11.0, np.hstack([x, np.ones((len(x), 3))])):
        assert float(cka(same, y, debiased, kernel=kernel)) == pytest.approx(before, abs=1e-9)
        assert float(cka(same, x, debiased, kernel=kernel)) == pytest.approx(1, abs=1e-9)
    assert float(cka(y, x, debiased, kernel=kernel)) == pytest.approx(before, abs=1e-12)
    stretched = x * np.geomspace(0.01, 10, shape[1])
    assert float(cka(stretched, x, debiased, kernel=kernel)) < 0.95
    samples = np.random.default_rng(2).permutation(len(x))
    assert float(cka(x[samples], y[samples], debiased, kernel=kernel)) == pytest.approx(before, abs=1e-9)
    assert abs(float(cka(x[samples], y, debiased, kernel=kernel)) - before) > 0.01


def test_independent_data_is_at_zero_debiased_and_at_the_stated_level_otherwise() -> None:
    pairs = [(drawn(50, 80, seed=seed), drawn(50, 30, seed=seed + 100)) for seed in range(12)]
    debiased = [float(cka(x, y)) for x, y in pairs]
    assert abs(np.mean(debiased)) < 0.02
    assert min(debiased) < 0  # allowed: the estimate is unbiased
    biased = [cka(x, y, debiased=False) for x, y in pairs]
    assert np.mean([float(r) for r in biased]) == pytest.approx(0.48, abs=0.03)
    for result in biased:
        assert float(result) == pytest.approx(result.independent, abs=0.05)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_level_of_independent_features_is_the_mean_over_permutations(kernel: str) -> None:
    x, y = related(6)
    generator = np.random.default_rng(0)
    shuffled = [float(cka(x, y[generator.permutation(6)], False, kernel=kernel)) for _ in range(600)]
    error = np.std(shuffled) / np.sqrt(len(shuffled))
    assert cka(x, y, False, kernel=kernel).independent == pytest.approx(np.mean(shuffled), abs=4 * error)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(30, 6), (10, 50)])
def test_any_type_is_computed_in_float64(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, y = (torch.from_numpy(drawn(*shape, seed=seed) * 4).to(dtype) for seed in (0, 1))
    expected = by_definition(x.double().numpy(), (x + y).double().numpy())
    assert float(cka(x, x + y)) == pytest.approx(expected, abs=1e-10)
    if dtype != torch.bfloat16:
        assert float(cka(x.numpy(), (x + y).numpy())) == pytest.approx(expected, abs=1e-10)


def test_gradients_global_precision_and_autocast_do_not_matter() -> None:
    x, y = (torch.from_numpy(z).float() for z in related(10, 4000, 4000))
    expected = float(cka(x, y))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert float(cka(x.requires_grad_(), y)) == pytest.approx(expected, abs=1e-12)
            gram = grams.linear_gram(x)
    finally:
        torch.set_float32_matmul_precision(before)
    assert not gram.requires_grad
    centred = x.detach().double() - x.detach().double().mean(0)
    torch.testing.assert_close(gram, centred @ centred.T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 6), (10, 300)])
def test_large_means_small_and_large_scales_lose_nothing(shape: tuple[int, int]) -> None:
    x, y = drawn(*shape), drawn(*shape) + drawn(*shape, seed=1)
    expected = by_definition(x, y)
    for changed in (x + 1e4, x * 1e-8, x * 1e8, x * 1e-60):
        assert float(cka(changed, y)) == pytest.approx(expected, abs=1e-9)
    one_large = np.hstack([x, np.full((len(x), 1), 1e9)])
    assert float(cka(one_large, y)) == pytest.approx(expected, abs=1e-9)


def test_many_samples_of_few_features_need_no_square_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 16, generator=generator)
    y = x[:, :8] + torch.randn(50_000, 8, generator=generator)
    monkeypatch.setattr(sys.modules[cka.__module__], "linear_gram", None)  # what makes N x N
    assert float(cka(x, y)) == pytest.approx(
        0.5 / np.sqrt(2), abs=0.02
    )  # |S_xy|^2 / (|S_xx| |S_yy|) = 8 / (4 * 2 sqrt 8)
    assert cka(x, y).samples == 50_000


def test_pieces_of_the_feature_product_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[cka.__module__], "_PIECE", 7 * 500 + 3)
    x, y = related(700, 600, 500)
    assert float(cka(x, y)) == pytest.approx(by_definition(x, y), abs=1e-12)


def test_memory_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[cka.__module__], "_WARN_BYTES", 10_000)
    with pytest.warns(
        AnalysisWarning, match=r"100 samples of 5 and 5 features takes about .* 100 x 100; MinibatchCKA"
    ) as found:
        cka(drawn(100, 5), drawn(100, 5, seed=1), kernel="rbf")
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cka(drawn(100, 5), drawn(100, 5, seed=1))


X = drawn(10, 4)


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        (
            drawn(10, 4, 2, 2),
            X,
            {},
            r"x has shape \(10, 4, 2, 2\); expected features \(N, D\).*x\.reshape\(10, -1\).*view",
        ),
        (X, drawn(10), {}, r"y has shape \(10,\)"),
        (X, np.empty((10, 0)), {}, r"y has shape \(10, 0\)"),
        (X, drawn(9, 4), {}, "x has 10 samples and y has 9; expected the same samples"),
        (X[:3], X[:3], {}, "x and y have 3 samples; the debiased CKA needs at least 4"),
        (X[:2], X[:2], {"debiased": False}, "x and y have 2 samples; CKA needs at least 3"),
        (np.ones((10, 4)), X, {}, "x does not vary: its features are constant .*only one sample .*0 / 0"),
        (
            X,
            np.full((10, 4), 0.1),
            {"debiased": False},
            "y does not vary: its features are constant over the samples, so",
        ),
        (np.zeros((10, 40)), drawn(10, 40), {}, "x does not vary"),
        (np.full((10, 40), 0.1), drawn(10, 40), {}, "x does not vary"),
        (np.eye(10, 40)[:, :1] + np.zeros((10, 40)), drawn(10, 40), {}, "x does not vary.*only one sample differs"),
        (np.eye(10)[:, :1] * 3, X, {}, "x does not vary.*only one sample differs"),
        (np.where(X > 1, np.nan, X), X, {}, r"x has \d+ of 40 values that are NaN or infinite"),
        (X, X + np.inf, {}, "y has 40 of 40 values that are NaN or infinite"),
        (X + 1j, X, {}, "x is complex"),
        (X, X, {"kernel": "rfb"}, "unknown kernel 'rfb': did you mean 'rbf'"),
        (X, X, {"kernel": "rbf", "bandwidth": 0}, "bandwidth is 0; expected a positive fraction"),
        (X, X, {"bandwidth": float("nan")}, "bandwidth is nan"),
        (np.repeat(X[:2], [9, 1], axis=0), X, {"kernel": "rbf"}, "median distance between the 10 samples is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(x: object, y: object, arguments: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        cka(x, y, **arguments)


def test_a_representation_that_varies_in_one_sample_still_has_a_biased_cka() -> None:
    x = np.eye(10)[:, :1]
    assert float(cka(x, x, debiased=False)) == pytest.approx(1)


def test_grams_take_memory_as_it_lies() -> None:
    maps = torch.randn(6, 5, 4, 3, generator=torch.Generator().manual_seed(0)) + 100
    double = maps.double().flatten(1)
    double -= double.mean(0)
    for same in (
        maps,
        maps.contiguous(memory_format=torch.channels_last),
        maps.transpose(1, 3),
        maps[:, :, ::1].movedim(1, -1),
    ):
        torch.testing.assert_close(grams.linear_gram(same), double @ double.T, rtol=1e-5, atol=1e-4)
    last = maps.contiguous(memory_format=torch.channels_last)
    assert grams._rows(last).data_ptr() == last.data_ptr()
    volumes = torch.randn(3, 4, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d)
    assert grams._rows(volumes).data_ptr() == volumes.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -3.3])
def test_grams_of_constant_features_are_exactly_zero(value: float, dtype: torch.dtype) -> None:
    assert not grams.linear_gram(torch.full((7, 5000), value, dtype=dtype)).any()


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e25, 1e38])
def test_grams_in_float32_neither_overflow_nor_vanish(scale: float) -> None:
    x = torch.rand(8, 900, generator=torch.Generator().manual_seed(0))
    expected = grams.linear_gram(x.double())
    gram = grams.linear_gram(x * scale) / scale**2
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("debiased", [True, False])
def test_centring_is_the_published_one(debiased: bool) -> None:
    k = drawn(9, 9)
    k = k @ k.T
    centred = grams.centred_(torch.from_numpy(k.copy()), debiased=debiased).numpy()
    np.testing.assert_allclose(centred.sum(0), 0, atol=1e-10)
    np.testing.assert_allclose(centred, centred.T, atol=1e-10)
    count = 9 * 6 if debiased else 64
    assert (centred**2).sum() / count == pytest.approx(hsic_by_definition(k, k, debiased))
    assert np.all(np.diag(centred) == 0) == debiased
