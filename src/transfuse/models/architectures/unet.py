"""Blocks of U-Nets of segmentation-models-pytorch with a ResNet as encoder: its blocks, then those of the decoder.

None of them is a cut: skips pass over every border inside, and above the last block there is a map and no vector;
`truncate_unet` cuts encoder and decoder together. Cut above its stem, a U-Net has no pooling: the stem ends with its
activation. M defines no `wt-st` modules for this family; in `layer` the tap of the first convolution is before its
norm.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Family, Rule

_FIRST = ("encoder.conv1", "encoder.bn1")
STEM_POOL = "encoder.maxpool"
"""Makes the stem's map half as large for the first stage; a U-Net that ends with its stem has none."""
_STEM = Rule("encoder.stem", (*_FIRST, "encoder.relu", STEM_POOL), cut=False)
_STAGES = tuple(Rule(f"encoder.layer{stage}", cut=False) for stage in (1, 2, 3, 4))
_RESIDUAL_BLOCKS = tuple(Rule(f"encoder.layer{stage}.*", cut=False) for stage in (1, 2, 3, 4))
_DECODER = Rule("decoder.blocks.*", cut=False)

UNET = Family(
    name="unet",
    recognised_by=("encoder.conv1", "encoder.layer4", "decoder.blocks", "segmentation_head"),
    head=("segmentation_head",),
    levels={
        "stage": (_STEM, *_STAGES, _DECODER),
        "block": (_STEM, *_RESIDUAL_BLOCKS, _DECODER),
        "layer": (Rule("encoder.conv1", _FIRST, "encoder.conv1", cut=False), *_RESIDUAL_BLOCKS, _DECODER),
    },
)
