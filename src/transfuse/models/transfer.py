"""The record of an initialisation: what happened to every tensor of a network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple


class TensorTransfer(NamedTuple):
    """What happened to one entry of the state dict.

    Fields:
        name: the entry.
        block: the block that owns it, or "head".
        treatment: "transferred", "mean_var", "sampled", "shuffled", "gabor", "identity", "recalibrated", "random",
            "fresh" (the head) or "kept" (a buffer that no initialisation concerns).
        elements: how many numbers it holds.
        parameter: True for a parameter, False for a buffer (batch-norm statistics).
    """

    name: str
    block: str
    treatment: str
    elements: int
    parameter: bool


@dataclass(frozen=True)
class Transfer:
    """What `initialise_` did: one row an entry of the state dict, none left out, and how the source was fitted.

    Args:
        tensors: the rows, in the order of the state dict.
        source: the source's name, None without one.
        sha256: of the source's file, None if it was no file.
        licence: of the source, where known.
        first_layer: "" or how the first convolution was fitted, e.g. "sum: 3 to 1 channels".
        excused: entries of the source, or missing in it, that were left out on purpose, with the reason.
        depth: how many blocks were transferred.
        seed: of the random draws.
        renamed: which rules turned the source's names into the network's, and how many names each changed.
        fitted: entries that were brought into another shape, with what was done, e.g. ("pos_embed", "positions of
            14 x 14 patches resized to 7 x 7").
    """

    tensors: tuple[TensorTransfer, ...]
    source: str | None
    sha256: str | None
    licence: str | None
    first_layer: str
    excused: tuple[tuple[str, str], ...]
    depth: int
    seed: int
    renamed: tuple[tuple[str, int], ...] = ()
    fitted: tuple[tuple[str, str], ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many entries of the state dict had each treatment."""
        return dict(Counter(row.treatment for row in self.tensors))

    @property
    def parameters(self) -> int:
        """How many trainable numbers the network has."""
        return sum(row.elements for row in self.tensors if row.parameter)

    @property
    def transferred_share(self) -> float:
        """The transferred share of all parameters (0 to 1), the head included."""
        return self._share([row for row in self.tensors if row.parameter])

    @property
    def coverage(self) -> float:
        """The transferred share of the parameters below the head (0 to 1)."""
        return self._share([row for row in self.tensors if row.parameter and row.block != "head"])

    def rows(self) -> list[dict[str, object]]:
        """The rows as dictionaries, for a table."""
        return [row._asdict() for row in self.tensors]

    @staticmethod
    def _share(rows: list[TensorTransfer]) -> float:
        return sum(r.elements for r in rows if r.treatment == "transferred") / max(1, sum(r.elements for r in rows))
