"""Blocks of ConvNeXts of timm: the stem, every block of four stages, the norm in the head, which stays at a cut.

The downsampling between two stages belongs to the first block of the next one, where timm runs it. M defines no `wt-st`
modules for this family.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Each, Family, Rule

_TOP = (Rule("norm_pre", stays=True), Rule("norm", ("head.norm",), stays=True))  # a network has one of the two
_BLOCKS = (
    Rule("stem"),
    Each("stages.*", (Rule("{}.blocks.0", ("{}.downsample", "{}.blocks.0")), Rule("{}.blocks.[!0]*"))),
    *_TOP,
)

CONVNEXT = Family(
    name="convnext",
    recognised_by=("stem.0", "stages", "norm_pre", "head.global_pool", "head.fc"),
    head=("head.fc",),
    levels={"stage": (Rule("stem"), Rule("stages.*"), *_TOP), "block": _BLOCKS, "layer": _BLOCKS},
    pool="head.global_pool",
    random="trunc_normal",
)
