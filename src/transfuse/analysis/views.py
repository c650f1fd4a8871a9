"""How an activation is arranged, and what of it is compared: its mean over space, its places, its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from transfuse.errors import AnalysisError, nearest

VIEWS = ("pooled", "positions", "flat", "cls", "patches", "both")


def features(
    output: Tensor,
    view: str = "pooled",
    *,
    prefix_tokens: int = 0,
    name: str = "",
    choices: Sequence[str] = VIEWS,
) -> Tensor:
    """What is compared of a block's output: (N, D), or (N * positions, C).

    Outputs (N, C) are themselves, maps are (N, C, *space), tokens (N, T, C) of which the first `prefix_tokens` are no
    patches (class token, distillation token, registers).

    Args:
        output: an output as `Taps` arranges it.
        view: `pooled` (N, C): the mean over space or patch tokens; `positions` (N * positions, C): each place or token
            a row; `flat` (N, everything); and of tokens: `cls` (N, C) the first, `patches` (N, C) the mean of the
            patches, `both` (N, 2 C), these two beside each other.

    Raises AnalysisError for an unknown view, and for a view of tokens where there are none.

    >>> features(torch.ones(2, 8, 4, 4)).shape, features(torch.ones(2, 8, 4, 4), "positions").shape
    (torch.Size([2, 8]), torch.Size([32, 8]))
    """
    if view not in VIEWS:
        raise AnalysisError(f"unknown view {view!r}: {nearest(view, VIEWS)}")
    if view in ("cls", "both") and (output.ndim != 3 or not prefix_tokens):
        raise AnalysisError(
            f"view {view!r} needs a class token, and {f'block {name!r}' if name else 'this output'} of shape "
            f"{tuple(output.shape)} has none; expected tokens (N, T, C) of a transformer with one. "
            f"Choices without: {_of_maps(choices)}."
        )
    if view == "patches" and output.ndim != 3:
        raise AnalysisError(
            f"view 'patches' needs tokens (N, T, C), and {f'block {name!r}' if name else 'this output'} has shape "
            f"{tuple(output.shape)}. Choices for maps: {_of_maps(choices)}."
        )
    if output.ndim == 2:
        return output
    if view == "flat":
        return _flat(output)
    if view == "positions":
        return (output if output.ndim == 3 else output.movedim(1, -1)).reshape(-1, channels_of(output))
    if output.ndim == 3:
        if view == "cls":
            return output[:, 0]
        patches = output[:, prefix_tokens:].mean(1)
        return torch.cat([output[:, 0], patches], 1) if view == "both" else patches
    return output.flatten(2).mean(2)


def _of_maps(choices: Sequence[str]) -> str:
    return ", ".join(view for view in ("pooled", "positions", "flat") if view in choices)


def channels_of(output: Tensor) -> int:
    """The number of channels C of an output as `Taps` arranges it."""
    return int(output.shape[-1] if output.ndim == 3 else output.shape[1])


def finite(name: str, tensor: Tensor) -> Tensor:
    """The tensor, if all of it is finite; AnalysisError, which names the block and counts, if not."""
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    if not torch.isfinite(total) and (bad := int((~torch.isfinite(tensor)).sum())):
        raise AnalysisError(
            f"{name!r} has {bad} of {tensor.numel()} activations that are NaN or infinite; expected finite ones. "
            "Look for diverged weights, images that are not normalised, or half precision that overflows."
        )
    return tensor


def arranged(module: nn.Module, output: Tensor) -> Tensor:
    """An output as (N, C), tokens (N, T, C) or a map (N, C, *space), as a view: nothing is copied.

    The order of the axes is told by the layers inside the module that gave it out.
    """
    if output.ndim == 2:
        return output
    last = _channels_are_last(module, output)
    if output.ndim == 3:
        return output if last else output.transpose(1, 2)
    return output.movedim(-1, 1) if last else output


def _channels_are_last(module: nn.Module, output: Tensor) -> bool:
    """Told by the layers inside: convolutions with as many outputs as axis 1, linear layers or norms as the last.

    Where both fit (a map of 96 x 96 with 96 channels) a convolution that is more than a cut into patches decides, and
    a layer norm made for maps.
    """
    inner = list(module.modules())
    made = [m for m in inner if isinstance(m, _ConvNd)]
    convolutions = [m for m in made if m.out_channels == output.shape[1]]
    norms = [m for m in inner if isinstance(m, nn.LayerNorm) and m.normalized_shape[-1] == output.shape[-1]]
    linear = any(isinstance(m, nn.Linear) and m.out_features == output.shape[-1] for m in inner)
    if not norms and not linear and not convolutions and output.ndim > 3:
        return any(m.out_channels == output.shape[-1] for m in made)
    if not norms and not linear:
        # a bare activation or pooling: sequences are tokens unless they come out of a convolution
        return output.ndim == 3 and not any(isinstance(m, (_ConvNd, _BatchNorm)) for m in inner)
    if not convolutions:
        return True
    true_convolution = any(m.kernel_size != m.stride for m in convolutions)
    return not true_convolution and not any(type(m).__name__.endswith("2d") for m in norms)


def _flat(output: Tensor) -> Tensor:
    """(N, everything), without a copy where memory is in channels-last order; the features stand in that order then."""
    if output.ndim == 4 and output.is_contiguous(memory_format=torch.channels_last):
        return output.permute(0, 2, 3, 1).reshape(len(output), -1)
    return output.reshape(len(output), -1)
