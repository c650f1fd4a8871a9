"""New classifiers for networks that were changed below them, and norms of another width."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models.blocks import Blocks
from transfuse.models.draws import fresh_linear_, generator_of, random_start_
from transfuse.models.modules import MLPHead, first_names, modules_of
from transfuse.models.weightless import run_weightless

HEADS = ("linear", "kaiming_normal", "mlp")
WIDEST = 512  # hidden units of an MLP of which no number is given


class FlatteningLinear(nn.Linear):
    """An `nn.Linear` that takes a map (N, C, 1, 1) too: the new head where the old one was a convolution of 1 x 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, F) or any (N, ...) of F numbers each to (N, classes)."""
        return super().forward(input.flatten(1))


def head_paths(model: nn.Module, blocks: Blocks) -> tuple[str, ...]:
    """The modules that the new heads replace: the only layer with weights of each head, or all of it if several.

    Each by its first name, and once.
    """
    modules, first = modules_of(model), first_names(model)
    heads = []
    for path in blocks.head:
        if path not in modules:
            raise BlocksError(f"The head {path!r} is no module, so no new head can take its place: name its module.")
        layers = [
            f"{path}.{name}".rstrip(".") for name, m in modules[path].named_modules() if m._parameters or m._buffers
        ]
        heads.append(first[layers[0] if len(layers) == 1 else path])
    return tuple(dict.fromkeys(heads))


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module in the place of another one, under all of its names.

    >>> shared = nn.Linear(2, 2)
    >>> model = nn.Sequential(shared, shared)
    >>> put(model, "0", nn.Identity())
    >>> model[0] is model[1]
    True
    """
    old = model.get_submodule(path)
    for name in [name for name, other in modules_of(model).items() if other is old]:
        model.set_submodule(name, module)


def head_of(path: str, arriving: Tensor, features: Tensor, pool: str, shortened: bool) -> tuple[type[nn.Linear], int]:
    """The kind of the new head and its width, for what arrives at its place; BlocksError if nothing pooled it."""
    whole = shortened and is_map(tuple(features.shape)) and features.numel() == arriving.numel()
    if pool == "average" and (whole or is_map(tuple(arriving.shape))):
        raise BlocksError(
            f"The head {path!r} would get a whole map, {tuple(arriving.shape[1:])} of the last block's "
            f"{tuple(features.shape[1:])}, not one vector: no module pools it on the way. Networks that make maps "
            "(segmentation) get no new classifier; in your own network, make a module of the pooling."
        )
    return nn.Linear if arriving.ndim == 2 else FlatteningLinear, arriving[0].numel()


def fresh_head(linear: type[nn.Linear], path: str, width: int, classes: int, old: nn.Module, seed: int) -> nn.Linear:
    """A linear layer of the device, type and mode of the head that it replaces, drawn by (seed, name)."""
    like = next(old.parameters(), torch.empty(0))
    head = linear(width, classes, device="meta", dtype=like.dtype)
    if not like.is_meta:
        head.to_empty(device=like.device)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                parameter.copy_(fresh_linear_(torch.empty(parameter.shape), width, seed, f"{path}.{name}"))
    head.training = old.training
    return head


def fresh_convolution(old: nn.Module, into: int, out: int, path: str, seed: int) -> nn.Module:
    """A convolution like another one but for its channels, of its device, type and mode, drawn by (seed, name)."""
    like: Any = old
    settings: dict[str, Any] = {key: getattr(like, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    kind: Any = type(old)
    fresh: nn.Module = kind(into, out, **settings, bias=like.bias is not None, device="meta", dtype=like.weight.dtype)
    if not like.weight.is_meta:
        fresh.to_empty(device=like.weight.device)
        draw_(fresh, path, seed)
    fresh.training = old.training
    return fresh


def draw_(part: nn.Module, path: str, seed: int) -> None:
    """Draws all parameters of the part `path` of a network by (seed, name), as `initialise_` would, in place."""
    with torch.no_grad():
        for place, module in part.named_modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None and not parameter.is_meta:
                    name = ".".join(filter(None, (path, place, leaf)))
                    parameter.copy_(random_start_(torch.empty(parameter.shape), module, seed, name))


def new_head(
    kind: str,
    hidden: int | None,
    linear: type[nn.Linear],
    path: str,
    width: int,
    classes: int,
    old: nn.Module,
    seed: int,
) -> nn.Module:
    """A classifier of one of HEADS in the place `path` of `old`; see `truncate`."""
    if kind == "mlp":
        units = min(width, WIDEST) if hidden is None else hidden
        first = fresh_head(linear, f"{path}.0", width, units, old, seed)
        mlp = MLPHead(first, nn.ReLU(), fresh_head(nn.Linear, f"{path}.2", units, classes, old, seed))
        for module in mlp.modules():
            module.training = old.training
        return mlp
    head = fresh_head(linear, path, width, classes, old, seed)
    if kind == "kaiming_normal" and not head.weight.is_meta:
        normal = torch.empty(head.weight.shape).normal_(generator=generator_of(seed, f"{path}.weight"))
        with torch.no_grad():
            head.weight.copy_(normal.mul_(math.sqrt(2 / width)))
    return head


def set_numbers(model: nn.Module, classes: int, width: int) -> None:
    """Corrects what timm's networks say about themselves: their classes, and how wide their head's input is."""
    numbers: Any = model
    for name, number in (("num_classes", classes), ("num_features", width), ("head_hidden_size", width)):
        if isinstance(getattr(model, name, None), int):
            setattr(numbers, name, number)


def is_map(shape: tuple[int, ...]) -> bool:
    """Whether something of this shape, (N, C, *sides), has more than one place.

    >>> is_map((2, 8, 7, 7)), is_map((2, 8, 1, 1)), is_map((2, 8))
    (True, False, False)
    """
    return len(shape) > 2 and any(side > 1 for side in shape[2:])


def fitted_norm(norm: nn.Module, arriving: Tensor, path: str) -> nn.Module:
    """A norm that stays: itself where it fits what arrives, else a fresh one of the right width (scale 1, shift 0)."""
    for width in (None, arriving.shape[-1], arriving.shape[1]):
        candidate = norm if width is None else _of_width(norm, width)
        try:
            run_weightless(candidate, arriving)
        except BlocksError:
            continue
        return candidate
    raise BlocksError(f"{path!r} stays on the cut network and fits no width of {tuple(arriving.shape)}: no known norm.")


def _of_width(norm: nn.Module, width: int) -> nn.Module:
    fresh: Any = copy.deepcopy(norm)
    for module in fresh.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.ndim == 1:
                ones = name in ("weight", "running_var")
                resized = tensor.new_ones(width) if ones else tensor.new_zeros(width)
                setattr(module, name, nn.Parameter(resized) if name in module._parameters else resized)
        if hasattr(module, "normalized_shape"):
            module.normalized_shape = (width,)
        if hasattr(module, "num_features"):
            module.num_features = width
    return fresh
