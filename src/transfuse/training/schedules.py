"""Learning-rate schedules: pure functions of the step and of the validations so far, so that a resume is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transfuse.errors import TrainingError, nearest

SCHEDULES = ("constant", "step", "plateau")

# Relative improvement below which a validation counts as a standstill: the default of PyTorch, and so of M and P.
THRESHOLD = 1e-4


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves.

    Attributes:
        name: `constant`; `step`: times `factor` at each milestone; `plateau`: times `factor` once more than `patience`
            validations in a row brought nothing better (PyTorch's ReduceLROnPlateau).
        milestones, milestone_unit: rising numbers of epochs (fractions allowed) or of steps.
        factor: in (0, 1).
        patience, patience_unit: `validations`; or `epochs`, which looks at the first validation of each new epoch
            only, as M does while it validates twice an epoch. Validations within the warm-up do not count.
        warmup, warmup_unit: so many `steps` or `epochs` of a straight rise from `warmup_start`.
        warmup_start: the rate of the very first step.

    Raises:
        TrainingError: a value out of its range, or an unknown name.
    """

    name: str = "constant"
    milestones: tuple[float, ...] = ()
    milestone_unit: str = "epochs"
    factor: float = 0.1
    patience: int = 5
    patience_unit: str = "validations"
    warmup: float = 0
    warmup_unit: str = "steps"
    warmup_start: float = 0.0

    def __post_init__(self) -> None:
        for field, choices in (
            ("name", SCHEDULES),
            ("milestone_unit", ("epochs", "steps")),
            ("patience_unit", ("validations", "epochs")),
            ("warmup_unit", ("steps", "epochs")),
        ):
            value = getattr(self, field)
            if value not in choices:
                what = "schedule" if field == "name" else field
                raise TrainingError(f"the {what} {value!r} is unknown: {nearest(value, choices)}")
        if (self.name == "step") != bool(self.milestones):
            raise TrainingError(
                f"the schedule {self.name!r} got the milestones {self.milestones}; expected some for 'step', "
                "e.g. (30, 60, 90), and none for the others"
            )
        if any(b <= a for a, b in zip((0.0, *self.milestones), self.milestones, strict=False)):
            raise TrainingError(f"milestones is {self.milestones}; expected rising numbers above 0")
        if not 0 < self.factor < 1:
            raise TrainingError(f"factor is {self.factor}; expected a number in (0, 1)")
        for field in ("patience", "warmup", "warmup_start"):
            value = getattr(self, field)
            if not (value >= 0 and math.isfinite(value)):
                raise TrainingError(f"{field} is {value}; expected 0 or more")

    def rate(self, base: float, step: int, *, steps_per_epoch: int, reductions: int = 0) -> float:
        """The learning rate of step `step` (the first is 0) for a parameter whose full rate is `base`.

        T's CheXpert schedule (T, appendix A.2), 0.0125 over a warm-up of 5 epochs, a tenth at 30, 60 and 90:

        >>> schedule = Schedule(name="step", milestones=(30, 60, 90), warmup=5, warmup_unit="epochs")
        >>> [round(schedule.rate(0.0125, epoch * 100, steps_per_epoch=100), 7) for epoch in (0, 1, 5, 29, 30, 90)]
        [0.0, 0.0025, 0.0125, 0.0125, 0.00125, 1.25e-05]
        """
        unit = steps_per_epoch if self.milestone_unit == "epochs" else 1
        passed = sum(step >= round(milestone * unit) for milestone in self.milestones)
        full = base * self.factor ** (passed + reductions)
        warm = self.warmup_steps(steps_per_epoch)
        return full if step >= warm else self.warmup_start + (full - self.warmup_start) * step / warm

    def shortened(self, share: float) -> Schedule:
        """The same course in `share` of the length: milestones and warm-up come as much earlier; a plateau's not.

        >>> Schedule(name="step", milestones=(30, 60, 90), warmup=4).shortened(0.5).milestones
        (15.0, 30.0, 45.0)
        """
        earlier = tuple(share * milestone for milestone in self.milestones)
        return replace(self, milestones=earlier, warmup=share * self.warmup)

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """The length of the warm-up in steps."""
        return round(self.warmup * (steps_per_epoch if self.warmup_unit == "epochs" else 1))

    def reductions(
        self, validations: Sequence[tuple[int, float]], *, steps_per_epoch: int, higher_is_better: bool
    ) -> int:
        """How often a plateau has reduced the rate after `validations`, pairs of (steps taken, monitored value).

        >>> plateau = Schedule(name="plateau", patience=1)
        >>> plateau.reductions([(10, 0.5), (20, 0.5), (30, 0.5)], steps_per_epoch=10, higher_is_better=True)
        1
        """
        if self.name != "plateau":
            return 0
        reductions = waiting = epoch = 0
        best = -math.inf
        for step, value in validations:
            new_epoch = step // steps_per_epoch > epoch
            epoch = step // steps_per_epoch
            if step <= self.warmup_steps(steps_per_epoch) or (self.patience_unit == "epochs" and not new_epoch):
                continue
            score = value if higher_is_better else -value
            if score > best + THRESHOLD * abs(best if math.isfinite(best) else 0.0):
                best, waiting = score, 0
                continue
            waiting += 1
            if waiting > self.patience:
                reductions, waiting = reductions + 1, 0
        return reductions
