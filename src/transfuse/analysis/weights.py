"""What the weights themselves say: how far each block moved, how they are distributed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from transfuse.analysis.knn import plain_array
from transfuse.analysis.states import State, owned, refuse_shared, refuse_unlike, state_of
from transfuse.errors import AnalysisError, nearest
from transfuse.inits.roles import IDENTITY, role_of
from transfuse.models.blocks import Blocks
from transfuse.models.matching import first_convolution

__all__ = [
    "Histogram",
    "Moved",
    "l2_distance",
    "weight_histogram",
]

REDUCTIONS = ("concatenated", "tensor_mean")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Moved(NamedTuple):
    """How far the weights of a block moved, in the weights' unit per weight, and how many weights it has."""

    distance: float
    weights: int


def l2_distance(
    before: State, after: State, blocks: Blocks | Sequence[str], *, reduce: str = "concatenated"
) -> dict[str, Moved]:
    """How far the weights of every block and of the head moved: `|W_before - W_after|_2 / N`, N the block's weights.

    Matsoukas et al. 2022, appendix D (figures 4 and 17). The parameters of norm layers and all buffers are left out, as
    the authors' code means to; a block that has nothing else (the last norm of a transformer) has no entry. The norm
    grows with the root of N, so `|.|_2 / N` of a large block is small even if each of its weights moved as far as
    those of a small one: times `sqrt(N)` it is the root mean square.

    Args:
        before: the network or its state dict at initialisation; a copy, not what training has changed since.
        after: the network or its state dict after training. Give one of the two as a network: that tells its norm
            layers for certain. Of two state dicts, one-dimensional entries called `weight`, the `bias` beside them and
            what stands beside a `running_mean` are taken for norms.
        blocks: the network's blocks at any level; or names of modules: only those are compared, and no head.
        reduce: "concatenated" (default, the text): the norm of all the block's tensors together, over their number of
            weights; "tensor_mean" (the authors' code): the mean over tensors of each one's norm over its own number.

    Returns:
        block or "head" -> `Moved(distance, weights)`, in the order of the blocks.

    Raises:
        AnalysisError: names or shapes that do not match, NaN weights, two sides that are one and the same memory, an
            unknown `reduce`.
        BlocksError: an entry that no block owns.

    >>> from transfuse.models import blocks_of
    >>> model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    >>> _ = model[0].weight.data.add_(1.0)
    >>> {name: round(moved.distance, 4) for name, moved in l2_distance(before, model, blocks_of(model)).items()}
    {'0': 0.3536, 'head': 0.0}
    """
    if reduce not in REDUCTIONS:
        raise AnalysisError(f"unknown reduce {reduce!r}: {nearest(reduce, REDUCTIONS)}")
    first, last = state_of(before), state_of(after)
    refuse_shared(first, last, "before", "after")
    network = next((side for side in (after, before) if isinstance(side, nn.Module)), None)
    names = _weights_of_module(network) if network is not None else _weights_of_state(last)
    theirs = first if network is after or network is None else last
    alone = [name for name in _weights_of_state(theirs) if name not in (last if theirs is first else first)]
    if isinstance(blocks, Blocks):
        refuse_unlike(first, last, [*names, *alone], "before", "after")
        parts = owned(blocks, names)
    else:
        entries = owned(blocks, dict.fromkeys([*first, *last]))
        wanted = {*names, *alone}
        parts = {block: [name for name in mine if name in wanted] for block, mine in entries.items()}
        refuse_unlike(first, last, dict.fromkeys(name for mine in parts.values() for name in mine), "before", "after")
    moved = {}
    for block, mine in parts.items():
        tensors = [_change(name, first[name], last[name]) for name in mine]
        if count := sum(size for _, size in tensors):
            together = math.sqrt(sum(squares for squares, _ in tensors)) / count
            apart = sum(math.sqrt(squares) / size for squares, size in tensors) / len(tensors)
            moved[block] = Moved(together if reduce == "concatenated" else apart, count)
    return moved


def _change(name: str, before: Tensor, after: Tensor) -> tuple[float, int]:
    """The sum of squares of what changed, and the number of weights."""
    squares = float((before.detach().double().cpu() - after.detach().double().cpu()).square().sum())
    if not math.isfinite(squares):
        raise AnalysisError(f"{name!r} holds NaN or infinite weights; expected finite ones: use another checkpoint")
    return squares, before.numel()


@dataclass(frozen=True)
class Histogram:
    """Counts of weights: `edges` `(B + 1,)` ascending, `counts` `(B,)`, and of all N weights the mean and deviation.

    Args:
        edges: the bins hold `edges[i] <= w < edges[i + 1]`, the last one its upper edge too.
        counts: weights in each bin.
        outside: weights in no bin; 0 unless edges were given.
        mean: of all weights.
        std: of all weights, divided by N.
    """

    edges: np.ndarray
    counts: np.ndarray
    outside: int
    mean: float
    std: float

    @property
    def density(self) -> np.ndarray:
        """`(B,)` share of all weights per unit of weight: the area under it is 1, less what lies outside."""
        shares: np.ndarray = self.counts / ((self.counts.sum() + self.outside) * np.diff(self.edges))
        return shares


def weight_histogram(
    weights: State | ArrayLike | Tensor, name: str | None = None, *, bins: int | Sequence[float] | np.ndarray = 50
) -> Histogram:
    """The distribution of weights: of a tensor, or of one entry of a network, its first convolution by default.

    Args:
        weights: a tensor or array of any shape, a network, or a state dict.
        name: which entry of a network or state dict; default: the first convolution's weight.
        bins: number of bins between the smallest and the largest weight, or their edges: to compare several
            initialisations, take the edges of the widest for all (`Histogram.edges`).

    Raises:
        AnalysisError: no such entry, no weights, NaN weights, bins that are no bins.

    >>> import torch
    >>> weight_histogram(torch.tensor([0.0, 0.1, 0.9, 1.0]), bins=2).counts
    array([2, 2])
    """
    if isinstance(weights, nn.Module | Mapping):
        values = weight_of(weights, name)
    else:
        values = plain_array(weights).astype(np.float64)
    values = values.reshape(-1)
    if not values.size or not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise AnalysisError(f"{values.size} weights, {bad} of them NaN or infinite; expected at least one, all finite")
    if isinstance(bins, int):
        if bins < 1:
            raise AnalysisError(f"bins is {bins}; expected 1 or more, or their edges")
        edges = np.histogram_bin_edges(values, bins)
    else:
        edges = np.asarray(bins, dtype=np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
            raise AnalysisError(f"bins has {edges.size} edges, not ascending; expected two or more ascending numbers")
    counts = np.histogram(values, edges)[0]
    return Histogram(edges, counts, values.size - int(counts.sum()), float(values.mean()), float(values.std()))


def weight_of(weights: State, name: str | None = None) -> np.ndarray:
    """One entry of a network or state dict as float64; by default the weight of the convolution that sees the image.

    Raises:
        AnalysisError: no such entry, with the nearest; no convolution.
    """
    state = state_of(weights)
    if name is None and isinstance(weights, nn.Module):
        path = first_convolution(weights)
        name = f"{path}.weight".lstrip(".") if path or isinstance(weights, CONVOLUTIONS) else None
    elif name is None:
        kernels = (key for key, tensor in state.items() if key.endswith("weight") and tensor.ndim in (4, 5))
        name = next(kernels, None)
    if name is None:
        raise AnalysisError(
            "there is no convolution, so no first filters; name the entry to take: " + nearest("weight", state)
        )
    if name not in state:
        raise AnalysisError(f"there is no entry {name!r}: {nearest(name, state)}")
    return plain_array(state[name]).astype(np.float64)


def _weights_of_module(network: nn.Module) -> list[str]:
    """The parameters that belong to no norm layer, by every name that they have."""
    modules = dict(network.named_modules(remove_duplicate=False))
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    holders = {name: modules[name.rpartition(".")[0]] for name in names}
    return [
        name
        for name, holder in holders.items()
        if role_of(holder, name) != "norm" and "Norm" not in type(holder).__name__
    ]


def _weights_of_state(state: Mapping[str, Tensor]) -> list[str]:
    norms = {name.rpartition(".")[0] for name in state if name.endswith("running_mean")}
    norms |= {name.rpartition(".")[0] for name, t in state.items() if name.endswith(".weight") and t.ndim == 1}
    return [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not (name.rpartition(".")[0] in norms and name.rpartition(".")[2] in IDENTITY)
    ]
