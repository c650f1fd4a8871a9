"""Blocks of Inception-v3 as timm and torchvision name it.

`layer` are M's 16 feature layers (5 convolutions with norm and ReLU, 11 mixed modules), `wt-st` and `stage` its seven
modules (M, table 2; METHODS 1.5). A pooling belongs to the convolution under it; the tap of `layer` is before it, as in
M's code, so the network is not cut there. torchvision's auxiliary classifier is no block: create it without.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.family import Family, Rule

# timm calls the two poolings Pool1 and Pool2, torchvision maxpool1 and maxpool2.
_CONV_2B = ("Conv2d_2b_3x3", "Pool1", "maxpool1")
_CONV_4A = ("Conv2d_4a_3x3", "Pool2", "maxpool2")
_MIXED = (Rule("Mixed_5*"), Rule("Mixed_6*"), Rule("Mixed_7*"))
_MODULES = (
    Rule("Conv2d_1", ("Conv2d_1a_3x3",)),
    Rule("Conv2d_2", ("Conv2d_2a_3x3", *_CONV_2B)),
    Rule("Conv2d_3", ("Conv2d_3b_1x1",)),
    Rule("Conv2d_4", _CONV_4A),
    Rule("Mixed_5", ("Mixed_5b", "Mixed_5c", "Mixed_5d")),
    Rule("Mixed_6", ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")),
    Rule("Mixed_7", ("Mixed_7a", "Mixed_7b", "Mixed_7c")),
)

INCEPTION = Family(
    name="inception",
    recognised_by=("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_7c", "global_pool", "fc"),
    head=("fc",),
    levels={
        "stage": _MODULES,
        "block": (
            Rule("Conv2d_1a_3x3"),
            Rule("Conv2d_2a_3x3"),
            Rule("Conv2d_2b_3x3", _CONV_2B),
            Rule("Conv2d_3b_1x1"),
            Rule("Conv2d_4a_3x3", _CONV_4A),
            *_MIXED,
        ),
        "layer": (
            Rule("Conv2d_1a_3x3"),
            Rule("Conv2d_2a_3x3"),
            Rule("Conv2d_2b_3x3", _CONV_2B, "Conv2d_2b_3x3", cut=False),
            Rule("Conv2d_3b_1x1"),
            Rule("Conv2d_4a_3x3", _CONV_4A, "Conv2d_4a_3x3", cut=False),
            *_MIXED,
        ),
        "wt-st": _MODULES,
    },
    pool="global_pool",
)

TORCHVISION_INCEPTION = replace(
    INCEPTION,
    recognised_by=("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_7c", "avgpool", "fc"),
    pool="avgpool",
)
