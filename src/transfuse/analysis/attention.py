"""How far a transformer looks: the mean attended distance of every head, from the weights that its attention uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from transfuse.analysis.activations import NO_BATCHES, Batch, checked_batches
from transfuse.analysis.attention_weights import Tokens, show_attention
from transfuse.errors import AnalysisError, nearest

__all__ = ["AttendedDistance", "mean_attended_distance"]

REDUCE = ("sum", "mean")
PREFIX = ("drop", "zero")


@dataclass(frozen=True)
class AttendedDistance:
    """The mean attended distance of each head of each block, in pixels of the input.

    Args:
        blocks: the L blocks that attend, in the order of the forward pass.
        heads: one array a block, `(heads,)`, the mean over query tokens and images.
        uniform: `(L,)` what equal weights over everything a token can attend to would give.
        images: how many images were averaged.
        reduce: "sum" or "mean", as asked for.
        prefix: "drop" or "zero", as asked for.
    """

    blocks: tuple[str, ...]
    heads: tuple[np.ndarray, ...]
    uniform: np.ndarray
    images: int
    reduce: str = "sum"
    prefix: str = "drop"

    @property
    def values(self) -> np.ndarray:
        """`(L,)` the mean over the heads of each block."""
        return np.array([heads.mean() for heads in self.heads])

    @property
    def matrix(self) -> np.ndarray:
        """`(L, heads)`; AnalysisError where blocks have different numbers of heads, as a Swin's stages do."""
        if len({len(heads) for heads in self.heads}) > 1:
            counts = ", ".join(f"{name}: {len(heads)}" for name, heads in zip(self.blocks, self.heads, strict=True))
            raise AnalysisError(f"blocks have different numbers of heads ({counts}): use `heads` or `values`")
        return np.stack(self.heads)

    def frame(self) -> pd.DataFrame:
        """A row a head: block, head, value, and the block's uniform."""
        rows = [
            (block, head, float(value), float(level))
            for block, heads, level in zip(self.blocks, self.heads, self.uniform, strict=True)
            for head, value in enumerate(heads)
        ]
        return pd.DataFrame(rows, columns=["block", "head", "value", "uniform"])


def mean_attended_distance(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    reduce: str = "sum",
    prefix: str = "drop",
    patch_size: int | tuple[int, int] | None = None,
) -> AttendedDistance:
    """How far, in pixels, the tokens of each block look: per head the mean over queries q of sum_k A[q, k] d(q, k).

    A are the weights after the softmax, d the Euclidean distance between the centres of two patches in pixels of the
    input (of a Swin: of the tokens of that stage, which are larger; tokens attend within their window, and a shifted
    window's masked pairs have no weight). Source: M, appendix E and Fig 18 (METHODS AN-21); Dosovitskiy et al. (2021),
    Fig 7. One pass over the data; memory does not grow with the number of images.

    Args:
        model: a network of timm with self-attention over patches or windows; it is left as it was.
        batches: images (N, C, H, W), or sequences that begin with them (a DataLoader's).
        reduce: "sum" (over the keys), or "mean": divided by the number of keys that are patches, as M's appendix says
            literally.
        prefix: class and distillation tokens and registers are no query and have no place. "drop" (default, M does not
            say) leaves their columns out and lets the rest of a row sum to 1; "zero" keeps the row as it is, so what
            goes to them counts as a distance of 0. The same for the positions that pad a Swin's map to whole windows.
        patch_size: pixels of a patch (height, width), where the network's own number is not what is meant.

    Raises AnalysisError for a network without attention that is known here (the message lists what is), for tokens that
    do not match the grid of patches, for attention that is no distribution, for no batches, and for unknown options.

    >>> from transfuse.models import create_model
    >>> vit = create_model("test_vit", classes=2)
    >>> found = mean_attended_distance(vit, [torch.randn(2, 3, 64, 64)])
    >>> found.blocks[0], found.matrix.shape, found.images, bool((found.values < 64 * 2**0.5).all())
    ('blocks.0', (6, 2), 2, True)
    """
    for value, choices, name in ((reduce, REDUCE, "reduce"), (prefix, PREFIX, "prefix")):
        if value not in choices:
            raise AnalysisError(f"Unknown {name} {value!r}: {nearest(value, choices)}")
    totals: dict[str, np.ndarray] = {}
    levels: dict[str, np.ndarray] = {}
    images = 0

    def read(name: str, weights: Tensor, tokens: Tokens) -> None:
        found = _distances(name, weights, tokens, reduce, prefix)
        even = _distances(name, tokens.uniform[:, None].to(weights), tokens, reduce, prefix)
        summed, level = found.double().sum(0).cpu().numpy(), even.double().cpu().numpy()[0]
        totals[name] = totals[name] + summed if name in totals else summed
        levels[name] = levels.get(name, np.zeros(1)) + level * len(found)

    for batch in checked_batches(batches):
        images += show_attention(model, batch, read, patch_size)
    if not images:
        raise AnalysisError(NO_BATCHES)
    return AttendedDistance(
        blocks=tuple(totals),
        heads=tuple(total / images for total in totals.values()),
        uniform=np.array([float(level[0]) / images for level in levels.values()]),
        images=images,
        reduce=reduce,
        prefix=prefix,
    )


def _distances(name: str, weights: Tensor, tokens: Tokens, reduce: str, prefix: str) -> Tensor:
    """(N, heads): the mean over the queries that are patches."""
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    weights = weights.unflatten(0, (-1, len(tokens.centres)))  # (N, W, heads, queries, keys)
    centres, patches = tokens.centres.to(weights), tokens.patches.to(weights)
    lengths = (centres[:, :, None] - centres[:, None]).square().sum(-1).sqrt() * patches[:, None]
    far = torch.einsum("nwhqk,wqk->nwhq", weights, lengths)
    if prefix == "drop":
        mass = torch.einsum("nwhqk,wk->nwhq", weights, patches)
        if bool(((mass <= 0) & (patches[:, None] > 0)).any()):
            raise AnalysisError(
                f"in block {name!r} a token attends to no patch at all, so its weights cannot be normalised without "
                "the class token's: use prefix='zero'"
            )
        far = far / torch.where(mass > 0, mass, 1.0)
    if reduce == "mean":
        far = far / patches.sum(1).clamp(min=1)[:, None, None]
    return torch.einsum("nwhq,wq->nh", far, patches) / patches.sum()
