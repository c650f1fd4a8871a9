"""Blocks of MobileNetV2 and EfficientNet as timm names them: a stem, stages of inverted residuals, a last 1 x 1 conv.

The candidate cuts of P are the ends of the inverted residuals (16 in EfficientNet-B0, 17 in MobileNetV2). M defines no
`wt-st` modules for this family: `stage` with `rest="mean_var"` does the same on its stages.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_STEM = Rule("stem", ("conv_stem", "bn1"), "bn1")  # timm's batch norm holds its activation
_LAST = Rule("conv_head", ("conv_head", "bn2"), "bn2")
_RESIDUALS = (_STEM, Rule("blocks.*.*"), _LAST)

PADDINGS = {"same": "same", "symmetric": ""}
"""Choices of padding, and what timm calls them as `pad_type`; weights converted from TensorFlow want "same"."""

PADDED = ("efficientnet", "mobilenetv3")
"""The modules of timm whose networks have that choice."""

EFFICIENTNET = Family(
    name="efficientnet",
    recognised_by=("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier"),
    head=("classifier",),
    levels={"stage": (_STEM, Rule("blocks.*"), _LAST), "block": _RESIDUALS, "layer": _RESIDUALS},
    pool="global_pool",
)
