"""What a training has told so far: one Epoch a validation, the best of them, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from transfuse.errors import TrainingError
from transfuse.training.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """One validation and the training that led to it; it prints as a line.

    Attributes:
        epoch: passes over the training part so far; a fraction where validation is more frequent.
        step: optimiser steps so far.
        train_loss: mean over the images since the last validation.
        learning_rate: of the last step, outside the head.
        validation: `loss`, the monitored metric, `auroc` and `auroc/<class>` for every class; NaN where undefined.
        seconds: since the start of training, validations included, the caller's own work and interruptions not.
        images_per_second: while training, since the last validation.
        is_best: whether the monitored value is better than all before.
        stop_reason: None, but for the last epoch of a training.
        repeated: yielded from the record of a training that goes on from a checkpoint.
    """

    epoch: float
    step: int
    train_loss: float
    learning_rate: float
    validation: dict[str, float]
    seconds: float
    images_per_second: float
    is_best: bool = False
    stop_reason: str | None = None
    repeated: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        shown = {name: value for name, value in self.validation.items() if "/" not in name and name != "loss"}
        metrics = "".join(f"  {name} {value:.4f}" for name, value in shown.items())
        return (
            f"epoch {self.epoch:7.2f}  step {self.step:6d}  loss {self.train_loss:.4f}  "
            f"val loss {self.validation['loss']:.4f}{metrics}{' *' if self.is_best else '  '}  "
            f"lr {self.learning_rate:.2e}  {self.images_per_second:.0f} images/s"
            + (f"  stopped: {self.stop_reason}" if self.stop_reason else "")
        )


class Diverged(TrainingError):
    """The loss or an output is no longer a finite number.

    Attributes:
        step: the step whose loss is not finite (the first step is 1), or after which a validation output is not.
        epoch: the same in epochs.
        learning_rate: of that step.
        last_good_step, last_good_loss: the last step whose loss was finite; 0 and NaN if there was none.
    """

    def __init__(self, what: str, step: int, epoch: float, learning_rate: float, last_good: tuple[int, float]) -> None:
        self.what, self.step, self.epoch, self.learning_rate = what, step, epoch, learning_rate
        self.last_good_step, self.last_good_loss = last_good
        super().__init__(what, step, epoch, learning_rate, last_good)

    def __str__(self) -> str:
        before = (
            f"the last finite loss was {self.last_good_loss:.4g} at step {self.last_good_step}"
            if self.last_good_step
            else "no step before had a finite loss"
        )
        return (
            f"{self.what} at step {self.step} (epoch {self.epoch:.2f}, learning rate {self.learning_rate:.3g}); "
            f"{before}. Lower the learning rate, warm it up (Schedule(warmup=...)) or clip gradients "
            "(Optimizer(clip_norm=1.0))"
        )


@dataclass
class History:
    """The epochs of one training, and what follows from them: best value, plateau, end.

    Attributes:
        recipe: what is monitored, and when to stop.
        steps_per_epoch, total_steps: the length of an epoch and of the whole training.
        length: how the length was asked for, for the stop reason.
    """

    recipe: Recipe
    steps_per_epoch: int
    total_steps: int
    length: str
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best monitored value; the earliest of equals."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.is_best), None)

    @property
    def step(self) -> int:
        """Steps taken at the last validation."""
        return self.epochs[-1].step if self.epochs else 0

    @property
    def seconds(self) -> float:
        """Training time at the last validation."""
        return self.epochs[-1].seconds if self.epochs else 0.0

    @property
    def stop_reason(self) -> str | None:
        """Why the training is over, or None."""
        return self.epochs[-1].stop_reason if self.epochs else None

    def next_validation(self) -> int:
        """The step at which the next validation is due."""
        return self.step_of_validation(self.step + 1)

    def step_of_validation(self, least: int) -> int:
        """The first step of at least `least`, which is 1 or more, at which a validation is due."""
        every = self.recipe.validate_every
        period = every if isinstance(every, int) else every * self.steps_per_epoch
        count = max(1, math.floor((least - 1) / period))
        while (step := round(count * period)) < least:  # a fraction of an epoch may be less than a step
            count += 1
        return min(step, self.total_steps)

    def reductions(self) -> int:
        """How often a plateau has reduced the learning rate so far."""
        return self.recipe.schedule.reductions(
            [(epoch.step, epoch.validation[self.recipe.monitor]) for epoch in self.epochs],
            steps_per_epoch=self.steps_per_epoch,
            higher_is_better=self.recipe.higher_is_better,
        )

    def learning_rate(self, step: int, base: float, reductions: int) -> float:
        """The rate of step `step` (the first is 0) for parameters whose full rate is `base`."""
        return self.recipe.schedule.rate(base, step, steps_per_epoch=self.steps_per_epoch, reductions=reductions)

    def add(
        self,
        *,
        step: int,
        train_loss: float,
        learning_rate: float,
        validation: dict[str, float],
        seconds: float,
        images_per_second: float,
    ) -> Epoch:
        """Append what was measured, and say whether it is the best and whether it is the last."""
        value, best = validation[self.recipe.monitor], self.best
        sign = 1 if self.recipe.higher_is_better else -1
        measured = Epoch(
            epoch=step / self.steps_per_epoch,
            step=step,
            train_loss=train_loss,
            learning_rate=learning_rate,
            validation=validation,
            seconds=seconds,
            images_per_second=images_per_second,
            is_best=best is None or sign * value > sign * best.validation[self.recipe.monitor],
        )
        self.epochs.append(measured)
        self.epochs[-1] = replace(measured, stop_reason=self._reason())
        return self.epochs[-1]

    def _reason(self) -> str | None:
        stopping, last = self.recipe.stopping, self.epochs[-1]
        if last.step >= self.total_steps:
            return f"reached {self.length}"
        waited = next(count for count, epoch in enumerate(reversed(self.epochs)) if epoch.is_best)
        if stopping.patience is not None and waited >= stopping.patience:
            return f"no better {self.recipe.monitor} for {waited} validation{'s' if waited > 1 else ''}"
        rate = self.learning_rate(last.step, self.recipe.optimizer.learning_rate, self.reductions())
        warm = last.step < self.recipe.schedule.warmup_steps(self.steps_per_epoch)
        if rate < stopping.min_learning_rate and not warm:
            return f"the learning rate {rate:.3g} fell below {stopping.min_learning_rate:.3g}"
        return None

    def as_rows(self) -> list[dict[str, Any]]:
        """The epochs as plain dictionaries, for a checkpoint."""
        return [asdict(epoch) for epoch in self.epochs]

    def lengthen(self) -> bool:
        """Go on past the end of a shorter training, unless it ended for another reason than its length.

        Returns:
            Whether that is possible: whether this training validates where the shorter one ended.
        """
        if self.step_of_validation(self.step) != self.step:
            return False
        self.epochs[-1] = replace(self.epochs[-1], stop_reason=None)
        self.epochs[-1] = replace(self.epochs[-1], stop_reason=self._reason())
        return True

    def restore(self, rows: list[Mapping[str, Any]]) -> None:
        """Take over the epochs of a checkpoint."""
        self.epochs = [Epoch(**row) for row in rows]
