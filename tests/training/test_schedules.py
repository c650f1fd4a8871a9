from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from transfuse.errors import TrainingError
from transfuse.training import RECIPES, Schedule


def optimizer_at(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def torch_rates(scheduler: lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert {Schedule().rate(0.3, step, steps_per_epoch=7) for step in range(30)} == {0.3}


@pytest.mark.parametrize(("unit", "milestones"), [("steps", (4, 9)), ("epochs", (0.8, 1.8))])
def test_step_decay_is_that_of_pytorch(unit: str, milestones: tuple[float, ...]) -> None:
    schedule = Schedule(name="step", milestones=milestones, milestone_unit=unit, factor=0.2)
    optimizer = optimizer_at(0.1)
    expected = torch_rates(lr_scheduler.MultiStepLR(optimizer, [4, 9], gamma=0.2), optimizer, 15)
    assert [schedule.rate(0.1, step, steps_per_epoch=5) for step in range(15)] == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "warmup"), [("steps", 10), ("epochs", 2.0)])
def test_warm_up_is_that_of_pytorch(unit: str, warmup: float) -> None:
    schedule = Schedule(warmup=warmup, warmup_unit=unit, warmup_start=0.01)
    optimizer = optimizer_at(0.1)
    scheduler = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    expected = torch_rates(scheduler, optimizer, 15)
    assert [schedule.rate(0.1, step, steps_per_epoch=5) for step in range(15)] == pytest.approx(expected)


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateaus_are_those_of_pytorch(higher: bool, patience: int) -> None:
    schedule = Schedule(name="plateau", patience=patience, factor=0.5)
    optimizer = optimizer_at(1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max" if higher else "min", patience=patience, factor=0.5, eps=0
    )
    values = np.random.default_rng(patience).integers(1, 9, 40) / 8
    seen: list[tuple[int, float]] = []
    reduced = 0
    for step, value in enumerate(values.tolist(), start=1):
        scheduler.step(value)
        seen.append((step, value))
        reduced = schedule.reductions(seen, steps_per_epoch=1, higher_is_better=higher)
        rate = schedule.rate(1.0, step, steps_per_epoch=1, reductions=reduced)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
    assert reduced > 3


def test_chexpert_of_transfusion() -> None:
    recipe = RECIPES["chexpert"]
    rates = {
        epoch: recipe.schedule.rate(recipe.optimizer.learning_rate, int(epoch * 10), steps_per_epoch=10)
        for epoch in (0, 2.5, 5, 29.9, 30, 60, 90)
    }
    expected = {0: 0, 2.5: 0.00625, 5: 0.0125, 29.9: 0.0125, 30: 0.00125, 60: 1.25e-4, 90: 1.25e-5}
    assert rates == pytest.approx(expected)


def test_matsoukas_warms_up_over_1000_iterations_and_asks_the_plateau_once_an_epoch() -> None:
    schedule = RECIPES["matsoukas"].schedule
    assert schedule.rate(1e-4, 0, steps_per_epoch=1) == 1e-8
    assert schedule.rate(1e-4, 500, steps_per_epoch=1) == pytest.approx((1e-8 + 1e-4) / 2)
    assert schedule.rate(1e-4, 1000, steps_per_epoch=1) == 1e-4
    # two validations an epoch of 400 steps; the first after the warm-up that opens an epoch is at step 1200
    halves = [(step, 0.5) for step in range(200, 3000, 200)]
    counts = [
        schedule.reductions(halves[:n], steps_per_epoch=400, higher_is_better=True) for n in range(len(halves) + 1)
    ]
    first = next(n for n, count in enumerate(counts) if count)
    assert halves[first - 1][0] == 1200 + 4 * 400  # one best, three waited for, the fourth reduces


def test_values_during_the_warm_up_do_not_count() -> None:
    schedule = Schedule(name="plateau", patience=0, warmup=20)
    assert schedule.reductions([(10, 0.9), (20, 0.5), (30, 0.5)], steps_per_epoch=5, higher_is_better=True) == 0
    assert schedule.reductions([(10, 0.9), (20, 0.5), (30, 0.5), (40, 0.5)], steps_per_epoch=5, higher_is_better=True)


def test_an_undefined_value_is_no_improvement() -> None:
    plateau = Schedule(name="plateau", patience=0)
    assert plateau.reductions([(1, 0.5), (2, math.nan)], steps_per_epoch=1, higher_is_better=True) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "plato"}, r"the schedule 'plato' is unknown: did you mean 'plateau'\?"),
        ({"warmup_unit": "epoch"}, r"the warmup_unit 'epoch' is unknown: did you mean 'epochs'\?"),
        ({"name": "step"}, r"schedule 'step' got the milestones \(\); expected some for 'step', e.g. \(30, 60, 90\)"),
        ({"milestones": (3,)}, r"schedule 'constant' got the milestones \(3,\)"),
        ({"name": "step", "milestones": (30, 30)}, r"milestones is \(30, 30\); expected rising numbers above 0"),
        ({"name": "step", "milestones": (0,)}, "expected rising numbers above 0"),
        ({"factor": 1.0}, r"factor is 1.0; expected a number in \(0, 1\)"),
        ({"patience": -1}, "patience is -1; expected 0 or more"),
        ({"warmup": -1}, "warmup is -1; expected 0 or more"),
        ({"warmup_start": -0.1}, "warmup_start is -0.1; expected 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Schedule(**arguments)
