"""What a training is for, where the network's output is not one logit a class."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Objective(Protocol):
    """A loss and a validation of one's own for `fit`, which knows no more of them than this.

    What it keeps from validation to validation is part of the checkpoint, so that a training that goes on has it.
    """

    @property
    def name(self) -> str:
        """Says what it is, in a line: a checkpoint of another one is refused."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar, for the network's output."""

    def validate(self, model: nn.Module) -> dict[str, float] | None:
        """`loss`, the monitored metric and anything else; None where an output is not finite."""

    def state_dict(self) -> dict[str, Any]:
        """What is kept: tensors, numbers, strings, and lists and dictionaries of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint kept."""
