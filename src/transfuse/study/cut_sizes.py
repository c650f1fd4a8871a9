"""What an arm that is cut costs, counted without training it."""

from __future__ import annotations

from functools import cache
from typing import Literal

from transfuse.specs import InitSpec, ModelSpec
from transfuse.specs.arm import Depth, Level
from transfuse.study.network import Images, skeleton


def size_of(model: ModelSpec, init: InitSpec, images: Images) -> tuple[int, int]:
    """The parameters and MACs of an arm that is cut; counted once a process."""
    assert init.truncate is not None
    return _size_of(model, init.level, init.truncate, init.pool == "none", init.head == "mlp", images)


@cache
def _size_of(
    model: ModelSpec, level: Level, depth: Depth, unpooled: bool, mlp: bool, images: Images
) -> tuple[int, int]:
    from transfuse.models.complexity import complexity

    pool: Literal["none", "average"] = "none" if unpooled else "average"
    init = InitSpec(level=level, truncate=depth, pool=pool, head="mlp" if mlp else "fresh")
    found = complexity(skeleton(model, init, images), images.size, images.channels)
    return found.parameters, found.macs
