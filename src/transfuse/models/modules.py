"""The modules of a network by all of their names, and what some of them are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import Tensor, nn

from transfuse.errors import nearest


class MLPHead(nn.Sequential):
    """A classifier of two linear layers with a ReLU between them, which `truncate` puts on a network where asked to."""


class Skipped(nn.Identity):
    """An `nn.Identity` for a block that is called with more than one argument: returns the first."""

    def forward(self, input: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Returns `input`."""
        return input


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by each of its names: one that is registered twice has two, as its entries in the state dict.

    >>> shared = nn.Linear(2, 2)
    >>> list(modules_of(nn.Sequential(shared, shared)))
    ['', '0', '1']
    """
    return dict(model.named_modules(remove_duplicate=False))


def first_names(model: nn.Module) -> dict[str, str]:
    """For every name of a module the first one of the same module, under which `named_modules` lists it."""
    first = {id(module): name for name, module in model.named_modules()}
    return {name: first[id(module)] for name, module in modules_of(model).items()}


def nearest_name(name: object, names: Iterable[str], most: int = 12) -> str:
    """The end of a message about an unknown name among hundreds: those most like it stand first.

    >>> nearest_name("conv9", ["bn1", "conv1", "fc", ""], most=2)
    "did you mean 'conv1'? Choices: conv1, bn1, ... (3 in all)"
    """
    known = list(dict.fromkeys(filter(None, names)))
    like = difflib.get_close_matches(str(name), known, n=most, cutoff=0.5)
    return nearest(name, dict.fromkeys([*like, *known]), most=most)


def is_empty(module: nn.Module) -> bool:
    """Whether a module is `nn.Identity`, or holds nothing else."""
    if isinstance(module, nn.Identity):
        return True
    children = list(module.children())
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(children) and not own and all(is_empty(child) for child in children)


def wrapped_under(model: nn.Module) -> str:
    """The name under which torch.compile, DataParallel or DistributedDataParallel keep a network, "" for others."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return "_orig_mod" if "_orig_mod" in model._modules else ""
