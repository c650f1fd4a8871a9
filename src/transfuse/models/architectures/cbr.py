"""Blocks of the CBR family: one a layer, cut after its pooling (T, section 3 and appendix E)."""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_LAYERS = (Rule("layer*"),)

CBR = Family(
    name="cbr",
    recognised_by=("layer1", "layer2", "layer3", "layer4", "global_pool", "flatten", "head"),
    head=("head",),
    levels={"stage": _LAYERS, "block": _LAYERS, "layer": _LAYERS},
    pool="global_pool",
)
