"""Networks with narrower upper layers: the slim ResNet of T and the "TransFusion" baseline of P."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models.blocks import Blocks, check_blocks
from transfuse.models.channels import INPUT, Channels, channels_of
from transfuse.models.draws import CONVOLUTION, NORM, random_start_
from transfuse.models.heads import FlatteningLinear, fresh_head, set_numbers
from transfuse.models.weightless import example_images, run_weightless


def slim(model: nn.Module, blocks: Blocks, depth: int | str, factor: int = 2, *, seed: int = 0) -> nn.Module:
    """A new network whose channels above `blocks[:depth]` are divided by `factor`; the same names, fewer numbers.

    T's slim ResNet-50 (METHODS MOD-10; T, figures 8 and 20) is depth "layer2"; the TF baseline of P (FT-6) keeps the
    blocks up to k. One rule for stages and single blocks: channels that are tied to each other (by sums, depthwise
    convolutions, squeeze-and-excitation) are divided if all layers that make them lie above the depth, and kept if one
    lies below. So inside of a stage only the inner width of a bottleneck is divided and the skip keeps its width, as in
    P's layer-wise code.

    Weights below are kept bit for bit; all above, and the head, are drawn anew by (seed, name) as `initialise_` does it
    with rest="random". The classes are those of the given network. Sizes that `factor` does not divide are rounded
    down, to at least 1.

    Raises BlocksError for networks whose channels cannot be followed (transformers: the papers slim convolutional
    networks only) and for grouped convolutions whose groups cannot be divided.

    >>> from transfuse.models.blocks import blocks_of
    >>> from transfuse.models.create import create_model
    >>> model = create_model("resnet50", classes=5, device="meta")
    >>> sum(parameter.numel() for parameter in slim(model, blocks_of(model), "layer2").parameters())
    7140421
    """
    if not isinstance(factor, int) or isinstance(factor, bool) or factor < 2:
        raise BlocksError(f"factor={factor!r} of slim: expected a whole number of at least 2.")
    count = check_blocks(model, blocks).depth(depth)
    head = blocks.head[0]
    old: Any = model.get_submodule(head)
    if len(blocks.head) != 1 or not isinstance(old, CONVOLUTION | nn.Linear):
        raise BlocksError(
            f"slim replaces one linear head; this {type(model).__name__} has {', '.join(blocks.head)} "
            f"({type(old).__name__}). Give blocks whose head is the last linear layer alone, and what stands before it "
            "(an MLP) as a block."
        )
    images = example_images(model)
    try:
        channels = channels_of(model, images)
    except BlocksError as error:
        raise BlocksError(
            f"This {type(model).__name__} cannot be slimmed: {error}. The papers slim convolutional networks only "
            "(ResNet, CBR, VGG, MobileNet, EfficientNet, DenseNet); to make this one smaller, truncate it."
        ) from error
    kept = set(blocks.names[:count])
    divided = _divided(channels, blocks, kept, factor)
    slimmed, entries = copy.deepcopy(model), set(model.state_dict())
    for path, module in slimmed.named_modules():
        own = {**module._parameters, **module._buffers}
        names = [f"{path}.{leaf}".lstrip(".") for leaf, tensor in own.items() if tensor is not None]
        if path != head and any(name in entries and blocks.owner(name) not in kept for name in names):
            _narrow(module, path, names, channels, divided, seed)
    width, classes = channels.count(channels.dims[f"{head}.weight", 1], divided), len(old.weight)
    linear = nn.Linear if isinstance(old, nn.Linear) else FlatteningLinear
    slimmed.set_submodule(head, fresh_head(linear, head, width, classes, old, seed))
    set_numbers(slimmed, classes, width)
    output = run_weightless(slimmed, images)
    if not isinstance(output, Tensor) or output.shape != (len(images), classes):
        raise BlocksError(f"Slimmed, this {type(model).__name__} gives {output!r}: its channels were followed wrongly.")
    return slimmed


def _divided(channels: Channels, blocks: Blocks, kept: set[str], factor: int) -> dict[int, int]:
    """The new sizes of the groups of channels that are made above only."""
    sizes: dict[int, int] = {}
    for group in {channels.root(group) for group in range(len(channels.sizes))}:
        owners = {name if name == INPUT else blocks.owner(name) for name in channels.producers[group]}
        if not owners & {*kept, INPUT, "head"}:
            sizes[group] = max(1, channels.sizes[group] // factor)
    return sizes


def _narrow(
    module: nn.Module, path: str, names: list[str], channels: Channels, divided: dict[int, int], seed: int
) -> None:
    """Gives one layer above the depth its new sizes and new values, in place."""
    changed: Any = module
    if not isinstance(module, CONVOLUTION | NORM | nn.Linear):
        raise BlocksError(
            f"{path!r}, a {type(module).__name__}, cannot be slimmed: no convolution, norm or linear layer."
        )
    shapes = {name: list(_tensor(module, name).shape) for name in names}
    for (name, dim), runs in channels.dims.items():
        if name in shapes:
            shapes[name][dim] = channels.count(runs, divided)
    if isinstance(module, CONVOLUTION):
        weight = shapes[f"{path}.weight"]
        depthwise = module.groups == module.in_channels == module.out_channels and module.groups > 1
        changed.out_channels = weight[0]
        changed.in_channels = weight[0] if depthwise else weight[1]
        changed.groups = weight[0] if depthwise else module.groups
        if changed.in_channels % changed.groups or changed.out_channels % changed.groups:
            raise BlocksError(
                f"{path!r} has {changed.groups} groups, which do not divide its {changed.in_channels} and "
                f"{changed.out_channels} slimmed channels: choose another depth or factor."
            )
        weight[1] = changed.in_channels // changed.groups
    elif isinstance(module, NORM):
        changed.num_features = next((shapes[name][0] for name in names if shapes[name]), module.num_features)
    else:
        changed.out_features, changed.in_features = shapes[f"{path}.weight"]
    for name in names:
        old = _tensor(module, name)
        fresh = old.new_empty(shapes[name])
        if not old.is_meta:
            with torch.no_grad():
                fresh.copy_(random_start_(torch.empty(shapes[name]), module, seed, name))
        leaf = name.rpartition(".")[2]
        if leaf in module._parameters:
            fresh = nn.Parameter(fresh, requires_grad=old.requires_grad)
        setattr(module, leaf, fresh)


def _tensor(module: nn.Module, name: str) -> Tensor:
    return getattr(module, name.rpartition(".")[2])
