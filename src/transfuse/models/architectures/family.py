"""The shapes in which a family of networks tells how it is cut into blocks: plain data, expanded by `blocks_of`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One block, or with `*` one block for every child of a module that matches, in their order.

    A member of a family need not have every path of a rule: those that it lacks are left out, and so is a block of
    which nothing is there, or nothing but `nn.Identity`. What a rule forgets is found: it has no owner.

    Args:
        name: the block's name; a path part with `*` stands for every child of that pattern, as in `layer1.*`.
        paths: modules or parameters that the block owns; empty: the module of the same name.
        output: the module whose output is the block's; empty: the last of `paths` that the network has.
        cut: False for a block after which the network cannot be cut.
        stays: True for a norm on top of the blocks that a network keeps when it is cut below it.
    """

    name: str
    paths: tuple[str, ...] = ()
    output: str = ""
    cut: bool = True
    stays: bool = False


@dataclass(frozen=True)
class Each:
    """The same rules for every module of a pattern, one module after the other.

    Args:
        modules: a path with `*`, as the name of a `Rule`.
        rules: what is true of each of them; `{}` stands for its path, as in `{}.attn`.
    """

    modules: str
    rules: tuple[Rule | Each, ...]


@dataclass(frozen=True)
class SmallStem:
    """How a network's first layers are changed for small images.

    Args:
        convolution: its first one, replaced by one of stride 1 that keeps the size.
        pooling: the module after it that is taken out.
        width: channels that the new convolution makes.
        kernel: its side.
    """

    convolution: str
    pooling: str
    width: int
    kernel: int


@dataclass(frozen=True)
class Family:
    """A family of networks: how it is recognised, its head and its rules for each level.

    Args:
        name: the family's name.
        recognised_by: modules of the network that must all be there, also when it has been cut short.
        head: modules of the classifier.
        levels: the rules of each level; a level that is not here is not defined for the family.
        pool: the module that pools the last feature map to one vector; empty where there is none.
        random: what the random start "default" means for its convolutions and linear layers: "default" (N(0, 2 /
            fan_out) and uniform +-1/sqrt(fan_in)) or "trunc_normal" (transformers).
    """

    name: str
    recognised_by: tuple[str, ...]
    head: tuple[str, ...]
    levels: Mapping[str, tuple[Rule | Each, ...]]
    pool: str = ""
    random: str = "default"
