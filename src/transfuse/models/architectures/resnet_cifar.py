"""Blocks of the CIFAR-10 ResNets of He et al. (2015, section 4.2): a stem without pooling and three stages.

They are cut as the other ResNets. M defines no `wt-st` modules for networks of three stages.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_STEM = Rule("stem", ("conv1", "bn1"), "relu")
_RESIDUAL_BLOCKS = (Rule("layer1.*"), Rule("layer2.*"), Rule("layer3.*"))

RESNET_CIFAR = Family(
    name="resnet_cifar",
    recognised_by=("conv1", "bn1", "relu", "layer1", "layer2", "layer3", "global_pool", "fc"),
    head=("fc",),
    levels={
        "stage": (_STEM, Rule("layer1"), Rule("layer2"), Rule("layer3")),
        "block": (_STEM, *_RESIDUAL_BLOCKS),
        "layer": (Rule("conv1", ("conv1", "bn1"), "conv1", cut=False), *_RESIDUAL_BLOCKS),
    },
    pool="global_pool",
)
