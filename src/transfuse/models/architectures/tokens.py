"""What is known of transformers' tokens: which are no patches, where the patches lie, what works on windows."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor, nn

from transfuse.models.torchvision_operators import declare_operators

SUPPORTED = (
    "timm's vision transformers (ViT, DeiT plain and distilled, DeiT-3, DINOv2 and others with registers, EVA, BEiT) "
    "and timm's Swin and Swin V2"
)
"""The networks whose attention is known."""

EMBEDDING = "patch_embed"
"""The block that cuts images into patches: the class token joins them above it, and has seen none of them there."""


def prefix_tokens(model: nn.Module, path: str = "") -> int:
    """How many tokens of a module's output are no patches: class and distillation tokens, registers.

    None are there yet where the patches are embedded.

    >>> prefix_tokens(nn.Linear(2, 2))
    0
    """
    if path.split(".")[0] == EMBEDDING:
        return 0
    if isinstance(count := getattr(model, "num_prefix_tokens", None), int):  # timm
        return count
    return 1 if isinstance(getattr(model, "class_token", None), nn.Parameter) else 0  # torchvision


def image_size_of(model: nn.Module) -> tuple[int, ...] | None:
    """The sides of the images that a transformer is built for; None for any other network."""
    size = getattr(getattr(model, EMBEDDING, None), "img_size", None)
    return None if size is None else tuple(size)


def patch_grid(model: nn.Module) -> tuple[int, ...] | None:
    """The patches (down, across) of the images that a transformer is built for; None where it does not tell."""
    grid = getattr(getattr(model, EMBEDDING, None), "grid_size", None)
    return tuple(grid) if grid else None


def tokens_with_positions(model: nn.Module) -> int:
    """How many tokens that are no patches have a position in a transformer's table, which holds them first."""
    return 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))


def window_of(attention: nn.Module) -> tuple[int, ...]:
    """The sides of the windows that an attention works on, empty where it works on all."""
    return tuple(getattr(attention, "window_size", ()))


class Patches(NamedTuple):
    """The patches of a network for images of one size: their grid, and the tokens in front of them."""

    grid: tuple[int, ...] | None  # None where the network does not tell
    prefix: int


def patches_of(model: nn.Module, size: tuple[int, ...]) -> Patches:
    """How a network, or the transformer inside it, cuts images of `size` pixels into patches."""
    owner: Any = next((module for module in model.modules() if hasattr(module, "patch_embed")), model)
    embed: Any = getattr(owner, "patch_embed", None)
    grid = None
    if len(size) == 2 and hasattr(embed, "dynamic_feat_size"):
        grid = tuple(int(side) for side in embed.dynamic_feat_size(size))
    return Patches(grid, prefix_tokens(owner))


def window_block(model: nn.Module, path: str) -> nn.Module | None:
    """The block around a module that works on windows, as the attention of a Swin does; None for any other module.

    The block's input is the map (N, H, W, C); it has `window_size` and `shift_size`.
    """
    around = model.get_submodule(path.rpartition(".")[0])
    works_on_windows = hasattr(model.get_submodule(path), "window_size") and hasattr(around, "shift_size")
    return around if works_on_windows else None


def put_together(windows: Tensor, block: Any, space: tuple[int, int]) -> Tensor:
    """A Swin's windows as tokens (N, H * W, C) in the order of the image, without what pads it to whole windows.

    Args:
        windows: (N * windows, h * w, C), as its attention gives them out.
        block: what `window_block` gave.
        space: (H, W) of the map that it cut into windows.
    """
    (high, wide), channels = block.window_size, windows.shape[-1]
    down, across = -(-space[0] // high), -(-space[1] // wide)
    cut = windows.reshape(-1, down, across, high, wide, channels)
    whole = cut.transpose(2, 3).reshape(-1, down * high, across * wide, channels)[:, : space[0], : space[1]]
    return whole.roll(tuple(block.shift_size), (1, 2)).flatten(1, 2)


class Attention(NamedTuple):
    """A module whose attention weights can be seen, and what it belongs to."""

    name: str  # of the block, "blocks.0"
    block: nn.Module
    attn: Any
    windows: bool
    embed: Any  # what cuts the network's images into patches
    prefix: int | None  # tokens that are no patches; None where the network does not tell


def attentions(model: nn.Module) -> list[Attention]:
    """The attention modules of a network that are known, in the order of its modules; empty where none is."""
    declare_operators()
    from timm.layers.attention import Attention as Plain
    from timm.layers.attention import AttentionRope
    from timm.models import beit, eva, swin_transformer, swin_transformer_v2

    tokens = (Plain, AttentionRope, beit.Attention, eva.EvaAttention)
    windows = (swin_transformer.WindowAttention, swin_transformer_v2.WindowAttention)
    modules = dict(model.named_modules())
    found = []
    for path, module in modules.items():
        name, _, _ = path.rpartition(".")
        around = [modules[parent] for parent in ("", *accumulate(name.split("."), "{}.{}".format)) if parent in modules]
        owner = next((parent for parent in reversed(around) if hasattr(parent, "patch_embed")), None)
        if not isinstance(module, (*tokens, *windows)) or not name or owner is None:
            continue
        embed: Any = owner.patch_embed
        if hasattr(embed, "dynamic_feat_size") and hasattr(embed, "feat_ratio"):
            prefix = getattr(owner, "num_prefix_tokens", None)
            found.append(Attention(name, modules[name], module, isinstance(module, windows), embed, prefix))
    return found
