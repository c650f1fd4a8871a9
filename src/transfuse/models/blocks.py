"""A network as an ordered list of blocks: the one coordinate of every method (which block, up to which depth)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import overload

from torch import nn

from transfuse.errors import BlocksError, nearest
from transfuse.models.architectures import FAMILIES, Each, Family, Rule
from transfuse.models.generic import generic_blocks

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
    if inside := _wrapped(model):
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
        modules = dict(model.named_modules())
        known = {*modules, *model.state_dict()}
        items = tuple(block for rule in family.levels[level] for block in _expand(modules, known, rule))
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
    return check_blocks(model, _present(model, Blocks(level, items, head)))


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
    return blocks


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
    modules = dict(model.named_modules())
    items = tuple(
        block for block in blocks if not all(path in modules and _empty(modules[path]) for path in block.paths)
    )
    return Blocks(blocks.level, items, blocks.head)


def _empty(module: nn.Module) -> bool:
    """Whether a module is `nn.Identity`, or holds nothing else."""
    if isinstance(module, nn.Identity):
        return True
    children = list(module.children())
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(children) and not own and all(_empty(child) for child in children)


def _wrapped(model: nn.Module) -> str:
    """The name under which torch.compile, DataParallel or DistributedDataParallel keep a network, "" for others."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    return "_orig_mod" if "_orig_mod" in model._modules else ""


def family_of(model: nn.Module) -> Family | None:
    """The family of networks that a network is recognised to belong to, None for any other."""
    modules = {name for name, _ in model.named_modules()}
    return next((family for family in FAMILIES if modules.issuperset(family.recognised_by)), None)


def _expand(modules: dict[str, nn.Module], known: set[str], rule: Rule | Each) -> Iterator[Block]:
    """The blocks of a rule: paths that the network lacks are left out, and a block without any."""
    if isinstance(rule, Each):
        for module in _matching(modules, rule.modules):
            for inner in rule.rules:
                yield from _expand(modules, known, _within(inner, module))
        return
    for name in _matching(modules, rule.name):
        if paths := tuple(path for path in rule.paths or (name,) if path in known):
            yield Block(name, paths, rule.output or paths[-1], rule.cut, rule.stays)


def _within(rule: Rule | Each, module: str) -> Rule | Each:
    """A rule with the path of a module in the place of `{}`."""
    if isinstance(rule, Each):
        return Each(rule.modules.replace("{}", module), rule.rules)
    paths = tuple(path.replace("{}", module) for path in rule.paths)
    return replace(rule, name=rule.name.replace("{}", module), paths=paths, output=rule.output.replace("{}", module))


def _matching(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    """The names that a pattern stands for; a part with `*` is every child that matches, any other part is itself."""
    names = [""]
    for part in pattern.split("."):
        if "*" in part:
            there = [(name, child) for name in names if name in modules for child, _ in modules[name].named_children()]
            names = [f"{name}.{child}".lstrip(".") for name, child in there if fnmatchcase(child, part)]
        else:
            names = [f"{name}.{part}".lstrip(".") for name in names]
    return names
