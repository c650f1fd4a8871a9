"""What a study says while it runs; whoever listens decides how to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on from a checkpoint (`again`); an analysis has no steps to count."""

    run_id: str
    title: str
    steps: int | None
    again: bool = False


@dataclass(frozen=True)
class Validated:
    """A validation within a run; `repeated` if it was done before the run was interrupted."""

    run_id: str
    step: int
    epoch: float
    monitor: str
    value: float | None
    train_loss: float
    best: bool
    repeated: bool = False


@dataclass(frozen=True)
class Ended:
    """A run has ended with a record: `finished` or `diverged`."""

    run_id: str
    title: str
    status: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A run stopped with an error; it is tried again at the next start."""

    run_id: str
    title: str
    message: str


@dataclass(frozen=True)
class Note:
    """Something a person should know."""

    text: str


Event = Started | Validated | Ended | Failed | Note
Tell = Callable[[Event], None]
