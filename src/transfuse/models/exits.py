"""One network with a head at every cut, so that one training tells of every truncated network; U-Nets: `mask_exits`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.blocks import Block, Blocks, check_blocks, is_under
from transfuse.models.complexity import complexity
from transfuse.models.freeze import forget_frozen
from transfuse.models.heads import put
from transfuse.models.modules import first_names, modules_of
from transfuse.models.truncate import truncate
from transfuse.models.weightless import example_images, hooked, trace_modules

TRUNKS = ("joint", "top", "frozen")


class Exit(NamedTuple):
    """A truncated network among the exits of another.

    Attributes:
        name: of its last block.
        depth: how many blocks it keeps.
        parameters: of the truncated network by itself, head included.
        macs: of one image through it (see `transfuse.models.complexity`).
    """

    name: str
    depth: int
    parameters: int
    macs: int


def exit_depths(blocks: Blocks) -> tuple[int, ...]:
    """After how many blocks there is an exit: at each cut point, and at the end of the whole network.

    A norm that stays on every cut network (on top of a transformer) is no block to be cut above, so there the whole
    network is the exit after the block below it.

    >>> stem, body = Block("stem", ("0",), "0"), Block("body", ("1",), "1", cut=False)
    >>> norm = Block("norm", ("2",), "2", stays=True)
    >>> exit_depths(Blocks("stage", (stem, body), ("3",))), exit_depths(Blocks("stage", (stem, norm), ("3",)))
    ((1, 2), (1,))
    """
    points = [number for number, block in enumerate(blocks, 1) if block.cut and not block.stays]
    return tuple(dict.fromkeys([*points, _whole(blocks)]))


def _whole(blocks: Blocks) -> int:
    """How many blocks the whole network has, without a norm that stays on top of a cut point."""
    below = [number for number, block in enumerate(blocks, 1) if not block.stays]
    return below[-1] if below and blocks[below[-1] - 1].cut else len(blocks)


class Exits(nn.Module):
    """A network whose forward gives the logits (N, exits, classes) of every truncated network; made by `exits`.

    Attributes:
        exits: the truncated networks, from the shallowest to the deepest.
        network: the deepest of them, a network of its own.
        tails: what each of the others has above its cut: heads, and on a transformer its norm.
        blocks: of all this, for `freeze_` and for learning rates by block; the heads of all exits are its head.
        trunk: which losses train the blocks (see `exits`).
    """

    def __init__(self, network: nn.Module, tails: Sequence[_Tail], found: Sequence[Exit], blocks: Blocks, trunk: str):
        super().__init__()
        self.network, self.tails = network, nn.ModuleList(tails)
        self.exits, self.trunk = tuple(found), trunk
        self.blocks = check_blocks(self, self._own_blocks(blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to logits (N, exits, classes)."""
        learns = torch.is_grad_enabled()
        logits: list[Tensor] = []
        waiting: list[Callable[[], Tensor]] = []

        def leave(tail: _Tail, above: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
            # Copies, since what comes next may write into it.
            if learns and self.trunk == "joint":
                mine, output = Parted.apply(output, above, above + 1)
            else:
                mine = output.detach().clone()
            if learns:  # after the network, which so draws the same dropout as alone
                waiting.append(partial(tail, mine))
            else:  # at once, so that its features need not be kept
                logits.append(tail(mine))
            return output

        count = len(self.tails)
        with hooked(
            *(
                self.network.get_submodule(tail.cut).register_forward_hook(partial(leave, tail, count - number))
                for number, tail in enumerate(self._tails())
            )
        ):
            top = self.network(images)
        logits += [run() for run in waiting]
        return torch.stack([*logits, top], dim=1)

    def names_of(self, name: str) -> list[str]:
        """The entries of the state dict that are, or begin as, the network's own entry `name`; no fresh head."""
        own = [f"network.{name}", *(f"tails.{number}.network.{name}" for number in range(len(self.tails)))]
        state = self.state_dict(keep_vars=True)
        shape = state[own[0]].shape if own[0] in state else None
        return [
            key
            for key in own
            if key in state and state[key].shape == shape and not any(is_under(key, head) for head in self.blocks.head)
        ]

    def _tails(self) -> list[_Tail]:
        return [tail for tail in self.tails if isinstance(tail, _Tail)]

    def _own_blocks(self, blocks: Blocks) -> Blocks:
        """The network's blocks under their names here."""
        known = {*modules_of(self), *self.state_dict()}
        tails = [f"tails.{number}.network" for number in range(len(self.tails))]

        def here(paths: Sequence[str], owners: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for path in paths for owner in owners if (name := f"{owner}.{path}") in known)

        items = tuple(
            replace(
                block,
                paths=here(block.paths, ("network", *tails) if block.stays else ("network",)),
                output=f"network.{block.output}",
            )
            for index, block in enumerate(blocks)
            if index < self.exits[-1].depth or block.stays
        )
        return Blocks(blocks.level, items, here(blocks.head, ("network", *tails)), in_order=True)


def exits(
    model: nn.Module,
    blocks: Blocks,
    classes: int,
    *,
    depths: Sequence[int | str] | None = None,
    trunk: str = "joint",
    pool: str = "average",
    head: str = "linear",
    hidden: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> Exits:
    """A new network with an exit wherever `model` can be cut: the truncated networks on one trunk.

    Exit k is `truncate(model, blocks, k, classes, pool, head=head, seed=seed)` on shared blocks: the pooling, the norm
    that stays and the fresh head above the cut are its own and begin as they begin there (heads are drawn by (seed,
    their name in the network), so heads of one width are alike). In eval mode its logits are those of
    the truncated network, bit for bit. The given network stays as it is.

    A forward pass costs one pass through the deepest network, plus pooling and a linear layer for each exit; in
    training also two copies of the features at each cut.

    Args:
        model: the network; what is frozen in it is frozen in its copy.
        blocks: its blocks.
        classes: outputs of each head.
        depths: exits after these blocks only (see `Blocks.depth`); None: `exit_depths`.
        trunk: what trains the blocks. "joint": the losses of all exits above, each block getting the mean of the
            gradients that the truncated networks which have it would give (the gradient equilibrium of Li et al. 2019,
            arXiv 1908.06294, as their code has it); "top": the loss of the deepest exit alone, the others seeing
            features through which no gradient goes; "frozen": as "top", and to be frozen by
            `freeze_(network, network.blocks, "all")`, which makes of each exit a linear probe (Alain and Bengio 2016).
        pool, head, hidden: what is above each cut, as for `truncate`.
        image_size: side of the images in pixels, for the MACs and for `pool="none"`; None: what the network is
            built for.
        seed: of the heads.

    Raises:
        BlocksError: no cut point below the whole network (where no `depths` are given), an unknown trunk, or a cut
            that `truncate` refuses.

    >>> from transfuse.models import blocks_of, create_model
    >>> model = create_model("cbr_tiny", classes=5)
    >>> network = exits(model, blocks_of(model), classes=2, image_size=64)
    >>> [(one.name, one.parameters) for one in network.exits]
    [('layer1', 5058), ('layer2', 210242), ('layer3', 1030210), ('layer4', 4308546)]
    >>> network(torch.zeros(3, 3, 64, 64)).shape
    torch.Size([3, 4, 2])
    """
    if trunk not in TRUNKS:
        raise BlocksError(f"Unknown trunk {trunk!r}: {nearest(trunk, TRUNKS)}")
    blocks = check_blocks(model, blocks)
    chosen = _chosen(model, blocks, depths)
    first = first_names(model)
    images = example_images(model, image_size)
    found: list[Exit] = []
    tails: list[_Tail] = []
    for count in chosen:
        short = truncate(
            model, blocks, count, classes, pool, head=head, hidden=hidden, image_size=image_size, seed=seed
        )  # fmt: skip
        size = complexity(short, image_size)
        found.append(Exit(blocks[count - 1].name, count, size.parameters, size.macs))
        if count < chosen[-1]:
            tails.append(_Tail(short, first[blocks[count - 1].output], blocks[:count], images))
    return Exits(short, tails, found, blocks, trunk)


def _chosen(model: nn.Module, blocks: Blocks, depths: Sequence[int | str] | None) -> list[int]:
    if depths is None:
        chosen = list(exit_depths(blocks))
        if len(chosen) < 2:
            raise BlocksError(
                f"This {type(model).__name__} cannot be cut anywhere at level {blocks.level!r} (blocks: "
                f"{', '.join(blocks.names)}), so there is nothing to choose from: try another level, or give blocks "
                "of which some are cut points by hand."
            )
        return chosen
    if not depths:
        raise BlocksError("depths is empty: expected one exit or more, e.g. depths=['layer1', 'all'].")
    counts = (blocks.depth(depth) for depth in depths)
    return sorted({_whole(blocks) if count == len(blocks) else count for count in counts})


class Parted(torch.autograd.Function):
    """Features as two copies, for the exits that read them here and for the blocks above with their `above` exits.

    The gradient is the mean over all `exits` that read them, that of the copy for the blocks being the mean over
    theirs, and that of the copy for here a sum.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, above: int, exits: int) -> tuple[Tensor, Tensor]:
        """Gives two copies."""
        ctx.above, ctx.exits = above, exits
        return features.clone(), features.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gives the gradient of the features."""
        here, above = gradients
        return (here + ctx.above * above) / ctx.exits, None, None


class _Arriving:
    """What a tail is given at the moment; one for all stand-ins of a tail."""

    def __init__(self) -> None:
        self.features = torch.empty(0)

    def nothing(self, shape: tuple[int, ...]) -> Tensor:
        """What no logit may depend on: NaN, which shows wherever it is used."""
        return self.features.new_full((), math.nan).expand(len(self.features), *shape)


class _StandIn(nn.Module):
    """Stands where a module below a cut was; `shape` is that of its output, None at the cut itself.

    What the module knows of itself (sides, numbers of patches) stays, for networks that ask.
    """

    def __init__(self, arriving: _Arriving, shape: tuple[int, ...] | None, module: nn.Module) -> None:
        super().__init__()
        plain = bool | int | float | str | tuple
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        vars(self).update({name: value for name, value in own.items() if isinstance(value, plain)})
        self.arriving, self.shape = arriving, shape

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.arriving.features if self.shape is None else self.arriving.nothing(self.shape)


class _Tail(nn.Module):
    """A truncated network without the blocks below its cut: maps features at the cut to logits (N, classes).

    Its forward is that of the truncated network, with stand-ins for all modules below the cut: they give NaN, the last
    one the features. Tokens and positions, which are no modules, are NaN without memory, and not in the state dict.
    """

    def __init__(self, short: nn.Module, cut: str, below: Sequence[Block], images: Tensor) -> None:
        super().__init__()
        self.network, self.cut, self.image = short, cut, tuple(images.shape[1:])
        self.arriving = _Arriving()
        calls = trace_modules(short, images)
        replaced: list[str] = []
        for path, call in calls.items():
            if path and call.end <= calls[cut].end and not any(is_under(path, other) for other in replaced):
                replaced.append(path)
                shape = None if path == cut else call.shape_out[1:]
                put(short, path, _StandIn(self.arriving, shape, short.get_submodule(path)))
        for path, module in short.named_modules():
            for name in [*module._parameters, *(module._buffers.keys() - module._non_persistent_buffers_set)]:
                if any(block.owns(f"{path}.{name}".lstrip(".")) for block in below):
                    _empty(module, name)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features (N, ...) to logits (N, classes)."""
        self.arriving.features = features
        try:
            return self.network(self.arriving.nothing(self.image))
        finally:
            self.arriving.features = torch.empty(0)


def _empty(module: nn.Module, name: str) -> None:
    """Puts a buffer without memory in the place of a parameter or buffer, outside of the state dict."""
    tensor = getattr(module, name)
    delattr(module, name)
    forget_frozen(module, name)
    if tensor is not None:
        value = math.nan if tensor.is_floating_point() else 0
        tensor = torch.full((), value, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    module.register_buffer(name, tensor, persistent=False)
