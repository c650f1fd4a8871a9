"""Blocks of networks that no family describes: of an `nn.Sequential` and, after a proof, of timm networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models.modules import MLPHead
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
    pooling, dropout) belongs to the part before it. Children with weights that stand at several places make one part of
    all that lies between the first and the last of them. Other networks must be timm's (they name their classifier):
    each direct child is a part, a child that is a sequence is one part a child; then a forward pass on the meta device
    must show that the parts run once each and in this order.

    Args:
        nested: whether sequences inside of sequences are taken apart too.
    """
    head = _classifier(model)
    if isinstance(head, Reason):
        return head.text
    parts = _parts(model, "", head, 99 if nested else int(not isinstance(model, nn.Sequential)))
    if not parts:
        return "nothing but its classifier has parameters"
    if isinstance(model, nn.Sequential):
        parts = _joined(model, parts)
        if reason := _in_two_parts(model, parts):
            return reason
    owned = [path for part in parts for path in part.paths]
    names = (name for name, _ in model.named_parameters(remove_duplicate=False))
    loose = [name for name in names if not any(name.startswith(f"{p}.") for p in [*owned, head])]
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
        every = list(model.named_modules(remove_duplicate=False))
        if heads := [name for name, module in every if isinstance(module, MLPHead)]:
            return heads[0]
        stateful = [(name, module) for name, module in every if _direct_state(module)]
        if not stateful or not isinstance(stateful[-1][1], nn.Linear):
            return Reason("its last layer with parameters is not the nn.Linear that a classifier would be")
        if len(places := [name for name, module in stateful if module is stateful[-1][1]]) > 1:
            return Reason(f"its last layer with parameters stands at several places of it ({', '.join(places)})")
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
    for name, child in module._modules.items():  # every place, of a child that stands at several too
        full = f"{path}.{name}" if path else name
        if child is None or full == head or isinstance(child, nn.Identity):  # what a network was cut off is an identity
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


def _joined(model: nn.Module, parts: list[Part]) -> list[Part]:
    """The parts, those that share a module with weights as one: the network cannot be cut between its two places."""
    joined: list[tuple[Part, set[int]]] = []
    for part in parts:
        every = (module for path in part.paths for module in model.get_submodule(path).modules())
        weights = {id(module) for module in every if _direct_state(module)}
        first = next((place for place, (_, others) in enumerate(joined) if others & weights), len(joined))
        between = [*joined[first:], (part, weights)]
        paths = tuple(path for other, _ in between for path in other.paths)
        whole = Part(between[0][0].name, paths, part.output)
        joined[first:] = [(whole, set().union(*(others for _, others in between)))]
    return [part for part, _ in joined]


def _in_two_parts(model: nn.Module, parts: list[Part]) -> str:
    """That a module without weights stands in several parts, so that its output is not one part's; "" if none does."""
    places: dict[nn.Module, dict[str, str]] = {}
    for part in parts:
        for path in part.paths:
            places.setdefault(model.get_submodule(path), {})[path] = part.name
    for module, found in places.items():
        if len(set(found.values())) > 1:
            first, second, *_ = found
            return (
                f"one {type(module).__name__} stands at {len(found)} places of it ({', '.join(found)}), so that it "
                "ends no block and a cut before its last place leaves it in. Give each place its own, which changes no "
                f"weight: model.set_submodule({second!r}, copy.deepcopy(model.get_submodule({first!r})))"
            )
    return ""


def _direct_state(module: nn.Module) -> bool:
    return any(True for _ in _own_tensors(module))


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def order_of_runs(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Modules by name in the order in which a forward pass without data ends them, as often as they run.

    Raises BlocksError where such a pass fails.
    """
    called: list[str] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: called.append(name))
        for name in names
    ]
    with hooked(*hooks):
        run_weightless(model, example_images(model))
    return called


def _out_of_order(model: nn.Module, outputs: list[str]) -> str:
    """Why the outputs do not run once each in the given order ("" if they do)."""
    try:
        called = order_of_runs(model, outputs)
    except BlocksError as error:
        return f"a forward pass without data fails ({str(error.__cause__ or error)[:120]})"
    if called == outputs:
        return ""
    pairs = zip_longest(called, outputs, fillvalue="the classifier")
    ran, listed = next((ran, listed) for ran, listed in pairs if ran != listed)
    return (
        f"its parts do not run once each in the order in which they are listed ({ran!r} runs where {listed!r} stands)"
    )
