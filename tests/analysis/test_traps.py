"""What tools for comparing representations got silently wrong, and the published numbers: what no other file tests."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis import (
    MinibatchCKA,
    cca,
    cca_matrix,
    cka,
    cka_matrix,
    frechet_between,
    independent_level,
    knn_scores,
    mean_attended_distance,
    pwcca,
    svcca,
)
from transfuse.analysis.chance import random_coefficients, wachter_edges
from transfuse.errors import AnalysisError
from transfuse.models import create_model


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 5, 3), nn.Flatten())


@pytest.mark.parametrize(
    ("width", "samples", "highest", "quarter_circle", "level"),
    [
        (64, 10_000, 0.1595, 0.0677, 0.0680),
        (1024, 185_220, 0.1483, 0.0629, 0.0631),
        (2048, 46_305, 0.4112, 0.1745, 0.1793),
        (512, 740_880, 0.0526, 0.0223, 0.0223),
    ],
)
def test_random_features_are_at_the_levels_of_the_papers(
    width: int, samples: int, highest: float, quarter_circle: float, level: float
) -> None:
    """METHODS 2.4 and 6: the highest is Wachter's edge; 4 / (3 pi) of it is the mean for small width / samples only."""
    edge = wachter_edges(samples, width, width)[1]
    assert edge == pytest.approx(highest, abs=1e-4)
    assert 4 / (3 * np.pi) * edge == pytest.approx(quarter_circle, abs=1e-4)
    assert independent_level(samples, width, width) == pytest.approx(level, abs=1e-4)
    if width <= 512:
        coefficients = random_coefficients(samples, width, width)
        assert coefficients[0] == pytest.approx(highest, rel=0.05)
        assert coefficients.mean() == pytest.approx(level, rel=0.02)


@pytest.mark.parametrize("compare", [cka_matrix, cca_matrix])
def test_rows_stand_in_the_order_asked_for(compare: Callable[..., object]) -> None:
    images = torch.randn(24, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    a, b = network(0), network(1)
    as_built = compare(a, b, [images], ["0", "2"])
    turned = compare(a, b, [images], ["2", "0"])
    assert (turned.rows, turned.columns) == (("2", "0"), ("2", "0"))
    np.testing.assert_allclose(turned.values, as_built.values[::-1, ::-1], rtol=1e-9)


@pytest.mark.parametrize("measure", [cca, pwcca])
def test_a_threshold_cannot_be_taken_for_a_tolerance(measure: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="positional"):
        measure(drawn(100, 3), drawn(100, 3, seed=1), 0.98)
    with pytest.raises(TypeError, match="positional"):
        svcca(drawn(100, 3), drawn(100, 3, seed=1), 0.98, 1e-6)


def test_the_value_is_the_mean_of_all_coefficients() -> None:
    shared = drawn(2000, 4)
    x = np.hstack([shared, drawn(2000, 8, seed=1)])
    y = np.hstack([shared + 0.3 * drawn(2000, 4, seed=2), drawn(2000, 8, seed=3)])
    found = cca(x, y)
    leading = np.cumsum(found.coefficients) <= 0.98 * found.coefficients.sum()
    assert found.value == pytest.approx(found.coefficients.mean(), abs=1e-12)
    assert found.coefficients[leading].mean() - found.value > 0.02  # what google/svcca calls the mean


def test_float32_keeps_every_direction_of_a_wide_layer() -> None:
    shared = drawn(2600, 256)
    x, y = (np.maximum(shared @ drawn(256, 512, seed=k) + 8 * drawn(2600, 512, seed=k + 1), 0) for k in (1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, exact = cca(x.astype(np.float32), y.astype(np.float32)), cca(x, y)
    assert found.rank == exact.rank == (512, 512)
    assert found.value == pytest.approx(exact.value, abs=1e-6)


@pytest.mark.parametrize("kind", ["big-endian", "reversed", "long double", "read-only"])
def test_arrays_of_every_kind_are_read(kind: str) -> None:
    x, y = drawn(40, 5), drawn(40, 4, seed=1)
    other = {"big-endian": x.astype(">f8"), "long double": x.astype(np.longdouble), "reversed": x[::-1].copy()[::-1]}
    given = other.get(kind, x.copy())
    given.setflags(write=kind != "read-only")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(cka(given, y)) == pytest.approx(float(cka(x, y)), abs=1e-12)
        sums = MinibatchCKA()
        sums.update([given], [y])
        assert sums.matrix().values.item() == pytest.approx(float(cka(x, y)), abs=1e-12)
        np.testing.assert_allclose(
            knn_scores(given, given, np.arange(40) % 3, 5), knn_scores(x, x, np.arange(40) % 3, 5)
        )


def test_arrays_without_numbers_are_refused() -> None:
    with pytest.raises(AnalysisError, match=r"x has type <U1; expected numbers, features \(N, D\)"):
        cka(np.array([["a"]] * 5), drawn(5, 2))
    with pytest.raises(AnalysisError, match="'deep' has type object; expected numbers"):
        MinibatchCKA().update({"deep": np.array([[None]] * 5, dtype=object)})


def live_bytes() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some objects of other libraries warn when they are looked at
        return sum(one.numel() * one.element_size() for one in gc.get_objects() if type(one) is Tensor)


@pytest.mark.parametrize("what", ["cka_matrix", "cca_matrix", "frechet_between", "mean_attended_distance"])
def test_no_tensor_is_kept_from_batch_to_batch(what: str) -> None:
    vit = create_model("test_vit", classes=2, image_size=32) if what == "mean_attended_distance" else nn.Identity()
    found: list[int] = []

    def batches(count: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(count):
            found.append(live_bytes())
            yield torch.randn(64, 3, 32, 32, generator=generator)

    a, b = network(0), network(1)
    if what == "cka_matrix":
        cka_matrix(a, b, batches(6), ["0", "2"])
    elif what == "cca_matrix":
        cca_matrix(a, b, batches(6), ["0", "2"])
    elif what == "frechet_between":
        frechet_between(a, batches(6), [torch.randn(64, 3, 32, 32)], "2")
    else:
        mean_attended_distance(vit, batches(6))
    kept = 64 * 3 * 32 * 32 * 4 / 2  # half a batch of images
    assert found[5] - found[2] < kept
