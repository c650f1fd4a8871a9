"""A recipe: everything about a training but the network, the data, the length and the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transfuse.data.patches import Patches
from transfuse.errors import TrainingError, nearest
from transfuse.metrics import EVERY_METRIC
from transfuse.training.losses import LOSSES
from transfuse.training.optimizers import Optimizer
from transfuse.training.schedules import Schedule

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """What ends a training before its last step.

    Attributes:
        patience: so many validations in a row without a better monitored value; None never stops.
        min_learning_rate: stop once the learning rate has fallen below it (never during the warm-up).
    """

    patience: int | None = None
    min_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise TrainingError(f"patience is {self.patience}; expected 1 or more validations, or None")
        if not self.min_learning_rate >= 0:
            raise TrainingError(f"min_learning_rate is {self.min_learning_rate}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; the defaults are Adam at 1e-3 with batches of 32.

    Attributes:
        optimizer, schedule, stopping: see the classes.
        batch_size: images a step, over all processes together.
        loss: `softmax` (cross-entropy), `sigmoid` (independent sigmoids with binary cross-entropy, as T trains), or
            `auto`: sigmoid for multilabel data, `dice_ce` (Dice with cross-entropy) for masks, otherwise softmax.
        class_weights: None, or one number a class (`data.class_weights` balances them).
        augment: a name of `data.AUGMENTATIONS`, or a function (images (n, C, H, W) in [0, 1], generator) -> images;
            for masks one with a method `together`, as `data.augment.Augmentation` has.
        augmentation_bank: so many augmented views of each image are drawn once and for all (whatever the seed), and
            each epoch takes one of them at random; None draws a new one at each step.
        monitor: the metric that picks the best weights and drives plateaus and early stopping; `loss` is the
            validation loss, for which lower is better. Of masks, `dice` or `jaccard`.
        validate_every: steps (int), or a fraction of an epoch (float); the last step is always validated.
        precision: `no` (float32), `bf16` or `fp16`, of training steps only: validation is always float32.
        patches: of volumes with masks: each step sees a patch of each volume instead of the whole, cut out of it after
            it is augmented; validation is of whole volumes, by windows of this size. None: whole volumes.

    Raises:
        TrainingError: a value out of its range, or an unknown name.
    """

    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    stopping: Stopping = field(default_factory=Stopping)
    batch_size: int = 32
    loss: str = "auto"
    class_weights: tuple[float, ...] | None = None
    augment: str | Augmentation = "none"
    augmentation_bank: int | None = None
    monitor: str = "auroc"
    validate_every: int | float = 1.0
    precision: str = "no"
    patches: Patches | None = None

    def __post_init__(self) -> None:
        for name, choices in (
            ("loss", ("auto", *LOSSES)),
            ("monitor", ("loss", *EVERY_METRIC)),
            ("precision", PRECISIONS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise TrainingError(f"the {name} {value!r} is unknown: {nearest(value, choices)}")
        if not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise TrainingError(f"batch_size is {self.batch_size}; expected 1 or more images")
        if self.augmentation_bank is not None and self.augmentation_bank < 1:
            raise TrainingError(f"augmentation_bank is {self.augmentation_bank}; expected 1 or more views, or None")
        if self.augmentation_bank is not None and self.augment == "none":
            raise TrainingError("augmentation_bank holds views of an augmentation; give augment too, or leave it None")
        if isinstance(self.validate_every, bool) or not self.validate_every > 0:
            raise TrainingError(
                f"validate_every is {self.validate_every}; expected steps (int) or a fraction of an epoch (float)"
            )
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(float(weight) for weight in self.class_weights))

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger monitored value is better."""
        return self.monitor != "loss" and EVERY_METRIC[self.monitor].higher_is_better

    def augmentation(self) -> Augmentation | None:
        """The function behind `augment`; None where images stay as they are."""
        if callable(self.augment):
            return self.augment
        from transfuse.data.augment import AUGMENTATIONS

        if self.augment == "none":
            return None
        if self.augment not in AUGMENTATIONS:
            raise TrainingError(f"the augmentation {self.augment!r} is unknown: {nearest(self.augment, AUGMENTATIONS)}")
        return AUGMENTATIONS[self.augment]


# The papers' protocols: T = Raghu et al. 2019, V = arXiv 1902.07208v1, M = Matsoukas et al. 2022, P = Peng et al. 2023.
RECIPES: dict[str, Recipe] = {
    # T and V, RETINA: Adam 1e-3, batches of 8; length and schedule are not stated
    "retina": Recipe(batch_size=8, loss="sigmoid", augment="fundus", monitor="auroc"),
    # T, CheXpert: 0 -> 0.1 * 32 / 256 over 5 epochs, a tenth at 30, 60 and 90
    "chexpert": Recipe(
        optimizer=Optimizer(name="sgd", learning_rate=0.0125, momentum=0.9),
        schedule=Schedule(name="step", milestones=(30, 60, 90), warmup=5, warmup_unit="epochs"),
        batch_size=32,
        loss="sigmoid",
        augment="cxr",
    ),
    # V, ChestXray14, completed from the public code that V names; 100 epochs at most
    "chestxray14": Recipe(
        optimizer=Optimizer(learning_rate=1e-4, weight_decay=1e-5),
        schedule=Schedule(name="plateau", factor=0.1, patience=5),
        batch_size=128,
        loss="sigmoid",
        augment="chestxray14",
        monitor="loss",
    ),
    # V, CIFAR: 200 epochs
    "cifar": Recipe(
        optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=Schedule(name="step", milestones=(60, 120, 160), factor=0.2),
        batch_size=128,
        augment="cifar",
        monitor="accuracy",
    ),
    # M: validated twice an epoch, the plateau is asked once an epoch; monitor is each data set's own metric
    "matsoukas": Recipe(
        optimizer=Optimizer(learning_rate=1e-4, weight_decay=1e-5, decay_1d=False, clip_norm=1.0),
        schedule=Schedule(
            name="plateau", factor=0.1, patience=3, patience_unit="epochs", warmup=1000, warmup_start=1e-8
        ),
        batch_size=64,
        augment="matsoukas",
        validate_every=0.5,
    ),
    # P, supplement A.1; the patience is that of P's code
    "peng": Recipe(
        optimizer=Optimizer(learning_rate=1e-4),
        schedule=Schedule(name="plateau", factor=0.5, patience=5),
        stopping=Stopping(min_learning_rate=1e-7),
        batch_size=64,
        augment="peng",
        monitor="auprc",
    ),
    # P's code differs from P's text: validation loss, and a higher floor
    "peng-code": Recipe(
        optimizer=Optimizer(learning_rate=1e-4),
        schedule=Schedule(name="plateau", factor=0.5, patience=5),
        stopping=Stopping(min_learning_rate=1e-6),
        batch_size=64,
        augment="peng-code",
        monitor="loss",
    ),
}
