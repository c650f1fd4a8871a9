"""Blocks of vision transformers of timm: ViT and DeiT of any size (DINOv2 too), distilled DeiT, Eva (DINOv3).

`stage`, `block` and `wt-st` are M's table 3: the patchifier with its tokens and positions, every block, the norm; there
is no coarser unit than a block. `layer` are M's feature layers, 25 in a network of 12 blocks: the patches before tokens
and positions, then each attention and each MLP before it is added to the stream. None of these branches is a cut. What
stands between the blocks and the head stays when the network is cut, and is no feature layer: the norm (after pooling
in some networks: `fc_norm`), an attention pooling.
"""

from __future__ import annotations

from dataclasses import replace

from transfuse.models.architectures.family import Each, Family, Rule

_PATCHES = (
    *("patch_embed", "cls_token", "reg_token", "dist_token", "pos_embed", "rope", "pos_drop", "patch_drop"),
    "norm_pre",  # runs last, with or without a norm in it
)
_TOP = (Rule("norm", stays=True), Rule("attn_pool", stays=True), Rule("fc_norm", stays=True))
_BLOCKS = (Rule("patch_embed", _PATCHES), Rule("blocks.*"), *_TOP)


def branches(block: str, *before: str) -> tuple[Rule, Rule]:
    """The attention and the MLP of a transformer block, each with its norm, scale and drop path."""
    attention = [f"{block}.{part}" for part in ("norm1", "attn", "ls1", "gamma_1", "drop_path1")]
    mlp = [f"{block}.{part}" for part in ("norm2", "mlp", "ls2", "gamma_2", "drop_path2")]
    return (
        Rule(f"{block}.attn", (*before, *attention), f"{block}.attn", cut=False),
        Rule(f"{block}.mlp", tuple(mlp), f"{block}.mlp", cut=False),
    )


VIT = Family(
    name="vit",
    recognised_by=("patch_embed", "pos_drop", "norm_pre", "blocks", "norm", "fc_norm", "head_drop", "head"),
    head=("head",),
    levels={
        "stage": _BLOCKS,
        "block": _BLOCKS,
        "layer": (
            Rule("patch_embed", _PATCHES, "patch_embed", cut=False),
            Each("blocks.*", branches("{}")),
            *_TOP,
        ),
        "wt-st": _BLOCKS,
    },
    random="trunc_normal",
)

DISTILLED_DEIT = replace(VIT, name="deit", recognised_by=(*VIT.recognised_by, "head_dist"), head=("head", "head_dist"))
