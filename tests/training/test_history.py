from __future__ import annotations

import pickle

import pytest

from transfuse.training import Diverged, Epoch, Recipe, Schedule, Stopping
from transfuse.training.history import History


def history_of(recipe: Recipe, *, steps_per_epoch: int = 10, total: int = 1000) -> History:
    return History(recipe, steps_per_epoch, total, length=f"{total} steps")


def add(history: History, value: float, step: int | None = None) -> Epoch:
    return history.add(
        step=history.next_validation() if step is None else step,
        train_loss=1.0,
        learning_rate=1e-3,
        validation={"loss": 1 - value, "auroc": value},
        seconds=1.0,
        images_per_second=10.0,
    )


@pytest.mark.parametrize(
    ("every", "total", "expected"),
    [
        (25, 60, [25, 50, 60]),
        (1, 3, [1, 2, 3]),
        (1.0, 30, [10, 20, 30]),
        (0.5, 22, [5, 10, 15, 20, 22]),
        (0.3, 12, [3, 6, 9, 12]),
        (0.25, 10, [2, 5, 8, 10]),  # 2.5 and 7.5 are rounded to even
        (0.05, 3, [1, 2, 3]),  # less than a step
        (3.0, 20, [20]),
    ],
)
def test_validations_come_every_so_often_and_at_the_end(every: float, total: int, expected: list[int]) -> None:
    history, steps = history_of(Recipe(validate_every=every), total=total), []
    while history.stop_reason is None:
        steps.append(add(history, 0.5).step)
    assert steps == expected


def test_the_best_is_the_first_of_equals() -> None:
    history = history_of(Recipe())
    assert [add(history, value).is_best for value in (0.5, 0.7, 0.7, 0.6, 0.8)] == [True, True, False, False, True]
    assert history.best is not None
    assert history.best.step == 50


def test_a_lower_loss_is_better() -> None:
    history = history_of(Recipe(monitor="loss"))
    assert [add(history, value).is_best for value in (0.5, 0.4, 0.6)] == [True, False, True]


def test_early_stopping_waits_for_patience() -> None:
    history = history_of(Recipe(stopping=Stopping(patience=2)))
    reasons = [add(history, value).stop_reason for value in (0.5, 0.4, 0.6, 0.6, 0.6)]
    assert reasons == [None] * 4 + ["no better auroc for 2 validations"]


def test_a_learning_rate_below_the_least_stops() -> None:
    recipe = Recipe(
        schedule=Schedule(name="plateau", factor=0.5, patience=0), stopping=Stopping(min_learning_rate=3e-4)
    )
    history = history_of(recipe)
    reasons = [add(history, 0.5).stop_reason for _ in range(3)]
    assert reasons == [None, None, "the learning rate 0.00025 fell below 0.0003"]


def test_a_warm_up_from_zero_does_not_stop() -> None:
    recipe = Recipe(schedule=Schedule(warmup=3, warmup_unit="epochs"), stopping=Stopping(min_learning_rate=1e-3))
    history = history_of(recipe, total=50)
    while history.stop_reason is None:
        add(history, 0.5)
    assert history.stop_reason == "reached 50 steps"


def test_an_epoch_prints_as_a_line() -> None:
    epoch = Epoch(1.5, 120, 0.5321, 1e-4, {"loss": 0.6, "auroc": 0.871, "auroc/x": 0.9}, 12.0, 340.4, is_best=True)
    assert str(epoch) == (
        "epoch    1.50  step    120  loss 0.5321  val loss 0.6000  auroc 0.8710 *  lr 1.00e-04  340 images/s"
    )


def test_diverged_says_where_and_what_to_do() -> None:
    error = Diverged("the training loss is nan", step=17, epoch=1.7, learning_rate=0.1, last_good=(16, 2.5))
    assert str(error) == (
        "the training loss is nan at step 17 (epoch 1.70, learning rate 0.1); the last finite loss was 2.5 at step 16. "
        "Lower the learning rate, warm it up (Schedule(warmup=...)) or clip gradients (Optimizer(clip_norm=1.0))"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # it travels between processes
