"""What a study says of an arm, and of how a source starts: `InitSpec`, and how it counts blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transfuse.specs.refuse import STRICT, refuse

Depth = int | str
Level = Literal["stage", "block", "layer", "wt-st"]

NEW_HEADS = ("mlp", "kaiming_normal")
"""What `head` may say of a truncated network, whose head is new: two layers, or one drawn as P's code draws it."""

EVERY = "every"
"""As a depth: one arm for every block of the network, named `arm@block`."""


@dataclass(frozen=True, kw_only=True)
class InitSpec:
    """One arm: a point in the small space that holds every published initialisation and protocol.

    `depth`, `freeze`, `truncate` and `slim` count blocks from the image: an int, the name of the last such block,
    `middle`, `all`, or `every`, which makes one arm of each block in turn (the same block where several say `every`).

    Attributes:
        weights: where this arm's weights come from, where not from the network's `weights`.
        depth: how many blocks come from the weights.
        level: what a block is: `stage`, `block`, `layer` or `wt-st`.
        rest: how the other blocks start: `random`, `mean_var`, `sampled`, `shuffled`.
        random: which random start: `default` (the network's own), `he_fan_out`, `glorot_normal`, `trunc_normal`,
            `kaiming_uniform`.
        norm: normalisation layers of the other blocks: `identity`, `mean_var`, `transfer`; `recalibrate` is identity,
            and then the statistics of all batch norms are measured on training images, the function unchanged.
        biases: of convolutions and linear layers above: as the `rest`, or `random` (T and V resample weights only).
        embeddings: position embeddings and tokens above: `keep` the weights' (the code of M) or `resample` them too.
        overrides: `{block, module or parameter: scheme}` where a part is to start otherwise, e.g. `{conv1: gabor}`.
        gabor_scale: what Gabor filters share with the filters they replace: `std`, `max_abs` or `l2`.
        head: a `fresh` classifier, or the `source`'s; of a truncated network also `mlp` (two layers and a ReLU between)
            or `kaiming_normal` (one layer, drawn as P's code draws it).
        freeze: how many blocks stay as they are.
        norm_statistics: batch-norm statistics of frozen blocks: `frozen`, or `updated` as in the papers' code.
        tune: only these neighbouring blocks are trained, and the head (surgical fine-tuning).
        truncate: how many blocks are kept; the others are cut off.
        pool: the head of a truncated network sees the `average` of the feature map, or all of it (`none`).
        slim: how many blocks keep their width; the others have half of it.
        lora: rank of low-rank adapters of the attention, which are trained instead of the blocks (transformers).
        learning_rate, head_learning_rate, layer_decay, l2_sp: of this arm, where not as in `train.optimizer`; a
            learning_rate without a head_learning_rate is the head's too.
    """

    __pydantic_config__ = STRICT
    weights: str | None = None
    depth: Depth = 0
    level: Level = "stage"
    rest: Literal["random", "mean_var", "sampled", "shuffled"] = "random"
    random: Literal["default", "he_fan_out", "glorot_normal", "trunc_normal", "kaiming_uniform"] = "default"
    norm: Literal["identity", "mean_var", "transfer", "recalibrate"] = "identity"
    biases: Literal["rest", "random"] = "rest"
    embeddings: Literal["keep", "resample"] = "keep"
    overrides: dict[str, str] = field(default_factory=dict)
    gabor_scale: Literal["std", "max_abs", "l2"] = "std"
    head: Literal["fresh", "source", "mlp", "kaiming_normal"] = "fresh"
    freeze: Depth = 0
    norm_statistics: Literal["frozen", "updated"] = "frozen"
    tune: tuple[str, ...] = ()
    truncate: Depth | None = None
    pool: Literal["average", "none"] = "average"
    slim: Depth | None = None
    lora: int | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    layer_decay: float | None = None
    l2_sp: float | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether this arm draws anything from pretrained weights."""
        foreign = {"transfer", "mean_var", "sampled", "shuffled"} & set(self.overrides.values())
        return (
            self.depth != 0
            or self.rest != "random"
            or self.norm in ("mean_var", "transfer")
            or self.head == "source"
            or bool(foreign)
        )

    @property
    def uses_weights(self) -> bool:
        """Whether this arm makes use of pretrained weights where there are any: Gabor filters take their scale."""
        return self.needs_weights or "gabor" in self.overrides.values()

    @property
    def can_draw_back(self) -> bool:
        """Whether transferred weights may be among those that are trained (for `l2_sp`); the blocks decide."""
        by_depth = self.depth != 0 and self.freeze not in ("all", self.depth)
        otherwise = (self.norm == "transfer" or "transfer" in self.overrides.values()) and self.freeze != "all"
        resampled = self.rest != "random" and self.embeddings == "keep" and self.freeze != "all"
        return self.head == "source" or (self.lora is None and (by_depth or otherwise or resampled))

    @property
    def sweeps(self) -> tuple[str, ...]:
        """The fields that say `every`."""
        return tuple(name for name in ("depth", "freeze", "truncate", "slim") if getattr(self, name) == EVERY)

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; expected 0 or more blocks, a block's name, 'middle', 'all' or 'every'"
            for name, value in (("depth", self.depth), ("freeze", self.freeze))
            if isinstance(value, int) and value < 0
        ]
        problems += [
            f"{name} is {value}; expected 1 or more blocks, a block's name, 'middle', 'all' or 'every'"
            for name, value in (("truncate", self.truncate), ("slim", self.slim))
            if isinstance(value, int) and value < 1
        ]
        problems += [
            f"{name} is {value}; expected {expected}"
            for name, value, good, expected in (
                ("lora", self.lora, (self.lora or 1) >= 1, "a rank of 1 or more"),
                ("learning_rate", self.learning_rate, (self.learning_rate or 1) > 0, "a positive number"),
                (
                    "head_learning_rate",
                    self.head_learning_rate,
                    (self.head_learning_rate or 1) > 0,
                    "a positive number",
                ),
                ("layer_decay", self.layer_decay, 0 < (self.layer_decay or 1) <= 1, "a number in (0, 1]"),
                ("l2_sp", self.l2_sp, (self.l2_sp or 1) > 0, "a positive number"),
            )
            if value is not None and (not good or value == 0)
        ]
        ways = [name for name in ("freeze", "tune", "lora") if getattr(self, name)]
        if len(ways) > 1:
            problems.append(f"{' and '.join(ways)}: each says which weights are trained; give one of them")
        if self.norm_statistics == "updated" and self.freeze == 0 and not self.tune:
            problems.append(
                "norm_statistics is 'updated' but nothing is frozen; set freeze, or leave norm_statistics out"
            )
        if self.truncate is not None and self.slim is not None:
            problems.append("truncate and slim: a network is either cut off or made narrower above; give one of them")
        if self.truncate is None and self.pool != "average":
            problems.append("pool is the head of a truncated network; give truncate too, or leave pool out")
        if self.truncate is None and self.head in NEW_HEADS:
            problems.append(
                f"head is {self.head!r}, a head of truncated networks; give truncate too (truncate: all keeps every "
                "block), or head: fresh"
            )
        if self.head == "source" and (self.truncate is not None or self.slim is not None):
            problems.append("head: source does not fit a network that was cut or made narrower; its head is fresh")
        if self.slim is not None and self.rest != "random":
            problems.append(
                f"rest is {self.rest!r}, but the weights above slim have other shapes; expected rest: random"
            )
        if self.l2_sp is not None and not self.can_draw_back:
            why = "nothing is transferred" if not self.needs_weights else "nothing that is transferred is trained"
            problems.append(
                f"l2_sp is {self.l2_sp}: it draws transferred weights back to their start, and {why}; "
                f"{'give depth, e.g. depth: all' if not self.needs_weights else 'freeze less'}, or leave l2_sp out"
            )
        if self.weights is not None and not self.uses_weights:
            problems.append(f"weights is {self.weights!r}, but nothing of it is used; give depth, rest or head")
        refuse(problems)
