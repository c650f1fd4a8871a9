"""Blocks of networks that no family describes: of an `nn.Sequential` and, after a proof, of timm networks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models.weightless import example_images, hooked, run_weightless


class Part(NamedTuple):
    """A block in the making: the modules it owns and the module whose output is its own."""

    name: str
    paths: tuple[str, ...]
    output: str


class Parts(NamedTuple):
    """The parts in order, and the path of the classifier."""

    items: tuple[Part, ...]
    head: tuple[str, ...]


def generic_blocks(model: nn.Module, *, nested: bool) -> Parts | str:
    """The blocks of a network of no known family, or the reason why there are none (a clause).

    A sequence runs its children in order by construction, so they are its parts; a child without state (activation,
    pooling, dropout) belongs to the part before it. Other networks must be timm's (they name their classifier): each
    direct child is a part, a child that is a sequence is one part a child; then a forward pass on the meta device must
    show that the parts run once each and in this order.

    Args:
        nested: whether sequences inside of sequences are taken apart too.
    """
    head = _classifier(model)
    if isinstance(head, Reason):
        return head.text
    parts = _parts(model, "", head, 99 if nested else int(not isinstance(model, nn.Sequential)))
    if not parts:
        return "nothing but its classifier has parameters"
    owned = [path for part in parts for path in part.paths]
    loose = [name for name, _ in model.named_parameters() if not any(name.startswith(f"{p}.") for p in [*owned, head])]
    if loose:
        return f"these parameters belong to no single step of it: {', '.join(loose[:8])}"
    if not isinstance(model, nn.Sequential) and (reason := _out_of_order(model, [part.output for part in parts])):
        return reason
    return Parts(tuple(parts), (head,))


class Reason(NamedTuple):
    """Why something cannot be said."""

    text: str


def _classifier(model: nn.Module) -> str | Reason:
    names = {module: name for name, module in model.named_modules()}
    if isinstance(model, nn.Sequential):
        stateful = [(name, module) for name, module in model.named_modules() if _direct_state(module)]
        if not stateful or not isinstance(stateful[-1][1], nn.Linear):
            return Reason("its last layer with parameters is not the nn.Linear that a classifier would be")
        return stateful[-1][0]
    named = getattr(model, "get_classifier", None)
    found = named() if callable(named) else None
    if not isinstance(found, nn.Module) or found not in names or not list(found.parameters()):
        return Reason("it is neither a family that is described, nor an nn.Sequential, nor a timm network with a head")
    return names[found]


def _parts(module: nn.Module, path: str, head: str, levels: int) -> list[Part]:
    """Parts of the children of `module`; sequences are opened for `levels` levels, what holds the head always."""
    parts: list[Part] = []
    ordered = isinstance(module, nn.Sequential)
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        if full == head or isinstance(child, nn.Identity):  # what a network was cut off is an identity
            continue
        if not child.state_dict():
            if ordered and parts and parts[-1].output.rpartition(".")[0] == path:
                last = parts[-1]
                parts[-1] = Part(last.name, (*last.paths, full), full)
        elif head.startswith(f"{full}."):
            parts += _parts(child, full, head, 0)
        elif isinstance(child, nn.Sequential) and levels > 0:
            parts += _parts(child, full, head, levels - 1)
        else:
            parts.append(Part(full, (full,), full))
    return parts


def _direct_state(module: nn.Module) -> bool:
    return any(True for _ in _own_tensors(module))


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _out_of_order(model: nn.Module, outputs: list[str]) -> str:
    """Why the outputs do not run once each in the given order ("" if they do)."""
    called: list[str] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: called.append(name))
        for name in outputs
    ]
    try:
        with hooked(*hooks):
            run_weightless(model, example_images(model))
    except BlocksError as error:
        return f"a forward pass without data fails ({str(error.__cause__ or error)[:120]})"
    if called == outputs:
        return ""
    pairs = zip_longest(called, outputs, fillvalue="the classifier")
    ran, listed = next((ran, listed) for ran, listed in pairs if ran != listed)
    return (
        f"its parts do not run once each in the order in which they are listed ({ran!r} runs where {listed!r} stands)"
    )
