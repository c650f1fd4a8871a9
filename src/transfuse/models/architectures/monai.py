"""Blocks of MONAI's DenseNet: those of the 2D one, except that the ReLU after the last norm is a module of its head.

That ReLU works in place and so overwrites the norm's output: the block ends after it, as in timm. MONAI's ResNets have
the modules of torchvision's and need no data of their own.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.densenet import DENSENET
from transfuse.models.architectures.family import Family, Rule

_LAST_RELU = "class_layers.relu"


def _with_relu(rule: Rule) -> Rule:
    return replace(rule, paths=(*(rule.paths or (rule.name,)), _LAST_RELU), output=_LAST_RELU)


MONAI_DENSENET = Family(
    name="monai_densenet",
    recognised_by=("features.conv0", "features.denseblock1", "features.norm5", "class_layers.pool", "class_layers.out"),
    head=("class_layers.out",),
    levels={  # the last rule of each holds the last norm
        level: (*rules[:-1], *(_with_relu(rule) for rule in rules[-1:] if isinstance(rule, Rule)))
        for level, rules in DENSENET.levels.items()
    },
    pool="class_layers.pool",
)
