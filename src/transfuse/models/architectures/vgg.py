"""Blocks of VGGs (11, 13, 16, 19, with batch norm or without) as timm and torchvision name them.

`block` and `layer`: every convolution with its norm and ReLU, the last one of a stage with its pooling; then the two
fully connected layers under the classifier, `pre_logits`. `stage`: the five groups between poolings, and `pre_logits`.
M defines no `wt-st` modules for this family.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_CONVOLUTIONS = ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))  # of VGG-11, 13, 16, 19 by stage
_PRE_LOGITS = Rule("pre_logits", ("pre_logits", *(f"classifier.{layer}" for layer in range(6))))  # timm, torchvision


def _stages(convolutions: tuple[int, ...], width: int) -> list[list[tuple[str, ...]]]:
    """The modules of every convolution of every stage; `width`: how many a convolution has (itself, norm, ReLU)."""
    stages, start = [], 0
    for count in convolutions:
        ends = [start + width * (number + 1) for number in range(count)]
        ends[-1] += 1  # the pooling
        starts = [start, *ends[:-1]]
        stages.append([tuple(f"features.{i}" for i in range(*ends)) for ends in zip(starts, ends, strict=True)])
        start = ends[-1]
    return stages


def _families(convolutions: tuple[int, ...], width: int) -> tuple[Family, Family]:
    stages = _stages(convolutions, width)
    layers = (*(Rule(paths[0], paths) for stage in stages for paths in stage), _PRE_LOGITS)
    groups = (
        *(Rule(f"stage{number}", tuple(p for paths in stage for p in paths)) for number, stage in enumerate(stages, 1)),
        _PRE_LOGITS,
    )
    levels = {"stage": groups, "block": layers, "layer": layers}
    last = stages[-1][-1][-1]
    return (
        Family("vgg", (last, "pre_logits", "head.fc"), ("head.fc",), levels, pool="head.global_pool"),
        Family("vgg", (last, "avgpool", "classifier.6"), ("classifier.6",), levels, pool="avgpool"),
    )


# The number of modules tells them apart: the deepest that is all there.
VGGS: tuple[Family, ...] = tuple(
    family
    for convolutions, width in sorted(((c, w) for c in _CONVOLUTIONS for w in (2, 3)), key=lambda x: -sum(x[0]) * x[1])
    for family in _families(convolutions, width)
)
