"""Optimisers: Adam, AdamW and SGD; rates of the head and of each block, and which tensors decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from transfuse.errors import TrainingError, nearest
from transfuse.models.blocks import Blocks, check_blocks
from transfuse.training.l2_sp import anchored_parameters


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How a gradient becomes a step.

    Attributes:
        name: `adam` (weight decay as an L2 term, as all four papers use it), `adamw` (decoupled decay) or `sgd`.
        learning_rate: of every parameter, or of all but the head's where `head_learning_rate` is given.
        head_learning_rate: the head's; `fit(..., head=blocks.head)` says which parameters those are.
        weight_decay: 0 or more.
        decay_1d: False spares tensors with fewer than two dimensions (biases, norm layers), as M does, from `l2_sp`
            too.
        momentum, nesterov: for `sgd` only.
        clip_norm: the gradient is scaled down to this L2 norm where it is longer; None leaves it.
        layer_decay: in (0, 1]; block i of n, counted from the image, learns at learning_rate * layer_decay ** (n + 1 -
            i), so the last block at learning_rate * layer_decay. The head, and norms on top of the blocks, keep the
            full rate and are not counted. This is BEiT's rule (Bao et al. 2022), whose embeddings are the first block;
            in ELECTRA (Clark et al. 2020) every block is one step lower. Needs `fit(..., blocks=blocks)`.
        l2_sp: alpha of L2-SP (Li et al. 2018), a penalty alpha / 2 * ||w - w0||^2 on the transferred parameters, w0
            being their first values; they have no other weight decay, and the others (beta) have `weight_decay`. With
            every optimiser it is a term of the gradient, with `adamw` too, whose `weight_decay` alone is decoupled; as
            `weight_decay` it is not clipped. Needs `fit(..., anchored=names)`.

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
    layer_decay: float | None = None
    l2_sp: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise TrainingError(f"the optimizer {self.name!r} is unknown: {nearest(self.name, OPTIMIZERS)}")
        for field in ("learning_rate", "head_learning_rate", "clip_norm", "l2_sp"):
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise TrainingError(f"{field} is {value}; expected a positive number")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise TrainingError(f"weight_decay is {self.weight_decay}; expected 0 or more")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise TrainingError(f"layer_decay is {self.layer_decay}; expected a number in (0, 1], e.g. 0.75")
        if not 0 <= self.momentum < 1:
            raise TrainingError(f"momentum is {self.momentum}; expected a number in [0, 1)")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise TrainingError(f"nesterov goes with sgd and a momentum above 0, not with {self.name}")


def make_optimizer(
    model: nn.Module,
    settings: Optimizer,
    head: Iterable[str] = (),
    blocks: Blocks | None = None,
    anchored: Collection[str] | None = None,
) -> torch.optim.Optimizer:
    """PyTorch's optimiser over the parameters of `model` that require a gradient.

    Each parameter group holds its own rate as `base_rate`, which a schedule scales. L2-SP is not in it yet: see
    `draw_back`, which must know when the training begins.

    Args:
        model: parameters with `requires_grad=False` (frozen) take no part.
        settings: see `Optimizer`.
        head: names of parameters or of modules; `"fc"` means `fc.weight` and `fc.bias`, never `fc2.weight`.
        blocks: the network's, for `layer_decay`.
        anchored: names of the transferred parameters, for `l2_sp`.

    Raises:
        TrainingError: nothing to train, a head that the network does not have, a head's rate without a head,
            `layer_decay` without blocks, `l2_sp` without names.
        BlocksError: blocks that are not this network's.

    >>> optimizer = make_optimizer(nn.Linear(2, 2), Optimizer(weight_decay=0.1, decay_1d=False))
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.1), (1, 0.0)]
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    is_head = _head_test(model, settings, tuple(head))
    share = _layer_shares(model, settings, blocks)
    drawn_back = anchored_parameters(model, anchored) if settings.l2_sp is not None else {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = settings.head_learning_rate if is_head(name) else settings.learning_rate * share(name)
        decays = name not in drawn_back and (settings.decay_1d or parameter.ndim > 1)
        groups.setdefault((float(rate or 0.0), settings.weight_decay if decays else 0.0), []).append(parameter)
    if not groups:
        raise TrainingError("every parameter of the network is frozen, there is nothing to train: unfreeze the head")
    parameters = [
        {"params": members, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    return OPTIMIZERS[settings.name](parameters, settings)


def _layer_shares(model: nn.Module, settings: Optimizer, blocks: Blocks | None) -> Callable[[str], float]:
    """Which share of the learning rate a parameter learns at, by its name."""
    if settings.layer_decay is None:
        return lambda name: 1.0
    if blocks is None:
        raise TrainingError(
            f"layer_decay is {settings.layer_decay}, but the network's blocks are not given: "
            "fit(..., blocks=blocks_of(model, 'block'))"
        )
    check_blocks(model, blocks)
    from_top = [block.name for block in blocks if not block.stays][::-1]
    shares = {name: settings.layer_decay**steps for steps, name in enumerate(from_top, start=1)}
    return lambda name: shares.get(blocks.owner(name), 1.0)


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
