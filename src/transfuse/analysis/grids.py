"""Activations of two blocks on one grid, so that each row is the same place of the same image in both."""

from __future__ import annotations

import math

from torch import Tensor, nn

from transfuse.errors import AnalysisError

Grid = tuple[int, ...]
"""Size of a map's space; `(T, -1)` for tokens that are not on a grid; () for outputs (N, C) without places."""


def grid_of(output: Tensor) -> Grid:
    """The grid of an arranged output: (N, C) has none, (N, T, C) tokens, (N, C, *space) its space."""
    if output.ndim == 2:
        return ()
    return (output.shape[1], -1) if output.ndim == 3 else tuple(output.shape[2:])


def common(
    a: Grid, b: Grid, names: tuple[str, str], prefix: tuple[int, int] = (0, 0), images: tuple[int, ...] = ()
) -> Grid:
    """The coarser grid of two, axis by axis; () where either has no places.

    Tokens stay tokens beside as many tokens; beside a map, or another number of tokens, the patches go back to their
    square grid and the prefix tokens are left out. `images` is their size in pixels: patches of others than square
    ones are no square grid, even where their number is a square.

    Raises AnalysisError for grids of other dimensions, and for tokens beside others that are no square.
    """
    if not a or not b:
        return ()
    if a == b and prefix[0] == prefix[1]:
        return a
    square = len(set(images)) <= 1
    sizes = [_space(grid, before, name, square) for grid, before, name in zip((a, b), prefix, names, strict=True)]
    if len(sizes[0]) != len(sizes[1]):
        raise AnalysisError(
            f"{names[0]!r} has places {_text(sizes[0])} and {names[1]!r} {_text(sizes[1])}; expected as many "
            "dimensions in both. Compare images instead of places: view='pooled'."
        )
    return tuple(min(pair) for pair in zip(*sizes, strict=True))


def on_grid(output: Tensor, grid: Grid, prefix: int = 0) -> Tensor:
    """(N * places, C) rows of an output on a grid: finer maps are averaged over areas (adaptive average pooling)."""
    if output.ndim == 2:
        return output
    if output.ndim == 3:
        if grid == grid_of(output):
            return output.reshape(-1, output.shape[-1])
        if not grid:
            return output[:, prefix:].mean(1)
        side = math.isqrt(output.shape[1] - prefix)
        output = output[:, prefix:].movedim(1, -1).unflatten(-1, (side, side))
    if not grid:
        return output.flatten(2).mean(2)
    if tuple(output.shape[2:]) != grid:
        pools = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
        output = pools[len(grid) - 1](grid)(output)
    return output.movedim(1, -1).reshape(-1, output.shape[1])


def _space(grid: Grid, prefix: int, name: str, square: bool) -> Grid:
    if grid[-1] != -1:
        return grid
    patches = grid[0] - prefix
    side = math.isqrt(patches)
    if side * side != patches or not patches or not square:
        of = "" if square else " of images that are not square"
        raise AnalysisError(
            f"{name!r} gives out {grid[0]} tokens, {prefix} of them no patches; {patches} patches{of} are no square "
            "grid, so their places cannot be matched with another block's. Compare images instead: view='pooled'."
        )
    return (side, side)


def _text(grid: Grid) -> str:
    return " x ".join(map(str, grid))
