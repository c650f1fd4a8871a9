"""How long trainings are, in steps: of an epoch, from one validation to the next, and in all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from transfuse.specs import RunSpec, TrainSpec

if TYPE_CHECKING:
    from transfuse.data import Split


class Lengths(NamedTuple):
    """How long a training is, and the distance of its validations, in steps; the distance may be a fraction."""

    steps: int
    period: float


def steps_per_epoch(train: TrainSpec, images: int) -> int:
    """Batches in which so many images are seen once; the last may be smaller.

    >>> steps_per_epoch(TrainSpec(epochs=1, batch_size=32), 100)
    4
    """
    return math.ceil(images / train.batch_size)


def lengths_of(train: TrainSpec, images: int) -> Lengths:
    """How long a training on so many images is, if nothing stops it before its end.

    >>> lengths_of(TrainSpec(epochs=3, batch_size=32, validate_every=0.5), 100)
    Lengths(steps=12, period=2.0)
    """
    an_epoch, every = steps_per_epoch(train, images), train.validate_every
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 0) * an_epoch))
    return Lengths(steps, float(every if isinstance(every, int) else every * an_epoch))


def total_steps(spec: RunSpec, split: Split) -> int:
    """How many steps a run takes at most."""
    return lengths_of(spec.train, len(split.train)).steps
