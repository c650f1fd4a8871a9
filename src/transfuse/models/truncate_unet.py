"""U-Nets cut short: encoder and decoder together, so that every skip that stays keeps its partner (TTL; P, Fig. 5)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models.architectures.unet import STEM_POOL
from transfuse.models.blocks import Block, Blocks, blocks_of, check_blocks, family_of, is_under
from transfuse.models.heads import fresh_convolution
from transfuse.models.torchvision_operators import declare_operators
from transfuse.models.truncate_basic_unet import cut_basic_unet, decoder_of, is_basic_unet, levels_of
from transfuse.models.weightless import example_images, naming_the_smallest, run_weightless

STAGES = ("encoder.stem", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4")
"""The stages of a ResNet encoder, each with half the sides of the one before it; a decoder has one block for each."""


def truncate_unet(
    model: nn.Module,
    blocks: Blocks | None,
    depth: int | str,
    classes: int,
    *,
    image_size: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A new U-Net that goes down only to the end of one encoder stage; maps (N, C, *sides) to (N, classes, *sides).

    METHODS MOD-16 and FT-8 (P, A.2 and Fig. 5): a U-Net is cut symmetrically, at the borders of its stages and not
    between the residual blocks inside of them. Each encoder stage that goes takes along the decoder block above it:
    without `encoder.layer4` there is no `decoder.blocks.0`, which joins its features with the skip of `encoder.layer3`;
    that one is the bottom then and needs no skip. All other skips keep their partners. It is the U-Net that
    segmentation-models-pytorch builds with a smaller `encoder_depth` and the last of its `decoder_channels`.

    What is kept is a copy with its weights under its old names (the first decoder block that is left may be
    `decoder.blocks.2`), and what is cut off takes no memory; the given network is as before. In eval mode each stage
    that is left gives bit for bit what it gave. Three things are new: the segmentation head, and the first convolution
    of the first decoder block that is left with its norm. That convolution read what the decoder made of deeper stages
    and reads the encoder now, in ResNet-50 with another number of channels. It is drawn whole, where the number is the
    same too (ResNet-18 and 34): a slice of it would weigh channels that it has never seen. Both are drawn by (seed,
    name), as `initialise_` draws them.

    MONAI's BasicUNet (`unet3d`) is cut in the same way, after its level `conv_0` or `down_1` to `down_3`: `upcat_4`
    goes with `down_4`. Each of its decoder blocks has as many channels as the level of the encoder that takes its
    place, so that all shapes stay, and only the transposed convolution that reads that level now is drawn anew, beside
    the head. Cut after `conv_0` nothing is left of the decoder.

    Args:
        model: a U-Net of segmentation-models-pytorch with a ResNet as encoder, such as `unet_resnet34`, or MONAI's
            BasicUNet.
        blocks: its blocks at any level, as `blocks_of` gives them; None: those of the level "stage".
        depth: the last encoder stage that is kept, or how many of the encoder's blocks; "all": the whole network with a
            new segmentation head; "middle": the first half of the encoder's blocks, if a stage ends there.
        classes: maps of the segmentation head.
        image_size: side of the images in pixels on which the result is tried without values, or (H, W) or (D, H, W);
            None: 224, for volumes 96.
        seed: of what is drawn.

    Raises BlocksError for other networks, for a depth at which no stage ends, naming those at which one does, and for
    images that are too small, naming the smallest that pass.

    >>> from transfuse.models.create import create_model
    >>> model = create_model("unet_resnet34", classes=2, device="meta")
    >>> short = truncate_unet(model, None, "encoder.layer2", classes=2)
    >>> blocks_of(short).names
    ('encoder.stem', 'encoder.layer1', 'encoder.layer2', 'decoder.blocks.2', 'decoder.blocks.3', 'decoder.blocks.4')
    >>> short(torch.zeros(1, 3, 64, 96, device="meta")).shape
    torch.Size([1, 2, 64, 96])
    >>> cut_points(create_model("unet3d", classes=2, channels=1, spatial_dims=3, device="meta"))
    ('conv_0', 'down_1', 'down_2', 'down_3')
    """
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise BlocksError(f"classes={classes!r} of truncate_unet: expected a whole number of at least 1.")
    if not is_unet(model):
        raise BlocksError(
            f"This {type(model).__name__} is no U-Net that is known here (one of segmentation-models-pytorch with a "
            "ResNet as encoder, such as unet_resnet34, or MONAI's BasicUNet, such as unet3d). Networks that end in a "
            "classifier are cut by `truncate`."
        )
    blocks = blocks_of(model) if blocks is None else check_blocks(model, blocks)
    stages = stages_of(model)
    kept = _kept(model, blocks, depth)
    short = (cut_basic_unet if is_basic_unet(model) else _cut)(model, kept, classes, seed)
    images = example_images(short, image_size)
    with naming_the_smallest(short, images):
        output = run_weightless(short, images)
    if not isinstance(output, Tensor) or output.shape != (len(images), classes, *images.shape[2:]):
        shape = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise BlocksError(
            f"Cut after {stages[kept - 1]!r} the network gives {shape}, expected one map a class in the size of the "
            "images: it has more than an encoder, a decoder and a segmentation head."
        )
    return short


def _cut(model: nn.Module, kept: int, classes: int, seed: int) -> nn.Module:
    """A copy of a U-Net of segmentation-models-pytorch with so many stages of its encoder."""
    unet: Any = model
    before = len(stages_of(model))
    gone: dict[nn.Module, nn.Module] = {model.get_submodule(path): nn.Identity() for path in STAGES[kept:before]}
    if kept == 1 < before:
        gone[unet.get_submodule(STEM_POOL)] = nn.Identity()
    bottom = list(unet.decoder.blocks._modules)[: before - kept]
    gone |= {unet.decoder.blocks._modules[number]: nn.Identity() for number in bottom}
    for old, identity in gone.items():
        identity.training = old.training
    # deepcopy takes what its memo has for an object instead of copying it: what goes is never copied.
    memo: dict[int, Any] = {id(old): identity for old, identity in gone.items()}
    short: Any = copy.deepcopy(model, memo)
    for number in bottom:
        del short.decoder.blocks._modules[number]  # not by `del blocks[0]`, which would give the others new names
    if kept == 1 < before:
        parent, _, name = STEM_POOL.rpartition(".")
        delattr(short.get_submodule(parent), name)  # the stem ends with its activation
    short.encoder._depth = kept
    if kept < before:
        _enter(short, seed)
    name = "segmentation_head.0"
    old_head: Any = model.get_submodule(name)
    short.set_submodule(name, fresh_convolution(old_head, old_head.in_channels, classes, name, seed))
    _tell(short, kept, classes)
    return short


def is_unet(model: nn.Module) -> bool:
    """Whether a network is a U-Net that `truncate_unet` can cut, whole or cut already.

    >>> is_unet(nn.Linear(2, 2))
    False
    """
    family = family_of(model)
    if family is None or family.name not in ("unet", "monai_basic_unet"):
        return False
    declare_operators()
    if family.name == "monai_basic_unet":
        return is_basic_unet(model)
    try:
        from segmentation_models_pytorch import Unet
    except ModuleNotFoundError:
        return False
    return isinstance(model, Unet)


def cut_points(model: nn.Module) -> tuple[str, ...]:
    """The depths at which a U-Net can be cut: the stages of its encoder that are there, without the deepest.

    >>> from transfuse.models.create import create_model
    >>> cut_points(create_model("unet_resnet18", classes=2, device="meta"))
    ('encoder.stem', 'encoder.layer1', 'encoder.layer2', 'encoder.layer3')
    """
    return stages_of(model)[:-1]


def stages_of(model: nn.Module) -> tuple[str, ...]:
    """The stages of a U-Net's encoder that are there."""
    if is_basic_unet(model):
        return levels_of(model)
    encoder: Any = model.get_submodule("encoder")
    return STAGES[: int(encoder._depth)]


def ends_of_stages(model: nn.Module, blocks: Blocks) -> dict[int, str]:
    """The stages of a U-Net's encoder by the number of blocks up to the end of each, the deepest included.

    >>> from transfuse.models.create import create_model
    >>> model = create_model("unet_resnet18", classes=2, device="meta")
    >>> list(ends_of_stages(model, blocks_of(model, "block")))
    [1, 3, 5, 7, 9]
    """
    stages = stages_of(model)
    last = {}  # by stage the number of the last block that is part of it
    for number, block in enumerate(_encoder(model, blocks), 1):
        last[next((stage for stage in stages if is_under(block.name, stage)), stages[0])] = number
    return {number: stage for stage, number in last.items()}


def decoder_needs(model: nn.Module, blocks: Blocks) -> dict[str, int]:
    """For each block of a U-Net's decoder, the number of blocks of the encoder with fewer than which it goes.

    >>> from transfuse.models.create import create_model
    >>> model = create_model("unet_resnet18", classes=2, device="meta")
    >>> decoder_needs(model, blocks_of(model))["decoder.blocks.0"]  # goes with the deepest of the five stages
    5
    """
    ends = sorted(ends_of_stages(model, blocks), reverse=True)
    return {
        block.name: end
        for part, end in zip(_decoder(model), ends, strict=False)
        for block in blocks
        if is_under(block.name, part)
    }


def _decoder(model: nn.Module) -> tuple[str, ...]:
    """The blocks of the decoder that are there, the deepest first; each goes with one stage of the encoder."""
    if is_basic_unet(model):
        return decoder_of(model)
    return tuple(f"decoder.blocks.{number}" for number in model.get_submodule("decoder.blocks")._modules)


def _encoder(model: nn.Module, blocks: Blocks) -> tuple[Block, ...]:
    decoder = _decoder(model)
    return tuple(block for block in blocks if not any(is_under(block.name, part) for part in decoder))


def _kept(model: nn.Module, blocks: Blocks, depth: int | str) -> int:
    """The number of stages that a depth means."""
    encoder, stages = _encoder(model, blocks), stages_of(model)
    ends = ends_of_stages(model, blocks)
    valid = [*stages[:-1], "all"]
    if depth in stages:
        return stages.index(str(depth)) + 1  # at finer levels too, where no block has this name
    inside = Blocks(blocks.level, encoder, blocks.head)
    if depth in blocks.names and depth not in inside.names:
        raise BlocksError(
            f"{depth!r} is a block of the decoder, which is cut together with the encoder: a depth is the last encoder "
            f"stage that is kept. The cut points: {', '.join(valid)}."
        )
    count = inside.depth(depth)
    if count in ends:
        return stages.index(ends[count]) + 1
    what = f"After {encoder[count - 1].name!r} (depth {depth!r}" if count else f"After no block (depth {depth!r}"
    raise BlocksError(
        f"{what}, level {blocks.level!r}) no stage of the encoder ends, and a U-Net is cut at the borders of its "
        f"stages. The cut points: {', '.join(valid)}."
    )


def _enter(short: Any, seed: int) -> None:
    """Gives the first decoder block a fresh convolution for what the encoder now hands it, in place."""
    number, block = next(iter(short.decoder.blocks._modules.items()))
    features = short.encoder.out_channels  # of the image and of each stage
    skip = features[-2] if len(features) > 2 else 0
    path = f"decoder.blocks.{number}"
    if block.attention1.state_dict():
        raise BlocksError(
            f"{path!r} weighs its input by an attention of its own ({type(block.attention1.attention).__name__}), "
            "without weights for what the encoder would hand it now: U-Nets with decoder_attention_type are not cut."
        )
    old: Any = block.conv1[0]
    block.conv1[0] = fresh_convolution(old, features[-1] + skip, old.out_channels, f"{path}.conv1.0", seed)
    norm = block.conv1[1].requires_grad_(requires_grad=True)
    with torch.no_grad():
        for leaf, tensor in norm.state_dict().items():
            tensor.fill_(1.0 if leaf in ("weight", "running_var") else 0.0)


def _tell(short: Any, stages: int, classes: int) -> None:
    """Corrects what the network says about how it was built."""
    config = getattr(short, "_hub_mixin_config", None)
    if isinstance(config, dict):
        channels = tuple(block.conv1[0].out_channels for block in short.decoder.blocks)
        short._hub_mixin_config = {**config, "encoder_depth": stages, "decoder_channels": channels, "classes": classes}
