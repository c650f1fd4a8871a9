"""A network as a fixed function of its input, for methods that need gradients but no training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from transfuse.analysis.activations import undisturbed

__all__ = ["constant"]


@contextmanager
def constant(model: nn.Module) -> Iterator[None]:
    """The network in eval mode with gradients on, but none for its parameters.

    So nothing is written to their `.grad`, and frozen networks and others are treated alike. Afterwards modes,
    `requires_grad` and the random generators are as they were, also after an exception.

    >>> model = nn.Linear(2, 1)
    >>> with constant(model):
    ...     model(torch.ones(1, 2)).requires_grad
    False
    >>> model.weight.requires_grad
    True
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with undisturbed(model), torch.enable_grad():
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
