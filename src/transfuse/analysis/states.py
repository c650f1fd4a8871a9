"""Two states of one network, compared name by name: they must match, and must not be the same memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from transfuse.errors import AnalysisError, nearest
from transfuse.models.blocks import Blocks, is_under

__all__ = ["State", "owned", "refuse_shared", "refuse_unlike", "state_of"]

State = nn.Module | Mapping[str, Tensor]


def state_of(side: State) -> Mapping[str, Tensor]:
    """The state dict of a network, or the one given; its tensors are the network's own, not copies."""
    if isinstance(side, nn.Module):
        return dict(side.state_dict())
    if not isinstance(side, Mapping) or not all(isinstance(tensor, Tensor) for tensor in side.values()) or not side:
        raise AnalysisError(f"a {type(side).__name__} is no network; expected a module or a state dict of tensors")
    return side


def owned(blocks: Blocks | Sequence[str], entries: Iterable[str]) -> dict[str, list[str]]:
    """Block name -> the entries of a state dict that it owns, in order; of `Blocks` the head's too, last.

    Names of modules own what lies under them, by whole parts of the path, and leave the rest alone.

    Raises AnalysisError for no names and a name under which nothing lies, BlocksError for an entry that no block owns.

    >>> owned(["conv", "act.0"], ["conv.weight", "conv.bias", "act.0.weight", "act.01.weight"])
    {'conv': ['conv.weight', 'conv.bias'], 'act.0': ['act.0.weight']}
    """
    entries = list(entries)
    if isinstance(blocks, Blocks):
        parts: dict[str, list[str]] = {name: [] for name in (*blocks.names, "head")}
        for entry in entries:
            parts[blocks.owner(entry)].append(entry)
        return parts
    if isinstance(blocks, str) or not blocks:
        raise AnalysisError(f"blocks is {blocks!r}; expected blocks_of(model), or names of modules: ['layer1', 'fc']")
    parts = {str(name): [entry for entry in entries if is_under(entry, str(name))] for name in blocks}
    if empty := [name for name, mine in parts.items() if not mine]:
        holders = dict.fromkeys(entry.rpartition(".")[0] for entry in entries)
        around = [".".join(path.split(".")[: depth + 1]) for path in holders for depth in range(path.count(".") + 1)]
        raise AnalysisError(
            f"the network has no weights under {empty[0]!r}: {nearest(empty[0], filter(None, dict.fromkeys(around)))}"
        )
    return parts


def refuse_shared(first: Mapping[str, Tensor], last: Mapping[str, Tensor], one: str, other: str) -> None:
    """AnalysisError if two states hold the same memory: then training has changed both, and they never differ."""
    shared = [
        name
        for name, tensor in first.items()
        if name in last and tensor.numel() and tensor.device == last[name].device
        if tensor.device.type != "meta" and tensor.data_ptr() == last[name].data_ptr()
    ]
    if shared:
        raise AnalysisError(
            f"{one} and {other} share the memory of {len(shared)} tensors ({_few(shared)}), so what training changed "
            "is changed in both. state_dict() gives no copies: keep copy.deepcopy(model.state_dict()) before training"
        )


def refuse_unlike(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], names: Iterable[str], one: str, other: str
) -> None:
    """AnalysisError that lists which of the named tensors one side lacks, and which have another shape."""
    problems = []
    for side, state in ((one, first), (other, last)):
        if missing := [name for name in names if name not in state]:
            problems.append(f"{len(missing)} missing in {side}: {_few(missing)}")
    unlike = [
        f"{name} {tuple(first[name].shape)} and {tuple(last[name].shape)}"
        for name in names
        if name in first and name in last and first[name].shape != last[name].shape
    ]
    if unlike:
        problems.append(f"{len(unlike)} of other shape in {one} and {other}: {_few(unlike)}")
    if problems:
        raise AnalysisError(
            f"{one} and {other} are not states of one network: {'; '.join(problems)}. Compare the network as it was "
            "right before training (its head and first layer already fitted) with what came of it"
        )


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names) - most} more)" if len(names) > most else "")
