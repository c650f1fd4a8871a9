"""Arms that say `every`: one arm for each block of a network, in one line of the study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from transfuse.errors import SpecError
from transfuse.specs import InitSpec, ModelSpec, StudySpec


class BlockName(NamedTuple):
    """A block of a network, as far as a study must know it.

    Fields:
        name: the block's.
        cut: whether the network may be cut after it.
        stays: whether a network cut below keeps it.
        roles: what it holds (see `transfuse.inits.roles`); None if that is not known.
        stage: the number of the stage that ends with it, from 1; None inside of a stage.
        needs: of a U-Net's decoder, the number of encoder blocks with fewer than which it is cut off too; else 0.
    """

    name: str
    cut: bool
    stays: bool = False
    roles: frozenset[str] | None = None
    stage: int | None = None
    needs: int = 0


BlockNames = Callable[[ModelSpec, str], tuple[BlockName, ...]]
"""Gives the blocks of a network at a level, from the image to the head."""


def _not_looked_up(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
    raise SpecError(f"the blocks of {model.name} at level {level} were not looked up")


class Unfolded(NamedTuple):
    """A study whose arms are all single ones, and which of them each network has: networks differ in their blocks.

    Fields:
        study: with single arms.
        arms: the arms of each network.
        sweeps: of the arms that came from one that says `every`, the name of that one.
        names: looks the blocks of a network up.
    """

    study: StudySpec
    arms: dict[str, tuple[str, ...]]
    sweeps: dict[str, str]
    names: BlockNames = _not_looked_up


def unfold(study: StudySpec, names: BlockNames) -> Unfolded:
    """Put one arm for every block in the place of each arm that says `every`.

    The arm `fixed` with `freeze: every` becomes `fixed@conv1`, `fixed@layer1`, ... Where `truncate` says `every`, only
    blocks count after which the network may be cut; where `slim` does, the last block does not. A pair of arms becomes
    the pairs at the same block.

    Args:
        study: as its file says.
        names: looks the blocks of a network up.

    Raises:
        SpecError: an arm of that name is there already.
    """
    arms: dict[str, InitSpec] = {}
    parts: dict[str, list[str]] = {}
    found: dict[str, list[str]] = {label: [] for label in study.models}
    for arm, init in study.arms.items():
        if not init.sweeps:
            arms[arm], parts[arm] = init, [""]
            for label in study.models:
                found[label].append(arm)
            continue
        parts[arm] = []
        for label, model in study.models.items():
            for block in _swept(init, names(model, init.level)):
                name = f"{arm}@{block}"
                if name in study.arms:
                    raise SpecError(f"arms: {name!r} is also one of the arms that {arm!r} stands for; rename it")
                arms[name] = _at(init, block)
                parts[arm].append(f"@{block}")
                found[label].append(name)
    pairs = []
    for first, second in study.pairs:
        both = [part for part in dict.fromkeys(parts[first] + parts[second]) if part] or [""]
        pairs += [(first + part * (parts[first] != [""]), second + part * (parts[second] != [""])) for part in both]
    pairs = [pair for pair in pairs if set(pair) <= set(arms)]
    whole = replace(study, arms=arms, pairs=tuple(dict.fromkeys(pairs)))
    own = {label: tuple(dict.fromkeys(listed)) for label, listed in found.items()}
    return Unfolded(whole, own, {arm + part: arm for arm in parts for part in parts[arm] if part}, names)


def _swept(init: InitSpec, blocks: tuple[BlockName, ...]) -> list[str]:
    cut = "truncate" in init.sweeps  # a norm that stays is on every network: cut after it is cut before it
    kept = [block.name for block in blocks if (block.cut and not block.stays) or not cut]
    return kept[:-1] if "slim" in init.sweeps else kept


def _at(init: InitSpec, block: str) -> InitSpec:
    """The arm with this block wherever it says `every`."""
    fields: dict[str, Any] = dict.fromkeys(init.sweeps, block)
    return replace(init, **fields)
