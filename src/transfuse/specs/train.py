"""What a study says of a training: `TrainSpec`, with its optimiser, schedule and stopping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transfuse.errors import SpecError
from transfuse.specs.metric import Metric
from transfuse.specs.refuse import STRICT, refuse

Augmentation = Literal[
    "none", "fundus", "cxr", "chestxray14", "imagenet", "cifar", "matsoukas", "peng", "peng-code", "volume"
]


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """The optimiser.

    `head_learning_rate` is the head's own rate, `decay_1d: false` spares biases and norms, `layer_decay` makes each
    block learn that much slower than the one above it, `l2_sp` draws transferred weights back to their start.
    """

    __pydantic_config__ = STRICT
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
        refuse(problems)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """How the learning rate moves: warm-up, then `constant`, `step` at milestones, or reduce-on-`plateau`."""

    __pydantic_config__ = STRICT
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
        refuse(problems)


@dataclass(frozen=True, kw_only=True)
class StoppingSpec:
    """When a training ends early: after `patience` validations without a better value, or at a tiny learning rate."""

    __pydantic_config__ = STRICT
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
            `dice_ce` (Dice with cross-entropy, for masks), or `auto`: sigmoid for multi-label data, dice_ce for masks,
            else softmax.
        class_weights: `none`, or `balanced` by the training part's class counts.
        augment: the name of a set of augmentations; of volumes `volume`.
        augmentation_bank: so many augmented views of each image are drawn once and for all, and a training takes one of
            them at random each epoch; None draws a new one at each step. Frozen blocks see each view once.
        monitor: what the best checkpoint is chosen by; None is the study's metric.
        validate_every: steps (int), or a fraction of an epoch (float).
        test_crops: `center`, or `ten` crops averaged, as V tests.
        patch: of volumes with masks: a training sees boxes of so many voxels, one side or `[D, H, W]`, cut out at
            random after augmentation; validation and test are of whole volumes, by overlapping windows of this size.
            None is whole volumes.
        patch_foreground: so large a share of patches lie around a voxel of a class, the others anywhere.
        threads: CPU threads of a run; part of its identity, since sums change bits with it.
        precision: `no`, `bf16` or `fp16`.
        snapshots: steps whose weights are kept, or `log`: 1, 2, 4, 8, ... and the last. The analysis `dynamics` asks
            for `log` by itself.
    """

    __pydantic_config__ = STRICT
    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 32
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    stopping: StoppingSpec = field(default_factory=StoppingSpec)
    loss: Literal["auto", "softmax", "sigmoid", "dice_ce"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    augment: Augmentation = "none"
    augmentation_bank: int | None = None
    monitor: Metric | Literal["loss"] | None = None
    validate_every: int | float = 1.0
    test_crops: Literal["center", "ten"] = "center"
    threads: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    snapshots: Literal["log"] | tuple[int, ...] = ()
    patch: int | tuple[int, int, int] | None = None
    patch_foreground: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.patch, int):
            object.__setattr__(self, "patch", (self.patch,) * 3)
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
        if self.augmentation_bank is not None and self.augmentation_bank < 1:
            problems.append(f"augmentation_bank is {self.augmentation_bank}; expected 1 or more views of each image")
        if self.augmentation_bank is not None and self.augment == "none":
            problems.append("augmentation_bank: views of what? Give augment too, or leave augmentation_bank out")
        if self.batch_size < 2:
            problems.append(f"batch_size is {self.batch_size}; batch norm needs at least 2 images")
        if self.validate_every <= 0:
            problems.append(
                f"validate_every is {self.validate_every}; expected steps (int) or a fraction of an epoch (float)"
            )
        if isinstance(self.patch, tuple) and min(self.patch) < 1:
            problems.append(f"patch is {list(self.patch)}; expected voxels, a side or [D, H, W], such as 32")
        if not 0 <= self.patch_foreground <= 1:
            problems.append(f"patch_foreground is {self.patch_foreground}; expected a share from 0 to 1")
        if self.patch is None and self.patch_foreground != 0.5:
            problems.append("patch_foreground: the share of which patches? Give patch too, or leave it out")
        if self.threads < 1:
            problems.append(f"threads is {self.threads}; expected 1 or more")
        if isinstance(self.snapshots, tuple) and any(step < 1 for step in self.snapshots):
            problems.append(f"snapshots are {list(self.snapshots)}; expected steps of 1 or more, or log")
        refuse(problems)
