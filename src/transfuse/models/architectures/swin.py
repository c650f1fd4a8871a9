"""Blocks of Swin transformers (and Swin v2) of timm.

`wt-st` and `block` are M's table 3: the patchifier, every block, the norm. The patch merging between two stages belongs
to the first block of the next one, as in M (METHODS 1.5); timm 1.0 runs it there too. `stage`: the four stages. `layer`
are M's 25 feature layers: the patches, then each attention and each MLP before it is added; no cuts. The norm on top
stays when the network is cut, and is no feature layer.
"""

from __future__ import annotations

from transfuse.models.architectures.family import Each, Family, Rule
from transfuse.models.architectures.vit import branches

_PATCHES, _NORM = Rule("patch_embed"), Rule("norm", stays=True)
_FIRST, _OTHERS = "{}.blocks.0", "{}.blocks.[!0]*"
_MERGING = "{}.downsample"
_BLOCKS = (
    _PATCHES,
    Each("layers.*", (Rule(_FIRST, (_MERGING, _FIRST)), Rule(_OTHERS))),
    _NORM,
)

SWIN = Family(
    name="swin",
    recognised_by=("patch_embed", "layers", "norm", "head.global_pool", "head.fc"),
    head=("head.fc",),
    levels={
        "stage": (_PATCHES, Rule("layers.*"), _NORM),
        "block": _BLOCKS,
        "layer": (
            _PATCHES,
            Each("layers.*", (*branches(_FIRST, _MERGING), Each(_OTHERS, branches("{}")))),
            _NORM,
        ),
        "wt-st": _BLOCKS,
    },
    pool="head.global_pool",
    random="trunc_normal",
)
