"""What an arm means for one network: of two spellings of the same training, both become the same one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transfuse.errors import TransfuseError
from transfuse.specs import InitSpec, ModelSpec, OptimizerSpec, ScheduleSpec, TrainSpec
from transfuse.study.sweeps import BlockName, BlockNames, Unfolded

_RESAMPLED = ("mean_var", "sampled", "shuffled")


def meaning(init: InitSpec, model: ModelSpec, names: BlockNames) -> InitSpec:
    """The arm as one of its spellings, which starts and trains this network just as the others do.

    A depth becomes `all`, `middle` or the name of its last block, a level that no setting depends on becomes `stage`,
    and a setting without effect its default. An arm that does not fit the network, and one whose blocks cannot be
    looked up, stays as it is: what is wrong with it is said elsewhere.
    """
    try:
        blocks = names(model, init.level) if _asks_for_blocks(init) else ()
        found = _without_effect(_depths(init, blocks), model, blocks)
    except (TransfuseError, ValueError):
        return init
    return found if found.uses_weights == init.uses_weights else init


def _asks_for_blocks(init: InitSpec) -> bool:
    """Whether the blocks' names are needed: a random start and plain fine-tuning mean the same for every network."""
    depths = (init.depth, init.freeze, init.truncate, init.slim)
    draws = init.rest != "random" or init.norm in ("mean_var", "transfer") or init.biases == "random"
    return draws or bool(init.tune) or any(depth not in (0, None, "all") for depth in depths)


def _depths(init: InitSpec, blocks: Sequence[BlockName]) -> InitSpec:
    if not blocks:
        return init
    kept = _kept(init, blocks)
    fields: dict[str, Any] = {
        "depth": _named(init.depth, blocks),
        "freeze": _named(init.freeze, kept),
        "truncate": None if init.truncate is None else _cut(init.truncate, blocks),
        "slim": None if init.slim is None else _named(init.slim, blocks),
        "tune": tuple(block.name for block in kept if block.name in init.tune) if init.tune else (),
    }
    if len(fields["tune"]) != len(set(init.tune)):
        raise ValueError(f"tune names blocks that are not there: {init.tune}")
    return replace(init, **fields)


def _kept(init: InitSpec, blocks: Sequence[BlockName]) -> Sequence[BlockName]:
    """The blocks of the network as it is trained, after it was cut."""
    if init.truncate is None:
        return blocks
    count = _count(init.truncate, _encoder(blocks))
    return [
        block
        for place, block in enumerate(blocks)
        if (count >= block.needs if block.needs else place < count or block.stays)
    ]


def _encoder(blocks: Sequence[BlockName]) -> Sequence[BlockName]:
    """The blocks among which a network is cut: of a U-Net those of its encoder."""
    return [block for block in blocks if not block.needs]


def _cut(depth: int | str, blocks: Sequence[BlockName]) -> int | str:
    encoder = _encoder(blocks)
    if len(encoder) == len(blocks):
        return _named(depth, blocks)
    count = _count(depth, encoder)
    if count == len(encoder):
        return "all"
    # The middle of the encoder keeps both of its spellings: runs are known by them.
    return "middle" if depth == "middle" else encoder[count - 1].name


def _count(depth: int | str, blocks: Sequence[BlockName]) -> int:
    """The number of blocks that a depth means, as `Blocks.depth` says; raises ValueError for one that is not there."""
    named = {"all": len(blocks), "middle": math.ceil(len(blocks) / 2)}
    named |= {block.name: place for place, block in enumerate(blocks, 1)}
    count = named.get(depth, -1) if isinstance(depth, str) else depth
    if not 0 <= count <= len(blocks):
        raise ValueError(f"no depth {depth!r} of {len(blocks)} blocks")
    return count


def _named(depth: int | str, blocks: Sequence[BlockName]) -> int | str:
    count = _count(depth, blocks)
    if count in (0, len(blocks)):
        return "all" if count else 0
    if count == _count("middle", blocks):
        return "middle"
    return blocks[count - 1].name


def _without_effect(init: InitSpec, model: ModelSpec, blocks: Sequence[BlockName]) -> InitSpec:
    """The arm with the default for whatever nothing comes of."""
    plain: dict[str, Any] = {}
    above = _roles_above(init, blocks)
    if init.slim is None and not init.overrides:
        if not above & {"weight", "bias", "other", "embedding"}:
            plain |= {"rest": "random", "random": "default"}
        if not above & {"norm", "scale"} and init.norm != "recalibrate":
            plain["norm"] = "identity"
        if "embedding" not in above:
            plain["embeddings"] = "keep"
    rest = plain.get("rest", init.rest)
    if rest == "random" or "bias" not in above:
        plain["biases"] = "rest"
    if rest != "random" and plain.get("biases", init.biases) == "rest":
        plain["random"] = "default"
    if rest == "random" and not set(init.overrides.values()) & set(_RESAMPLED):
        plain["embeddings"] = "keep"
    if "gabor" not in init.overrides.values():
        plain["gabor_scale"] = "std"
    asks = (init.freeze, init.truncate, init.slim, init.tune, init.overrides, init.layer_decay, init.lora)
    # A network of one's own says by itself which blocks and which head it has at each level.
    if init.depth in (0, "all") and not any(asks) and ":" not in model.name:
        plain["level"] = "stage"
    return replace(init, **plain)


_ROLES = frozenset({"weight", "bias", "norm", "scale", "embedding", "other"})


def _roles_above(init: InitSpec, blocks: Sequence[BlockName]) -> frozenset[str]:
    """What there is above the transferred blocks, the head left out; everything, where that is not known."""
    if init.depth == "all":
        return frozenset()
    if not blocks or any(block.roles is None for block in blocks):
        return _ROLES
    return frozenset[str]().union(*(block.roles or () for block in blocks[_count(init.depth, blocks) :]))


def draws_back(init: InitSpec, model: ModelSpec, names: BlockNames) -> bool:
    """Whether L2-SP has something to draw back: transferred weights of this network that the arm trains."""
    if not init.can_draw_back or init.head == "source" or "transfer" in init.overrides.values():
        return init.can_draw_back
    try:
        blocks = names(model, init.level)
        kept = _kept(init, blocks)
        transferred = {block.name for block in blocks[: _count(init.depth, blocks)]}
        trained = [block for block in kept if block.name in init.tune] if init.tune else kept
        trained = trained[_count(init.freeze, kept) :] if init.freeze else trained
    except (TransfuseError, ValueError):
        return True
    above = {"norm", "scale"} if init.norm == "transfer" else set[str]()
    above |= {"embedding"} if init.rest != "random" and init.embeddings == "keep" else set[str]()
    return any(
        bool(held & above) or (block.name in transferred and bool(held))
        for block in trained
        for held in [_ROLES if block.roles is None else block.roles - {"buffer"}]
    )


def l2_sp_problems(unfolded: Unfolded) -> list[str]:
    """Arms that ask for L2-SP and have nothing for it; where the whole study has it, such arms just go without."""
    return [
        f"arms.{arm}.l2_sp with models.{label}: it draws transferred weights back to their start, and the arm trains "
        f"none of them (depth {init.depth!r}, freeze {init.freeze!r}, tune {list(init.tune)}); transfer more, freeze "
        "less, or leave l2_sp out"
        for label, model in unfolded.study.models.items()
        for arm in unfolded.arms[label]
        if (init := unfolded.study.arms[arm]).l2_sp is not None and not draws_back(init, model, unfolded.names)
    ]


def training(train: TrainSpec, init: InitSpec, drawn_back: Callable[[], bool]) -> TrainSpec:
    """The training's settings with the arm's own, and the default for what nothing comes of.

    Args:
        train: the study's or the source's.
        init: the arm, as `meaning` gives it.
        drawn_back: whether L2-SP has something to draw back.
    """
    own: dict[str, Any] = {
        name: value
        for name in ("learning_rate", "head_learning_rate", "layer_decay", "l2_sp")
        if (value := getattr(init, name)) is not None
    }
    if init.learning_rate is not None:  # of all that the arm trains, the head too where it says nothing else of it
        own["head_learning_rate"] = init.head_learning_rate
    optimizer = replace(train.optimizer, **own)
    plain: dict[str, Any] = {}
    if optimizer.head_learning_rate == optimizer.learning_rate:
        plain["head_learning_rate"] = None
    if optimizer.l2_sp is not None and not drawn_back():
        plain["l2_sp"] = None
    if optimizer.name != "sgd":
        plain["momentum"] = OptimizerSpec().momentum
    schedule = train.schedule
    unused = {"constant": ("factor", "patience", "patience_unit"), "step": ("patience", "patience_unit"), "plateau": ()}
    idle = (*unused[schedule.name], *(("milestone_unit",) if schedule.name != "step" else ()))
    idle += ("warmup_unit", "warmup_start") if schedule.warmup == 0 else ()
    defaults = {name: getattr(ScheduleSpec(), name) for name in idle}
    return replace(train, optimizer=replace(optimizer, **plain), schedule=replace(schedule, **defaults))
