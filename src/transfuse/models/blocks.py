"""A network as an ordered list of blocks: the one coordinate of every method (which block, up to which depth)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import overload

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from transfuse.errors import BlocksError, nearest
from transfuse.models.architectures import FAMILIES, Family
from transfuse.models.architectures.expand import expanded
from transfuse.models.generic import generic_blocks, order_of_runs
from transfuse.models.modules import is_empty, modules_of, nearest_name, wrapped_under

LEVELS = ("stage", "block", "layer", "wt-st")

BY_HAND = """Say by hand how it is cut: pass this where blocks are asked for, or give the network a method that
returns it, which works in study files too:
  from transfuse.models import Block, Blocks
  def transfuse_blocks(self, level):
      return Blocks(level, (Block("stem", ("conv1", "bn1"), "bn1"), Block("body", ("body",), "body")), head=("fc",))
A Block is a name, the modules or parameters that it owns, and the module whose output is the block's; they stand in the
order of the forward pass, and every entry of the state dict has exactly one owner."""


@dataclass(frozen=True)
class Block:
    """One block of a network.

    Args:
        name: unique among the blocks.
        paths: the modules or parameters that it owns, as in `model.get_submodule`.
        output: the module whose output is the block's output.
        cut: whether the network may be cut after it.
        stays: whether a network cut below it keeps it: the norm on top of a transformer's blocks.
    """

    name: str
    paths: tuple[str, ...]
    output: str
    cut: bool = True
    stays: bool = False

    def owns(self, key: str) -> bool:
        """Whether the module, parameter or buffer `key` belongs to this block (`layer3.1` does not own `layer3.10`)."""
        return any(is_under(key, path) for path in self.paths)


@dataclass(frozen=True)
class Blocks:
    """The ordered blocks of a network at one level, and its head.

    Args:
        level: one of LEVELS.
        items: the blocks, from the image to the head.
        head: the modules of the classifier.
        in_order: set where a check has shown that they stand in the order of the forward pass; not to be given.

    >>> blocks = Blocks("stage", (Block("a", ("0",), "0"), Block("b", ("2",), "3"), Block("c", ("4",), "4")), ("6",))
    >>> blocks.names, len(blocks), blocks.owner("2.weight"), blocks.owner("6.bias")
    (('a', 'b', 'c'), 3, 'b', 'head')
    >>> [blocks.depth(depth) for depth in (0, 2, "b", "middle", "all")]
    [0, 2, 2, 2, 3]
    """

    level: str
    items: tuple[Block, ...]
    head: tuple[str, ...]
    in_order: bool = field(default=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return self.items[index]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the blocks from the image to the head."""
        return tuple(block.name for block in self.items)

    def depth(self, depth: int | str) -> int:
        """The number of blocks that a depth means.

        An int counts blocks (0 to all), a block's name means up to and including that block, "all" means every block,
        "middle" the first half, rounded up. Raises BlocksError for anything else.
        """
        count = len(self.items)
        if isinstance(depth, int) and not isinstance(depth, bool):
            if 0 <= depth <= count:
                return depth
            raise BlocksError(f"Depth {depth} of {count} blocks at level {self.level!r}: expected 0 to {count}.")
        if depth in self.names:
            return self.names.index(str(depth)) + 1
        if depth in ("all", "middle"):
            return count if depth == "all" else math.ceil(count / 2)
        raise BlocksError(
            f"Unknown depth {depth!r} at level {self.level!r}: expected a number from 0 to {count}, 'all', 'middle' or "
            f"the last block to take: {nearest(depth, self.names)}"
        )

    def owner(self, key: str) -> str:
        """The name of the block that owns an entry of the state dict, or "head"; raises BlocksError for an orphan."""
        for block in self.items:
            if block.owns(key):
                return block.name
        if any(is_under(key, path) for path in self.head):
            return "head"
        raise BlocksError(f"No block and no head owns {key!r}.")


def is_under(key: str, path: str) -> bool:
    """Whether `key` is `path` or lies below it, compared by path parts.

    >>> is_under("layer3.1.conv1.weight", "layer3.1"), is_under("layer3.10.conv1.weight", "layer3.1")
    (True, False)
    """
    parts = path.split(".")
    return key.split(".")[: len(parts)] == parts


def blocks_of(model: nn.Module, level: str = "stage") -> Blocks:
    """The complete, ordered, validated list of a network's blocks.

    Levels: "stage" (coarse), "block" (every candidate cut), "layer" (the feature layers of M), "wt-st" (the module
    tables of M, where M has one). Families with a data file (`models/architectures`) are cut as the papers cut them;
    an `nn.Sequential` is cut at its children (level "block": nested ones too); any other timm network at its direct
    children, if one forward pass without data (on the meta device) shows that they run one after the other.
    A network of your own says it by a method `transfuse_blocks(level)` that returns its `Blocks`. Blocks that a
    truncated network has given up (nothing but `nn.Identity` is left of them) are left out.

    Raises BlocksError for an unknown level, for a level that the papers do not define for this family, for blocks of
    a network's own that are no complete partition, for a network that cannot be cut honestly (the message shows how to
    give the blocks by hand), and for a network inside of `torch.compile` or `DataParallel`.

    >>> from transfuse.models.create import create_model
    >>> blocks_of(create_model("cbr_small", classes=5)).names
    ('layer1', 'layer2', 'layer3', 'layer4')
    >>> class Mine(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
    ...     def transfuse_blocks(self, level):
    ...         return Blocks(level, (Block("body", paths=("body",), output="body"),), head=("fc",))
    >>> blocks_of(Mine()).names
    ('body',)
    """
    if level not in LEVELS:
        raise BlocksError(f"Unknown level {level!r}: {nearest(level, LEVELS)}")
    if inside := wrapped_under(model):
        raise BlocksError(
            f"{type(model).__name__} is no network but stands round one, whose names and draws would be others: give "
            f"the network inside, model.{inside}. What is done to that is done to the wrapped one."
        )
    if callable(own := getattr(model, "transfuse_blocks", None)):
        return check_blocks(model, _present(model, _told(model, own(level), level)))
    family = family_of(model)
    defined = tuple(family.levels) if family else LEVELS[:3]
    if level not in defined:
        what = f"the {family.name} family" if family else f"the network {type(model).__name__}"
        raise BlocksError(
            f"Level {level!r} is not defined for {what} (the papers cut only some families so). Choices: "
            f"{', '.join(defined)}. Level 'stage' or 'block' with rest='mean_var' does the same on its own blocks."
        )
    if family:
        modules = modules_of(model)
        known = {*modules, *model.state_dict()}
        items = tuple(
            Block(found.name, found.paths, found.output, found.cut, found.stays)
            for rule in family.levels[level]
            for found in expanded(rule, modules, known)
        )
        head = family.head
    else:
        parts = generic_blocks(model, nested=level != "stage")
        if isinstance(parts, str):
            raise BlocksError(
                f"The network {type(model).__name__} cannot be cut into blocks by itself: {parts}.\n{BY_HAND}\n"
                "To look inside (transfuse.analysis) a list of module names is enough: ['conv1', 'layer2']."
            )
        items = tuple(Block(part.name, part.paths, part.output) for part in parts.items)
        head = parts.head
    # A family's order is its table's, and others were proven or run so by construction.
    return check_blocks(model, _present(model, Blocks(level, items, head, in_order=True)))


def check_blocks(model: nn.Module, blocks: Blocks) -> Blocks:
    """Returns `blocks` if they are a complete partition of the model's state dict, else raises BlocksError.

    For blocks given by hand: names are unique, every path and output is in the network, each entry of the state dict
    has exactly one owner (the message names the orphans), and the blocks stand in the order in which a forward pass
    without data ends them. Where such a pass fails, their order is believed.
    """
    if not isinstance(blocks, Blocks):
        raise BlocksError(
            f"blocks is {blocks!r}; expected Blocks, as blocks_of(model) gives them for networks that are known.\n"
            f"{BY_HAND}"
        )
    if lazy := [name for name, tensor in model.state_dict(keep_vars=True).items() if is_lazy(tensor)]:
        raise BlocksError(
            f"{len(lazy)} tensors have no shape yet ({_some(lazy)}), for their modules are lazy: run the network once "
            "on a batch of images, then ask again."
        )
    problems = []
    names = (*blocks.names, "head")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"names used twice: {', '.join(twice)}")
    modules = modules_of(model)
    keys = list(model.state_dict())
    known = dict.fromkeys([*modules, *keys])
    for block in blocks:
        problems += [
            f"block {block.name!r}: the network has no module or parameter {path!r}, "
            f"{nearest_name(path, known, most=4)}"
            for path in block.paths
            if path not in known
        ]
        if block.output not in modules:
            problems.append(
                f"block {block.name!r}: its output {block.output!r} is no module, "
                f"{nearest_name(block.output, modules, most=4)}"
            )
    problems += [
        f"the network has no head {path!r}, {nearest_name(path, known, most=4)}"
        for path in blocks.head
        if path not in known
    ]
    claims: dict[str, dict[str, None]] = {}
    for name, paths in (*((block.name, block.paths) for block in blocks), ("head", blocks.head)):
        for path in paths:
            claims.setdefault(path, {})[name] = None
    owners: dict[str, dict[str, None]] = {}
    for key in keys:
        over = accumulate(key.split("."), "{}.{}".format)  # "a.b.weight": itself, and what it may lie under
        owners[key] = {name: None for path in over for name in claims.get(path, ())}
    if orphans := [key for key, owner in owners.items() if not owner]:
        problems.append(f"{len(orphans)} of {len(keys)} entries have no owner: {_some(orphans)}")
    if shared := [f"{key} ({', '.join(owner)})" for key, owner in owners.items() if len(owner) > 1]:
        problems.append(f"{len(shared)} entries have more than one owner: {_some(shared)}")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise BlocksError(
            f"The blocks at level {blocks.level!r} do not cover this {type(model).__name__}:{listed}\n{BY_HAND}"
        )
    if not blocks.in_order and (found := _other_order(model, blocks)):
        raise BlocksError(
            f"The blocks at level {blocks.level!r} are given in the order {', '.join(blocks.names)}, and a forward "
            f"pass through this {type(model).__name__} ends them in the order {', '.join(found)}: list them so, for a "
            "depth counts them from the image on."
        )
    return blocks if blocks.in_order else replace(blocks, in_order=True)


def _other_order(model: nn.Module, blocks: Blocks) -> list[str]:
    """The names of the blocks as they end in a forward pass, if that is another order; empty where none can tell."""
    try:
        with torch.random.fork_rng(devices=[]):
            runs = order_of_runs(model, [block.output for block in blocks])
    except BlocksError:
        return []
    last = {output: place for place, output in enumerate(runs)}  # a module that runs again ends with its last run
    ran = [block for block in blocks if block.output in last]
    found = sorted(ran, key=lambda block: last[block.output])
    return [block.name for block in found] if found != ran else []


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")


def _told(model: nn.Module, blocks: object, level: str) -> Blocks:
    """What a network's own `transfuse_blocks(level)` returned, if it is Blocks of that level."""
    if not isinstance(blocks, Blocks) or blocks.level != level:
        found = f"Blocks of level {blocks.level!r}" if isinstance(blocks, Blocks) else f"a {type(blocks).__name__}"
        raise BlocksError(
            f"transfuse_blocks({level!r}) of {type(model).__name__} returned {found}, expected Blocks of level "
            f"{level!r}; for a level that the network does not have it raises BlocksError.\n{BY_HAND}"
        )
    return blocks


def _present(model: nn.Module, blocks: Blocks) -> Blocks:
    """The blocks of which more than `nn.Identity` is there: a truncated network keeps its names, not its blocks."""
    modules = modules_of(model)
    items = tuple(
        block for block in blocks if not all(path in modules and is_empty(modules[path]) for path in block.paths)
    )
    return replace(blocks, items=items)


def family_of(model: nn.Module) -> Family | None:
    """The family of networks that a network is recognised to belong to, None for any other."""
    modules = modules_of(model).keys()
    return next((family for family in FAMILIES if modules >= set(family.recognised_by)), None)
