"""The attention weights of a transformer as its modules use them, and where in the image their tokens lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.analysis.activations import Batch, device_and_type, images_of_batch, undisturbed
from transfuse.errors import AnalysisError
from transfuse.models.architectures.tokens import SUPPORTED, Attention, attentions
from transfuse.models.weightless import hooked

__all__ = ["Tokens", "attention_weights", "show_attention"]


def attention_weights(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The weights after the softmax, copied, that each block's attention uses for a batch.

    Returns:
        For each block (N, heads, T, T), rows are queries and sum to 1; of a Swin (N * windows, heads, M, M).

    Raises AnalysisError as `mean_attended_distance` does.

    >>> from transfuse.models import create_model
    >>> attention_weights(create_model("test_vit", classes=2), torch.randn(1, 3, 64, 64))["blocks.5"].shape
    torch.Size([1, 2, 17, 17])
    """
    found: dict[str, Tensor] = {}
    show_attention(model, batch, lambda name, weights, _: found.update({name: weights.clone()}))
    return found


class Tokens(NamedTuple):
    """Where the tokens of W windows of M tokens lie (a network without windows has one)."""

    centres: Tensor  # (W, M, 2) pixels
    patches: Tensor  # (W, M) bool: a place in the image, so neither a prefix token nor padding
    uniform: Tensor  # (W, M, M) equal weights over what may be attended to


def show_attention(
    model: nn.Module,
    batch: Batch,
    read: Callable[[str, Tensor, Tokens], None],
    patch_size: int | tuple[int, int] | None = None,
) -> int:
    """One forward pass that shows `read(block, weights, tokens)` the attention of every block; returns N.

    The weights are (N * windows, heads, queries, keys), inside the pass and not copied. See `attention_weights` for
    errors, `mean_attended_distance` for `patch_size`.
    """
    attentions = _known(model)
    images = images_of_batch(batch)
    size = _image_size(images)
    scales = {id(one.embed): _Scale(one.embed, size, patch_size) for one in attentions}
    inputs: dict[str, torch.Size] = {}
    masks: dict[str, Tensor | None] = {}
    calls: dict[str, int] = {}

    def hooks_of(one: Attention) -> Iterator[Any]:
        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[one.name] = args[0].shape if one.windows else torch.Size()

        def attend(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            masks[one.name] = kwargs.get("mask", args[1] if len(args) > 1 else None) if one.windows else None

        def weigh(_: nn.Module, args: tuple[Any, ...]) -> None:
            calls[one.name] = calls.get(one.name, 0) + 1
            name = one.name if calls[one.name] == 1 else f"{one.name}:{calls[one.name]}"
            weights = _distribution(name, args[0].detach())
            scale = scales[id(one.embed)]
            mask = masks[one.name]
            tokens = scale.windows(one, inputs[one.name], mask) if one.windows else scale.tokens(one, weights.shape[-1])
            read(name, weights, tokens)

        yield one.block.register_forward_pre_hook(enter)
        yield one.attn.register_forward_pre_hook(attend, with_kwargs=True)
        yield one.attn.attn_drop.register_forward_pre_hook(weigh)

    handles = (handle for one in attentions for handle in hooks_of(one))
    with _unfused(attentions), hooked(*handles), undisturbed(model), torch.no_grad():
        device, dtype = device_and_type(model)
        model(images.to(device, dtype if images.is_floating_point() else None))
    if missed := [one.name for one in attentions if one.name not in calls]:
        raise AnalysisError(
            f"the attention of {missed[0]!r} ({type(model).__name__}) shows no weights: it does not run as timm's does "
            f"(compiled, scripted or replaced?). Supported are {SUPPORTED}, not compiled"
        )
    return len(images)


@contextmanager
def _unfused(attentions: list[Attention]) -> Iterator[None]:
    """The fused kernel never has the weights in memory, so the modules go their own other way for one pass.

    All that shapes the weights (norms of queries and keys, scale, rotary or relative positions, masks) is theirs.
    """
    fused = [(one.attn, one.attn.fused_attn) for one in attentions if hasattr(one.attn, "fused_attn")]
    try:
        for attn, _ in fused:
            attn.fused_attn = False
        yield
    finally:
        for attn, was in fused:
            attn.fused_attn = was


def _distribution(name: str, weights: Tensor) -> Tensor:
    """The weights, if they are one distribution over the keys for each query."""
    exact = torch.finfo(weights.dtype).eps < 1e-4
    if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        raise AnalysisError(
            f"the attention of {name!r} has shape {tuple(weights.shape)}; expected (N, heads, tokens, tokens): "
            f"self-attention, as in {SUPPORTED}"
        )
    sums = weights.sum(-1, dtype=torch.float32)
    if not bool(((sums - 1).abs() < (1e-3 if exact else 3e-2)).all()):  # NaN is refused here, too
        found = "NaN" if bool(torch.isnan(sums).any()) else f"{float(sums.min()):.4g} to {float(sums.max()):.4g}"
        raise AnalysisError(
            f"the attention weights of {name!r} sum to {found} over the keys; expected 1. Look for weights or "
            f"images with NaN, or attention that is changed after its softmax; supported are {SUPPORTED}"
        )
    return weights


class _Scale:
    """Pixels a token, and the grid of patches, for images of one size; stages are told apart as a pass goes on."""

    def __init__(self, embed: Any, size: tuple[int, int], patch_size: int | tuple[int, int] | None) -> None:
        own = embed.feat_ratio(as_scalar=False) if patch_size is None else patch_size
        self.step = (int(own), int(own)) if isinstance(own, int) else (int(own[0]), int(own[1]))
        if min(self.step) < 1:
            raise AnalysisError(f"patch_size={patch_size!r}: expected pixels, at least 1")
        grid = embed.dynamic_feat_size(size)
        self.grid = self.seen = (int(grid[0]), int(grid[1]))

    def tokens(self, one: Attention, count: int) -> Tokens:
        """One sequence: prefix tokens first, then the patches, row by row."""
        prefix = count - self.grid[0] * self.grid[1]
        if prefix < 0 or one.prefix not in (None, prefix):
            expected = "" if one.prefix is None else f"{one.prefix} + "
            raise AnalysisError(
                f"block {one.name!r} has {count} tokens; expected {expected}{self.grid[0]} x {self.grid[1]}, the grid "
                f"of patches that {type(one.embed).__name__} cuts. Tokens that were dropped, merged or pooled have no "
                "known place"
            )
        centres = torch.cat([torch.zeros(prefix, 2), _centres(self.grid, self.step)])
        patches = torch.arange(count) >= prefix
        return Tokens(centres[None], patches[None], torch.full((1, count, count), 1 / count))

    def windows(self, one: Attention, shape: torch.Size, mask: Tensor | None) -> Tokens:
        """The windows of a Swin's block: rolled by its shift, padded to whole windows, cut, in timm's order."""
        seen = int(shape[1]), int(shape[2])
        if seen != self.seen:
            if seen != ((self.seen[0] + 1) // 2, (self.seen[1] + 1) // 2):
                raise AnalysisError(
                    f"block {one.name!r} works on {seen[0]} x {seen[1]} tokens after {self.seen[0]} x {self.seen[1]}; "
                    "expected the same number, or half of it in each direction, as stages of a Swin have"
                )
            self.step, self.seen = (2 * self.step[0], 2 * self.step[1]), seen
        block: Any = one.block
        high, wide = block.window_size
        padded = -(-seen[0] // high) * high, -(-seen[1] // wide) * wide
        places = torch.zeros(*padded, 3)
        places[: seen[0], : seen[1], :2] = (
            _centres(seen, self.step).view(*seen, 2).roll((-block.shift_size[0], -block.shift_size[1]), (0, 1))
        )
        places[: seen[0], : seen[1], 2] = 1
        cut = (
            places.view(padded[0] // high, high, padded[1] // wide, wide, 3).transpose(1, 2).reshape(-1, high * wide, 3)
        )
        open_ = torch.zeros(len(cut), high * wide, high * wide) if mask is None else mask.detach().float().cpu()
        return Tokens(cut[..., :2], cut[..., 2] > 0, open_.softmax(-1))


def _centres(grid: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """(height * width, 2): the centres of patches, row by row, in pixels."""
    rows, columns = (torch.arange(count) * size + size / 2 for count, size in zip(grid, step, strict=True))
    return torch.cartesian_prod(rows, columns)


def _image_size(images: Tensor) -> tuple[int, int]:
    if images.ndim != 4 or not len(images):
        raise AnalysisError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W)")
    return int(images.shape[2]), int(images.shape[3])


def _known(model: nn.Module) -> list[Attention]:
    """The attention modules of a network; AnalysisError where none is known."""
    found = attentions(model)
    if not found:
        raise AnalysisError(
            f"{type(model).__name__} has no attention over patches that is known here. Supported are {SUPPORTED}"
        )
    return found
