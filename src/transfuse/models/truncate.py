"""Networks cut short: the first blocks as they are, and a new classifier on top (TTL; P, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.blocks import Blocks, check_blocks, family_of, is_under
from transfuse.models.heads import HEADS, fitted_norm, head_of, head_paths, is_map, new_head, put, set_numbers
from transfuse.models.modules import Skipped, first_names
from transfuse.models.truncate_unet import cut_points, is_unet
from transfuse.models.weightless import (
    Call,
    Watch,
    example_images,
    hooked,
    naming_the_smallest,
    run_weightless,
    trace_modules,
)

POOLS = ("average", "none")

# What a network may still do by itself, outside of modules, between the cut and the new head: look and average.
POOLING_OPERATIONS = {"mean", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_unsafe_view", "clone"}


def truncate(
    model: nn.Module,
    blocks: Blocks,
    depth: int | str,
    classes: int,
    pool: str = "average",
    *,
    head: str = "linear",
    hidden: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A new network that ends after `blocks[:depth]`, with a fresh head; maps (N, C, H, W) to (N, classes).

    TTL (METHODS FT-7, FT-8; P, section 3) and the trimmed transformer (FT-12, MOD-14; M, appendix I). What is kept is a
    copy with its weights under its old names; what lies above is `nn.Identity` and takes no memory; the given network
    is as before. In eval mode the head sees, bit for bit, the given network's activation at the cut: activations and
    poolings between the cut and the network's own global pooling go, too. A norm that stays (`Block.stays`: the one on
    top of a transformer) keeps its weights where its width fits, else a fresh one (scale 1, shift 0) takes its place.
    The head is drawn by (seed, its name), so it is the same as the fresh head of `initialise_`.

    Args:
        model: the network.
        blocks: its blocks.
        depth: how many blocks are kept, or up to which (see `Blocks.depth`); "all": the whole network with a new head.
        classes: outputs of the head.
        pool: "average": the network's own global pooling, then the head; "none": the whole feature map, flattened, is
            what the head sees (FT-11). Transformers with a class token have no pooling to leave out.
        head: "linear": one linear layer, drawn as torch's default, as every fresh head here; "kaiming_normal": one
            linear layer whose weights are N(0, 2 / F) for F features, as in P's code; "mlp": two with a ReLU between
            them, each drawn as torch's default, for P's text (B.2) calls the head an MLP.
        hidden: units between the two layers of an "mlp"; None: as many as features, at most 512. P gives no number and
            its code has no such layer, so this one is ours.
        image_size: side of the images in pixels, or (H, W) or (D, H, W); decides the size of the head for "none" and is
            the network's own default (224, or 96 for volumes) otherwise.
        seed: of the head.

    Raises BlocksError where the network cannot be cut, naming the nearest cut points, where something between the cut
    and the head would change the activation, for images that are too small, naming the smallest that pass, and for a
    U-Net, which `truncate_unet` cuts.

    >>> from transfuse.models.blocks import blocks_of
    >>> from transfuse.models.create import create_model
    >>> model = create_model("cbr_tiny", classes=5)
    >>> short = truncate(model, blocks_of(model), "layer2", classes=2)
    >>> blocks_of(short).names, sum(parameter.numel() for parameter in short.parameters())
    (('layer1', 'layer2'), 210242)
    """
    for argument, value, choices in (("pool", pool, POOLS), ("head", head, HEADS)):
        if value not in choices:
            raise BlocksError(f"Unknown {argument} {value!r}: {nearest(value, choices)}")
    side = 1 if image_size is None or isinstance(image_size, tuple) else image_size
    counts = (("classes", classes), ("image_size", side), ("hidden", 1 if hidden is None else hidden))
    for argument, number in counts:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise BlocksError(f"{argument}={number!r} of truncate: expected a whole number of at least 1.")
    if hidden is not None and head != "mlp":
        raise BlocksError(f"hidden={hidden!r}: a head {head!r} is one layer without hidden units; use head='mlp'.")
    if is_unet(model):
        raise BlocksError(
            f"This {type(model).__name__} is a U-Net, whose skips pass over every border inside, so encoder and "
            "decoder are cut symmetrically: truncate_unet(model, blocks, depth, classes) does it. Its cut points: "
            f"{', '.join((*cut_points(model), 'all'))}."
        )
    count = _cut(check_blocks(model, blocks), depth)
    first = first_names(model)  # a module that has two names is watched under the first
    blocks = replace(blocks, items=tuple(replace(block, output=first[block.output]) for block in blocks))
    images = example_images(model, image_size)
    with naming_the_smallest(model, images):
        calls = trace_modules(model, images)
    pooling = pooling_of(model, blocks, calls)
    if pooling and count < len(blocks) and isinstance(model.get_submodule(pooling), nn.Identity | nn.Flatten):
        raise BlocksError(
            f"The pooling {pooling!r} of this {type(model).__name__} is gone (an nn.Identity or nn.Flatten stands "
            "there: it was truncated with pool='none'?). Truncate the whole network instead."
        )
    if pool == "none" and not pooling:
        raise BlocksError(
            f"pool='none': this {type(model).__name__} has no module that pools its last feature map (a transformer "
            "hands its class token to the head; other networks may pool by a function). Use pool='average'."
        )
    heads = head_paths(model, blocks)
    if pool == "average" and (late := [path for path in heads if _pooled_after(calls, path, pooling)]):
        raise BlocksError(
            f"This {type(model).__name__} pools its map ({pooling!r}) after its classifier ({late[0]!r}, a convolution "
            "over places), so a linear head there would get a whole map. Use pool='none', or in your own network pool "
            "before the classifier."
        )
    top = (path for block in blocks[count:] if block.stays for path in block.paths)
    staying = list(dict.fromkeys(first[path] for path in top if first.get(path) in calls))
    tail = _tail(model, blocks, count, calls, (pooling, *heads, *staying), pooling)

    fitted: dict[str, nn.Module] = {}

    def pass_norm(path: str, arriving: Tensor) -> Tensor:
        fitted[path] = fitted_norm(copy.deepcopy(model.get_submodule(path)), arriving, path)
        return run_weightless(fitted[path], arriving)

    def classify(arriving: Tensor) -> Tensor:
        return arriving.new_zeros(len(arriving), classes)

    probes = {
        **{path: _Probe(partial(pass_norm, path)) for path in staying},
        **{path: _Probe(classify) for path in heads},
    }
    substitutes: dict[str, nn.Module] = dict(probes)
    for path in tail:
        substitutes[path] = nn.Identity() if path not in calls or calls[path].arguments == 1 else Skipped()
    if pool == "none":
        substitutes[pooling] = nn.Identity() if len(calls[pooling].shape_out) > 2 else nn.Flatten(1)
    for path, module in substitutes.items():
        module.training = model.get_submodule(path).training
    # deepcopy takes what its memo has for an object instead of copying it: the tail is never copied.
    memo: dict[int, Any] = {id(model.get_submodule(path)): module for path, module in substitutes.items()}
    short = copy.deepcopy(model, memo)

    both = _on_both_sides(model, calls, blocks[count - 1].output)
    features, arriving = _arrivals(short, blocks, count, images, probes, heads, pooling, both)
    for path in staying:
        put(short, path, fitted[path])
    for path in heads:
        linear, width = head_of(path, arriving[path], features, pool, count < len(blocks))
        put(short, path, new_head(head, hidden, linear, path, width, classes, model.get_submodule(path), seed))
    set_numbers(short, classes, arriving[heads[0]][0].numel())
    output = run_weightless(short, images)
    if not isinstance(output, Tensor) or output.shape != (len(images), classes):
        shape = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise BlocksError(
            f"Cut after {blocks[count - 1].name!r} the network gives {shape} for two images, expected (2, {classes}): "
            "what follows its head is more than a classifier."
        )
    return short


class _Probe(nn.Module):
    """Stands where a module will stand: keeps the tensor that arrives there, and answers in its place."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        self.seen = input
        return self.answer(input)


def _cut(blocks: Blocks, depth: int | str) -> int:
    """How many blocks stay; the network can be cut there."""
    count = blocks.depth(depth)
    points = [number for number, block in enumerate(blocks, 1) if block.cut and not block.stays]
    if count == len(blocks) or count in points:
        return count
    below = [blocks[number - 1].name for number in points if number < count][-1:]
    above = [blocks[number - 1].name for number in points if number > count][:1]
    near = " and ".join(repr(name) for name in below + above) or "none below 'all'"
    if count == 0:
        raise BlocksError(f"Depth {depth!r} keeps no block: the first cut point is {near}.")
    raise BlocksError(
        f"After {blocks[count - 1].name!r} (depth {depth!r}, level {blocks.level!r}) the network cannot be cut: what "
        "follows needs more than its output (inside of residual, dense or transformer blocks). The nearest cut points: "
        f"{near}. All of them: {', '.join([*(blocks[number - 1].name for number in points), 'all'])}."
    )


def _has_state(module: nn.Module) -> bool:
    return bool(module.state_dict())


def pooling_of(model: nn.Module, blocks: Blocks, calls: dict[str, Call]) -> str:
    """The module that pools the last feature map, "" if there is none.

    Without a family it is the last module without weights that takes a map to 1 x 1 after which nothing sees a larger
    one: a squeeze inside of a block is followed by the map that it scales.

    Args:
        model: the network.
        blocks: its blocks.
        calls: what its modules do in a forward pass (`weightless.trace_modules`).
    """
    family = family_of(model)
    if family is not None and not callable(getattr(model, "transfuse_blocks", None)):
        return family.pool if family.pool in calls else ""
    pooling = [
        path
        for path, call in calls.items()
        if path and not _has_state(model.get_submodule(path)) and is_map(call.shape_in)
        if not is_map(call.shape_out) and call.shape_out[:2] == call.shape_in[:2]
        if not any(later.start > call.end and is_map(later.shape_in) for later in calls.values())
    ]
    return pooling[0] if pooling else ""


def _pooled_after(calls: dict[str, Call], head: str, pooling: str) -> bool:
    return bool(pooling) and head in calls and calls[pooling].start > calls[head].end


def _tail(
    model: nn.Module, blocks: Blocks, count: int, calls: dict[str, Call], stay: tuple[str, ...], pooling: str
) -> list[str]:
    """The modules that become nn.Identity: the largest that run after the cut and hold nothing that stays."""
    if count == len(blocks):
        return []
    last = next((block for block in reversed(blocks.items) if not block.stays), blocks[-1])
    for block in (blocks[count - 1], last):
        if block.output not in calls:
            raise BlocksError(f"The output {block.output!r} of block {block.name!r} is never run, so it is no cut.")
    cut = calls[blocks[count - 1].output].end
    edge = calls[pooling].start if pooling else calls[last.output].end
    modules = dict(model.named_modules())
    tail: list[str] = []
    for path, call in calls.items():
        inside = any(is_under(path, other) for other in (*tail, *stay) if other)
        if call.start < cut or inside or any(is_under(other, path) for other in stay if other):
            continue
        owner = next((block for block in blocks[:count] if block.owns(path)), None)
        if owner is not None and _has_state(modules[path]):
            raise BlocksError(f"{path!r} of block {owner.name!r} runs after {blocks[count - 1].output!r}: no cut.")
        harmless = isinstance(modules[path], nn.Identity | nn.modules.dropout._DropoutNd)
        reshapes = call.shape_in != call.shape_out
        if call.start > edge and not _has_state(modules[path]) and (harmless or reshapes):
            continue
        tail.append(path)
    dropped = [block for block in blocks[count:] if not block.stays]
    first = first_names(model)
    for key in model.state_dict():
        path = first[key.rpartition(".")[0]]
        if not any(block.owns(key) for block in dropped) or any(is_under(path, other) for other in tail):
            continue
        if not path or path in calls:
            owner_name = blocks.owner(key)
            raise BlocksError(f"{key!r} of block {owner_name!r} is used before the cut, so the network cannot be cut.")
        tail.append(path)  # never run: an auxiliary classifier
    return tail


def _on_both_sides(model: nn.Module, calls: dict[str, Call], cut: str) -> list[str]:
    """Modules without weights that run before the end of the block and again after it: one ReLU for all places."""
    end = calls[cut].end
    return [
        path
        for path, call in calls.items()
        if call.start < end < call.end and not list(model.get_submodule(path).children())
        if not _has_state(model.get_submodule(path))
    ]


def _arrivals(
    short: nn.Module,
    blocks: Blocks,
    count: int,
    images: Tensor,
    probes: dict[str, _Probe],
    heads: tuple[str, ...],
    pooling: str,
    both: list[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The features of the cut network, and what arrives at each probe; BlocksError if they are changed in between.

    Its modules are known to keep them, but those on `both` sides of the cut, which could not go; this is about these,
    and about what a network does by itself in between, like the ReLU after the last norm of torchvision's DenseNet.
    """
    block, shortened = blocks[count - 1], count < len(blocks)
    watching, features, changes = False, images, []

    def seen(operation: Any, inputs: tuple[Any, ...], output: Any) -> None:
        name = operation.overloadpacket._qualified_op_name.removeprefix("aten::")
        if watching and not operation.is_view and name not in POOLING_OPERATIONS:
            changes.append(name)

    def pause(module: nn.Module, args: Any) -> None:
        nonlocal watching
        watching = False

    def watch(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal watching
        watching = shortened and all(probes[path].seen is None for path in heads)

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal features
        features = output
        watch(module, args, output)

    handles = [short.get_submodule(block.output).register_forward_hook(keep)]
    for module in (short.get_submodule(path) for path in (pooling, *probes) if path):
        handles += [module.register_forward_pre_hook(pause), module.register_forward_hook(watch)]
    with hooked(*handles), Watch(seen):
        run_weightless(short, images)
    if changes and both:
        raise BlocksError(
            f"Cut after {block.name!r}, this {type(short).__name__} would still apply {', '.join(map(repr, both))} "
            "before its head, which runs below the cut too and so stays: the head would not see the block's output. "
            "Give each place a module of its own: one without weights changes nothing else."
        )
    if changes:
        raise BlocksError(
            f"Cut after {block.name!r}, this {type(short).__name__} would still apply "
            f"{', '.join(dict.fromkeys(changes))} before its head, by itself and not by a module that could go: the "
            "head would not see the block's output. Networks of timm mostly do such things in modules; in your own "
            "network, make a module of it."
        )
    arriving = {path: probe.seen for path, probe in probes.items() if probe.seen is not None}
    if missing := [path for path in probes if path not in arriving]:
        raise BlocksError(f"The head or norm {missing[0]!r} is never run, so nothing can be put in its place.")
    return features, arriving
