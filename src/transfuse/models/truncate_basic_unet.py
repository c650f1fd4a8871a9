"""MONAI's BasicUNet cut short: it goes down to a level of its encoder, and comes up again from there."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from transfuse.models.heads import draw_, fresh_convolution
from transfuse.models.modules import Skipped
from transfuse.models.torchvision_operators import declare_operators

LEVELS = ("conv_0", "down_1", "down_2", "down_3", "down_4")
"""The encoder's levels, each but the first with half the sides of the one before it."""
HEAD = "final_conv"


def is_basic_unet(model: nn.Module) -> bool:
    """Whether a network is MONAI's BasicUNet, whole or cut.

    >>> is_basic_unet(nn.Linear(2, 2))
    False
    """
    declare_operators()
    try:
        from monai.networks.nets.basic_unet import BasicUNet
    except ModuleNotFoundError:
        return False
    return isinstance(model, BasicUNet)


def levels_of(model: nn.Module) -> tuple[str, ...]:
    """The levels of the encoder that are there."""
    return tuple(level for level in LEVELS if not isinstance(model.get_submodule(level), nn.Identity))


def decoder_of(model: nn.Module) -> tuple[str, ...]:
    """The decoder's blocks that are there, the deepest first: `upcat_1` joins the skip of `conv_0`."""
    return tuple(f"upcat_{number}" for number in reversed(range(1, len(levels_of(model)))))


def cut_basic_unet(model: nn.Module, kept: int, classes: int, seed: int) -> nn.Module:
    """A copy with so many levels of its encoder, the decoder blocks that join their skips, and a fresh head.

    `upcat_k` brings up what comes from below by a transposed convolution (`upsample`) and joins it with the skip of the
    level above. The deepest that is left gets its input from the encoder and no longer from the decoder block below,
    which has as many channels: all shapes stay. Its `upsample` alone read what is gone, and is drawn anew; the
    convolutions after it keep their weights, those for the skip and those for what comes from below.

    Args:
        model: a BasicUNet.
        kept: levels, at least 1; 1: two convolutions without a decoder.
        classes: maps of the head.
        seed: of the draws.
    """
    before = levels_of(model)
    gone: dict[nn.Module, nn.Module] = {model.get_submodule(level): nn.Identity() for level in before[kept:]}
    gone |= {model.get_submodule(f"upcat_{number}"): Skipped() for number in range(max(kept, 1), len(before))}
    for old, empty in gone.items():
        empty.training = old.training
    # deepcopy takes what its memo has for an object instead of copying it: what goes is never copied.
    memo: dict[int, Any] = {id(old): empty for old, empty in gone.items()}
    short = copy.deepcopy(model, memo)
    old_head: Any = model.get_submodule(HEAD)
    width = old_head.in_channels
    if 1 < kept < len(before):
        path = f"upcat_{kept - 1}.upsample"
        draw_(short.get_submodule(path).requires_grad_(requires_grad=True), path, seed)
    if kept == 1:
        top: Any = model.get_submodule("conv_0.conv_1.conv")
        width = top.out_channels
    short.set_submodule(HEAD, fresh_convolution(old_head, width, classes, HEAD, seed))
    return short
