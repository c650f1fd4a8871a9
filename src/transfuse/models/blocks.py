"""A network as an ordered list of blocks: the one coordinate of every method (which block, up to which depth)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import overload

from torch import nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.architectures import FAMILIES, Family, Rule
from transfuse.models.generic import generic_blocks

LEVELS = ("stage", "block", "layer", "wt-st")

BY_HAND = """Say by hand how it is cut, and pass this where blocks are asked for:
  Blocks("stage", items=(Block("stem", paths=("conv1", "bn1"), output="bn1"), Block("body", paths=("body",),
         output="body")), head=("fc",))
where `paths` are the modules or parameters that a block owns, `output` the module whose output is the block's, in the
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

    >>> blocks = Blocks("stage", (Block("a", ("0",), "0"), Block("b", ("2",), "3"), Block("c", ("4",), "4")), ("6",))
    >>> blocks.names, len(blocks), blocks.owner("2.weight"), blocks.owner("6.bias")
    (('a', 'b', 'c'), 3, 'b', 'head')
    >>> [blocks.depth(depth) for depth in (0, 2, "b", "middle", "all")]
    [0, 2, 2, 2, 3]
    """

    level: str
    items: tuple[Block, ...]
    head: tuple[str, ...]

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
            f"the last block to take, {nearest(depth, self.names)}"
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

    Raises BlocksError for an unknown level, for a level that the papers do not define for this family, and for a
    network that cannot be cut honestly; the message shows how to give the blocks by hand.

    >>> from transfuse.models.create import create_model
    >>> blocks_of(create_model("cbr_small", classes=5)).names
    ('layer1', 'layer2', 'layer3', 'layer4')
    """
    if level not in LEVELS:
        raise BlocksError(f"Unknown level {level!r}: {nearest(level, LEVELS)}")
    family = family_of(model)
    defined = tuple(family.levels) if family else LEVELS[:3]
    if level not in defined:
        what = f"the {family.name} family" if family else f"the network {type(model).__name__}"
        raise BlocksError(
            f"Level {level!r} is not defined for {what} (the papers cut only some families so). Choices: "
            f"{', '.join(defined)}. Level 'stage' or 'block' with rest='mean_var' does the same on its own blocks."
        )
    if family:
        items = tuple(block for rule in family.levels[level] for block in _expand(model, rule))
        head = family.head
    else:
        parts = generic_blocks(model, nested=level != "stage")
        if isinstance(parts, str):
            raise BlocksError(
                f"The network {type(model).__name__} cannot be cut into blocks by itself: {parts}.\n{BY_HAND}"
            )
        items = tuple(Block(part.name, part.paths, part.output) for part in parts.items)
        head = parts.head
    return check_blocks(model, Blocks(level, items, head))


def check_blocks(model: nn.Module, blocks: Blocks) -> Blocks:
    """Returns `blocks` if they are a complete partition of the model's state dict, else raises BlocksError.

    For blocks given by hand: names are unique, every path and output is in the network, and each entry of the state
    dict has exactly one owner; the message names the orphans.
    """
    problems = []
    names = (*blocks.names, "head")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"names used twice: {', '.join(twice)}")
    modules = dict(model.named_modules())
    keys = list(model.state_dict())
    known = {*modules, *keys}
    for block in blocks:
        problems += [
            f"block {block.name!r}: the network has no module or parameter {path!r}, {nearest(path, known, most=4)}"
            for path in block.paths
            if path not in known
        ]
        if block.output not in modules:
            problems.append(
                f"block {block.name!r}: its output {block.output!r} is no module, "
                f"{nearest(block.output, modules, most=4)}"
            )
    problems += [f"the network has no head {path!r}" for path in blocks.head if path not in known]
    owners = {
        key: [b.name for b in blocks if b.owns(key)] + ["head"] * any(is_under(key, path) for path in blocks.head)
        for key in keys
    }
    if orphans := [key for key, owner in owners.items() if not owner]:
        problems.append(f"{len(orphans)} of {len(keys)} entries have no owner: {_some(orphans)}")
    if shared := [f"{key} ({', '.join(owner)})" for key, owner in owners.items() if len(owner) > 1]:
        problems.append(f"{len(shared)} entries have more than one owner: {_some(shared)}")
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise BlocksError(
            f"The blocks at level {blocks.level!r} do not cover this {type(model).__name__}:{listed}\n{BY_HAND}"
        )
    return blocks


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")


def family_of(model: nn.Module) -> Family | None:
    """The family of networks that a network is recognised to belong to, None for any other."""
    children = dict(model.named_children())
    for family in FAMILIES:
        if all(name in children for name in family.recognised_by):
            return family
    return None


def _expand(model: nn.Module, rule: Rule) -> Iterator[Block]:
    names = [""]
    for part in rule.name.split("."):
        found = []
        for name in names:
            children = [child for child, _ in model.get_submodule(name).named_children()] if "*" in part else [part]
            found += [f"{name}.{child}".lstrip(".") for child in children if fnmatchcase(child, part)]
        names = found
    for name in names:
        yield Block(name, rule.paths or (name,), rule.output or name, rule.cut, rule.stays)
