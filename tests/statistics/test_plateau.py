from __future__ import annotations

import math

import numpy as np
import pytest

from transfuse.errors import DataError, SpecError
from transfuse.statistics.plateau import kept_values, plateau

STEPS = [100, 200, 300]


def by_hand(steps: np.ndarray, values: np.ndarray) -> float:
    """The gain from its definition, with loops: best so far at the end, less that at two thirds of the last step."""
    best = [max(values[: place + 1]) for place in range(len(values))]
    begin = 2 / 3 * steps[-1]
    before = max(place for place, step in enumerate(steps) if step <= begin)
    share = (begin - steps[before]) / (steps[before + 1] - steps[before])
    return float(best[-1] - (best[before] + share * (best[before + 1] - best[before])))


def test_the_gain_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    runs = [(np.cumsum(rng.integers(1, 5, size=12)).astype(float), rng.random(12)) for _ in range(20)]
    found = plateau(runs, margin=0.02)
    assert found.gains == pytest.approx([by_hand(steps, values) for steps, values in runs])
    assert found.gained == pytest.approx(np.mean(found.gains))
    assert (found.first[3], found.last[3]) == (pytest.approx(2 / 3 * runs[3][0][-1]), runs[3][0][-1])


@pytest.mark.parametrize(
    ("values", "level", "gained"),
    [
        ([0.5, 0.6, 0.7], False, 0.1),
        ([0.5, 0.6, 0.625], False, 0.025),  # half the margin is not less than half the margin
        ([0.5, 0.6, 0.609375], True, 0.009375),
        ([0.5, 0.8, 0.8], True, 0.0),
        ([0.5, 0.8, 0.6], True, 0.0),  # tested with the best, which was before: no longer training would change it
        ([0.8, 0.5, 0.7], True, 0.0),
    ],
)
def test_less_than_half_the_margin_is_level(values: list[float], level: bool, gained: float) -> None:
    found = plateau([(STEPS, values)], margin=0.05)
    assert (found.plateaued, found.gained) == (level, pytest.approx(gained))
    mirrored = plateau([(STEPS, [1 - value for value in values])], margin=0.05, higher_is_better=False)
    assert (mirrored.plateaued, mirrored.gained) == (level, pytest.approx(gained))


def test_a_validation_that_is_worse_by_chance_hides_no_rise() -> None:
    assert plateau([([100, 200, 250, 300], [0.5, 0.6, 0.8, 0.6])], 0.05).gained == pytest.approx(0.2)


def test_the_mean_over_seeds_decides() -> None:
    rising, level = (STEPS, [0.5, 0.6, 0.64]), (STEPS, [0.5, 0.7, 0.7])
    assert plateau([rising], 0.05).plateaued is False
    found = plateau([rising, level, level], 0.05)
    assert (found.plateaued, found.gained) == (True, pytest.approx(0.04 / 3))
    assert found.gains == pytest.approx((0.04, 0, 0))
    assert plateau([level, rising, level], 0.05).gained == pytest.approx(found.gained)


def test_units_of_steps_and_a_constant_do_not_matter_and_the_metric_s_scale_is_the_margin_s() -> None:
    rng = np.random.default_rng(1)
    steps, values = np.arange(1, 9) * 20.0, rng.random(8)
    first = plateau([(steps, values)], 0.05)
    moved = plateau([(7 * steps, values + 3)], 0.05)
    assert moved.gained == pytest.approx(first.gained)
    larger = plateau([(steps, 10 * values)], 0.5)
    assert (larger.gained, larger.plateaued) == (pytest.approx(10 * first.gained), first.plateaued)


def test_between_two_validations_the_value_is_interpolated() -> None:
    line = [step / 1000 for step in range(10, 161, 10)]
    fine, coarse = plateau([(range(10, 161, 10), line)], 0.05), plateau([(range(20, 161, 20), line[1::2])], 0.05)
    assert fine.gained == pytest.approx(coarse.gained) == pytest.approx(0.160 / 3)


def test_runs_that_stopped_early_are_measured_on_their_own_last_third() -> None:
    short, long = (STEPS, [0.5, 0.8, 0.8]), ([100, 200, 300, 400, 500, 600], [0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    found = plateau([short, long], 0.05)
    # Over the 300 steps that both have, the long one was still rising by 0.1.
    assert (found.plateaued, found.gains, found.last) == (True, (0.0, 0.0), (300.0, 600.0))
    assert found.first == pytest.approx((200, 400))


def test_values_that_were_not_evaluated_are_skipped() -> None:
    gap = plateau([([100, 150, 200, 250, 300], [0.5, math.nan, 0.6, math.nan, 0.7])], 0.05)
    assert gap == plateau([(STEPS, [0.5, 0.6, 0.7])], 0.05)


@pytest.mark.parametrize(
    "run",
    [
        ([300], [0.7]),  # validated once, at the end
        ([250, 300], [0.6, 0.7]),  # never before two thirds
        ([0], [0.5]),  # no training
        (STEPS, [math.nan] * 3),
        (STEPS, [math.nan, math.nan, 0.7]),
    ],
)
def test_too_few_validations_cannot_be_told(run: tuple[list[float], list[float]]) -> None:
    found = plateau([run, (STEPS, [0.5, 0.8, 0.8]), (STEPS, [0.5, 0.8, 0.8])], 0.05)
    assert found.plateaued is None
    assert math.isnan(found.gained)
    assert found.gains == (None, 0.0, 0.0)
    assert found.reason == "validations on both sides of two thirds of the steps are missing in 1 of 3 runs"


def test_runs_that_still_rose_are_not_excused_by_one_without_validations() -> None:
    rose = (STEPS, [0.3, 0.5, 0.8])
    found = plateau([rose, ([300], [0.8]), rose], 0.05)
    assert (found.plateaued, found.reason) == (False, "")
    assert found.gained == pytest.approx(0.3)
    assert found.gains[1] is None


def test_two_validations_are_enough_to_tell() -> None:
    assert plateau([([50, 100], [0.5, 0.8])], 0.05).gained == pytest.approx(0.2)  # two thirds of what came in a half


def test_what_the_best_was_chosen_by_decides_which_value_counts() -> None:
    loss = [1.0, 0.4, 0.7]
    found = plateau([(STEPS, [0.5, 0.6, 0.7])], 0.05, monitored=[[-value for value in loss]])
    assert (found.plateaued, found.gained) == (True, 0.0)  # the last network is not the one that is tested
    worse = plateau([(STEPS, [0.5, 0.6, 0.4])], 0.05, monitored=[[0, 1, 2]])
    assert (worse.plateaued, worse.gained) == (True, pytest.approx(-0.2))


@pytest.mark.parametrize("monitor", ["auroc", "loss"])
def test_kept_values_are_those_of_the_weights_that_training_keeps(monitor: str) -> None:
    from transfuse.training.history import History
    from transfuse.training.recipe import Recipe

    rng = np.random.default_rng(2)
    auroc, by = rng.random(30).round(1), rng.random(30).round(1)  # rounded: there are equals
    by = auroc if monitor == "auroc" else by
    history = History(Recipe(monitor=monitor), steps_per_epoch=1, total_steps=99, length="99 steps")
    kept = []
    for step, (value, watched) in enumerate(zip(auroc, by, strict=True), start=1):
        validation = {"auroc": float(value), monitor: float(watched)}
        history.add(step=step, train_loss=1, learning_rate=1, validation=validation, seconds=1, images_per_second=1)
        kept.append(history.best.validation["auroc"])  # type: ignore[union-attr]
    assert kept_values(auroc, -by if monitor == "loss" else by).tolist() == kept


def test_kept_values_begin_with_the_first_that_was_evaluated() -> None:
    found = kept_values([0.1, 0.2, 0.3, 0.4], [math.nan, 0.5, math.nan, 0.4])
    assert np.isnan(found[0])
    assert found[1:].tolist() == [0.2, 0.2, 0.2]


def test_a_wiggle_is_seldom_taken_for_a_rise_and_a_rise_seldom_overlooked() -> None:
    """What docs/verdict.md says: validations that vary by half the margin, and by the margin; 3 seeds, 8 of them."""
    rng = np.random.default_rng(3)
    steps, margin = np.arange(1, 9), 0.02

    def rate(gain: float, wiggle: float, studies: int = 500) -> float:
        curve = gain * 3 * (steps / 8 - 1)
        told = [
            plateau([(steps, curve + wiggle * rng.normal(size=8)) for _ in range(3)], margin) for _ in range(studies)
        ]
        return sum(one.plateaued is False for one in told) / studies

    assert rate(0.0, margin / 2) <= 0.03
    assert rate(0.0, margin) <= 0.20
    assert rate(margin, margin / 2) >= 0.92
    assert rate(margin, margin) >= 0.80


def test_plateau_names_bad_input() -> None:
    with pytest.raises(SpecError, match=r"margin is 0; expected a number > 0 in units of the metric"):
        plateau([(STEPS, [0.5, 0.6, 0.7])], 0)
    with pytest.raises(DataError, match="no run in the history"):
        plateau([], 0.02)
    with pytest.raises(DataError, match=r"run number 0.*ascending"):
        plateau([([2, 1], [0.5, 0.6])], 0.02)
    with pytest.raises(DataError, match=r"monitored has \[2\] values and history \[3\]"):
        plateau([(STEPS, [0.5, 0.6, 0.7])], 0.02, monitored=[[1, 2]])
    with pytest.raises(DataError, match=r"monitored has \[\] values"):
        plateau([(STEPS, [0.5, 0.6, 0.7])], 0.02, monitored=[])
