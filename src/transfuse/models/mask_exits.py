"""One encoder with a light head at every cut of its U-Net, so that one training tells of every truncated U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfuse.errors import BlocksError, nearest
from transfuse.models.blocks import Blocks, blocks_of, check_blocks, is_under
from transfuse.models.complexity import complexity
from transfuse.models.draws import fresh_linear_, random_start_
from transfuse.models.exits import TRUNKS, Exit, Parted
from transfuse.models.heads import put
from transfuse.models.modules import Skipped, modules_of
from transfuse.models.truncate_unet import cut_points, is_unet, truncate_unet
from transfuse.models.weightless import example_images, hooked, trace_modules

WIDTHS = {1: 16, 2: 16, 3: 8}
"""Channels to which a head projects every stage, by the axes of the images.

Of images as many as the last block of a decoder has. Of volumes fewer: their convolutions cost three times as many
operations, and the first stage of their U-Nets is as large as the volume, so that heads would cost more than the rest.
"""

_CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_BEFORE_POOLING = {"encoder.stem": "encoder.relu"}
"""Where a skip leaves a stage that ends with a pooling."""
_SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


class MaskExits(nn.Module):
    """An encoder whose forward gives maps of logits (N, exits, classes, H, W) of every cut; made by `mask_exits`.

    Attributes:
        exits: the truncated U-Nets, from the shallowest to the deepest.
        network: the U-Net without its decoder and its segmentation head, which are modules that do nothing.
        heads: one for each exit.
        blocks: of the encoder, for `freeze_` and for learning rates by block; the heads of all exits are its head.
        trunk: which losses train the encoder (see `exits`).
    """

    def __init__(
        self, network: nn.Module, heads: Sequence[MaskHead], stages: Sequence[_Stage], found: Sequence[Exit],
        blocks: Blocks, trunk: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.heads = network, nn.ModuleList(heads)
        self.exits, self.trunk = tuple(found), trunk
        self.stages = tuple(stages)
        self.blocks = check_blocks(self, _under(network, blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to maps of logits (N, exits, classes, H, W); of volumes likewise."""
        features: list[Tensor] = []
        joint = torch.is_grad_enabled() and self.trunk == "joint"

        def keep(stage: _Stage, module: nn.Module, args: Any, output: Tensor) -> Tensor:
            # Copies, since what comes next may write into it.
            if joint:
                mine, output = Parted.apply(output, stage.above, stage.read_by)
            else:
                mine = output.detach().clone() if self.trunk == "frozen" else output.clone()
            features.append(mine)
            return output

        with hooked(
            *(
                self.network.get_submodule(stage.output).register_forward_hook(partial(keep, stage))
                for stage in self.stages
            )
        ):
            self.network(images)
        still = [one.detach() for one in features]
        maps = []
        for number, head in enumerate(self.heads, 1):
            seen = still if self.trunk == "top" and number < len(self.heads) else features
            maps.append(head(seen, images.shape[2:]))
        return torch.stack(maps, dim=1)

    def names_of(self, name: str) -> list[str]:
        """The entries of the state dict that are the U-Net's own entry `name`: of the encoder one, of others none."""
        own = f"network.{name}"
        return [own] if own in self.state_dict(keep_vars=True) else []


class MaskHead(nn.Module):
    """A light decoder: maps features of stages, the finest first, to logits in the size of the images.

    Each stage is projected to `WIDTHS` channels (a convolution of one pixel), enlarged to the sides of the finest one
    (bi- or trilinear), and all are summed, with a ReLU. Then come two convolutions of three pixels, each with a batch
    norm and a ReLU, as in a block of a decoder, and one to the classes, which are enlarged to the sides of the images.
    A head that sees single pixels is smaller, but learns little in the few steps of a screen, the more so the earlier
    its cut, after which a decoder has to make up for what the encoder has not looked at.

    Heads of one seed are alike but for the stages that the deeper one reads on top, which have no bias: a stage that
    gives nothing changes nothing.

    Args:
        widths: channels of the stages.
        classes: maps of logits.
        dims: 2 for images, 3 for volumes.
        seed: of the weights, which are drawn by (seed, their names in the head): those of the projections as torch's
            default, the others as `truncate_unet` draws what is new in a decoder.
    """

    def __init__(self, widths: Sequence[int], classes: int, dims: int, *, seed: int = 0) -> None:
        super().__init__()
        convolution, norm, out = _CONVOLUTIONS[dims], _NORMS[dims], WIDTHS[dims]
        with torch.device("meta"):
            self.projections = nn.ModuleList(convolution(width, out, 1, bias=False) for width in widths)
            self.first, self.second = (convolution(out, out, 3, padding=1, bias=False) for _ in range(2))
            self.classify = convolution(out, classes, 3, padding=1)
        self.to_empty(device="cpu")
        with torch.no_grad():
            for path, module in self.named_modules():
                for leaf, tensor in module.named_parameters(recurse=False):
                    if path.startswith("projections."):
                        fresh_linear_(tensor, tensor.shape[1], seed, f"{path}.{leaf}")
                    else:
                        random_start_(tensor, module, seed, f"{path}.{leaf}")
        self.first_norm, self.second_norm = norm(out), norm(out)

    def forward(self, features: Sequence[Tensor], sides: Sequence[int]) -> Tensor:
        """Maps features (N, widths[i], ...), more than there are widths or as many, to logits (N, classes, *sides)."""
        finest = features[0].shape[2:]
        projected = (project(one) for project, one in zip(self.projections, features, strict=False))
        maps = F.relu(reduce(torch.add, (_enlarged(one, finest) for one in projected)))
        maps = F.relu(self.first_norm(self.first(maps)))
        maps = F.relu(self.second_norm(self.second(maps)))
        return _enlarged(self.classify(maps), sides)


class _Stage(NamedTuple):
    """A stage of the encoder.

    Attributes:
        output: the module that gives its features.
        width: their channels.
        read_by: how many exits read them.
        above: how many exits read those of the next stage.
    """

    output: str
    width: int
    read_by: int
    above: int


def mask_exits(
    model: nn.Module,
    blocks: Blocks | None,
    classes: int,
    *,
    depths: Sequence[int | str] | None = None,
    trunk: str = "joint",
    image_size: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> MaskExits:
    """A new network with an exit wherever a U-Net can be cut: `exits` for networks that draw masks.

    A U-Net that is cut after an encoder stage has the encoder up to there and a decoder that reads every stage of it
    (`truncate_unet`). Exit k has the same encoder and, in the place of that decoder, a head of a few thousand weights
    that reads the same stages (`MaskHead`). So an exit tells which stages are worth having, and not what the decoder
    would make of them: it ranks cuts, and is no truncated U-Net. Decoders are neither run nor trained. The given
    network stays as it is.

    Args:
        model: a U-Net that `truncate_unet` cuts; what is frozen in it is frozen in its copy.
        blocks: its blocks at any level; None: those of the level "stage".
        classes: maps of each head.
        depths: exits after these blocks only (see `truncate_unet`); None: at every cut and of the whole encoder.
        trunk: what trains the encoder: "joint", the mean of the gradients of the exits that read a block; "top", the
            loss of the deepest exit alone; "frozen", as for `exits`.
        image_size: side of the images in pixels, or all sides, for the MACs; None: what the network is built for.
        seed: of the heads.

    Raises:
        BlocksError: a network that `truncate_unet` does not cut, a depth at which it does not, no cut below the whole
            network (where no `depths` are given), an unknown trunk.

    >>> from transfuse.models import create_model
    >>> network = mask_exits(create_model("unet_resnet18", classes=2), None, classes=2, image_size=64)
    >>> [one.name for one in network.exits[:3]], [one.parameters for one in network.exits[:3]]
    (['encoder.stem', 'encoder.layer1', 'encoder.layer2'], [21410, 210978, 884258])
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 5, 2, 64, 64])
    """
    if trunk not in TRUNKS:
        raise BlocksError(f"Unknown trunk {trunk!r}: {nearest(trunk, TRUNKS)}")
    if depths is not None and not depths:
        raise BlocksError("depths is empty: expected one exit or more, e.g. depths=['encoder.layer1', 'all'].")
    if is_unet(model) and depths is None and not cut_points(model):
        raise BlocksError(f"This {type(model).__name__} has one encoder stage, so there is no cut to choose.")
    level = "stage" if blocks is None else blocks.level
    found: dict[int, Exit] = {}
    network, deepest = model, 0
    for asked in depths or (*(cut_points(model) if is_unet(model) else ()), "all"):
        short = truncate_unet(model, blocks, asked, classes, image_size=image_size, seed=seed)
        own, size, count = blocks_of(short, level), complexity(short, image_size), len(cut_points(short)) + 1
        end = _encoder_of(short, own)
        found[count] = Exit(own[end - 1].name, end, size.parameters, size.macs)
        if count > deepest:
            network, deepest = short, count
    counts = sorted(found)
    images = example_images(network, image_size)
    calls = trace_modules(network, images)
    paths = [_BEFORE_POOLING.get(stage, stage) for stage in _stages_of(network)]
    stages = [
        _Stage(path, calls[path].shape_out[1], sum(n >= number for n in counts), sum(n > number for n in counts))
        for number, path in enumerate(paths, 1)
    ]
    widths = [stage.width for stage in stages]
    heads = [MaskHead(widths[:count], classes, images.ndim - 2, seed=seed) for count in counts]
    own = _without_decoder(network, level)
    weight = next(network.parameters())
    for head in heads:
        head.to(device=weight.device, dtype=weight.dtype)
    return MaskExits(network, heads, stages, [found[count] for count in counts], own, trunk)


def _stages_of(model: nn.Module) -> tuple[str, ...]:
    """The stages of a U-Net's encoder, the deepest too."""
    return blocks_of(model).names[: len(cut_points(model)) + 1]


def _encoder_of(model: nn.Module, blocks: Blocks) -> int:
    """How many of a U-Net's blocks are its encoder's."""
    stages = _stages_of(model)
    return max((n for n, block in enumerate(blocks, 1) if any(is_under(block.name, s) for s in stages)), default=1)


def _without_decoder(network: nn.Module, level: str) -> Blocks:
    """Takes all that follows the encoder out, in place, and gives the blocks of what is left."""
    whole, blocks = blocks_of(network), blocks_of(network, level)
    kept = Blocks(level, blocks[: _encoder_of(network, blocks)], ())
    decoder = whole[_encoder_of(network, whole) :]
    for path in (*(path for block in decoder for path in block.paths), *blocks.head):
        put(network, path, Skipped())
    return kept


def _under(network: nn.Module, blocks: Blocks) -> Blocks:
    """The encoder's blocks under their names in a `MaskExits`."""
    known = {*modules_of(network), *network.state_dict()}
    items = tuple(
        replace(
            block,
            paths=tuple(f"network.{path}" for path in block.paths if path in known),
            output=f"network.{block.output}",
        )
        for block in blocks
    )
    return Blocks(blocks.level, items, ("heads",), in_order=True)


def _enlarged(maps: Tensor, sides: Sequence[int]) -> Tensor:
    if tuple(maps.shape[2:]) == tuple(sides):
        return maps
    return F.interpolate(maps, size=tuple(sides), mode=_SMOOTH[maps.ndim - 2], align_corners=False)
