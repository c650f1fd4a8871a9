"""L2-SP: transferred weights are drawn back to the values with which the training began (Li et al. 2018, ICML)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import TrainingError, nearest
from transfuse.models.lora import plain_name


def anchored_parameters(
    model: nn.Module, anchored: Collection[str] | None, *, decay_1d: bool = True
) -> dict[str, nn.Parameter]:
    """The trained parameters that L2-SP draws back, by name.

    Args:
        model: parameters with `requires_grad=False` are left out: they stay where they are.
        anchored: names of entries of the state dict, such as those that were transferred; buffers among them are left
            out. Of a network with LoRA adapters, the names without them.
        decay_1d: False leaves out tensors with fewer than two dimensions.

    Raises TrainingError for no names, for a name that the network does not have, and for names of which none is trained
    (an empty list says that nothing was transferred, and is none).
    """
    if anchored is None:
        raise TrainingError(
            "l2_sp is set, but not which parameters were transferred: fit(..., anchored=[row.name for row in "
            "transfer.tensors if row.treatment == 'transferred'])"
        )
    keys = list(model.state_dict())
    known = {*keys, *map(plain_name, keys)}
    for name in anchored:
        if name not in known:
            raise TrainingError(f"the network has no parameter {name!r} to draw back (anchored): {nearest(name, keys)}")
    wanted = set(anchored)
    drawn = {
        name: parameter
        for name, parameter in model.named_parameters()
        if (name in wanted or plain_name(name) in wanted)
        and parameter.requires_grad
        and (decay_1d or parameter.ndim > 1)
    }
    if wanted and not drawn:
        raise TrainingError(
            f"l2_sp is set, but none of the {len(wanted)} entries that were transferred (the first is "
            f"{min(wanted)!r}) is a parameter that is trained: freeze less, or leave l2_sp out"
        )
    return drawn


def draw_back(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], strength: float) -> None:
    """From now on each step has the gradient of strength / 2 * ||w - w0||^2 added, w0 being the present values.

    The term joins the gradient where PyTorch's own `weight_decay` joins it: in the optimiser, after clipping. With
    w0 = 0 a step is bit for bit that of `weight_decay=strength` (of Adam and SGD).

    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = torch.optim.SGD([weight], lr=0.5)
    >>> draw_back(optimizer, [weight], 0.1)
    >>> weight.data += 2
    >>> weight.grad = torch.zeros(1)
    >>> optimizer.step()
    >>> round(weight.item(), 6)
    2.9
    """
    pairs = [(parameter, parameter.detach().clone()) for parameter in parameters]

    @torch.no_grad()
    def add_pull(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        moving = [pair for pair in pairs if pair[0].grad is not None]
        if not moving:
            return
        gradients: list[Tensor] = [parameter.grad for parameter, _ in moving if parameter.grad is not None]
        # one kernel for all tensors, as torch.optim's own steps; (w - w0) first, so that it is exactly 0 at w0
        away = torch._foreach_sub([parameter for parameter, _ in moving], [start for _, start in moving])
        torch._foreach_add_(gradients, away, alpha=strength)

    if pairs:
        optimizer.register_step_pre_hook(add_pull)
