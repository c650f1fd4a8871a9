"""Blocks of pre-activation ResNets of timm (ResNet-v2, BiT): the stem with its pooling, every block, the last norm.

M defines no `wt-st` modules for this family. The head is a convolution of 1 x 1.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_BLOCKS = (Rule("stem"), Rule("stages.*.blocks.*"), Rule("norm"))

RESNETV2 = Family(
    name="resnetv2",
    recognised_by=("stem.conv", "stages", "norm", "head.global_pool", "head.fc"),
    head=("head.fc",),
    levels={"stage": (Rule("stem"), Rule("stages.*"), Rule("norm")), "block": _BLOCKS, "layer": _BLOCKS},
    pool="head.global_pool",
)
