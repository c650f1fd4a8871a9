"""From the rules of a family to the blocks of one network: patterns are filled in, and what is not there left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from transfuse.models.architectures.family import Each, Rule


def expanded(rule: Rule | Each, modules: Mapping[str, nn.Module], known: Collection[str]) -> Iterator[Rule]:
    """The rules without patterns that a rule stands for in one network, each with its paths and its output.

    Paths that the network lacks are left out, and a block without any.

    Args:
        rule: of a family.
        modules: the network's modules by name.
        known: the names of its modules, parameters and buffers.

    >>> network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    >>> modules = dict(network.named_modules())
    >>> [(block.name, block.output) for block in expanded(Rule("*"), modules, modules)]
    [('0', '0'), ('1', '1')]
    """
    if isinstance(rule, Each):
        for module in _matching(modules, rule.modules):
            for inner in rule.rules:
                yield from expanded(_within(inner, module), modules, known)
        return
    for name in _matching(modules, rule.name):
        if paths := tuple(path for path in rule.paths or (name,) if path in known):
            yield replace(rule, name=name, paths=paths, output=rule.output or paths[-1])


def _within(rule: Rule | Each, module: str) -> Rule | Each:
    """A rule with the path of a module in the place of `{}`."""
    if isinstance(rule, Each):
        return Each(rule.modules.replace("{}", module), rule.rules)
    paths = tuple(path.replace("{}", module) for path in rule.paths)
    return replace(rule, name=rule.name.replace("{}", module), paths=paths, output=rule.output.replace("{}", module))


def _matching(modules: Mapping[str, nn.Module], pattern: str) -> list[str]:
    """The names that a pattern stands for; a part with `*` is every child that matches, any other part is itself."""
    names = [""]
    for part in pattern.split("."):
        if "*" in part:
            there = [(name, child) for name in names if name in modules for child in modules[name]._modules]
            names = [f"{name}.{child}".lstrip(".") for name, child in there if fnmatchcase(child, part)]
        else:
            names = [f"{name}.{part}".lstrip(".") for name in names]
    return names
