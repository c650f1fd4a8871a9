"""A forward pass that ends where enough is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from transfuse.models.weightless import hooked


def outputs_until(model: nn.Module, paths: Sequence[str], images: Tensor) -> dict[str, Any]:
    """The outputs of modules in one forward pass, which ends with the last of `paths`; nothing after it is run.

    Tensors among them are copies, since a later in-place activation would overwrite them. A module that is not run has
    no output here. Modes and gradients are the caller's.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(5, 1))  # the last one would fail
    >>> [tuple(output.shape) for output in outputs_until(network, ["0", "1"], torch.zeros(4, 3)).values()]
    [(4, 2), (4, 2)]
    """
    kept: dict[str, Any] = {}

    def keeper(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[path] = _copied(output)
            if path == paths[-1]:
                raise _EnoughError

        return keep

    handles = [model.get_submodule(path).register_forward_hook(keeper(path)) for path in dict.fromkeys(paths)]
    try:
        with hooked(*handles):
            model(images)
    except _EnoughError:
        pass
    return kept


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return [_copied(part) for part in output] if isinstance(output, list | tuple) else output


class _EnoughError(Exception):
    """Ends the forward pass; nothing went wrong."""
