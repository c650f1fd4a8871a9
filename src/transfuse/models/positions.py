"""Position embeddings of transformers, resized for images or windows of another size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transfuse.models.architectures.parameter_names import ABSOLUTE_POSITIONS, RELATIVE_POSITIONS
from transfuse.models.architectures.tokens import patch_grid, tokens_with_positions, window_of
from transfuse.models.create import import_timm


class Resized(NamedTuple):
    """A position embedding in its new size, and a sentence for the record."""

    tensor: Tensor
    done: str


def resize_positions(model: nn.Module, name: str, tensor: Tensor, wanted: Tensor) -> Resized | None:
    """A source's position embedding in the size that a network wants; None for any other tensor, or if it cannot be.

    Absolute positions (1, tokens, D) are interpolated on their square grid (bicubic, antialiased; the class,
    distillation and register tokens in front are left alone), tables of relative positions ((2w - 1)^2, heads) linearly
    between windows: both give what timm gives.

    Args:
        model: the network; its attributes tell the grid of patches, the tokens in front and the windows.
        name: of the entry in its state dict.
        tensor: the source's.
        wanted: the network's, for its shape.
    """
    path, _, leaf = name.rpartition(".")
    if leaf in ABSOLUTE_POSITIONS and tensor.ndim == wanted.ndim == 3:
        return _absolute(model, tensor, wanted)
    if leaf in RELATIVE_POSITIONS and tensor.ndim == wanted.ndim == 2:
        return _relative(model.get_submodule(path), tensor, wanted)
    return None


def _absolute(model: nn.Module, tensor: Tensor, wanted: Tensor) -> Resized | None:
    front = tokens_with_positions(model)
    old = math.isqrt(max(0, tensor.shape[1] - front))
    new = math.isqrt(max(0, wanted.shape[1] - front))
    grid = patch_grid(model) or (new, new)
    square = old * old == tensor.shape[1] - front and math.prod(grid) == wanted.shape[1] - front
    if not square or old < 1 or tensor.shape[::2] != wanted.shape[::2]:
        return None
    import_timm()
    from timm.layers.pos_embed import resample_abs_pos_embed

    resized = resample_abs_pos_embed(
        tensor, new_size=list(grid), old_size=[old, old], num_prefix_tokens=front, interpolation="bicubic"
    )
    return Resized(resized, f"positions of {old} x {old} patches resized to {grid[0]} x {grid[1]}")


def _relative(attention: nn.Module, tensor: Tensor, wanted: Tensor) -> Resized | None:
    side = math.isqrt(tensor.shape[0])
    window = window_of(attention)
    fits = len(window) == 2 and (2 * window[0] - 1) * (2 * window[1] - 1) == wanted.shape[0]
    if not fits or side * side != tensor.shape[0] or side % 2 == 0 or side < 3 or tensor.shape[1] != wanted.shape[1]:
        return None
    rows, columns = (_interpolation(side, 2 * length - 1) for length in window)
    table = tensor.double().reshape(side, side, -1)
    resized = torch.einsum("ay,bx,yxh->abh", rows, columns, table).reshape(wanted.shape).to(tensor.dtype)
    old = (side + 1) // 2
    return Resized(resized, f"relative positions of {old} x {old} windows resized to {window[0]} x {window[1]}")


def _interpolation(given: int, wanted: int) -> Tensor:
    """The matrix (wanted, given) of linear interpolation between relative positions, both odd and centred on 0.

    The given positions are put at 0, 1, 1 + q, 1 + q + q^2, ... with the q that makes the outermost coincide with the
    outermost wanted one, and with 1.01 < q < 1.5: near positions stay, far ones are stretched (BEiT, Bao et al. 2022,
    in the authors' code and timm's `resize_rel_pos_bias_table`).
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        far = (1 - ratio ** (given // 2)) / (1 - ratio)
        low, high = (low, ratio) if far > wanted // 2 else (ratio, high)
    steps = torch.tensor([ratio**step for step in range(given // 2)], dtype=torch.float64).cumsum(0)
    points = torch.cat([-steps.flip(0), torch.zeros(1, dtype=torch.float64), steps])
    places = torch.arange(wanted, dtype=torch.float64) - wanted // 2
    right = torch.searchsorted(points, places).clamp(1, given - 1)
    share = ((places - points[right - 1]) / (points[right] - points[right - 1])).clamp(0, 1)
    matrix = torch.zeros(wanted, given, dtype=torch.float64)
    rows = torch.arange(wanted)
    matrix[rows, right - 1] = 1 - share
    matrix[rows, right] += share
    return matrix
