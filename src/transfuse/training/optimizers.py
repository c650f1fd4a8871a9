"""Optimisers: Adam, AdamW and SGD, with a rate of its own for the head and without decay of 1-D tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from transfuse.errors import TrainingError, nearest


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How a gradient becomes a step.

    Attributes:
        name: `adam` (weight decay as an L2 term, as all four papers use it), `adamw` (decoupled decay) or `sgd`.
        learning_rate: of every parameter, or of all but the head's where `head_learning_rate` is given.
        head_learning_rate: the head's; `fit(..., head=blocks.head)` says which parameters those are.
        weight_decay: 0 or more.
        decay_1d: False spares tensors with fewer than two dimensions (biases, norm layers), as M does.
        momentum, nesterov: for `sgd` only.
        clip_norm: the gradient is scaled down to this L2 norm where it is longer; None leaves it.

    Raises:
        TrainingError: a value out of its range, or an unknown name.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    weight_decay: float = 0.0
    decay_1d: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise TrainingError(f"the optimizer {self.name!r} is unknown: {nearest(self.name, OPTIMIZERS)}")
        for field in ("learning_rate", "head_learning_rate", "clip_norm"):
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise TrainingError(f"{field} is {value}; expected a positive number")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise TrainingError(f"weight_decay is {self.weight_decay}; expected 0 or more")
        if not 0 <= self.momentum < 1:
            raise TrainingError(f"momentum is {self.momentum}; expected a number in [0, 1)")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise TrainingError(f"nesterov goes with sgd and a momentum above 0, not with {self.name}")


def make_optimizer(model: nn.Module, settings: Optimizer, head: Iterable[str] = ()) -> torch.optim.Optimizer:
    """PyTorch's optimiser over the parameters of `model` that require a gradient.

    Each parameter group holds its own rate as `base_rate`, which a schedule scales.

    Args:
        model: parameters with `requires_grad=False` (frozen) take no part.
        settings: see `Optimizer`.
        head: names of parameters or of modules; `"fc"` means `fc.weight` and `fc.bias`, never `fc2.weight`.

    Raises:
        TrainingError: nothing to train, a head that the network does not have, or a head's rate without a head.

    >>> optimizer = make_optimizer(nn.Linear(2, 2), Optimizer(weight_decay=0.1, decay_1d=False))
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.1), (1, 0.0)]
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    is_head = _head_test(model, settings, tuple(head))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = settings.head_learning_rate if is_head(name) else settings.learning_rate
        decay = settings.weight_decay if settings.decay_1d or parameter.ndim > 1 else 0.0
        groups.setdefault((float(rate or 0.0), decay), []).append(parameter)
    if not groups:
        raise TrainingError("every parameter of the network is frozen, there is nothing to train: unfreeze the head")
    parameters = [
        {"params": members, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    return OPTIMIZERS[settings.name](parameters, settings)


def _head_test(model: nn.Module, settings: Optimizer, head: Sequence[str]) -> Callable[[str], bool]:
    if settings.head_learning_rate is None:
        return lambda name: False
    if not head:
        raise TrainingError(
            f"head_learning_rate is {settings.head_learning_rate}, but no head is named: fit(..., head=blocks.head)"
        )
    names = [name for name, _ in model.named_parameters()]
    # path parts, so that the head "layer3.1" is not also layer3.10
    prefixes = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
    for wanted in head:
        if wanted not in prefixes:
            raise TrainingError(f"the network has no parameter under the head {wanted!r}: {nearest(wanted, names)}")
    return lambda name: any(name == wanted or name.startswith(f"{wanted}.") for wanted in head)


OPTIMIZERS: dict[str, Callable[[list[dict], Optimizer], torch.optim.Optimizer]] = {
    "adam": lambda groups, _: torch.optim.Adam(groups),
    "adamw": lambda groups, _: torch.optim.AdamW(groups),
    "sgd": lambda groups, settings: torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov),
}
