"""What a study says: frozen dataclasses, each of which refuses what cannot be meant."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from transfuse.errors import SpecError, nearest
from transfuse.specs.analyses import AnalysisSpec

Metric = Literal[
    "auroc",
    "auprc",
    "average_precision",
    "accuracy",
    "top5",
    "macro_recall",
    "kappa",
    "ece",
    "brier",
    "referable_auroc",
    "referable_auroc_max",
]
Augmentation = Literal["none", "fundus", "cxr", "chestxray14", "imagenet", "cifar", "matsoukas", "peng", "peng-code"]
BOUNDS: dict[str, tuple[float, float]] = {"kappa": (-1.0, 1.0), "brier": (0.0, 2.0)}
"""Smallest and largest value of the metrics that do not lie between 0 and 1."""

Depth = int | str
Level = Literal["stage", "block", "layer", "wt-st"]

EVERY = "every"
"""As a depth: one arm for every block of the network, named `arm@block`."""

_STRICT = {"extra": "forbid", "strict": True}


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SpecError(problems)


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which images, at which size, cut into which parts.

    Attributes:
        name: a catalogue name (`fundus-phantom`, `pneumoniamnist`, ...) or the path of an `.npz`, a folder of class
            folders or a table (`.csv`, `.tsv`, `.parquet`).
        root: folder that relative names start from; else the environment variable `TRANSFUSE_DATA`.
        size: side of the square images in pixels.
        channels: 1 or 3; None keeps what the files have.
        count: number of phantoms to draw; None is the phantom's default. Only for phantoms.
        seed: which phantoms are drawn, and which labels are permuted.
        image_column, label_columns, patient_column, part_column: columns of a table.
        task: what class labels mean where the files cannot say: grades from a table are `ordinal`.
        bad_images: `raise` lists them; `exclude` leaves them out, named and counted.
        duplicates: what to do about identical images in two parts: `note`, `raise` or `drop`.
        permute_labels: negative control: labels are permuted over patients, and said so everywhere.
        normalise: `imagenet`, `half` ((x - 0.5) / 0.5) or `[[mean, ...], [std, ...]]` of images in [0, 1].
        fit: how an oblong image becomes square: `crop` the centre, `pad` with black, or `squash`.
        split_seed, fractions: the split by patient into train, val and test, the same for every seed of the study.
        official_split: keep the parts that the source ships, where it ships any.
        train_fraction: share of the training patients, in nested sub-samples.
    """

    __pydantic_config__ = _STRICT
    name: str
    root: str | None = None
    size: int = 64
    channels: int | None = None
    count: int | None = None
    seed: int = 0
    image_column: str | None = None
    label_columns: tuple[str, ...] = ()
    patient_column: str | None = None
    part_column: str | None = None
    task: Literal["binary", "multiclass", "ordinal"] | None = None
    bad_images: Literal["raise", "exclude"] = "raise"
    duplicates: Literal["note", "raise", "drop"] = "note"
    permute_labels: bool = False
    normalise: Literal["imagenet", "half"] | tuple[tuple[float, ...], tuple[float, ...]] = "imagenet"
    fit: Literal["crop", "pad", "squash"] = "crop"
    split_seed: int = 0
    fractions: tuple[float, float, float] = (0.64, 0.16, 0.2)
    official_split: bool = True
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        problems = []
        if not 8 <= self.size <= 2048:
            problems.append(f"size is {self.size}; expected 8 to 2048 pixels")
        if self.channels not in (None, 1, 3):
            problems.append(f"channels is {self.channels}; expected 1, 3 or nothing (as in the files)")
        if self.count is not None and self.count < 10:
            problems.append(f"count is {self.count}; expected at least 10 images")
        if abs(sum(self.fractions) - 1) > 1e-6 or min(self.fractions) <= 0:
            problems.append(
                f"fractions are {list(self.fractions)}; expected three positive shares (train, val, test) that sum to 1"
            )
        if not 0 < self.train_fraction <= 1:
            problems.append(f"train_fraction is {self.train_fraction}; expected a share in (0, 1]")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which network, and the pretrained weights that its arms may draw on.

    Attributes:
        name: `cbr_small` and its family, or any name of timm.
        weights: where the arms' pretrained weights come from: a timm tag (`resnet18.a1_in1k`), a local file
            (`.safetensors`, `.pth`), or `run:NAME`, a training under `sources`.
        padding: `same`, `valid` or `same_pool` for the CBR family; `same` (TensorFlow's) or `symmetric` for
            EfficientNet and MobileNet; None is the family's own.
        first_layer: how RGB weights meet another number of channels: `sum`, `first` or `repeat`.
        identity_statistics: `refuse` weights whose batch norm is folded or untrained, or `accept` them.
    """

    __pydantic_config__ = _STRICT
    name: str
    weights: str | None = None
    padding: Literal["same", "valid", "same_pool", "symmetric"] | None = None
    first_layer: Literal["sum", "first", "repeat"] = "sum"
    identity_statistics: Literal["refuse", "accept"] = "refuse"


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
        head: a `fresh` classifier, or the `source`'s.
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

    __pydantic_config__ = _STRICT
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
    head: Literal["fresh", "source"] = "fresh"
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
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """The optimiser.

    `head_learning_rate` is the head's own rate, `decay_1d: false` spares biases and norms, `layer_decay` makes each
    block learn that much slower than the one above it, `l2_sp` draws transferred weights back to their start.
    """

    __pydantic_config__ = _STRICT
    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    weight_decay: float = 0.0
    decay_1d: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    clip_norm: float | None = None
    layer_decay: float | None = None
    l2_sp: float | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; expected a positive number"
            for name, value in (
                ("learning_rate", self.learning_rate),
                ("head_learning_rate", self.head_learning_rate),
                ("clip_norm", self.clip_norm),
                ("l2_sp", self.l2_sp),
            )
            if value is not None and not value > 0
        ]
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            problems.append(f"layer_decay is {self.layer_decay}; expected a number in (0, 1]")
        if self.weight_decay < 0:
            problems.append(f"weight_decay is {self.weight_decay}; expected 0 or more")
        if not 0 <= self.momentum < 1:
            problems.append(f"momentum is {self.momentum}; expected a number in [0, 1)")
        if self.nesterov and self.name != "sgd":
            problems.append(f"nesterov goes with sgd, not with {self.name}")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """How the learning rate moves: warm-up, then `constant`, `step` at milestones, or reduce-on-`plateau`."""

    __pydantic_config__ = _STRICT
    name: Literal["constant", "step", "plateau"] = "constant"
    milestones: tuple[float, ...] = ()
    milestone_unit: Literal["epochs", "steps"] = "epochs"
    factor: float = 0.1
    patience: int = 5
    patience_unit: Literal["validations", "epochs"] = "validations"
    warmup: float = 0.0
    warmup_unit: Literal["steps", "epochs"] = "steps"
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.name == "step" and not self.milestones:
            problems.append("a step schedule needs milestones, the epochs at which the rate falls, e.g. [30, 60, 90]")
        if self.name != "step" and self.milestones:
            problems.append(f"milestones go with the step schedule, not with {self.name}")
        if not 0 < self.factor < 1:
            problems.append(f"factor is {self.factor}; expected a number in (0, 1)")
        if self.warmup < 0 or self.patience < 0 or self.warmup_start < 0:
            problems.append("warmup, warmup_start and patience must be 0 or more")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class StoppingSpec:
    """When a training ends early: after `patience` validations without a better value, or at a tiny learning rate."""

    __pydantic_config__ = _STRICT
    patience: int | None = None
    min_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise SpecError(f"patience is {self.patience}; expected 1 or more validations, or nothing")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a network is trained; the defaults are Adam at 1e-3 with batches of 32.

    Attributes:
        epochs, steps: the length; give one of the two.
        batch_size: images a step.
        loss: `softmax` (cross-entropy), `sigmoid` (independent sigmoids with binary cross-entropy, as T trains), or
            `auto`: sigmoid for multi-label data, else softmax.
        class_weights: `none`, or `balanced` by the training part's class counts.
        augment: the name of a set of augmentations.
        monitor: what the best checkpoint is chosen by; None is the study's metric.
        validate_every: steps (int), or a fraction of an epoch (float).
        test_crops: `center`, or `ten` crops averaged, as V tests.
        threads: CPU threads of a run; part of its identity, since sums change bits with it.
        precision: `no`, `bf16` or `fp16`.
        snapshots: steps whose weights are kept, or `log`: 1, 2, 4, 8, ... and the last. The analysis `dynamics` asks
            for `log` by itself.
    """

    __pydantic_config__ = _STRICT
    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 32
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    stopping: StoppingSpec = field(default_factory=StoppingSpec)
    loss: Literal["auto", "softmax", "sigmoid"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    augment: Augmentation = "none"
    monitor: Metric | Literal["loss"] | None = None
    validate_every: int | float = 1.0
    test_crops: Literal["center", "ten"] = "center"
    threads: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    snapshots: Literal["log"] | tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.epochs is None and self.steps is None:
            problems.append("give the length of the training as either epochs or steps, e.g. epochs: 20")
        elif self.epochs is not None and self.steps is not None:
            problems.append(
                f"epochs is {self.epochs} and steps is {self.steps}; give the length of the training as either epochs "
                "or steps, and null for the other (train.steps=null, where the file says steps)"
            )
        for name, value in (("epochs", self.epochs), ("steps", self.steps)):
            if value is not None and value <= 0:
                problems.append(f"{name} is {value}; expected more than 0")
        if self.batch_size < 2:
            problems.append(f"batch_size is {self.batch_size}; batch norm needs at least 2 images")
        if self.validate_every <= 0:
            problems.append(
                f"validate_every is {self.validate_every}; expected steps (int) or a fraction of an epoch (float)"
            )
        if self.threads < 1:
            problems.append(f"threads is {self.threads}; expected 1 or more")
        if isinstance(self.snapshots, tuple) and any(step < 1 for step in self.snapshots):
            problems.append(f"snapshots are {list(self.snapshots)}; expected steps of 1 or more, or log")
        _refuse(problems)


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A training whose weights others start from.

    Without `data` it is the study's own, without `model` each network that asks is trained itself (LP-FT: a linear
    probe of the network's `weights`, whose head and blocks the arm then starts from).
    """

    __pydantic_config__ = _STRICT
    train: TrainSpec
    data: DataSpec | None = None
    model: ModelSpec | None = None
    init: InitSpec = field(default_factory=InitSpec)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A whole study: data, networks, arms, seeds, and the question they answer.

    Attributes:
        name: names the folder of the results; letters, digits, `-`, `_`, `.`.
        title, question: what the report says above the answer.
        metric: what the arms are compared by.
        margin: the difference in the metric below which two arms count as equal; fixed before training.
        threshold: validation value of the metric for "steps to reach it"; None leaves that table out.
        baseline: the arm that the others are compared with.
        pairs: further pairs to compare, `[[pretrained, mean_var], ...]`: the first against the second.
        seeds: how many, or which; a seed is initialisation, order and augmentation, never the split.
        sources: trainings whose weights the arms start from.
        analyses: what to look at inside the networks, `[cka, {what: knn, k: 100}]`; never changes a training.
    """

    __pydantic_config__ = _STRICT
    name: str
    data: DataSpec
    models: dict[str, ModelSpec]
    arms: dict[str, InitSpec]
    train: TrainSpec
    title: str = ""
    question: str = ""
    metric: Metric = "auroc"
    margin: float = 0.02
    threshold: float | None = None
    baseline: str = "random"
    pairs: tuple[tuple[str, str], ...] = ()
    seeds: int | tuple[int, ...] = 3
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    analyses: tuple[AnalysisSpec, ...] = ()

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds themselves: `3` means 0, 1, 2."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def __post_init__(self) -> None:
        problems = []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            problems.append(f"name: {self.name!r} names a folder; expected letters, digits, '-', '_' or '.' only")
        if not self.models:
            problems.append("models: none given; expected at least one, e.g. {small: {name: cbr_small}}")
        if not self.arms:
            problems.append("arms: none given; expected at least one, e.g. {random: {}}")
        if self.arms and self.baseline not in self.arms:
            problems.append(f"baseline: {self.baseline!r} is not an arm; {nearest(self.baseline, self.arms)}")
        elif self.arms and self.arms[self.baseline].sweeps:
            problems.append(f"baseline: {self.baseline!r} is one arm for every block; expected a single arm")
        for index, pair in enumerate(self.pairs):
            problems += [
                f"pairs.{index}: {arm!r} is not an arm; {nearest(arm, self.arms)}"
                for arm in pair
                if arm not in self.arms
            ]
        if not self.margin > 0:
            problems.append(f"margin: {self.margin} is no margin; expected a positive difference in {self.metric}")
        low, high = BOUNDS.get(self.metric, (0.0, 1.0))
        if self.margin >= high - low:
            problems.append(
                f"margin: {self.margin} leaves no two arms apart: {self.metric} lies between {low:g} and {high:g}; "
                "expected the smallest difference that matters to you, e.g. 0.02"
            )
        if self.threshold is not None and not low <= self.threshold <= high:
            problems.append(
                f"threshold: {self.threshold} is no value that training can reach: {self.metric} lies between {low:g} "
                f"and {high:g}"
            )
        if not self.seed_list or len(set(self.seed_list)) != len(self.seed_list) or min(self.seed_list) < 0:
            problems.append(f"seeds: {self.seeds}; expected a positive number of seeds, or a list of different ones")
        problems += self._weight_problems()
        problems += [
            f"analyses.{index}: {problem}"
            for index, analysis in enumerate(self.analyses)
            for problem in self._analysis_problems(analysis)
        ]
        _refuse(problems)

    def _analysis_problems(self, analysis: AnalysisSpec) -> list[str]:
        between = analysis.between if isinstance(analysis.between, tuple) else ()
        arms = [*analysis.arms, *(name.partition(":")[0] for pair in between for name in pair)]
        bases = {arm.partition("@")[0] for arm in self.arms}  # of sweeps, unfolded or not
        sweeps = {arm for arm, init in self.arms.items() if init.sweeps}
        problems = [
            f"{arm!r} is not an arm; {nearest(arm, self.arms)}"
            for arm in dict.fromkeys(arms)
            if arm not in self.arms and arm not in bases and arm.partition("@")[0] not in sweeps
        ]
        problems += [
            f"{model!r} is not a network; {nearest(model, self.models)}"
            for model in analysis.models
            if model not in self.models
        ]
        problems += [
            f"{seed} is not a seed of the study; {nearest(seed, self.seed_list)}"
            for seed in analysis.seeds
            if seed not in self.seed_list
        ]
        if analysis.source is not None and analysis.source not in self.sources:
            problems.append(f"{analysis.source!r} is not a source; {nearest(analysis.source, self.sources)}")
        same = analysis.between == "seeds" or any(_arm(a) == _arm(b) and _at(a) == _at(b) for a, b in between)
        if same and len(analysis.seeds or self.seed_list) < 2:
            problems.append("an arm is compared with itself over its seeds, and there is only one; give two or more")
        return problems

    def _weight_problems(self) -> list[str]:
        problems = []
        asked = {
            model.weights: f"models.{label}.weights" for label, model in reversed(self.models.items()) if model.weights
        }
        asked |= {arm.weights: f"arms.{name}.weights" for name, arm in reversed(self.arms.items()) if arm.weights}
        asked |= {
            source.model.weights: f"sources.{name}.model.weights"
            for name, source in self.sources.items()
            if source.model is not None and source.model.weights
        }
        asked |= {
            source.init.weights: f"sources.{name}.init.weights"
            for name, source in self.sources.items()
            if source.init.weights
        }
        runs = {weights.removeprefix("run:"): path for weights, path in asked.items() if weights.startswith("run:")}
        for name, path in runs.items():
            if name not in self.sources:
                problems.append(f"{path}: 'run:{name}' names no source; {nearest(name, self.sources)}")
        hungry = [name for name, arm in self.arms.items() if arm.needs_weights and arm.weights is None]
        for label, model in self.models.items():
            if hungry and model.weights is None:
                problems.append(
                    f"models.{label}.weights: missing, but the arm{'s' if len(hungry) > 1 else ''} {', '.join(hungry)} "
                    f"need{'' if len(hungry) > 1 else 's'} pretrained weights; give a timm tag, a file, or run:NAME"
                )
        for name, source in self.sources.items():
            if name not in runs and not any(problem.startswith("models.") for problem in problems):
                problems.append(
                    f"sources.{name}: no model starts from it; give a model or an arm weights: run:{name}, or remove it"
                )
            for label, model in self.models.items():
                if f"run:{name}" in (model.weights, *(arm.weights for arm in self.arms.values())):
                    problems += self._source_problems(name, model, label)
            if source.init.sweeps:
                problems.append(
                    f"sources.{name}.init.{source.init.sweeps[0]}: 'every' is for arms; a source is one training"
                )
        return list(dict.fromkeys(problems))

    def source_data(self, name: str) -> DataSpec:
        """The data that a source trains on: its own, or the study's."""
        return self.sources[name].data or self.data

    def source_model(self, name: str, model: ModelSpec) -> ModelSpec:
        """The network that a source trains for `model`, with the weights that the source itself starts from."""
        source = self.sources[name]
        own = source.model or model
        weights = (source.init.weights or own.weights) if source.init.uses_weights else None
        return replace(own, weights=weights)

    def _source_problems(self, name: str, model: ModelSpec, label: str) -> list[str]:
        """A source without the weights it needs, or one that starts from itself."""
        seen: list[str] = []
        while name in self.sources:
            if name in seen:
                return [f"sources.{name}: it starts from itself ({' from '.join([*seen, name])}); break the circle"]
            seen.append(name)
            model = self.source_model(name, model)
            if model.weights is None and self.sources[name].init.needs_weights:
                keys = f"sources.{name}.init.weights or sources.{name}.model.weights"
                return [f"sources.{name}.init needs weights for the network {label}: give {keys}"]
            name = (model.weights or "").removeprefix("run:") if (model.weights or "").startswith("run:") else ""
        return []


def _arm(network: str) -> str:
    return network.partition(":")[0]


def _at(network: str) -> str:
    return network.partition(":")[2] or "trained"
