"""Putting the names of a network and of its weights into one language, where they do not speak the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from transfuse.errors import TransferError
from transfuse.models.architectures.other_names import DIALECTS, Dialect


class CommonNames(NamedTuple):
    """Both sides in one language.

    Fields:
        target: the common name of each name of the network.
        source: the source's tensors by their common names.
        origin: the source's own name of each common name.
        ignored: the source's own names of tensors that the other side has no use for, with the reason.
        renamed: which rules were applied, with the number of names that each changed.
        reshaped: regular expressions of common names whose tensors hold the same numbers in another shape.
        spoken: networks and programs by whose names the source was recognised, applied or not.
    """

    target: dict[str, str]
    source: dict[str, Tensor]
    origin: dict[str, str]
    ignored: tuple[tuple[str, str], ...]
    renamed: tuple[tuple[str, int], ...]
    reshaped: tuple[str, ...]
    spoken: tuple[str, ...]


def common_names(target: Iterable[str], source: Mapping[str, Tensor], family: str | None) -> CommonNames:
    """The names of a network and of a source, renamed by `other_names.DIALECTS` where they are of different dialects.

    Two sides of the same dialect are left alone. A dialect of other families than the network's is not applied.

    Args:
        target: names of the network's state dict.
        source: its weights, under the names that they were saved with.
        family: name of the network's family (`family_of`), None where it has none.

    Raises TransferError if two tensors would get one name.

    >>> import torch
    >>> names = common_names(["fc.weight"], {"module.fc.weight": torch.ones(1)}, None)
    >>> list(names.source), names.renamed[0][1]
    (['fc.weight'], 1)
    """
    theirs = _dialects(source)
    ours = _dialects(target)
    understood = [dialect for dialect in theirs if not (family and dialect.families and family not in dialect.families)]
    spoken = tuple(_called(dialect) for dialect in theirs if dialect.network)
    if understood == ours:
        same = {name: name for name in source}
        return CommonNames({name: name for name in target}, dict(source), same, (), (), (), spoken)
    tensors = dict(source)
    origin = {name: name for name in tensors}
    ignored: list[tuple[str, str]] = []
    renamed: list[tuple[str, int]] = []
    for dialect in understood:
        foreign = dialect not in ours
        if foreign:
            for name in list(tensors):
                if reason := next((why for pattern, why in dialect.ignored if re.search(pattern, name)), ""):
                    ignored.append((origin.pop(name), reason))
                    del tensors[name]
            tensors = dialect.convert(tensors) if dialect.convert else tensors
        changed = {name: _rename(dialect, name) for name in tensors}
        if foreign and (count := sum(old != new for old, new in changed.items())):
            renamed.append((_described(dialect, to_timm=True), count))
        origin = _one_to_one({own: changed[name] for name, own in origin.items()})
        tensors = {changed[name]: tensor for name, tensor in tensors.items()}
    names = {name: name for name in target}
    for dialect in ours:
        changed = {name: _rename(dialect, current) for name, current in names.items()}
        if dialect not in understood and (count := sum(names[name] != changed[name] for name in names)):
            renamed.append((_described(dialect, to_timm=False), count))
        names = changed
    _one_to_one(names)
    reshaped = tuple(pattern for dialect in {*understood, *ours} for pattern in dialect.reshaped)
    return CommonNames(
        names,
        tensors,
        origin,
        tuple(ignored),
        tuple(renamed),
        reshaped,
        spoken,
    )


def _dialects(names: Iterable[str]) -> list[Dialect]:
    """The dialects that names are written in, each found after those before it are applied."""
    current = list(names)
    found = []
    for dialect in DIALECTS:
        if all(any(re.search(pattern, name) for name in current) for pattern in dialect.telling):
            found.append(dialect)
            current = [_rename(dialect, name) for name in current]
    return found


def _rename(dialect: Dialect, name: str) -> str:
    for pattern, replacement in dialect.renames:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def _one_to_one(new_names: Mapping[str, str]) -> dict[str, str]:
    """The own name of each new name; raises TransferError if two get the same."""
    turned: dict[str, str] = {}
    for own, new in new_names.items():
        if new in turned:
            raise TransferError(
                f"Two tensors, {turned[new]!r} and {own!r}, would both be named {new!r} once they are renamed: the "
                "file holds two networks. Save the state dict of one of them."
            )
        turned[new] = own
    return turned


def _called(dialect: Dialect) -> str:
    return f"{dialect.network} of {dialect.program}"


def _described(dialect: Dialect, *, to_timm: bool) -> str:
    if not dialect.network:
        return f"prefix of {dialect.program} {'removed' if to_timm else 'added'}"
    names = f"the names of {_called(dialect)}"
    return f"{names} to timm's" if to_timm else f"timm's names to {names}"
