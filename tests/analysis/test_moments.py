from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from transfuse.analysis.moments import Moments, as_rows
from transfuse.analysis.whitening import principal, whitened
from transfuse.errors import AnalysisError


def rows_of(count: int = 500, width: int = 6, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    mixture = np.random.default_rng(width).standard_normal((width, width))
    return drawn @ torch.from_numpy(mixture) + mean


def added(batches: list[dict[str, torch.Tensor]], **options: object) -> Moments:
    moments = Moments(**options)
    for batch in batches:
        moments.add(batch)
    return moments


@pytest.mark.parametrize("sizes", [[500], [100] * 5, [7, 250, 242, 1], [1, 499]])
@pytest.mark.parametrize("mean", [0.0, 3.0, 1e6])
def test_moments_are_those_of_numpy_whatever_the_batches(sizes: list[int], mean: float) -> None:
    a, b = rows_of(mean=mean), rows_of(width=3, seed=1) + rows_of(mean=mean)[:, :3]
    moments = added([{"a": x, "b": y} for x, y in zip(a.split(sizes), b.split(sizes), strict=True)])
    expected = np.cov(np.hstack([a, b]).T, bias=True)
    assert moments.samples == 500
    assert moments.names == ("a", "b")
    np.testing.assert_allclose(moments.covariance("a"), expected[:6, :6], atol=1e-9)
    np.testing.assert_allclose(moments.cross("a", "b"), expected[:6, 6:], atol=1e-9)
    np.testing.assert_allclose(moments.cross("b", "a"), expected[6:, :6], atol=1e-9)
    np.testing.assert_allclose(moments.mean("a"), a.mean(0), rtol=1e-12, atol=1e-12)


def test_many_rows_go_in_by_chunks() -> None:
    a = rows_of(10_001, mean=2)
    for dtype, within in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        moments = added([{"a": a.to(dtype)}], products=dtype)
        np.testing.assert_allclose(moments.covariance("a"), np.cov(a.to(dtype).T.double(), bias=True), atol=within)
        assert moments.covariance("a").dtype == torch.float64


def test_drift_after_the_first_batch_does_no_harm() -> None:
    a = torch.cat([rows_of(100), rows_of(400, seed=1, mean=1e3)])
    moments = added([{"a": part} for part in a.split(100)])
    np.testing.assert_allclose(moments.covariance("a"), np.cov(a.T, bias=True), rtol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 50.0])
def test_merged_moments_are_those_of_all_samples(mean: float) -> None:
    a, b = rows_of(mean=mean), rows_of(width=3, seed=1)
    a[:200] -= 100 * mean  # so that the two parts are shifted differently
    whole = added([{"a": a, "b": b}])
    part, other = added([{"a": a[:200], "b": b[:200]}]), added([{"a": a[200:], "b": b[200:]}])
    before = other.covariance("a")
    part.merge(other)
    part.merge(Moments())
    assert part.samples == 500
    np.testing.assert_allclose(part.cross("a", "b"), whole.cross("a", "b"), atol=1e-8)
    np.testing.assert_allclose(part.covariance("a"), whole.covariance("a"), rtol=1e-10, atol=1e-9)
    empty = Moments()
    empty.merge(other)
    empty.add({"a": a[:200], "b": b[:200]})
    np.testing.assert_allclose(empty.covariance("a"), whole.covariance("a"), rtol=1e-10, atol=1e-9)
    np.testing.assert_array_equal(other.covariance("a"), before)


def test_only_the_pairs_that_were_asked_for_are_kept() -> None:
    moments = added([{"a": rows_of(), "b": rows_of(seed=1)}], pairs=[("a", "b")])
    assert moments.cross("b", "a").shape == (6, 6)
    with pytest.raises(AnalysisError, match="the pair 'a', 'a' was not asked for"):
        moments.covariance("a")
    with pytest.raises(AnalysisError, match="no moments of 'aa': did you mean 'a'"):
        moments.mean("aa")


def test_batches_that_do_not_fit_are_refused() -> None:
    moments = added([{"a": rows_of(), "b": rows_of(seed=1)}])
    for batch, message in (
        ({"a": rows_of()}, "a batch has a; expected a, b"),
        ({"a": rows_of(), "b": rows_of(499)}, "the numbers of rows differ: 'a' 500, 'b' 499"),
        ({"a": rows_of(), "b": rows_of(width=5)}, "'b' has 5 columns; expected 6"),
        ({"a": rows_of() * torch.nan, "b": rows_of()}, "'a' has 3000 of 3000 activations that are NaN"),
        ({"a": rows_of()[:0], "b": rows_of()[:0]}, "a has shape (0, 6); expected at least 1 sample"),
    ):
        with pytest.raises(AnalysisError, match=re.escape(message)):
            moments.add(batch)
    with pytest.raises(AnalysisError, match="these are moments of a, b and those of a; expected the same names"):
        moments.merge(added([{"a": rows_of()}]))


def test_rows_keep_their_type_and_integers_become_float64() -> None:
    assert as_rows(np.ones((3, 2), dtype=np.float16)).dtype == torch.float16
    assert as_rows(np.ones((3, 2), dtype=np.int64)).dtype == torch.float64
    assert as_rows(np.ones((3, 2), dtype=np.longdouble)).dtype == torch.float64
    assert as_rows(np.ones((3, 2), dtype=">f4")).dtype == torch.float32


@pytest.mark.parametrize("dead", [0, 2])
def test_whitened_features_are_white(dead: int) -> None:
    rows = rows_of(mean=5)
    rows[:, :dead] = 0
    rows = torch.hstack([rows, rows[:, -1:]])  # a column twice: the other way of solving
    for given in (rows, rows[:, :-1]):
        moments = added([{"a": given}])
        for white in (whitened(moments, "a"), principal(moments, "a", 1.0)):
            assert white.rank == 6 - dead
            covariance = moments.covariance("a")
            product = white.apply(white.apply(covariance).mT)
            np.testing.assert_allclose(product, np.eye(6 - dead), atol=1e-8)
            kept = slice(None) if white.kept is None else white.kept
            np.testing.assert_allclose(white.loadings(), white.apply(covariance)[:, kept], atol=1e-9)


def test_the_condition_is_that_of_the_standardised_features() -> None:
    turn = torch.linalg.qr(rows_of(60, 60, seed=3))[0]
    rows = rows_of(4000, 1).new_tensor(np.random.default_rng(0).standard_normal((4000, 60)))
    rows = rows @ torch.diag(torch.logspace(0, -1.5, 60, dtype=torch.float64)) @ turn * 1e3
    centred = rows - rows.mean(0)
    expected = float(torch.linalg.cond(centred / centred.std(0)))
    found = whitened(added([{"a": rows}]), "a").condition
    assert 0.9 * expected < found <= expected * (1 + 1e-9)


def test_squares_beyond_float64_are_told() -> None:
    with pytest.raises(AnalysisError, match="a has values whose squares are beyond float64"):
        whitened(added([{"a": rows_of() * 1e200}]), "a")
