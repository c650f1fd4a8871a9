"""What the blocks of a network give out for images: read inside the forward pass, never all kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.analysis.views import VIEWS, arranged, features, finite
from transfuse.errors import AnalysisError, nearest
from transfuse.models.architectures.tokens import prefix_tokens, put_together, window_block
from transfuse.models.blocks import Blocks
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.models.weightless import hooked

__all__ = ["Activations", "Batch", "Taps", "activations", "features", "finite", "images_of_batch"]

Batch = Any
"""Images (N, ...), a sequence that begins with them (images, labels), or a mapping of keyword arguments."""

Read = Callable[[str, Tensor], None]


class Taps:
    """Shows the outputs of a network's blocks to a function, batch by batch.

    `run` does one forward pass in eval mode without gradients. Inside it `read(name, output)` is called with the very
    tensor that goes on through the network, so reduce it there or clone it: a later in-place ReLU will overwrite it.
    Of tuples, lists and mappings it is the first tensor. A module that is called more than once in a pass is
    read at each call, as `name`, `name:2`, and so on. Hooks, the modes of all modules and the random generators are
    put back after each pass, also after an exception.

    Args:
        model: any module. Images are brought to the device and the floating type of its first parameter.
        blocks: `Blocks`, or names of modules as in `model.get_submodule`.
        read: what is done with an output.
        arrange: whether outputs are arranged as (N, C), tokens (N, T, C) or maps (N, C, *space), whatever the network's
            own order of axes is (the maps of a Swin are (N, H, W, C)); these are views, nothing is copied.

    Raises AnalysisError for blocks that the network does not have, and from `run` for a block that was not reached,
    outputs without a tensor and outputs whose first axis is not the images.

    >>> shapes = {}
    >>> taps = Taps(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), ["0", "1"], lambda n, x: shapes.update({n: x.shape}))
    >>> taps.run(torch.zeros(4, 3, 8, 8)), taps.names, shapes["1"]
    (4, ('0', '1'), torch.Size([4, 8, 6, 6]))
    """

    def __init__(self, model: nn.Module, blocks: Blocks | Sequence[str], read: Read, *, arrange: bool = True) -> None:
        self.model, self.read, self.arrange = model, read, arrange
        self._modules = _tapped(model, blocks)
        self._prefix = {name: prefix_tokens(model, path) for name, (path, _) in self._modules.items()}
        self._windows = {
            name: block for name, (path, _) in self._modules.items() if (block := window_block(model, path)) is not None
        }
        self._calls: dict[str, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that `read` gets, in the order that was asked for; repeated calls are known after one pass."""
        counts = self._calls or dict.fromkeys(self._modules, 1)
        return tuple(_call_name(name, call) for name in self._modules for call in range(1, counts[name] + 1))

    def prefix_tokens(self, name: str) -> int:
        """How many tokens of a block's output are no patches: class and distillation tokens, registers."""
        return self._prefix[name if name in self._prefix else name.rpartition(":")[0]]

    def features(self, name: str, output: Tensor, view: str, choices: Sequence[str] = VIEWS) -> Tensor:
        """`features` of an arranged output; knows how many tokens of this block are no patches."""
        return features(output, view, prefix_tokens=self.prefix_tokens(name), name=name, choices=choices)

    def run(self, batch: Batch) -> int:
        """One forward pass; returns the number of images N."""
        args, kwargs, count = _arguments(self.model, batch)
        calls = dict.fromkeys(self._modules, 0)
        spaces: dict[str, tuple[int, int]] = {}

        def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            return lambda _, inputs: spaces.update({name: tuple(inputs[0].shape[1:3])})

        def hook_of(name: str, path: str, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
            def hook(_: nn.Module, inputs: Any, output: Any) -> None:
                calls[name] += 1
                tensor = _first_tensor(output)
                if tensor is None:
                    raise AnalysisError(
                        f"block {name!r} gives out {type(output).__name__} without a tensor in it; expected a tensor, "
                        f"or a tuple, list or mapping that holds one. Name a module inside {path!r} instead."
                    )
                if tensor.ndim == 3 and name in spaces:
                    tensor = put_together(tensor, self._windows[name], spaces[name])
                if tensor.ndim < 2 or tensor.shape[0] != count:
                    raise AnalysisError(
                        f"block {name!r} gives out shape {tuple(tensor.shape)} for {count} images; expected the images "
                        "on the first axis, (N, C), (N, C, H, W) or (N, T, C). Modules that work on windows or on "
                        "sequences first are no blocks; name the module around it."
                    )
                shown = arranged(module, tensor) if self.arrange else tensor
                self.read(_call_name(name, calls[name]), shown.detach())

            return hook

        entered = (block.register_forward_pre_hook(enter(name)) for name, block in self._windows.items())
        handles = (
            module.register_forward_hook(hook_of(name, path, module)) for name, (path, module) in self._modules.items()
        )
        with hooked(*entered, *handles), undisturbed(self.model), torch.no_grad():
            self.model(*args, **kwargs)
        if missed := [name for name, times in calls.items() if not times]:
            raise AnalysisError(
                f"no forward pass reaches {_some(missed)}; expected blocks that run. A block's output is read where "
                "its module is called, so a module that is only held, or replaced while the network runs, has none."
            )
        if self._calls is not None and calls != self._calls:
            changed = [name for name in calls if calls[name] != self._calls[name]]
            raise AnalysisError(
                f"{_some(changed)} ran {calls[changed[0]]} times in this batch and {self._calls[changed[0]]} times in "
                "the one before; expected the same number each time, since each call is a layer of its own."
            )
        self._calls = calls
        return count


class Activations:
    """The outputs of a network's blocks, lazily: see `activations`."""

    def __init__(self, model: nn.Module, batches: Iterable[Batch], blocks: Blocks | Sequence[str]) -> None:
        self._model, self._batches, self._blocks = model, batches, blocks
        self._kept: dict[str, Tensor] | None = None
        _tapped(model, blocks)  # unknown names are told now, not at the first batch
        checked_batches(batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """For each batch, the outputs by block."""
        outputs: dict[str, Tensor] = {}
        taps = Taps(
            self._model,
            self._blocks,
            lambda name, output: outputs.update({name: output.clone()}),
            arrange=False,
        )
        empty = True
        for batch in checked_batches(self._batches):
            outputs.clear()
            taps.run(batch)
            empty = False
            yield {name: outputs[name] for name in taps.names}
        if empty:
            raise AnalysisError(NO_BATCHES)

    def __getitem__(self, name: str) -> Tensor:
        """The outputs of one block for all images; all blocks' are kept in memory from the first such call on."""
        kept = self._all()
        if name not in kept:
            raise AnalysisError(f"no activations of {name!r}: {nearest(name, kept)}")
        return kept[name]

    def __repr__(self) -> str:
        names = list(_tapped(self._model, self._blocks))
        return (
            f"Activations({type(self._model).__name__}, blocks: {_some(names)}; iterate for each batch's, or take "
            f"[{names[0]!r}] for all images)"
        )

    def keys(self) -> tuple[str, ...]:
        """The names of the blocks."""
        return tuple(self._all())

    def _all(self) -> dict[str, Tensor]:
        if self._kept is None:
            parts: dict[str, list[Tensor]] = {}
            for outputs in self:
                for name, output in outputs.items():
                    parts.setdefault(name, []).append(output)
            self._kept = {name: torch.cat(outputs) for name, outputs in parts.items()}
        return self._kept


def activations(model: nn.Module, batches: Iterable[Batch], blocks: Blocks | Sequence[str]) -> Activations:
    """The outputs of a network's blocks: iterate over it, or index it by a block's name.

    Iterating runs one forward pass a batch (eval mode, no gradients; modes, hooks and random generators are put back)
    and yields copies `{name: output (N, ...)}` as the modules give them out, so memory does not grow with the number of
    images. `activations(...)["layer3"]` concatenates one block's outputs over all images, and `dict(activations(...))`
    every block's: those are kept in memory. NaN and infinite outputs are given as they are.

    Args:
        model: any module.
        batches: images (N, C, H, W), sequences that begin with them (a DataLoader's), or mappings of keyword arguments.
        blocks: `blocks_of(model)`, or names of modules. A module called twice in a pass gives `name` and `name:2`.

    Raises AnalysisError for unknown names, blocks that are not reached and no batches at all.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> images = [torch.zeros(4, 3, 8, 8), torch.zeros(2, 3, 8, 8)]
    >>> [batch["1"].shape[0] for batch in activations(model, images, ["1"])]
    [4, 2]
    >>> activations(model, images, ["0", "1"])["1"].shape
    torch.Size([6, 8, 6, 6])
    """
    return Activations(model, batches, blocks)


NO_BATCHES = (
    "there are no batches; expected at least one. An iterator that was used before is empty: make a new one, or "
    "pass a list or a DataLoader."
)


def checked_batches(batches: Iterable[Any], name: str = "batches", what: str = "images") -> Iterable[Any]:
    """The batches; AnalysisError for one bare array, which would be gone through sample by sample.

    Args:
        batches: what was given for them.
        name: of the argument, for the message.
        what: what a batch holds, for the message.
    """
    if isinstance(batches, Tensor | np.ndarray):
        cut = f" or {what}.split(64)" if isinstance(batches, Tensor) and what.isidentifier() else ""
        raise AnalysisError(
            f"{name} is {'a tensor' if isinstance(batches, Tensor) else 'an array'} of shape {tuple(batches.shape)}, "
            f"which would be gone through one by one; expected batches: [{what}]{cut}"
        )
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise AnalysisError(f"{name} is {type(batches).__name__}; expected batches: [{what}], or a DataLoader")
    return batches


def images_of_batch(batch: Batch) -> Tensor:
    """The images of a batch: itself, the first of a sequence, or the first tensor of a mapping."""
    tensor = batch if isinstance(batch, Tensor) else _first_tensor(batch)
    if tensor is None:
        raise AnalysisError(
            f"a batch is {type(batch).__name__}; expected images (N, C, H, W) as a tensor, a sequence that begins with "
            "them, or a mapping of keyword arguments"
        )
    return tensor


def device_and_type(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network's first floating parameter is, and its type; the CPU and float32 where there is none."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.float32)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards each module's own mode and the random generators are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = [device_and_type(model)[0]] if device_and_type(model)[0].type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for module, _ in modes:
            module.training = False  # not .eval(): a frozen module answers it in its own way
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _arguments(model: nn.Module, batch: Batch) -> tuple[tuple[Tensor, ...], dict[str, Any], int]:
    device, dtype = device_and_type(model)

    def fitting(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    images = images_of_batch(batch)
    if images.ndim < 2 or not len(images):
        raise AnalysisError(f"a batch has shape {tuple(images.shape)}; expected at least one image, (N, C, H, W)")
    if isinstance(batch, Mapping):
        return (), {key: fitting(value) for key, value in batch.items()}, len(images)
    images = fitting(images)
    # convolutions on the CPU are up to 1.3 times as fast in this order of memory
    return (channels_last(images) if takes_channels_last(model, images) else images,), {}, len(images)


def _tapped(model: nn.Module, blocks: Blocks | Sequence[str]) -> dict[str, tuple[str, nn.Module]]:
    """Block name -> the path of the module whose output is read, and the module."""
    if isinstance(blocks, str):
        raise AnalysisError(f"blocks is the text {blocks!r}; expected Blocks or a list of names, e.g. [{blocks!r}]")
    paths = {b.name: b.output for b in blocks} if isinstance(blocks, Blocks) else {str(name): name for name in blocks}
    if not paths:
        raise AnalysisError("blocks is empty; expected blocks_of(model) or at least one module's name")
    modules = dict(model.named_modules(remove_duplicate=False))
    if unknown := [path for path in paths.values() if path not in modules or not path]:
        raise AnalysisError(
            f"the network {type(model).__name__} has no module {unknown[0]!r}: "
            f"{nearest(unknown[0], filter(None, modules))}"
        )
    return {name: (path, modules[path]) for name, path in paths.items()}


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)


def _call_name(name: str, call: int) -> str:
    return name if call == 1 else f"{name}:{call}"


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(repr(n) for n in names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
