"""How modules that no scheme knows start: as they reset themselves, or as their network created them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import TransferError
from transfuse.inits.plan import Entry
from transfuse.inits.roles import LAYERS
from transfuse.models.draws import generator_of

CREATED = "_created_with"  # attribute of a module: {name of a scale: the value throughout it when it was created}


class Starts:
    """What the modules of a network hold at their start.

    Scales without a reset (ConvNeXt's `gamma`) tell their start only as long as they are as created, which no trained
    one is: the same value throughout. The first initialisation of a network notes that value at the module. A parameter
    that its module's reset leaves alone has no known start either.

    Args:
        entries: the plan.
        target: the network's state dict, as it is before the initialisation.
        seed: of resets that draw.
    """

    def __init__(self, entries: Sequence[Entry], target: Mapping[str, Tensor], seed: int) -> None:
        self._seed = seed
        self._states: dict[str, dict[str, Tensor]] = {}
        for entry in entries:
            if entry.role == "scale":
                _note(entry, target[entry.name])

    def by_reset(self, entry: Entry) -> Tensor | None:
        """An entry after its module's `reset_parameters`, called on a copy of it; None for modules without one."""
        path = entry.name.rpartition(".")[0]
        if path not in self._states:
            self._states[path] = self._reset(entry.module, path) if _reset_of(entry.module) else {}
        return self._states[path].get(entry.leaf)

    def of_scale(self, entry: Entry, present: Tensor) -> Tensor:
        """A scale as its network creates it; raises TransferError if that cannot be known any more."""
        reset = self.by_reset(entry)
        if reset is not None:
            return reset
        if entry.leaf not in entry.module.__dict__.get(CREATED, {}):
            raise TransferError(
                f"{entry.name!r} of a {type(entry.module).__name__} was trained already, and its start is not known: "
                "initialise a network as create_model gives it, or take norm='transfer' or norm='mean_var'."
            )
        return torch.full_like(present, entry.module.__dict__[CREATED][entry.leaf], device="cpu")

    def _reset(self, module: nn.Module, path: str) -> dict[str, Tensor]:
        clone: Any = copy.deepcopy(module).to("cpu")
        with torch.no_grad():
            for parameter in clone.parameters(recurse=False):
                if parameter.is_floating_point():
                    parameter.fill_(math.nan)  # what is still so afterwards was not reset
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(generator_of(self._seed, path).initial_seed())
        try:
            getattr(clone, _reset_of(clone))()
        finally:
            torch.set_rng_state(state)
        own = {name: tensor for name, tensor in clone.state_dict().items() if "." not in name}
        return {name: tensor for name, tensor in own.items() if not tensor.isnan().any()}


def _reset_of(module: nn.Module) -> str:
    """The name of the method by which a module starts anew, "" for none; torch's attention calls it private."""
    if isinstance(module, LAYERS):  # whose weights and biases have schemes; their reset knows of nothing else
        return ""
    names = ("reset_parameters", "_reset_parameters")
    return next((name for name in names if callable(getattr(module, name, None))), "")


def _note(entry: Entry, present: Tensor) -> None:
    created: dict[str, float] = entry.module.__dict__.setdefault(CREATED, {})
    if entry.leaf not in created and bool((present == present.flatten()[:1]).all()):
        created[entry.leaf] = float(present.flatten()[0])
