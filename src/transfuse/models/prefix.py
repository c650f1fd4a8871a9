"""A network in two at a cut: what its lower blocks make of images, and how it goes on from there without them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models.blocks import Blocks, check_blocks, is_under
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.models.partial_pass import outputs_until
from transfuse.models.truncate import pooling_of
from transfuse.models.weightless import example_images, run_weightless, trace_modules


@dataclass(frozen=True)
class Cut:
    """A place at which a network can be left and entered: the output of a module, which is one tensor.

    Attributes:
        path: the module.
        features: shape of its output for one image.
        image: shape of one image, (C, *side).
        below: the modules that need not run to go on from here, with the shapes of their outputs for one image.
        time: when the module ends in a forward pass; a cut further up has a larger one.
    """

    path: str
    features: tuple[int, ...]
    image: tuple[int, ...]
    below: Mapping[str, tuple[int, ...]]
    time: int

    @property
    def numbers(self) -> int:
        """How many numbers the features of one image are."""
        return math.prod(self.features)


def cut_of(
    model: nn.Module, blocks: Blocks, depth: int | str, image_size: int | None = None, channels: int | None = None
) -> Cut:
    """The cut above `blocks[:depth]`; above all of them, and where a module pools their map, above that.

    Args:
        model: the network.
        blocks: its blocks.
        depth: how many blocks lie below, at least one, or up to which (see `Blocks.depth`).
        image_size: side of the images in pixels; None: what the network is built for.
        channels: of the images; None: those of its first layer.

    Raises:
        BlocksError: no block lies below, the network needs more than the output of the last of them, or it is not
            known what it gives out.

    >>> from transfuse.models import blocks_of, create_model
    >>> model = create_model("cbr_tiny", classes=2)
    >>> cut = cut_of(model, blocks_of(model), "layer2", image_size=32)
    >>> cut.features, cut.image, list(cut.below)
    ((128, 7, 7), (3, 32, 32), ['layer1', 'layer2'])
    """
    count = blocks.depth(depth)
    last = check_blocks(model, blocks)[count - 1] if count else None
    if last is None or not (last.cut or count == len(blocks)):
        what = "no block" if last is None else f"block {last.name!r}, above which more than its output is needed,"
        raise BlocksError(f"Depth {depth!r} at level {blocks.level!r}: there is no cut above {what}.")
    images = example_images(model, image_size)
    if channels is not None:
        images = images.new_zeros(len(images), channels, *images.shape[2:])
    calls = trace_modules(model, images)
    path = (pooling_of(model, blocks, calls) if count == len(blocks) else "") or last.output
    if path not in calls or not calls[path].shape_out:
        raise BlocksError(f"The output {path!r} of block {last.name!r} is never run, or not one tensor: no cut there.")
    below: dict[str, tuple[int, ...]] = {}
    for name, call in calls.items():
        if name and call.end <= calls[path].end and not any(is_under(name, other) for other in below):
            below[name] = call.shape_out[1:]
    frozen = blocks[:count]
    for key in model.state_dict():
        if any(is_under(key, name) for name in below) and not any(block.owns(key) for block in frozen):
            raise BlocksError(f"{key!r} is used before the end of block {last.name!r} and is none of it: no cut there.")
    return Cut(path, calls[path].shape_out[1:], tuple(images.shape[1:]), below, calls[path].end)


def features_at(model: nn.Module, cuts: Sequence[Cut], images: Tensor, *, batch_size: int) -> list[Tensor]:
    """What the network makes of images (N, C, H, W) at several cuts, in one pass that ends at the highest.

    In eval mode, without gradients; modes are put back. Each pass has exactly `batch_size` images, the last one being
    filled up with zeros, since kernels for other batch sizes may sum in another order: so an image has the same
    features, bit for bit, whichever images are with it.

    Returns:
        For each cut the features (N, ...), contiguous, on the device of the network.
    """
    found: list[list[Tensor]] = [[] for _ in cuts]
    with _whole(model):
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            filled = torch.cat([chunk, chunk.new_zeros(batch_size - len(chunk), *chunk.shape[1:])])
            ordered = channels_last(filled) if takes_channels_last(model, filled) else filled
            for parts, output in zip(found, _outputs(model, cuts, ordered), strict=True):
                parts.append(output[: len(chunk)])
    return [torch.cat(parts).contiguous() for parts in found]  # outside of inference mode: training may save these


@contextmanager
def going_on_from(model: nn.Module, cut: Cut) -> Iterator[nn.Module]:
    """Within, the network takes features at a cut (N, ...) instead of images, and nothing below runs.

    It is the same object with the same parameters and modules; `features_at` still takes images. What lies between its
    modules still runs below the cut, on NaN, so that nothing above can use it unnoticed. The network must be used by
    one thread at a time, and not be copied within.
    """
    if model in _SHORTENED:
        raise BlocksError(f"This {type(model).__name__} goes on from a cut already: leave that first.")
    _SHORTENED[model] = shortened = _Shortened(model, cut)
    try:
        with shortened:
            yield model
    finally:
        del _SHORTENED[model]


class _Shortened:
    """The `forward` of modules that stand in for those below a cut; can be entered and left again and again."""

    def __init__(self, model: nn.Module, cut: Cut) -> None:
        self._features, self._image, self._own = torch.empty(0), cut.image, model.forward
        self._changed: dict[nn.Module, Any] = {model: self._enter}
        self._changed |= {model.get_submodule(path): self._stand_in(shape) for path, shape in cut.below.items()}
        self._changed[model.get_submodule(cut.path)] = lambda *args, **kwargs: self._features
        self._before = {module: vars(module).get("forward") for module in self._changed}

    def _enter(self, features: Tensor) -> Any:
        self._features = features
        try:
            return self._own(self._nothing(self._image))
        finally:
            self._features = torch.empty(0)

    def _stand_in(self, shape: tuple[int, ...]) -> Any:
        return lambda *args, **kwargs: self._nothing(shape)

    def _nothing(self, shape: tuple[int, ...]) -> Tensor:
        """What no number above the cut may depend on: NaN, which shows wherever it is used."""
        return self._features.new_full((), math.nan).expand(len(self._features), *shape)

    def __enter__(self) -> None:
        for module, forward in self._changed.items():
            vars(module)["forward"] = forward

    def __exit__(self, *problem: object) -> None:
        for module, forward in self._before.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


_SHORTENED: WeakKeyDictionary[nn.Module, _Shortened] = WeakKeyDictionary()


@contextmanager
def _whole(model: nn.Module) -> Iterator[None]:
    """Within, the network takes images, in eval mode and without gradients."""
    shortened = _SHORTENED.get(model)
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = False  # not .eval(): a frozen module answers it in its own way
    if shortened is not None:
        shortened.__exit__()
    try:
        with torch.inference_mode():
            yield
    finally:
        if shortened is not None:
            shortened.__enter__()
        for module, mode in modes.items():
            module.training = mode


def why_not_from(model: nn.Module, cut: Cut, images: Tensor) -> str | None:
    """None if the network goes on from its features at a cut to the very bits that it makes of the images.

    Otherwise why it does not: a skip from below the cut, in eval or in train mode; a function of the network itself
    that changes its input; features that depend on the other images of the batch; parameters below the cut that are
    trained.

    Args:
        model: the network as it is to be trained, so frozen; its modes, buffers and the random generators are put back.
        cut: the cut.
        images: (N, C, H, W), N being at least 1 (and for batch norms above the cut at least 2).
    """
    ordered = channels_last(images) if takes_channels_last(model, images) else images
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [images.device] if images.device.type == "cuda" else []
    try:
        features = features_at(model, [cut], images, batch_size=len(images))[0]
        alone = features_at(model, [cut], images[:1], batch_size=len(images))[0]
        arranged = channels_last(features) if ordered is not images else features
        with _whole(model):
            whole = model(ordered)
            with going_on_from(model, cut):
                rest = model(arranged)
        with _whole(model), torch.inference_mode(False), torch.enable_grad():
            trained = _outputs(model, [cut], ordered[:1])[0].requires_grad
        with torch.random.fork_rng(devices=devices), torch.no_grad(), going_on_from(model, cut):
            trains = _in_train_mode(model, arranged.clone())
    except Exception as error:  # whatever a network says to inputs that it was not written for
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if not torch.equal(whole, rest):
        return "going on from the features gives another output"
    if not torch.equal(alone, features[:1]):
        return "the features of an image depend on the others of its batch"
    if trained:
        return "parameters that are trained lie below the cut"
    if not all(bool(torch.isfinite(output).all()) for output in trains):
        return "in training the network uses what lies below the cut"
    return None


def _in_train_mode(model: nn.Module, features: Tensor) -> list[Tensor]:
    """The outputs of the network in train mode; each module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        output = model.train()(features)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [output] if isinstance(output, Tensor) else [one for one in output if isinstance(one, Tensor)]


def macs_above(model: nn.Module, cut: Cut) -> int:
    """Multiply-accumulate operations of one image from a cut on (see `transfuse.models.complexity`)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, going_on_from(model, cut):
        run_weightless(model, torch.zeros(1, *cut.features, device="meta"))
    return counter.get_total_flops() // 2


def _outputs(model: nn.Module, cuts: Sequence[Cut], images: Tensor) -> list[Tensor]:
    """The outputs at the cuts of one pass that ends at the highest."""
    kept = outputs_until(model, [cut.path for cut in sorted(cuts, key=lambda cut: cut.time)], images)
    return [kept[cut.path] for cut in cuts]
