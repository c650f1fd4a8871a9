"""Blocks of MONAI's DenseNet and BasicUNet.

Those of the DenseNet are those of the 2D one, except that the ReLU after the last norm is a module of its head. That
ReLU works in place and so overwrites the norm's output: the block ends after it, as in timm. MONAI's ResNets have the
modules of torchvision's and need no data of their own.

Those of the U-Net are the levels of its encoder, then those of its decoder; in `layer` each convolution with its norm,
and each transposed one. None is a cut for `truncate`: skips pass over every border inside, and above the last block
there is a map; `truncate_unet` cuts encoder and decoder together.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.densenet import DENSENET
from transfuse.models.architectures.family import Each, Family, Rule

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

_ENCODER = (Rule("conv_0", cut=False), Rule("down_*", cut=False))
_DECODER = Rule("upcat_*", cut=False)  # from the deepest on, as the network has them

BASIC_UNET = Family(
    name="monai_basic_unet",
    recognised_by=("conv_0.conv_0", "conv_0.conv_1", "down_1", "down_4", "upcat_4", "upcat_1", "final_conv"),
    head=("final_conv",),
    levels={
        "stage": (*_ENCODER, _DECODER),
        "block": (*_ENCODER, _DECODER),
        "layer": (
            Rule("conv_0.*", cut=False),
            Rule("down_*.convs.*", cut=False),
            Each("upcat_*", (Rule("{}.upsample", cut=False), Rule("{}.convs.*", cut=False))),
        ),
    },
)
