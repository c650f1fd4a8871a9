"""Blocks of ResNets as timm and torchvision name them, and of their relatives with the same children.

`stage` and `block` follow T (conv1, Block1..4) and P (the candidate cuts: stem, then every residual block; the stem
ends after its pooling). `layer` are the feature layers of M (conv1 before its norm, then every residual block: 17 for
ResNet-50). `wt-st` is M's table 2: conv1, bn1 and four stages. A stem of three convolutions (ResNet-10-t, ResNet-D)
is one module `conv1`, so it needs no rule of its own.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.family import Family, Rule, SmallStem

_STEM = Rule("stem", ("conv1", "bn1"), "maxpool")
_STAGES = (Rule("layer1"), Rule("layer2"), Rule("layer3"), Rule("layer4"))
_RESIDUAL_BLOCKS = (Rule("layer1.*"), Rule("layer2.*"), Rule("layer3.*"), Rule("layer4.*"))

RESNET = Family(
    name="resnet",
    recognised_by=("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4", "fc"),
    head=("fc",),
    levels={
        "stage": (_STEM, *_STAGES),
        "block": (_STEM, *_RESIDUAL_BLOCKS),
        # The tap is the convolution's output, as in M's code, but its batch norm comes along: no cut between them.
        "layer": (Rule("conv1", ("conv1", "bn1"), "conv1", cut=False), *_RESIDUAL_BLOCKS),
        "wt-st": (Rule("conv1"), Rule("bn1"), *_STAGES),
    },
    pool="global_pool",
)

# V, appendix A: the 7 x 7 convolution and the pooling are replaced by one 3 x 3 convolution of stride 1 (MOD-9).
SMALL_STEM = SmallStem("conv1", "maxpool", width=64, kernel=3)

WITH_SMALL_STEM = {f"resnet{layers}_cifar": f"resnet{layers}" for layers in (18, 34, 50, 101, 152)}
"""Networks with that stem, and what timm calls the network that gets it."""

TORCHVISION_RESNET = replace(RESNET, recognised_by=(*RESNET.recognised_by, "avgpool"), pool="avgpool")
