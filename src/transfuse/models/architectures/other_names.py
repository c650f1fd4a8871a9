"""What other programs call the tensors of networks that timm has too: data only, and the only place that knows it.

A dialect turns the names of another program into timm's. Two sides that speak different dialects are both put into
timm's names and matched there, so each table serves in both directions (`transfuse.models.renaming`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Dialect:
    """How one program names the tensors of one kind of network.

    Args:
        network: the networks that are named so; empty for any.
        program: who names them so.
        telling: regular expressions; names are of this dialect if each of them is found in some name.
        renames: (regular expression, replacement) into timm's names; the first that matches a name is taken.
        families: families (`transfuse.models.architectures`) into which weights with these names may go; empty: any.
        ignored: (regular expression, reason): names of this dialect for which timm has no tensor, and needs none.
        reshaped: regular expressions of timm's names whose tensors hold the same numbers in another shape.
        convert: what has to be computed on a source's tensors before they are renamed.
    """

    network: str
    program: str
    telling: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    families: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    reshaped: tuple[str, ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None


def _children(path: str, children: tuple[tuple[str, str], ...], new: str) -> tuple[tuple[str, str], ...]:
    """Renames of the children of one module; `path` is a regular expression, the names of children are not."""
    return tuple((rf"^{path}\.{old.replace('.', chr(92) + '.')}\.", f"{new}.{name}.") for old, name in children)


# MobileNetV2: torchvision numbers all residuals in one sequence, timm by stage.
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
_MOBILENET_PLACES = tuple((stage, block) for stage, count in enumerate(_MOBILENET_STAGES) for block in range(count))
_NOT_EXPANDED = (("conv.0.0", "conv_dw"), ("conv.0.1", "bn1"), ("conv.1", "conv_pw"), ("conv.2", "bn2"))
_EXPANDED = (
    ("conv.0.0", "conv_pw"),
    ("conv.0.1", "bn1"),
    ("conv.1.0", "conv_dw"),
    ("conv.1.1", "bn2"),
    ("conv.2", "conv_pwl"),
    ("conv.3", "bn3"),
)
MOBILENETV2 = Dialect(
    "MobileNetV2",
    "torchvision",
    telling=(r"^features\.0\.0\.weight$", r"^features\.1\.conv\.0\.0\.weight$"),
    renames=(
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        *(
            rename
            for index, (stage, block) in enumerate(_MOBILENET_PLACES, start=1)
            for rename in _children(
                rf"features\.{index}", _EXPANDED if index > 1 else _NOT_EXPANDED, f"blocks.{stage}.{block}"
            )
        ),
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    ),
    families=("efficientnet",),
)

EFFICIENTNETS = Dialect(
    "EfficientNet",
    "torchvision",
    telling=(r"^features\.0\.0\.weight$", r"^features\.1\.0\.block\.0\.0\.weight$", r"\.block\.1\.fc1\.weight$"),
    renames=(
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        *_children(
            r"features\.1\.(\d+)",
            (
                ("block.0.0", "conv_dw"),
                ("block.0.1", "bn1"),
                ("block.1.fc1", "se.conv_reduce"),
                ("block.1.fc2", "se.conv_expand"),
                ("block.2.0", "conv_pw"),
                ("block.2.1", "bn2"),
            ),
            r"blocks.0.\1",
        ),
        *(
            rename
            for stage in range(2, 8)
            for rename in _children(
                rf"features\.{stage}\.(\d+)",
                (
                    ("block.0.0", "conv_pw"),
                    ("block.0.1", "bn1"),
                    ("block.1.0", "conv_dw"),
                    ("block.1.1", "bn2"),
                    ("block.2.fc1", "se.conv_reduce"),
                    ("block.2.fc2", "se.conv_expand"),
                    ("block.3.0", "conv_pwl"),
                    ("block.3.1", "bn3"),
                ),
                rf"blocks.{stage - 1}.\1",
            )
        ),
        (r"^features\.8\.0\.", "conv_head."),
        (r"^features\.8\.1\.", "bn2."),
        (r"^classifier\.1\.", "classifier."),
    ),
    families=("efficientnet",),
)

# timm's VGG runs its first two classifier layers as convolutions of 7 x 7 and 1 x 1, on the same numbers.
VGG = Dialect(
    "VGG",
    "torchvision",
    telling=(r"^features\.0\.weight$", r"^classifier\.0\.weight$", r"^classifier\.3\.weight$"),
    renames=(
        (r"^classifier\.0\.", "pre_logits.fc1."),
        (r"^classifier\.3\.", "pre_logits.fc2."),
        (r"^classifier\.6\.", "head.fc."),
    ),
    families=("vgg",),
    reshaped=(r"^pre_logits\.fc[12]\.weight$",),
)

_INDEX_TABLES = (r"\.(relative_position_index|attn_mask)$", "a table that the network computes itself")

SWIN = Dialect(
    "Swin",
    "torchvision",
    telling=(r"^features\.0\.0\.weight$", r"^features\.1\.0\.attn\.relative_position_bias_table$"),
    renames=(
        (r"^features\.0\.0\.", "patch_embed.proj."),
        (r"^features\.0\.2\.", "patch_embed.norm."),
        *(
            rename
            for stage in range(4)
            for rename in (
                (rf"^features\.{2 * stage}\.(norm|reduction)\.", rf"layers.{stage}.downsample.\1."),
                (rf"^features\.{2 * stage + 1}\.(\d+)\.mlp\.0\.", rf"layers.{stage}.blocks.\1.mlp.fc1."),
                (rf"^features\.{2 * stage + 1}\.(\d+)\.mlp\.3\.", rf"layers.{stage}.blocks.\1.mlp.fc2."),
                (rf"^features\.{2 * stage + 1}\.(\d+)\.", rf"layers.{stage}.blocks.\1."),
            )
        ),
        (r"^head\.", "head.fc."),
    ),
    families=("swin",),
    ignored=(_INDEX_TABLES,),
)

# The authors' checkpoints: the patch merging is the end of a stage, in timm the start of the next one.
SWIN_AUTHORS = Dialect(
    "Swin",
    "its authors",
    telling=(r"^patch_embed\.proj\.weight$", r"^layers\.0\.downsample\.reduction\.weight$"),
    renames=(
        *((rf"^layers\.{stage}\.downsample\.", f"layers.{stage + 1}.downsample.") for stage in range(3)),
        (r"^head\.(?!fc\.)", "head.fc."),
    ),
    families=("swin",),
    ignored=(_INDEX_TABLES,),
)

CONVNEXT = Dialect(
    "ConvNeXt",
    "torchvision",
    telling=(r"^features\.0\.0\.weight$", r"^features\.1\.0\.layer_scale$"),
    renames=(
        (r"^features\.0\.([01])\.", r"stem.\1."),
        *(
            rename
            for stage in range(4)
            for rename in (
                (rf"^features\.{2 * stage}\.([01])\.", rf"stages.{stage}.downsample.\1."),
                (rf"^features\.{2 * stage + 1}\.(\d+)\.layer_scale$", rf"stages.{stage}.blocks.\1.gamma"),
                *_children(
                    rf"features\.{2 * stage + 1}\.(\d+)",
                    (
                        ("block.0", "conv_dw"),
                        ("block.2", "norm"),
                        ("block.3", "mlp.fc1"),
                        ("block.5", "mlp.fc2"),
                    ),
                    rf"stages.{stage}.blocks.\1",
                ),
            )
        ),
        (r"^classifier\.0\.", "head.norm."),
        (r"^classifier\.2\.", "head.fc."),
    ),
    families=("convnext",),
    reshaped=(r"\.gamma$",),
)

CONVNEXT_AUTHORS = Dialect(
    "ConvNeXt",
    "its authors",
    telling=(r"^downsample_layers\.0\.0\.weight$", r"^stages\.0\.0\.dwconv\.weight$"),
    renames=(
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(\d+)\.dwconv\.", r"stages.\1.blocks.\2.conv_dw."),
        (r"^stages\.(\d+)\.(\d+)\.pwconv([12])\.", r"stages.\1.blocks.\2.mlp.fc\3."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"^norm\.", "head.norm."),
        (r"^head\.(?!fc\.|norm\.)", "head.fc."),
    ),
    families=("convnext",),
)

_LAYER = r"^encoder\.layers\.encoder_layer_(\d+)\."
VIT = Dialect(
    "ViT",
    "torchvision",
    telling=(r"^conv_proj\.weight$", r"^encoder\.pos_embedding$"),
    renames=(
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (_LAYER + r"ln_([12])\.", r"blocks.\1.norm\2."),
        (_LAYER + r"self_attention\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
        (_LAYER + r"self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
        (_LAYER + r"mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
        (_LAYER + r"mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.head\.", "head."),
    ),
    families=("vit", "deit"),
)


def _take_class_position(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's networks with register tokens have no position of the class token: it is added to the token itself."""
    positions = tensors["pos_embed"]
    return {
        **tensors,
        "cls_token": tensors["cls_token"] + positions[:, :1],
        "pos_embed": positions[:, 1:],
    }


_MASK_TOKEN = (r"^mask_token$", "the token of masked patches, used in pretraining only")
_DINO_RENAMES = ((r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1."), (r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."))
DINOV2_REGISTERS = Dialect(
    "DINOv2 with register tokens",
    "its authors",
    telling=(r"^register_tokens$", r"^cls_token$", r"^pos_embed$"),
    renames=((r"^register_tokens$", "reg_token"), *_DINO_RENAMES),
    families=("vit", "deit"),
    ignored=(_MASK_TOKEN,),
    convert=_take_class_position,
)
DINOV2 = Dialect(
    "DINOv2",
    "its authors",
    telling=(r"^mask_token$", r"^cls_token$", r"^pos_embed$"),
    renames=_DINO_RENAMES,
    families=("vit", "deit"),
    ignored=(_MASK_TOKEN,),
)

INCEPTION = Dialect(
    "Inception-v3",
    "torchvision",
    telling=(r"^AuxLogits\.", r"^Conv2d_1a_3x3\."),
    ignored=((r"^AuxLogits\.", "auxiliary classifier of the source"),),
)

OLD_DENSENET = Dialect(
    "DenseNet",
    "torchvision before 0.3",
    telling=(r"\.denselayer\d+\.(norm|conv)\.[12]\.",),
    renames=((r"^(.*\.denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2."),),
)

CIFAR_RESNET = Dialect(
    "ResNet for CIFAR-10",
    "akamaster/pytorch_resnet_cifar10",
    telling=(r"^linear\.weight$", r"^layer3\.0\.conv1\.weight$"),
    renames=((r"^linear\.", "fc."),),
)

UNET = Dialect(
    "U-Net",
    "segmentation-models-pytorch",
    telling=(r"^encoder\.", r"^decoder\.", r"^segmentation_head\."),
    renames=((r"^encoder\.", ""),),
    ignored=(
        (r"^(decoder|segmentation_head)\.", "decoder of the source"),
        (r"^classification_head\.", "classifier of the source"),
    ),
)

WRAPPED = Dialect(
    "",
    "DataParallel, DistributedDataParallel or torch.compile",
    telling=(r"^(module|_orig_mod)\.",),
    renames=((r"^((module|_orig_mod)\.)+", ""),),
)

IN_A_BACKBONE = Dialect(
    "",
    "training programs that keep the network as `model` or `backbone`",
    telling=(r"^(model|backbone)\.",),
    renames=((r"^(model|backbone)\.((module|_orig_mod)\.)*", ""),),  # a network that was wrapped before it was kept
)

# In this order: a wrapper's prefix comes off before the network is looked at.
DIALECTS: tuple[Dialect, ...] = (
    WRAPPED,
    IN_A_BACKBONE,
    UNET,
    OLD_DENSENET,
    CIFAR_RESNET,
    VGG,
    MOBILENETV2,
    EFFICIENTNETS,
    SWIN,
    SWIN_AUTHORS,
    CONVNEXT,
    CONVNEXT_AUTHORS,
    VIT,
    DINOV2_REGISTERS,
    DINOV2,
    INCEPTION,
)

# What networks call their last layer, and its twin of a distilled DeiT.
CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear", "head_dist")

# Names that are on one side only, and what that means: (regular expression, sentence when the source has it and the
# network does not, sentence when the network has it and the source does not).
ONE_SIDED = (
    (
        r"^dist_token$",
        "These are weights of a distilled DeiT: create the distilled network (its name has `distilled`).",
        "The network is a distilled DeiT, these are weights of a plain one: create it without `distilled` in its name.",
    ),
    (
        r"^reg_token$",
        "These are weights of a ViT with register tokens: create a network with them (its name has `reg4`).",
        "The network has register tokens and the source has none: create the network without `reg4` in its name.",
    ),
    (
        r"^decoder\.blocks\.0\.conv1\.0\.weight$",
        "These are weights of a U-Net, whose encoder alone is for other networks.",
        "The network is a U-Net and the source has no decoder: take its encoder alone (depth: encoder.layer4).",
    ),
)
