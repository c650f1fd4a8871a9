"""Blocks of TF-slim's pre-activation ResNet-50 (`resnet50_tfslim_v2`): T's conv1 and Block1 to Block4.

The norm on top, which no paper speaks of, belongs to the last unit: what the head sees is the output of the last block,
and there are M's 17 feature layers. M's `wt-st` modules (conv1, its norm, four stages) are not defined here, for the
first convolution has no norm. `resnet50_tfslim_v1` has the modules of other ResNets and is cut as they are.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_STEM = Rule("stem", ("conv1",), "pool1")
_UNITS = (
    *(Rule("block1.*"), Rule("block2.*"), Rule("block3.*"), Rule("block4.0"), Rule("block4.1")),
    Rule("block4.2", ("block4.2", "postnorm"), "act"),
)

TFSLIM_V2 = Family(
    name="resnet_tfslim_v2",
    recognised_by=("conv1", "pool1", "block1", "block2", "block3", "block4", "postnorm", "head"),
    head=("head",),
    levels={
        "stage": (
            *(_STEM, Rule("block1"), Rule("block2"), Rule("block3")),
            Rule("block4", ("block4", "postnorm"), "act"),
        ),
        "block": (_STEM, *_UNITS),
        "layer": (Rule("conv1"), *_UNITS),
    },
    pool="global_pool",
)
