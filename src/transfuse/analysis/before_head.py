"""What the head of a network sees of a block's output, and would see of a lower block's if the network ended there."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.analysis.activations import Taps, undisturbed
from transfuse.analysis.views import arranged, features
from transfuse.errors import AnalysisError, TransfuseError, nearest
from transfuse.models.blocks import Block, Blocks
from transfuse.models.heads import fitted_norm
from transfuse.models.weightless import hooked

__all__ = ["VIEWS", "BeforeHead", "before_head"]

VIEWS = ("pooled", "cls", "both")
_CLOSE = 1e-3  # relative to the largest number; half precision is no closer


class BeforeHead(NamedTuple):
    """How a block's output becomes what a head sees: norms that stay at a cut, a view of it, norms that stay.

    Attributes:
        view: `pooled`, `cls` or `both`, as in `transfuse.analysis.features`.
        below: modules that work on the whole output, in order: the norm on top of a transformer.
        above: modules that work on the view: the norm in the head of a ConvNeXt.
    """

    view: str
    below: tuple[nn.Module, ...] = ()
    above: tuple[nn.Module, ...] = ()

    def of(self, block: Block, module: nn.Module, output: Tensor, prefix_tokens: int = 0) -> Tensor:
        """The features (N, D) of a block's output, as its `module` gives it out; float32 at least.

        A norm whose width does not fit is a fresh one, as in a truncated network (`transfuse.models.truncate`).
        """
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        for norm in self.below:
            output = _applied(norm, output, block.name)
        found = features(arranged(module, output), self.view, prefix_tokens=prefix_tokens, name=block.name)
        for norm in self.above:
            found = _on_view(norm, found, block.name)
        return found.float()


def before_head(model: nn.Module, blocks: Blocks, images: Tensor, view: str | None = None) -> BeforeHead:
    """Which view of its last block's output a network's head sees, found by comparing the numbers.

    Args:
        model: the network; left as it was.
        blocks: its blocks.
        images: (N, C, H, W), at least one, with which it is looked at.
        view: given, nothing is looked at, and no norm stays.

    Raises:
        AnalysisError: an unknown view, or what the head sees is none of them.

    >>> from transfuse.models import blocks_of, create_model
    >>> model = create_model("cbr_tiny", classes=2)
    >>> before_head(model, blocks_of(model), torch.rand(2, 3, 64, 64)).view
    'pooled'
    """
    if view is not None and view not in VIEWS:
        raise AnalysisError(f"unknown view {view!r} of a cut: {nearest(view, VIEWS)}")
    if view is not None or not blocks.head:
        return BeforeHead(view or "pooled")
    last = next((block for block in reversed(blocks.items) if not block.stays), blocks[-1])
    modules = dict(model.named_modules(remove_duplicate=False))
    staying = [
        modules[path]
        for block in blocks
        if block.stays
        for path in block.paths
        if path in modules and not isinstance(modules[path], nn.Identity)
    ]
    outputs: list[Tensor] = []
    seen: list[Tensor] = []

    def arrive(module: nn.Module, inputs: Any) -> None:
        seen.append(inputs[0].detach().clone())

    taps = Taps(
        model, Blocks(blocks.level, (last,), ()), lambda _, output: outputs.append(output.clone()), arrange=False
    )
    head = next((modules[path] for path in blocks.head if path in modules), None)
    with hooked(*([head.register_forward_pre_hook(arrive)] if head is not None else [])):
        taps.run(images)
    with undisturbed(model), torch.no_grad():
        for count, each in product(range(len(staying), -1, -1), VIEWS):
            candidate = BeforeHead(each, tuple(staying[:count]), tuple(staying[count:]))
            if seen and _same(
                candidate, last, modules[last.output], outputs[-1], taps.prefix_tokens(last.name), seen[-1]
            ):
                return candidate
    raise AnalysisError(
        f"what the head of this {type(model).__name__} sees is no mean over space and no class token of what its last "
        f"block {last.name!r} gives out"
        + (f" (it sees shape {tuple(seen[-1].shape)} for {len(seen[-1])} images)" if seen else " (its head never runs)")
        + f"; say which view of a cut is meant, view={' or '.join(map(repr, VIEWS))}, for a network that ends in a "
        "linear classifier"
    )


def _same(candidate: BeforeHead, block: Block, module: nn.Module, output: Tensor, prefix: int, seen: Tensor) -> bool:
    try:
        found = candidate.of(block, module, output, prefix)
    except (TransfuseError, RuntimeError, IndexError, ValueError):
        return False  # no class token, or a norm that does not take this
    wanted = seen.float()
    if found.numel() != wanted.numel() or len(found) != len(wanted):
        return False
    wanted = wanted.reshape(found.shape)
    return bool((found - wanted).abs().max() <= _CLOSE * wanted.abs().max())


def _applied(norm: nn.Module, output: Tensor, name: str) -> Tensor:
    """A norm that stays, with its own weights where they fit."""
    fitting = fitted_norm(norm, torch.empty_like(output, device="meta"), name)
    fitting = fitting if fitting is norm else fitting.to(output.device)
    kind = next((parameter.dtype for parameter in fitting.parameters()), output.dtype)
    found: Tensor = fitting(output.to(kind))
    return found.to(output.dtype)


def _on_view(norm: nn.Module, vectors: Tensor, name: str) -> Tensor:
    """A norm on vectors (N, D); one that is made for maps gets them as (N, D, 1, 1)."""
    try:
        return _applied(norm, vectors, name)
    except (TransfuseError, RuntimeError, IndexError):
        return _applied(norm, vectors[:, :, None, None], name).flatten(1)
