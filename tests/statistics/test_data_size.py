"""Power laws against scipy's fits, intervals against known curves, and every way in which nothing can be said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from transfuse.errors import DataError, SpecError
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.crossover import crossover
from transfuse.statistics.data_size import DataSizeCurve, data_size_curve, worth
from transfuse.statistics.power_law import RATES, fit_power_law

SIZES = np.array([48, 120, 240, 480])
UNIT = (0.0, 1.0)


def law(n: Any, limit: float, a: float, b: float) -> np.ndarray:
    return limit - a * np.asarray(n, float) ** -b


def seeds_of(means: np.ndarray, spread: Any, seeds: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return means[:, None] + np.broadcast_to(spread, means.shape)[:, None] * rng.standard_normal((len(means), seeds))


def curve_of(limit: float, a: float, b: float, spread: float = 1e-4, sizes: Any = SIZES, **keys: Any) -> DataSizeCurve:
    return data_size_curve(sizes, seeds_of(law(sizes, limit, a, b), spread, seed=round(1e4 * a)), **keys)


def arms_of(separations: Any, seeds: int = 3, patients: int = 60, same: bool = False, seed: int = 0) -> list[Arm]:
    """Scores of one easy and one hard part for each patient; with `same` every seed predicts the same."""
    rng = np.random.default_rng(seed)
    target = np.tile([0, 1], patients // 2)
    ease = np.random.default_rng(99).standard_normal(patients)
    arms = []
    for one in separations:
        noise = np.zeros((seeds, 1)) if same else rng.standard_normal((seeds, patients))
        arms.append(arm_of_scores(target, one * target + ease + 0.5 * noise, range(patients)))
    return arms


# The fit


@pytest.mark.parametrize(("limit", "a", "b"), [(0.92, 1.2, 0.55), (0.8, 3.0, 1.2), (1.0, 0.6, 0.3), (0.7, -0.5, 0.4)])
def test_a_curve_without_noise_is_found_again(limit: float, a: float, b: float) -> None:
    found = fit_power_law(SIZES, law(SIZES, limit, a, b)[None], np.ones(4), UNIT)
    assert found.rate[0] == pytest.approx(b, rel=0.004)
    assert found.limit[0] == pytest.approx(limit, abs=2e-3)
    assert found.left[0] * 480 ** found.rate[0] == pytest.approx(a, rel=0.02)
    np.testing.assert_allclose(found.at(SIZES)[0], law(SIZES, limit, a, b), atol=1e-4)
    np.testing.assert_allclose(found.at(1000), law([1000], limit, a, b), atol=2e-4)


def test_the_fit_is_as_good_as_that_of_scipy_from_many_starts() -> None:
    rng = np.random.default_rng(3)
    sizes, weights = np.array([20, 50, 110, 250, 600]), np.array([1.0, 2.0, 3.0, 5.0, 4.0])
    rows = law(sizes, 0.9, 1.5, 0.6) + 0.02 * rng.standard_normal((12, 5))
    ours = fit_power_law(sizes, rows, weights, UNIT)

    def shape(n: np.ndarray, limit: float, left: float, rate: float) -> np.ndarray:
        return limit - left * (n / 600) ** -rate

    for row, limit, left, rate in zip(rows, ours.limit, ours.left, ours.rate, strict=True):
        missed = (weights * (row - shape(sizes, limit, left, rate)) ** 2).sum()
        for start in (0.1, 0.5, 1.5):
            theirs, _ = curve_fit(
                shape,
                sizes,
                row,
                p0=(0.9, 0.05, start),
                sigma=weights**-0.5,
                bounds=([0, -np.inf, RATES[0]], [1, np.inf, RATES[1]]),
            )
            least = (weights * (row - shape(sizes, *theirs)) ** 2).sum()
            assert missed <= least * (1 + 1e-3) + 1e-12
        assert RATES[0] <= rate <= RATES[1]
        assert 0 <= limit <= 1


def test_a_row_with_nan_has_no_fit_and_leaves_the_others_alone() -> None:
    rows = np.stack([law(SIZES, 0.9, 1.0, 0.5), [0.5, math.nan, 0.6, 0.7], law(SIZES, 0.9, 1.0, 0.5)])
    found = fit_power_law(SIZES, rows, np.ones(4), UNIT)
    assert np.isnan(found.at(100)).tolist() == [False, True, False]
    assert found.limit[0] == found.limit[2]
    assert fit_power_law(SIZES, np.empty((0, 4)), np.ones(4), UNIT).at(100).shape == (0,)


def test_the_unit_of_the_sizes_does_not_matter() -> None:
    values = seeds_of(law(SIZES, 0.9, 1.0, 0.5), 0.01)
    plain, tens = data_size_curve(SIZES, values), data_size_curve(10 * SIZES, values)
    assert tens.at(4800) == pytest.approx(plain.at(480), abs=1e-9)
    assert tens.gain(480, 2400) == pytest.approx(plain.gain(48, 240), abs=1e-9)


def test_sizes_with_less_spread_weigh_more() -> None:
    """The curve of the truth is missed at the small sizes, where seeds differ a lot, not at the large ones."""
    sizes = np.array([20, 40, 80, 160, 320])
    means = law(sizes, 0.9, 1.0, 0.5) + np.array([0.03, -0.03, 0.0, 0.0, 0.0])
    values = [
        [mean - off, mean, mean + off] for mean, off in zip(means, [0.05, 0.03, 0.002, 0.002, 0.001], strict=True)
    ]
    weighted = data_size_curve(sizes, values)
    equal = fit_power_law(sizes, means[None], np.ones(5), UNIT)
    assert abs(weighted.at(320).value - means[-1]) < 0.5 * abs(equal.at(320)[0] - means[-1])


# The interval


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    truth = law(SIZES, 0.92, 1.2, 0.55)
    hits: dict[tuple[str, float], list[bool]] = {}
    for _ in range(60):
        values = truth[:, None] + 0.02 * np.sqrt(48 / SIZES)[:, None] * rng.standard_normal((4, 4))
        whole = data_size_curve(SIZES, values)
        for curve in (whole, replace(whole, confidence=0.5)):
            for name, found, true in (
                ("largest", curve.at(480), truth[-1]),
                ("rise", curve.gain(48, 480), truth[-1] - truth[0]),
                ("more", worth(curve).gain, law(580, 0.92, 1.2, 0.55) - truth[-1]),
            ):
                hits.setdefault((name, curve.confidence), []).append(found.low <= true <= found.high)
    for (name, confidence), held in hits.items():
        # More than three standard errors of 60 draws on both sides.
        assert confidence - 0.2 * (1.5 - confidence) <= np.mean(held) <= min(1, confidence + 0.22), (name, confidence)


def test_the_interval_of_arms_is_that_of_the_fits_on_each_resample() -> None:
    """Without any spread between seeds the definition can be written out: one fit a resample of patients."""
    arms = arms_of([0.4, 0.8, 1.2, 1.4], same=True)
    curve = data_size_curve(SIZES, arms)
    points = np.array([arm.parts[0].points[0, 0] for arm in arms])
    resamples = np.stack([arm.parts[0].values[0, 0] for arm in arms], axis=1)
    support = arms[0].parts[0].support[0]
    moved = points + (resamples - resamples.mean(axis=0)) * math.sqrt(support / (support - 1))
    fits = fit_power_law(SIZES, np.clip(moved, 0, 1), np.ones(4), UNIT).at(240)
    assert (curve.at(240).low, curve.at(240).high) == pytest.approx(np.quantile(fits, [0.025, 0.975]), abs=1e-12)
    assert curve.method == "other test patients and other seeds, percentiles of 2,000 fits"


def test_test_patients_make_an_interval_wider_and_a_rise_on_the_same_ones_narrower_than_two_levels() -> None:
    arms = arms_of([0.4, 0.9, 1.3, 1.5])
    of_both, of_seeds = data_size_curve(SIZES, arms), data_size_curve(SIZES, [a.parts[0].points[:, 0] for a in arms])
    assert of_seeds.law.at(240) == pytest.approx(of_both.law.at(240))
    wide = [end.high - end.low for end in (of_both.at(480), of_seeds.at(480), of_both.gain(240, 480))]
    assert wide[0] > 1.5 * wide[1]
    assert wide[2] < wide[0]
    assert of_seeds.method == "other seeds on the same test patients"


def test_the_same_call_gives_the_same_interval_and_another_seed_another() -> None:
    values = seeds_of(law(SIZES, 0.9, 1.0, 0.5), 0.01)
    assert data_size_curve(SIZES, values).at(480) == data_size_curve(SIZES, values).at(480)
    assert data_size_curve(SIZES, values).at(480) != data_size_curve(SIZES, values, seed=1).at(480)


def test_sizes_may_have_other_numbers_of_seeds() -> None:
    curve = data_size_curve([20, 50, 100], [[0.7, 0.72, 0.71], [0.8], [0.84, 0.85]])
    assert [len(values) for values in curve.values] == [3, 1, 2]
    assert math.isfinite(curve.at(100).low)


# What cannot be said


def test_one_seed_has_no_interval_of_its_own_and_that_of_patients_with_arms() -> None:
    curve = data_size_curve([20, 50, 100], [[0.7], [0.8], [0.84]])
    assert curve.at(50)[1:] == (-math.inf, math.inf)
    assert curve.method == "no interval: one seed a size says nothing about other seeds"
    arms = data_size_curve([20, 50, 100], arms_of([0.4, 0.8, 1.2], seeds=1))
    assert math.isfinite(arms.at(50).low)
    assert arms.method.startswith("other test patients; one seed a size, so what another seed would give is not")


def test_arms_that_give_no_variance_give_no_interval() -> None:
    target, patients = np.tile([0, 1], 20), range(40)
    perfect = arm_of_scores(target, np.stack([target, target]).astype(float), patients)
    noisy = [arm_of_scores(target, np.random.default_rng(k).normal(target, 1.0, (2, 40)), patients) for k in (0, 1)]
    curve = data_size_curve([10, 20, 40], [*noisy, perfect])
    assert curve.at(40)[1:] == (-math.inf, math.inf)
    assert "no interval: at 40 training patients every run reaches 1 on every resample" in curve.method
    nameless = arm_of_scores(target, np.random.default_rng(5).normal(target, 1.0, (2, 40)), None)
    assert data_size_curve([10, 20, 40], [nameless] * 3).method.endswith("; each sample taken as a patient")


@pytest.mark.parametrize(
    ("means", "spread", "note"),
    [
        ([0.8, 0.8, 0.8, 0.8], 0.0, "no difference between the sizes can be told from chance"),
        ([0.80, 0.81, 0.79, 0.80], 0.01, "no difference between the sizes can be told from chance"),
        ([0.85, 0.82, 0.80, 0.79], 0.001, "the metric gets worse with more training patients"),
        ([0.6, 0.7, 0.775, 0.86], 0.001, "where the curve would level off is not known: the fit puts it at the"),
        (0.7 + 0.009 * np.log(SIZES / 48), 0.0003, "it changes as the logarithm of the patients does"),
        ([0.6, 0.8, 0.8, 0.8], 0.0005, "it levels off right after the smallest size"),
        ([0.6, 0.85, 0.7, 0.9], 0.002, "the means lie farther from the curve than seeds explain (p = "),
        (law(SIZES, 0.9, 1.0, 0.5), 0.001, ""),
    ],
)
def test_what_is_to_be_said_of_a_shape(means: Any, spread: float, note: str) -> None:
    offsets = spread * np.array([-1.0, 0.0, 1.0])
    notes = data_size_curve(SIZES, np.asarray(means, float)[:, None] + offsets).notes
    assert any(one.startswith(note) for one in notes) if note else notes == ()


def test_three_sizes_say_nothing_of_the_shape() -> None:
    curve = data_size_curve(SIZES[:3], seeds_of(law(SIZES[:3], 0.9, 1.0, 0.5), 0.001))
    assert curve.notes == ("three sizes cannot show whether a power law fits",)


def other(arm: Arm) -> Arm:
    return replace(arm, patients=arm.patients + 1)


@pytest.mark.parametrize(
    ("patients", "values", "keys", "error", "message"),
    [
        ([10, 20], np.ones((2, 3)), {}, SpecError, "2 sizes; a curve over the number of training patients takes at"),
        ([10, 20, 30], np.ones((4, 3)), {}, DataError, "for 4 sizes; expected one number of patients a size"),
        ([10, 30, 20], np.ones((3, 3)), {}, DataError, "expected numbers of training patients >= 1, each larger"),
        ([0, 30, 40], np.ones((3, 3)), {}, DataError, "expected numbers of training patients >= 1, each larger"),
        ([1, 2, 3], [[0.1], [math.nan], [0.2]], {}, DataError, "values at 2 patients: seed number 0 is nan"),
        ([1, 2, 3], [[0.1], [], [0.2]], {}, DataError, r"values at 2 patients has shape \(0,\)"),
        ([1, 2, 3], np.ones((3, 2)), {"metric": "aurok"}, SpecError, "did you mean 'auroc'"),
        ([1, 2, 3], np.ones((3, 2)), {"confidence": 95}, SpecError, "confidence is 95"),
    ],
)
def test_what_cannot_be_fitted_is_named(
    patients: Any, values: Any, keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        data_size_curve(patients, values, **keys)


def test_arms_that_do_not_belong_together_are_named() -> None:
    arms = arms_of([0.4, 0.8, 1.2])
    with pytest.raises(DataError, match="the arms differ in patients"):
        data_size_curve([10, 20, 30], [*arms[:2], other(arms[2])])
    with pytest.raises(DataError, match="2 of 3 sizes are arms and the others numbers"):
        data_size_curve([10, 20, 30], [*arms[:2], [0.8, 0.9]])
    target = np.tile([0, 1], 30)
    folded = arm_of_scores(target, np.random.default_rng(0).normal(size=(2, 60)), range(60), folds=np.arange(60) // 30)
    with pytest.raises(DataError, match="at 10 patients was tested in 2 folds; expected none"):
        data_size_curve([10, 20, 30], [folded] * 3)


def test_a_curve_says_nothing_far_outside_what_was_trained() -> None:
    curve = curve_of(0.9, 1.0, 0.5)
    for patients in (47, 4801):
        with pytest.raises(
            DataError, match=f"{patients} training patients: the curve says nothing below 48 .* above 4800"
        ):
            curve.at(patients)
    assert curve.at(4800).value == pytest.approx(law(4800, 0.9, 1.0, 0.5), abs=3e-3)


# More patients


def test_more_patients_are_worth_what_the_curve_gains() -> None:
    curve = curve_of(0.92, 1.2, 0.55)
    found = worth(curve)
    assert found.gain.value == pytest.approx(law(580, 0.92, 1.2, 0.55) - law(480, 0.92, 1.2, 0.55), rel=0.02)
    assert found.gain.low < found.gain.value < found.gain.high
    assert found.note == "extrapolated from at most 480 training patients"
    assert worth(curve, 4320).gain.value > worth(curve, 100).gain.value
    far = worth(curve, 4321)
    assert math.isnan(far.gain.value)
    assert far.note == "4801 training patients are beyond 10 x the largest size, 480: not said"
    with pytest.raises(SpecError, match="patients is 0; expected how many more"):
        worth(curve, 0)


def test_of_a_metric_of_which_less_is_better_a_fall_is_a_gain() -> None:
    values = seeds_of(law(SIZES, 0.9, 1.0, 0.5), 0.001)
    up, down = data_size_curve(SIZES, values), data_size_curve(SIZES, 1 - values, "brier")
    assert worth(down).gain.value == pytest.approx(worth(up).gain.value, rel=1e-6)
    assert worth(down).gain.low == pytest.approx(worth(up).gain.low, rel=0.2)
    assert down.notes == up.notes == ()


# Where two arms meet


def brute_force(scratch: DataSizeCurve, transfer: DataSizeCurve, margin: float) -> float:
    grid = np.arange(48, 4801)
    behind = transfer.law.at(grid)[0] - scratch.law.at(grid)[0] > margin
    inside = behind & (grid <= 480)
    reach = inside if not behind[480 - 48] else behind
    if not reach.any():
        return 48.0
    return math.inf if reach[-1] else float(grid[np.flatnonzero(reach)[-1] + 1])


LAWS = {
    "within": ((0.9, 0.9, 0.6), (0.9, 0.3, 0.6)),
    "beyond the sizes": ((0.9, 1.2, 0.6), (0.9, 0.3, 0.6)),
    "far": ((0.85, 1.2, 0.5), (0.93, 0.6, 0.5)),
    "from the start": ((0.9, 0.5, 0.5), (0.9, 0.45, 0.5)),
    "better": ((0.95, 0.4, 0.5), (0.9, 0.8, 0.5)),
}


@pytest.mark.parametrize("margin", [0.0, 0.02])
@pytest.mark.parametrize("laws", LAWS.values(), ids=LAWS)
def test_the_meeting_of_two_curves_is_that_of_a_search_patient_by_patient(laws: Any, margin: float) -> None:
    scratch, transfer = (curve_of(*one) for one in laws)
    found = crossover(scratch, transfer, margin)
    assert found.patients == pytest.approx(brute_force(scratch, transfer, margin), rel=0.01, abs=1.01)
    assert found.low <= found.patients <= found.high
    assert (found.smallest, found.largest, found.margin) == (48, 480, margin)


def test_where_the_meeting_lies_is_said() -> None:
    notes = {}
    for name, laws in LAWS.items():
        scratch, transfer = (curve_of(*one) for one in laws)
        notes[name] = crossover(scratch, transfer, 0.02).note
    assert notes == {
        "within": "",
        "beyond the sizes": "not within the sizes that were trained, up to 480: extrapolated",
        "far": "beyond 10 x the largest size, 480: not said",
        "from the start": "from the smallest size on, 48",
        "better": "from the smallest size on, 48",
    }


def test_an_end_of_the_interval_may_lie_beyond_what_can_be_said() -> None:
    scratch, transfer = (curve_of(*one, spread=0.01) for one in LAWS["beyond the sizes"])
    found = crossover(scratch, transfer, 0.02)
    assert math.isfinite(found.low)
    assert math.isinf(found.high)
    single = [data_size_curve(SIZES, law(SIZES, *one)[:, None]) for one in LAWS["within"]]
    without = crossover(*single, margin=0.02)
    assert 48 < without.patients < 480
    assert (without.low, without.high) == (0.0, math.inf)


def test_the_meeting_of_arms_is_on_the_same_test_patients() -> None:
    """An arm and itself differ on no resample; one that is better on every patient meets it nowhere."""
    low, high = arms_of([0.2, 0.4, 0.6], same=True), arms_of([1.0, 1.2, 1.4], same=True)
    scratch, transfer = (data_size_curve([48, 120, 240], arms) for arms in (low, high))
    assert crossover(scratch, scratch).high == 48
    assert crossover(transfer, scratch, 0.0).high == 48
    assert crossover(scratch, transfer, 0.02).low > 48
    apart = arms_of([1.0, 1.2, 1.4], patients=62)
    with pytest.raises(DataError, match="the arms differ in patients"):
        crossover(scratch, data_size_curve([48, 120, 240], apart))


def test_a_later_crossing_counts_and_an_earlier_one_does_not() -> None:
    """Scratch is ahead of transfer at first, behind in the middle, and ahead at the end."""
    grid = np.geomspace(48, 480, 5)

    def bent(heights: list[float]) -> DataSizeCurve:
        return data_size_curve(grid, [[height, height + 1e-5] for height in heights])

    scratch, transfer = bent([0.70, 0.78, 0.83, 0.86, 0.88]), bent([0.60, 0.80, 0.85, 0.865, 0.87])
    found = crossover(scratch, transfer)
    fine = np.geomspace(48, 480, 20001)
    ahead = transfer.law.at(fine)[0] > scratch.law.at(fine)[0]
    assert ahead.any()
    assert not ahead[0]
    assert found.patients == pytest.approx(fine[np.flatnonzero(ahead)[-1]], rel=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"margin": -0.1}, SpecError, "margin is -0.1; expected a number >= 0 in units of auroc"),
        ({"margin": math.nan}, SpecError, "margin is nan"),
        (
            {"transfer": curve_of(0.9, 1.0, 0.5, metric="accuracy")},
            DataError,
            "the curves are of auroc .* and accuracy",
        ),
        ({"transfer": curve_of(0.9, 1.0, 0.5, confidence=0.9)}, DataError, r"auroc \(0.95\) and auroc \(0.9\)"),
        (
            {"transfer": data_size_curve([48, 120, 240], arms_of([0.4, 0.8, 1.2]))},
            DataError,
            "one curve is of arms and the other of numbers",
        ),
        ({"transfer": curve_of(0.9, 1.0, 0.5, sizes=100 * SIZES)}, DataError, "on 48 to 480 and on 4800 to 48000"),
    ],
)
def test_curves_that_cannot_meet_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"scratch": curve_of(0.9, 1.0, 0.5), "transfer": curve_of(0.9, 0.5, 0.5), **change}
    with pytest.raises(error, match=message):
        crossover(**given)
