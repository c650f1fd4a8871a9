"""Maps of a block's channels for chosen images, also where a transformer keeps them as a row of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.analysis.activations import Batch, Taps, images_of_batch
from transfuse.analysis.views import arranged, finite
from transfuse.errors import AnalysisError, BlocksError, nearest
from transfuse.models.architectures.tokens import patches_of
from transfuse.models.blocks import LEVELS, Blocks, blocks_of

__all__ = ["ActivationMaps", "SpatialMap", "activation_maps", "output_path", "spatial_map"]

CHOICES = ("first", "variable")


@dataclass(frozen=True)
class ActivationMaps:
    """Channels of one block's output as maps.

    Args:
        values: (N, K, h, w), or (N, K, d, h, w) of volumes, float32, the raw activations.
        channels: the K numbers of the channels.
        block: whose output it is.
        total: how many channels the block has.
    """

    values: np.ndarray
    channels: tuple[int, ...]
    block: str
    total: int


def activation_maps(
    model: nn.Module,
    images: Batch,
    block: str,
    *,
    channels: int | Sequence[int] = 16,
    choose: str = "first",
    blocks: Blocks | None = None,
) -> ActivationMaps:
    """The raw activation maps of a block for some images, as V shows them in its Fig 9 (METHODS AN-10).

    Tokens of a transformer are put back into the grid of its patches; class tokens and registers have no place in it.
    `tile(maps.values[0])` makes a picture of one image's maps.

    Args:
        model: any network; it is left as it was. It runs in eval mode.
        images: (N, C, H, W), or volumes (N, C, D, H, W).
        block: a block's name, or a module's as in `model.get_submodule`.
        channels: how many, or which ones (then `choose` is not asked).
        choose: "first", or "variable": those that vary most over these images and all places (greatest variance
            first), since many channels of a trained network are dead for any one image.
        blocks: the blocks that `block` is one of, where the network cannot tell them itself.

    Raises AnalysisError for an unknown block or channel, for a block without a map, and for NaN.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> maps = activation_maps(model, torch.randn(2, 3, 10, 10), "1", channels=4)
    >>> maps.values.shape, maps.channels, maps.total
    ((2, 4, 8, 8), (0, 1, 2, 3), 8)
    """
    if choose not in CHOICES:
        raise AnalysisError(f"Unknown choose {choose!r}: {nearest(choose, CHOICES)}")
    path = output_path(model, block, blocks)
    module = model.get_submodule(path)
    size = tuple(images_of_batch(images).shape[2:])
    kept: list[Tensor] = []

    def read(name: str, output: Tensor) -> None:
        if name == path:  # of a module that is called more than once, the first call
            found = spatial_map(model, module, output, size)
            if found is None:
                raise AnalysisError(
                    f"block {block!r} gives out shape {tuple(output.shape)}; expected maps (N, C, H, W), or tokens "
                    "that fill a grid"
                )
            kept.append(finite(block, found.values).float().cpu().clone())

    Taps(model, [path], read, arrange=False).run(images)
    values = kept[0]
    chosen = _chosen(values, channels, choose, block)
    return ActivationMaps(values[:, list(chosen)].numpy(), chosen, block, values.shape[1])


def _chosen(values: Tensor, channels: int | Sequence[int], choose: str, block: str) -> tuple[int, ...]:
    total = values.shape[1]
    if not isinstance(channels, int):
        wanted = tuple(int(channel) for channel in channels)
        if not wanted or any(not 0 <= channel < total for channel in wanted):
            raise AnalysisError(f"channels={wanted} of block {block!r}: expected numbers from 0 to {total - 1}")
        return wanted
    if channels < 1:
        raise AnalysisError(f"channels={channels}: expected at least 1, or a list of channels")
    count = min(channels, total)
    if choose == "first":
        return tuple(range(count))
    spread = values.double().transpose(0, 1).flatten(1).var(1, correction=0)
    return tuple(torch.argsort(spread, descending=True, stable=True)[:count].tolist())


class SpatialMap(NamedTuple):
    """A block's output as a map, and the way back."""

    values: Tensor  # (N, C, *space), a view where that is possible
    back: Callable[[Tensor], Tensor]  # such a map in the output's own arrangement, with its own prefix tokens


def spatial_map(model: nn.Module, module: nn.Module, output: Tensor, size: tuple[int, ...]) -> SpatialMap | None:
    """The output of a module of the network as a map (N, C, *space); None for what has no places.

    Args:
        model: the network.
        module: the module that gave out the output.
        output: (N, C, *space), (N, *space, C), or tokens (N, T, C) that fill the grid of patches.
        size: of the images in pixels, (H, W) or (D, H, W).
    """
    shown = arranged(module, output) if output.ndim >= 2 else output
    if shown.ndim == len(size) + 2:
        return SpatialMap(shown, (lambda x: x) if shown is output else (lambda x: x.movedim(1, -1)))
    if shown.ndim != 3 or (grid := _grid(model, shown.shape[1], size)) is None:
        return None
    prefix = shown[:, : shown.shape[1] - math.prod(grid)]

    def back(values: Tensor) -> Tensor:
        tokens = torch.cat([prefix, values.flatten(2).transpose(1, 2)], 1)
        return tokens if shown is output else tokens.transpose(1, 2)

    return SpatialMap(shown[:, prefix.shape[1] :].transpose(1, 2).unflatten(2, grid), back)


def _grid(model: nn.Module, tokens: int, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid that tokens fill after those that are no patches: the patches' own, else a square (a cube)."""
    grid, prefix = patches_of(model, size)
    if grid is not None and tokens in (math.prod(grid), math.prod(grid) + prefix):
        return grid
    side = round((tokens - prefix) ** (1 / len(size))) if tokens > prefix else 0
    return (side,) * len(size) if side and side ** len(size) == tokens - prefix else None


def output_path(model: nn.Module, block: str, blocks: Blocks | None = None) -> str:
    """The module whose output is a block's: of one of `blocks`, of a module, or of a block at any level.

    Raises AnalysisError for a name that the network does not have.

    >>> output_path(nn.Sequential(nn.Conv2d(3, 8, 3)), "0")
    '0'
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    known = {item.name: item.output for item in blocks or ()}
    if block not in known and block not in modules:
        for level in LEVELS:
            try:
                known |= {item.name: item.output for item in blocks_of(model, level)}
            except BlocksError:  # a network that is not known, or has no such level
                continue
    path = known.get(block, block)
    if not path or path not in modules:
        raise AnalysisError(
            f"the network {type(model).__name__} has no block and no module {block!r}: "
            f"{nearest(block, filter(None, dict.fromkeys((*known, *modules))))}"
        )
    return path
