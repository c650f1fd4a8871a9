"""CKA of every pair of layers from batches of features: only sums are kept from batch to batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfuse.analysis.cka import FEWEST, tensor_of
from transfuse.analysis.grams import centred_, check_kernel, linear_gram, rbf_gram
from transfuse.analysis.similarity import SimilarityMatrix
from transfuse.analysis.views import finite
from transfuse.errors import AnalysisError, AnalysisWarning, nearest

AVERAGES = ("ratio_of_sums", "mean_of_ratios")

# In a batch, squares of a centred kernel below this share of its squared trace are rounding: nothing varies.
_NOTHING = 1e-15


class MinibatchCKA:
    """CKA of every pair of layers, accumulated over batches of features (Nguyen et al. 2021, equations 2 to 4).

    Of each layer one centred Gram matrix a batch is made, N x N in float64; all pairs are one matrix product, and only
    sums are kept from batch to batch. A batch adds sums over its pairs of samples, so it weighs about as the square of
    its size. Batches of fewer than 4 samples are left out, not counted in `samples`, and `matrix` warns of them.

    Args:
        average: `ratio_of_sums` (METHODS AN-16): HSIC is summed over batches and divided at the end, right for small
            batches too; `mean_of_ratios`: the mean of each batch's CKA, weighted by its samples.
        debiased: the unbiased estimate of HSIC, as in `cka`; without it values depend on the size of batches.
        kernel: `linear` or `rbf`.
        bandwidth: of the RBF kernel, as a fraction of the median distance within the batch.

    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> sums = MinibatchCKA()
    >>> for batch in x.split(16):
    ...     sums.update({"x": batch, "squared": batch**2})
    >>> matrix = sums.matrix()
    >>> round(matrix["x", "x"], 6), matrix["x", "squared"] < 0.5, matrix.samples
    (1.0, True, 64)
    """

    def __init__(
        self, *, average: str = "ratio_of_sums", debiased: bool = True, kernel: str = "linear", bandwidth: float = 1.0
    ) -> None:
        if average not in AVERAGES:
            raise AnalysisError(f"unknown average {average!r}: {nearest(average, AVERAGES)}")
        check_kernel(kernel, bandwidth)
        self.average, self.debiased, self.kernel, self.bandwidth = average, debiased, kernel, bandwidth
        self.samples = 0
        self._left_out: list[int] = []
        self._names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._sums: list[np.ndarray] = []

    def update(
        self,
        features_a: Mapping[str, Any] | Sequence[Any],
        features_b: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> None:
        """Adds one batch of N samples.

        Args:
            features_a: layer name -> (N, ...) array or tensor, or a list of them, named "0", "1", ... in order; axes
                after the first are flattened. The same layers in every batch.
            features_b: the same of the second network, for the same samples; None compares the first with itself.

        Raises AnalysisError for other layers than before, other numbers of samples, and NaN or infinite features.
        """
        sides = [_named(side) for side in (features_a, features_b) if side is not None]
        counts = {name: len(features) if features.ndim else 0 for side in sides for name, features in side.items()}
        if empty := [
            name for side in sides for name, features in side.items() if not features[:1].numel() and counts[name]
        ]:
            raise AnalysisError(f"{empty[0]!r} has no features; expected (N, ...) with at least one feature a sample")
        if not all(sides) or len(set(counts.values())) != 1:
            shown = ", ".join(f"{name!r}: {number}" for name, number in counts.items()) or "no layers"
            raise AnalysisError(f"a batch has {shown}; expected layers with the same number of samples each")
        count = next(iter(counts.values()))
        if count < FEWEST[True]:
            self.leave_out(count)
            return
        grams = [{name: self.gram(name, features) for name, features in side.items()} for side in sides]
        self.add(grams[0], grams[-1])

    def gram(self, name: str, features: Tensor) -> Tensor:
        """The centred Gram matrix (N, N) of one layer's features (N, ...) in one batch, to be given to `add`."""
        gram = linear_gram(features)
        if not torch.isfinite(gram.diagonal().sum()):
            finite(name, features)
            raise AnalysisError(f"{name!r} has activations so large that their products overflow; divide them first")
        if self.kernel == "rbf":
            try:
                gram = rbf_gram(gram, self.bandwidth)
            except AnalysisError as error:
                raise AnalysisError(f"{name!r}: {error}") from None
        trace = float(gram.trace())
        gram = centred_(gram, debiased=self.debiased)
        # What rounding leaves of a layer that does not vary would look like a representation.
        return gram if float(gram.square().sum()) > _NOTHING * trace**2 else gram.zero_()

    def add(self, grams_a: Mapping[str, Tensor], grams_b: Mapping[str, Tensor]) -> None:
        """Adds one batch by the centred Gram matrices of its layers, as `gram` makes them."""
        names = tuple(grams_a), tuple(grams_b)
        if self._names is not None and names != self._names:
            changed = sorted({*names[0], *names[1]} ^ {*self._names[0], *self._names[1]}) or ["the order of layers"]
            raise AnalysisError(f"{changed[0]!r} is not as in the batches before; expected the same layers in each")
        rows = torch.stack(tuple(grams_a.values())).flatten(1)
        columns = rows if grams_b is grams_a else torch.stack(tuple(grams_b.values())).flatten(1).to(rows.device)
        if rows.shape[1] != columns.shape[1]:
            raise AnalysisError("the two sides have other numbers of samples; expected the same samples")
        count = len(next(iter(grams_a.values())))
        traces = [torch.stack([gram.trace() for gram in side.values()]).cpu() for side in (grams_a, grams_b)]
        sums = [
            (rows @ columns.T).cpu().numpy(),
            rows.square().sum(1).cpu().numpy(),
            columns.square().sum(1).cpu().numpy(),
            torch.outer(*traces).numpy() / (count - 1),  # the mean over all permutations of the samples of one side
        ]
        if self.average == "mean_of_ratios":
            scale = _scale(names, sums[1], sums[2])
            sums = [count * sums[0] / scale, *sums[1:3], count * sums[3] / scale]
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._names = names
        self.samples += count

    def leave_out(self, count: int) -> None:
        """Notes a batch of too few samples, of which `matrix` will warn."""
        self._left_out.append(count)

    def matrix(self) -> SimilarityMatrix:
        """The CKA of all pairs of layers over the batches so far.

        Raises AnalysisError if there were none, and for a layer that does not vary within batches (0 / 0).
        """
        return self.result(stacklevel=3)

    def result(self, stacklevel: int) -> SimilarityMatrix:
        """`matrix`, whose warning is shown at the caller so many calls up."""
        left_out = (
            f"{len(self._left_out)} of the batches had fewer than 4 samples ({sum(self._left_out)} in all) and were "
            "left out"
        )
        if self._names is None:
            raise AnalysisError(
                f"there is no batch to compare: {left_out}. Expected at least one of 4 samples or more: take more "
                "images, or larger batches."
                if self._left_out
                else "there is no batch to compare. Expected at least one of 4 samples or more; an iterator that was "
                "used before is empty, so make a new one."
            )
        if self._left_out:
            warnings.warn(
                f"{left_out}: the unbiased estimate needs 4. Their samples are not in `samples`; use a larger batch "
                "size or drop_last=True.",
                AnalysisWarning,
                stacklevel=stacklevel,
            )
        across, rows, columns, independent = self._sums
        scale = self.samples if self.average == "mean_of_ratios" else _scale(self._names, rows, columns)
        return SimilarityMatrix(
            values=across / scale,
            rows=self._names[0],
            columns=self._names[1],
            measure="rbf_cka" if self.kernel == "rbf" else "cka",
            samples=self.samples,
            independent=np.zeros_like(across) if self.debiased else independent / scale,
        )


def _scale(names: tuple[tuple[str, ...], tuple[str, ...]], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    for side, labels, sums in zip(("rows", "columns"), names, (rows, columns), strict=True):
        if not (sums > 0).all():
            raise AnalysisError(
                f"block {labels[int(np.argmin(sums))]!r} ({side}) does not vary over the samples of a batch, so its "
                "CKA is 0 / 0. Leave it out of the blocks; a dead layer or images that are all the same look so."
            )
    return np.sqrt(np.outer(rows, columns))


def _named(features: Mapping[str, Any] | Sequence[Any]) -> dict[str, Tensor]:
    if isinstance(features, Tensor | np.ndarray):
        raise AnalysisError(
            f"features are one array of shape {tuple(features.shape)}; expected a mapping of layer names to arrays, "
            "or a list of arrays: [x]"
        )
    pairs = features.items() if isinstance(features, Mapping) else ((str(i), x) for i, x in enumerate(features))
    return {name: tensor_of(repr(name), x) for name, x in pairs}
