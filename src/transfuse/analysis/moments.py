"""Means and second moments of features, added up batch by batch: all that CCA needs, however many the samples.

Sums are kept in float64 around a shift, near the mean, that is read off the first rows, so that features at 1e4 +- 1
lose nothing. Products can be taken in float32, chunk by chunk, which is about twice as fast and as good as float64
where the covariance is well-conditioned (`transfuse.analysis.cca` decides).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor

from transfuse.analysis.views import finite
from transfuse.errors import AnalysisError, nearest

__all__ = ["Moments", "as_rows"]

Matrix = np.ndarray | Tensor
_VIEWED = 16384  # rows that float32 products are added up over
_COPIED = 4096  # rows at a time, where they are copied in another type or shifted
_COPIED_VALUES = 2**24  # of all features together
_PROBE = 512


def as_rows(x: Matrix, name: str = "x", least: int = 2) -> Tensor:
    """Features as a floating tensor (N, D) of at least `least` rows, in the type they come in; integers as float64.

    Raises AnalysisError for other shapes, for complex numbers and for fewer samples.
    """
    rows = x.detach() if isinstance(x, Tensor) else torch.from_numpy(_native(np.asarray(x), name))
    if rows.ndim != 2:
        raise AnalysisError(
            f"{name} has shape {tuple(rows.shape)}; expected (N, D): N samples, D neurons. Of maps (N, C, H, W) or "
            "tokens (N, T, C) take the positions or the means: features(x, 'positions') or features(x, 'pooled')."
        )
    if rows.is_complex():
        raise AnalysisError(f"{name} is complex ({rows.dtype}); expected real numbers. Stack real and imaginary parts.")
    if len(rows) < least or not rows.shape[1]:
        raise AnalysisError(
            f"{name} has shape {tuple(rows.shape)}; expected at least {least} samples of at least 1 neuron, and 10 or "
            "more samples a neuron for a value that means something"
        )
    return rows if rows.is_floating_point() else rows.to(torch.float64)


class Moments:
    """Means, covariances and cross-covariances of named features over the same samples.

    Args:
        pairs: which second moments are kept: (a, a) for the covariance of a, (a, b) for the cross-covariance of two;
            None is all of them.
        products: torch.float64, or torch.float32 for products in float32 that are added up in float64 every
            16,384 rows or fewer.

    Memory is that of the matrices, D x E float64 each, whatever the number of samples; they lie where the features do.

    >>> moments = Moments()
    >>> rows = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    >>> for part in rows.split(100):
    ...     moments.add({"a": part, "b": part[:, :2]})
    >>> moments.samples, moments.cross("a", "b").shape
    (300, torch.Size([4, 2]))
    >>> torch.testing.assert_close(moments.covariance("a"), torch.cov(rows.T.double(), correction=0))
    """

    def __init__(
        self, pairs: Iterable[tuple[str, str]] | None = None, *, products: torch.dtype = torch.float64
    ) -> None:
        self.samples = 0
        self._pairs = None if pairs is None else tuple(pairs)
        self._products = products
        self._shift: dict[str, Tensor | None] = {}
        self._sum: dict[str, Tensor] = {}
        self._second: dict[tuple[str, str], Tensor] = {}
        self._precision: dict[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The features, in the order of the first batch."""
        return tuple(self._shift)

    def add(self, batch: Mapping[str, Matrix]) -> None:
        """Adds rows; each value (n, D), n >= 1 the same for all names.

        Raises AnalysisError for other names, widths or numbers of rows than expected, and for NaN or infinite values.
        """
        rows = {name: as_rows(value, name, least=1) for name, value in batch.items()}
        self._check(rows)
        for name, value in rows.items():
            if name not in self._shift:
                self._begin(name, value)
        counts = {len(value) for value in rows.values()}
        for chunk in self._chunks(counts.pop(), rows):
            try:
                self._add({name: value[chunk] for name, value in rows.items()})
            except AnalysisError:
                for name, value in rows.items():
                    finite(name, value)  # counted in all rows, not in this piece of them
                raise

    def mean(self, name: str) -> Tensor:
        """(D,) float64."""
        shift = self._shift[self._known(name)]
        centre = self._sum[name] / max(self.samples, 1)
        return centre if shift is None else centre + shift

    def covariance(self, name: str) -> Tensor:
        """(D, D) float64, divided by N."""
        return self.cross(name, name)

    def cross(self, a: str, b: str) -> Tensor:
        """(D, E) float64, divided by N: the covariances of a's columns with b's."""
        self._known(a), self._known(b)
        if (a, b) not in self._second and (b, a) in self._second:
            return self.cross(b, a).mT
        if (a, b) not in self._second:
            raise AnalysisError(f"the pair {a!r}, {b!r} was not asked for; name it in Moments(pairs=...)")
        total, count = self._second[a, b], self.samples
        return torch.addr(total, self._sum[a], self._sum[b], beta=1 / count, alpha=-1 / count**2)

    def rounding(self, name: str) -> float:
        """Relative rounding of the values: a column that varies by less than this part of its mean is constant."""
        return self._precision[self._known(name)]

    def merge(self, other: Moments) -> None:
        """Adds the moments of other samples of the same features, as if their rows had been added here."""
        if not other.samples:
            return
        if self.samples and (self.names != other.names or set(self._second) != set(other._second)):
            raise AnalysisError(
                f"these are moments of {', '.join(self.names)} and those of {', '.join(other.names)}; expected the "
                "same names and pairs"
            )
        if not self.samples:
            self._shift, self._precision = dict(other._shift), dict(other._precision)
            self._sum = {name: value.clone() for name, value in other._sum.items()}
            self._second = {pair: value.clone() for pair, value in other._second.items()}
            self.samples = other.samples
            return
        moved = {name: other._moved(name, self._shift[name]) for name in self.names}
        for (a, b), theirs in other._second.items():
            # sum (x + d)(y + e)' = sum x y' + (sum x) e' + d (sum y)' + n d e', d and e the difference of the shifts
            add = theirs + torch.outer(other._sum[a], moved[b]) + torch.outer(moved[a], other._sum[b])
            self._second[a, b] += add.addr_(moved[a], moved[b], alpha=other.samples)
        for name in self.names:
            self._sum[name] += other._sum[name] + other.samples * moved[name]
            self._precision[name] = max(self._precision[name], other._precision[name])
        self.samples += other.samples

    def _moved(self, name: str, onto: Tensor | None) -> Tensor:
        zero = torch.zeros_like(self._sum[name])
        mine = self._shift[name]
        return (zero if mine is None else mine) - (zero if onto is None else onto)

    def _known(self, name: str) -> str:
        if name not in self._shift:
            raise AnalysisError(f"no moments of {name!r}: {nearest(name, self._shift)}")
        return name

    def _check(self, rows: dict[str, Tensor]) -> None:
        if self._shift and set(rows) != set(self._shift):
            raise AnalysisError(f"a batch has {', '.join(rows)}; expected {', '.join(self._shift)}, as in the first")
        if len({len(value) for value in rows.values()}) != 1:
            counts = ", ".join(f"{name!r} {len(value)}" for name, value in rows.items())
            raise AnalysisError(f"the numbers of rows differ: {counts}; expected the same samples in the same order")
        for name, value in rows.items():
            if name in self._sum and value.shape[1] != len(self._sum[name]):
                raise AnalysisError(
                    f"{name!r} has {value.shape[1]} columns; expected {len(self._sum[name])}, as before"
                )

    def _begin(self, name: str, rows: Tensor) -> None:
        self._shift[name] = shift_of(rows)
        self._precision[name] = torch.finfo(torch.promote_types(rows.dtype, torch.float32)).eps
        self._sum[name] = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)

    def _add(self, rows: dict[str, Tensor]) -> None:
        ready = {}
        for name, value in rows.items():
            ready[name] = around(value, self._shift[name], self._products)
            sums = column_sums(ready[name])
            if not bool(torch.isfinite(sums).all()):
                finite(name, value)
            self._sum[name] += sums
        for a, b in self._pairs_of(tuple(ready)):
            total = self._second.get((a, b))
            if total is None:
                self._second[a, b] = cross_product(ready[a], ready[b]).to(torch.float64)
            else:
                _accumulate(total, cross_product(ready[a], ready[b]))
        self.samples += len(next(iter(rows.values())))

    def _chunks(self, count: int, rows: dict[str, Tensor]) -> Iterator[slice]:
        step = _VIEWED  # nothing is copied
        if any(value.dtype != self._products or self._shift[name] is not None for name, value in rows.items()):
            widths = [value.shape[1] for value in rows.values()]
            step = max(256, min(_COPIED, max(512, *widths), _COPIED_VALUES // sum(widths)))
        return (slice(start, start + step) for start in range(0, count, step))

    def _pairs_of(self, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        return tuple(combinations_with_replacement(names, 2)) if self._pairs is None else self._pairs


def shift_of(rows: Tensor) -> Tensor | None:
    """(D,) float64 near the means, exact in the rows' own type; None where the means are small beside the spreads.

    Read off rows from all over, so that rows in some order (by class, by image) do not mislead.
    """
    probe = rows[:: max(1, len(rows) // _PROBE)].to(torch.float64)
    mean = probe.mean(0)
    if bool((mean.square() <= (probe - mean).square_().mean(0)).all()):
        return None
    exact = torch.promote_types(rows.dtype, torch.float32)
    return mean.to(exact).to(torch.float64)


def around(rows: Tensor, shift: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The rows less the shift, in `dtype`; the rows themselves where there is nothing to do."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    if rows.device.type != "cpu" or rows.dtype == torch.bfloat16:
        rows = rows.to(exact)
        return (rows if shift is None else rows - shift.to(exact)).to(dtype)
    # NumPy, as for the products: the threads of two libraries, waiting for work in loops, take cores from each other
    values = rows.to(exact).numpy() if rows.dtype == torch.float16 else rows.numpy()
    wanted = np.float32 if dtype == torch.float32 else np.float64
    if shift is not None:
        with np.errstate(invalid="ignore"):  # infinite values are told by their sums
            values = np.subtract(values, shift.to(torch.promote_types(exact, dtype)).numpy())
    return torch.from_numpy(values.astype(wanted, copy=False))


def column_sums(rows: Tensor) -> Tensor:
    """(D,) float64."""
    if rows.device.type != "cpu":
        return rows.sum(0, dtype=torch.float64)
    values = rows.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy((np.ones(len(values), dtype=values.dtype) @ values).astype(np.float64))


def cross_product(a: Tensor, b: Tensor) -> Tensor:
    """(D, E) a' b. NumPy takes half the work where both are the same tensor, which PyTorch does not."""
    if a.device.type != "cpu":
        return a.mT @ b
    left = a.numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # float32 may overflow; whoever asks for it looks
        return torch.from_numpy(left.T @ (left if a is b else b.numpy()))


def _accumulate(total: Tensor, product: Tensor) -> None:
    if total.device.type == "cpu":
        np.add(total.numpy(), product.numpy(), out=total.numpy())
    else:
        total += product


def _native(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiubc":
        raise AnalysisError(f"{name} has type {array.dtype}; expected numbers")
    if array.dtype.itemsize > 8 and array.dtype.kind == "f":
        array = array.astype(np.float64)
    if any(stride < 0 for stride in array.strides) or not array.dtype.isnative or not array.flags.writeable:
        array = array.astype(array.dtype.newbyteorder("="))
    return array
