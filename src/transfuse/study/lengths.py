"""How long trainings are, in steps: of an epoch, from one validation to the next, and in all."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from transfuse.specs import InitSpec, ModelSpec, RunSpec, TrainSpec
from transfuse.specs.arm import NEW_HEADS
from transfuse.study.network import Images, skeleton
from transfuse.study.sources import images_of

if TYPE_CHECKING:
    from transfuse.data import Split


class Lengths(NamedTuple):
    """How long a training is, and the distance of its validations, in steps; the distance may be a fraction."""

    steps: int
    period: float


def steps_per_epoch(train: TrainSpec, images: int, *, batch_norm: bool = False) -> int:
    """Batches in which so many images are seen once; the last may be smaller, but with batch norm no single image.

    >>> steps_per_epoch(TrainSpec(epochs=1, batch_size=32), 100)
    4
    >>> steps_per_epoch(TrainSpec(epochs=1, batch_size=32), 97, batch_norm=True)
    3
    """
    from transfuse.training.batches import steps_of_epoch

    return max(1, steps_of_epoch(images, train.batch_size, batch_norm=batch_norm))


def lengths_of(train: TrainSpec, images: int, *, batch_norm: bool = False) -> Lengths:
    """How long a training on so many images is, if nothing stops it before its end.

    Args:
        train: its settings.
        images: of its training part.
        batch_norm: whether the network has batch norm.

    >>> lengths_of(TrainSpec(epochs=3, batch_size=32, validate_every=0.5), 100)
    Lengths(steps=12, period=2.0)
    """
    an_epoch, every = steps_per_epoch(train, images, batch_norm=batch_norm), train.validate_every
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 0) * an_epoch))
    return Lengths(steps, float(every if isinstance(every, int) else every * an_epoch))


def lengths_with(model: ModelSpec, init: InitSpec, train: TrainSpec, split: Split) -> Lengths:
    """How long the training of an arm of a network is; the network is built where its norms decide that."""
    count = len(split.train)
    decides = steps_per_epoch(train, count, batch_norm=True) != steps_per_epoch(train, count)
    normed = decides and _has_batch_norm(model, _shape(init), images_of(split))
    return lengths_of(train, count, batch_norm=normed)


def total_steps(spec: RunSpec, split: Split) -> int:
    """How many steps a run takes at most."""
    return lengths_with(spec.model, spec.init, spec.train, split).steps


def _shape(init: InitSpec) -> tuple[tuple[str, Any], ...]:
    """What of an arm decides the modules of its network."""
    found = {"level": init.level, "truncate": init.truncate, "pool": init.pool, "slim": init.slim}
    return (*found.items(), *((("head", init.head),) if init.head in NEW_HEADS else ()))


@cache
def _has_batch_norm(model: ModelSpec, shape: tuple[tuple[str, Any], ...], images: Images) -> bool:
    from transfuse.training.batches import has_batch_norm

    return has_batch_norm(skeleton(model, InitSpec(**dict(shape)), images))
