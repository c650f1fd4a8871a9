from __future__ import annotations

import re
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from cca_zoo.linear import CCA as ZooCCA
from sklearn.cross_decomposition import CCA as SklearnCCA

from transfuse.analysis.cca import _in_float32, cca, pwcca, svcca
from transfuse.analysis.chance import independent_level, random_coefficients, wachter_edges
from transfuse.errors import AnalysisError, AnalysisWarning

MEASURES = [cca, svcca, pwcca]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def related(count: int = 2000, wide: int = 32, narrow: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two layers like those after a ReLU that share some of their directions."""
    shared = drawn(count, 12, seed=seed)
    x = np.maximum(shared @ drawn(12, wide, seed=seed + 1) + drawn(count, wide, seed=seed + 2), 0)
    return x, shared @ drawn(12, narrow, seed=seed + 3) + 2 * drawn(count, narrow, seed=seed + 4)


def basis(x: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """Orthonormal basis of centred, scaled columns, from the data themselves and not from moments."""
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(0)
    x = x[:, x.std(0) > 1e-12 * np.abs(x).max(0)]
    u, s, _ = np.linalg.svd(x / x.std(0), full_matrices=False)
    return u[:, s > tolerance * s[0]]


def reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    p, q = basis(x), basis(y)
    return np.linalg.svd(p.T @ q, compute_uv=False)


def reference_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    """Morcos et al. 2018, section 2: term by term."""
    p, q = basis(x), basis(y)
    u, rho, _ = np.linalg.svd(p.T @ q, full_matrices=False)
    alpha = np.abs((p @ u).T @ (x - x.mean(0))).sum(1)
    return float((alpha * rho).sum() / alpha.sum())


def reference_svcca(x: np.ndarray, y: np.ndarray, variance: float = 0.99) -> tuple[float, tuple[int, int]]:
    parts = []
    for z in (x, y):
        u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        parts.append(u[:, : np.searchsorted(np.cumsum(s**2) / np.sum(s**2), variance) + 1])
    rho = np.linalg.svd(parts[0].T @ parts[1], compute_uv=False)
    return float(rho.mean()), (parts[0].shape[1], parts[1].shape[1])


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "wide", "narrow"), [(2000, 32, 24), (2000, 24, 32), (500, 30, 1), (300, 5, 5)])
def test_cca_is_that_of_an_svd_of_the_data(count: int, wide: int, narrow: int) -> None:
    x, y = related(count, wide, narrow)
    result = cca(x, y)
    expected = reference(x, y)
    np.testing.assert_allclose(result.coefficients, expected, atol=1e-9)
    assert result.value == pytest.approx(expected.mean(), abs=1e-10)
    assert (result.rank, result.samples, result.measure) == ((wide, narrow), count, "cca")
    assert cca(y, x).value == pytest.approx(result.value, abs=1e-12)


def test_coefficients_are_those_of_scikit_learn() -> None:
    x, y = related(400, 6, 5)
    scores = SklearnCCA(n_components=5, max_iter=50_000, tol=1e-14).fit_transform(x, y)
    theirs = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores[0].T, scores[1].T, strict=True)]
    np.testing.assert_allclose(cca(x, y).coefficients, theirs, atol=1e-5)


def test_coefficients_are_those_of_cca_zoo() -> None:
    x, y = related(800, 20, 15)
    views = [x - x.mean(0), y - y.mean(0)]
    a, b = ZooCCA(n_components=15).fit(views).transform(views)
    theirs = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(15)]
    np.testing.assert_allclose(cca(x, y).coefficients, np.sort(np.abs(theirs))[::-1], atol=1e-6)


@pytest.mark.parametrize("widths", [(32, 24), (24, 32)])
def test_pwcca_is_the_papers_definition(widths: tuple[int, int]) -> None:
    x, y = related(2000, *widths)
    x = x * np.geomspace(1, 50, widths[0])
    assert pwcca(x, y).value == pytest.approx(reference_pwcca(x, y), abs=1e-10)
    assert pwcca(y, x).value == pytest.approx(reference_pwcca(y, x), abs=1e-10)
    assert abs(pwcca(x, y).value - cca(x, y).value) > 0.01


def test_pwcca_of_a_wider_side_with_dead_neurons_on_the_other() -> None:
    x, y = related(2000, 12, 8)
    y[:, [1, 5]] = 0
    assert pwcca(x, y).value == pytest.approx(reference_pwcca(x, y), abs=1e-10)
    assert pwcca(y, x).value == pytest.approx(reference_pwcca(y, x), abs=1e-10)


@pytest.mark.parametrize("variance", [0.99, 0.9, 0.5, 1.0])
def test_svcca_keeps_a_share_of_the_squared_singular_values_of_centred_features(variance: float) -> None:
    x, y = related()
    x = x * np.geomspace(1, 30, 32) + 5
    value, ranks = reference_svcca(x, y, min(variance, 1 - 1e-13))
    result = svcca(x, y, variance)
    assert result.rank == ranks
    assert result.value == pytest.approx(value, abs=1e-9)


def test_svcca_centres_before_it_reduces() -> None:
    x = drawn(1000, 16) * np.geomspace(1, 10, 16)
    turned = x @ np.linalg.qr(drawn(16, 16, seed=1))[0] + 100 * drawn(16, seed=2)
    assert svcca(x, turned).value == pytest.approx(1, abs=1e-9)


# --- invariances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_self_is_one(measure: object) -> None:
    x, _ = related()
    assert measure(x, x).value == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
def test_rotation_scale_shift_and_permutation_leave_it_as_it_is(measure: object) -> None:
    x, y = related()
    before = measure(x, y).value
    rotation = np.linalg.qr(drawn(24, 24, seed=9))[0]
    order = np.random.default_rng(3).permutation(24)
    for changed in (y @ rotation, 7 * y, y - 3, y[:, order], -y):
        assert measure(x, changed).value == pytest.approx(before, abs=1e-9)
    images = np.random.default_rng(4).permutation(len(x))
    assert measure(x[images], y[images]).value == pytest.approx(before, abs=1e-9)


def test_cca_is_the_same_after_any_invertible_map() -> None:
    x, y = related()
    before = cca(x, y).value
    assert cca(x @ drawn(32, 32, seed=8), y @ drawn(24, 24, seed=9)).value == pytest.approx(before, abs=1e-8)
    assert abs(svcca(x * np.geomspace(1e-3, 1, 32), y).value - svcca(x, y).value) > 1e-3


# --- independent features --------------------------------------------------------------------------------------------


def test_the_oracle_of_independent_features() -> None:
    result = cca(drawn(10_000, 64).astype(np.float32), drawn(10_000, 64, seed=1).astype(np.float32))
    assert result.coefficients[0] == pytest.approx(0.154, abs=0.004)
    assert result.value == pytest.approx(0.067, abs=0.001)
    assert result.independent == pytest.approx(result.value, abs=0.001)


@pytest.mark.parametrize("measure", MEASURES)
def test_independent_features_come_out_at_their_level(measure: object) -> None:
    values = [measure(drawn(1500, 60, seed=k), drawn(1500, 20, seed=100 + k)) for k in range(16)]
    assert np.mean([v.value for v in values]) == pytest.approx(values[0].independent, rel=0.02)  # 4 standard errors


@pytest.mark.parametrize(
    ("samples", "rank_x", "rank_y", "within"),
    [(200, 20, 60, 0.01), (300, 60, 60, 0.01), (200, 8, 3, 0.03), (100, 60, 70, 0.01), (100, 1, 9, 0.02)],
)
def test_the_level_is_that_of_drawn_features(samples: int, rank_x: int, rank_y: int, within: float) -> None:
    rng = np.random.default_rng(0)
    repeats = 100 if rank_x > 1 else 1500
    drawn_levels = [random_coefficients(samples, rank_x, rank_y, rng).mean() for _ in range(repeats)]
    level = independent_level(samples, rank_x, rank_y)
    assert np.mean(drawn_levels) == pytest.approx(level, rel=within)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnalysisWarning)
        direct = [
            cca(rng.standard_normal((samples, rank_x)), rng.standard_normal((samples, rank_y))).value
            for _ in range(20 if rank_x > 1 else 400)
        ]
    assert np.mean(direct) == pytest.approx(level, rel=3 * within)
    assert independent_level(samples, rank_y, rank_x) == level


def test_edges_of_the_law() -> None:
    low, high = wachter_edges(2001, 400, 100)
    coefficients = random_coefficients(2001, 400, 100)
    assert low == pytest.approx(coefficients[-1], abs=0.02)
    assert high == pytest.approx(coefficients[0], abs=0.02)
    assert wachter_edges(100, 60, 70)[1] == 1
    assert (random_coefficients(100, 60, 70)[:30] > 1 - 1e-9).sum() == 31 - 1
    assert wachter_edges(10_001, 64, 64)[1] == pytest.approx(2 * np.sqrt(0.0064 * (1 - 0.0064)))


def test_level_is_one_where_samples_are_too_few() -> None:
    assert independent_level(33, 32, 5) == 1
    with pytest.raises(AnalysisError, match="rank_x is 33 with 33 samples; expected 1 to 32"):
        independent_level(33, 33, 5)
    with pytest.raises(AnalysisError, match="rank_y is 0"):
        independent_level(33, 3, 0)


# --- precision -------------------------------------------------------------------------------------------------------


def conditioned(count: int, width: int, condition: float) -> tuple[np.ndarray, np.ndarray]:
    shared = drawn(count, width // 2)
    sides = []
    for seed in (1, 2):
        free = np.hstack([shared + 0.7 * drawn(count, width // 2, seed=seed), drawn(count, width // 2, seed=seed + 5)])
        turn = np.linalg.qr(drawn(width, width, seed=seed + 10))[0]
        sides.append((free * np.geomspace(1, 1 / condition, width) @ turn).astype(np.float32))
    return sides[0], sides[1]


@pytest.mark.parametrize("condition", [1, 10, 70, 300, 1e4])
def test_float32_features_give_the_value_of_float64_at_any_condition(condition: float) -> None:
    x, y = conditioned(6000, 128, condition)
    # up to 1e2 products are in float32
    assert cca(x, y).value == pytest.approx(reference(x, y).mean(), abs=1e-6 if condition < 100 else 1e-8)


def test_float32_products_are_taken_up_to_a_condition_of_100_only() -> None:
    for condition, taken in ((10, True), (70, True), (300, False)):
        x, y = (torch.from_numpy(side) for side in conditioned(4000, 64, condition))
        assert (_in_float32(x, y, 1e-6) is not None) == taken
        assert (_in_float32(y, x[:, :9], 1e-6) is not None) == taken
    huge = x.clone()
    huge[17, 3] = 1e30
    assert _in_float32(huge, y, 1e-6) is None


def test_large_means_cost_nothing() -> None:
    x, y = related()
    shifted = (x + 1e4).astype(np.float32)
    assert cca(shifted, y.astype(np.float32)).value == pytest.approx(reference(shifted, y).mean(), abs=1e-6)
    assert cca(x + 1e8, y).value == pytest.approx(reference(x + 1e8, y).mean(), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e-3, 1e8, 1e30])
@pytest.mark.parametrize("measure", MEASURES)
def test_tiny_and_huge_features(measure: object, scale: float) -> None:
    x, y = related()
    expected = measure(x, y).value
    for dtype in (np.float32, np.float64):
        assert measure((x * scale).astype(dtype), y.astype(dtype)).value == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_is_taken_as_the_numbers_it_holds(measure: object, dtype: torch.dtype) -> None:
    x, y = (torch.from_numpy(side).to(dtype) for side in related())
    result = measure(x, y)
    expected = measure(x.double(), y.double())
    assert result.value == pytest.approx(expected.value, abs=1e-6)
    assert result.rank == expected.rank


def test_arrays_tensors_orders_integers_and_gradients_are_all_taken() -> None:
    x, y = related(600, 8, 6)
    expected = cca(x, y).value
    assert cca(np.asfortranarray(x), torch.from_numpy(y).requires_grad_()).value == pytest.approx(expected, abs=1e-12)
    assert cca(x[::-1], y[::-1]).value == pytest.approx(expected, abs=1e-12)
    fixed = x.copy()
    fixed.flags.writeable = False
    assert cca(fixed, y).value == pytest.approx(expected, abs=1e-12)
    whole = np.round(10 * x).astype(np.int32)
    assert cca(whole, y).value == pytest.approx(cca(whole.astype(float), y).value, abs=1e-12)
    assert cca(x > 1, y).value == pytest.approx(cca((x > 1).astype(float), y).value, abs=1e-12)


def test_inputs_are_left_as_they_are() -> None:
    x, y = (side.astype(np.float32) for side in related())
    before = x.copy(), y.copy()
    state = torch.random.get_rng_state()
    for measure in MEASURES:
        measure(x, y)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    assert torch.equal(state, torch.random.get_rng_state())


def test_extra_memory_is_a_few_matrices() -> None:
    x, y = (side.astype(np.float32) for side in related(20_000, 256, 256))
    tracemalloc.start()
    cca(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * (3 * 256**2 * 8)  # what NumPy allocates; PyTorch's part is in benchmarks/cca.py


# --- degenerate features ---------------------------------------------------------------------------------------------


def degenerate(case: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = related(1000, 32, 24)
    if case == "dead":
        x[:, [3, 7, 9]] = 0
    elif case == "constant":
        x[:, 5] = 0.1
    elif case == "duplicated":
        x[:, 4] = x[:, 8]
    elif case == "collinear":
        x[:, 4] = 2 * x[:, 8] - 0.3 * x[:, 1] + 1
    elif case == "low rank":
        x = drawn(1000, 10) @ drawn(10, 32, seed=1)
    elif case == "same subspace":
        inner = drawn(1000, 10)
        x, y = inner @ drawn(10, 32, seed=1), inner @ drawn(10, 24, seed=2)
    elif case == "scales":
        x = x * np.geomspace(1e-6, 1e6, 32)
    elif case == "tiny":
        x = x * 1e-8
    elif case == "shifted":
        x = x + 1e4
    return x, y


RANKS = {"dead": 29, "constant": 31, "duplicated": 31, "collinear": 31, "low rank": 10, "same subspace": 10}
CASES = [*RANKS, "scales", "tiny", "shifted"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_degenerate_features_have_the_value_and_the_rank_of_their_space(case: str, dtype: type) -> None:
    x, y = (side.astype(dtype) for side in degenerate(case))
    result = cca(x, y)
    expected = reference(x, y)
    assert result.value == pytest.approx(expected.mean(), abs=2e-6)
    assert result.rank == (RANKS.get(case, 32), 10 if case == "same subspace" else 24)
    assert len(result.coefficients) == min(result.rank)
    if case == "same subspace":
        assert result.value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case != "scales"])
def test_pwcca_and_svcca_of_degenerate_features(case: str) -> None:
    x, y = degenerate(case)
    assert pwcca(x, y).value == pytest.approx(reference_pwcca(x, y), abs=1e-7)
    assert svcca(x, y).value == pytest.approx(reference_svcca(x, y)[0], abs=1e-7)


def test_what_is_cut_is_an_argument() -> None:
    x, y = conditioned(3000, 32, 1e3)
    assert cca(x, y).rank == (32, 32)
    cut = cca(x, y, tolerance=0.1)
    assert cut.rank[0] < 20
    with pytest.raises(AnalysisError, match="tolerance is 0; expected a share"):
        cca(x, y, tolerance=0)


@pytest.mark.parametrize("measure", MEASURES)
def test_fewer_samples_than_neurons_is_one_with_a_warning(measure: object) -> None:
    x, y = drawn(20, 32), drawn(20, 24, seed=1)
    with pytest.warns(AnalysisWarning, match="20 samples of 32 neurons.*the value is 1 whatever") as seen:
        result = measure(x, y) if measure is not svcca else svcca(x, y, 1.0)
    assert result.value == pytest.approx(1, abs=1e-9)
    assert result.independent == 1
    assert result.rank == (19, 19)
    assert seen[0].filename == __file__


def test_warning_below_ten_samples_a_neuron_and_not_above() -> None:
    with pytest.warns(AnalysisWarning, match="319 samples of 32 neurons; expected at least 320"):
        cca(drawn(319, 32), drawn(319, 4, seed=1))
    cca(drawn(320, 32), drawn(320, 4, seed=1))  # a warning would be an error


def test_two_samples_are_few_but_defined() -> None:
    with pytest.warns(AnalysisWarning):
        assert cca(drawn(2, 1), drawn(2, 1, seed=1)).value == pytest.approx(1)


@pytest.mark.parametrize("measure", MEASURES)
def test_what_cannot_be_compared_is_refused(measure: object) -> None:
    x, y = related(200, 8, 6)
    spoiled, endless = x.copy(), x.copy()
    spoiled[3, 2], endless[5, 1] = np.nan, np.inf
    cases = {
        "x has 200 samples and y 199 (shapes (200, 8) and (199, 6))": (x, y[:-1]),
        "x has shape (200, 8, 1); expected (N, D)": (x[..., None], y),
        "features(x, 'positions') or features(x, 'pooled')": (x[..., None, None], y),
        "y has shape (200,); expected (N, D)": (x, y[:, 0]),
        "x has shape (1, 8); expected at least 2 samples": (x[:1], y[:1]),
        "y has shape (200, 0); expected at least 2 samples of at least 1 neuron": (x, y[:, :0]),
        "'x' has 1 of 1600 activations that are NaN or infinite": (spoiled, y),
        "'y' has 1 of 1600 activations that are NaN or infinite": (y, endless),
        "x is constant: none of its 8 columns varies over 200 samples": (0 * x, y),
        "y is constant: none of its 6 columns varies": (x, 0 * y + 0.1),
        "x is complex": (x + 1j, y),
        "x has type <U1; expected numbers": (np.array([["a"], ["b"]]), y[:2]),
    }
    for message, (left, right) in cases.items():
        with pytest.raises(AnalysisError, match=re.escape(message)):
            measure(left, right)


def test_nan_is_found_in_any_chunk_and_type() -> None:
    x = torch.randn(9000, 4, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.float32, torch.float64):
        spoiled = x.to(dtype)
        spoiled[8999, 3] = torch.nan
        with pytest.raises(AnalysisError, match="'x' has 1 of"):
            cca(spoiled, x)


def test_a_share_of_variance_is_checked() -> None:
    x, y = related(400, 8, 6)
    with pytest.raises(AnalysisError, match="variance is 99; expected the share"):
        svcca(x, y, 99)
    with pytest.raises(AnalysisError, match="variance is 0;"):
        svcca(x, y, 0)


def test_no_silent_nan_whatever_the_shape() -> None:
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnalysisWarning)
        for _ in range(60):
            n, d, e = rng.integers(2, 30), rng.integers(1, 20), rng.integers(1, 20)
            x, y = rng.standard_normal((n, d)), np.maximum(rng.standard_normal((n, e)), 0)
            y[0] += 1
            for measure in MEASURES:
                result = measure(x, y)
                assert 0 <= result.value <= 1 + 1e-12
                assert 0 <= result.independent <= 1
                assert len(result.coefficients) == min(result.rank)
                assert (np.diff(result.coefficients) <= 0).all()
