from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from transfuse.errors import DataError, SpecError
from transfuse.results.depth import against_depth, best_over_depth, pairs_against, sweep_arms
from transfuse.statistics import comparison
from transfuse.statistics.reuse import (
    area_above_random,
    min_max,
    relative_gain,
    relative_gain_over_patients,
    reuse_share,
    reuse_share_over_patients,
)

BLOCKS = ["conv1", "layer1", "layer2"]


def test_share_and_gain_of_means() -> None:
    wt, st, ri = [0.80, 0.84, 0.82], [0.70, 0.74, 0.72], [0.60, 0.64, 0.62]
    share, gain = reuse_share(wt, st), relative_gain(wt, ri)
    assert share.value == pytest.approx((0.82 - 0.72) / 0.82)
    assert gain.value == pytest.approx(0.82 / 0.62)
    assert share.low < share.value < share.high
    assert gain.low < gain.value < gain.high
    assert reuse_share(wt, wt).value == pytest.approx(0)
    assert reuse_share(st, wt).value < 0  # statistics alone did better


def test_share_interval_covers() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        found = reuse_share(rng.normal(0.8, 0.02, size=5), rng.normal(0.6, 0.03, size=5))
        inside += found.low < 0.25 < found.high
    assert 0.92 <= inside / 400 <= 0.98


def test_one_seed_has_a_value_and_no_interval() -> None:
    found = reuse_share([0.8], [0.6, 0.61])
    assert found.value == pytest.approx((0.8 - 0.605) / 0.8)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert "one seed" in found.method


def _scores(signal: float, seeds: int, seed: int, samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = np.arange(samples) % 2
    shared = np.random.default_rng(99).normal(size=samples)
    return target, np.stack([signal * target + shared + 0.3 * rng.normal(size=samples) for _ in range(seeds)])


def test_over_patients_the_value_is_the_same_and_the_share_goes_with_the_gain() -> None:
    target, wt = _scores(1.6, 3, 1)
    _, ri = _scores(1.2, 4, 2)
    patients = np.arange(300) // 2
    gain = relative_gain_over_patients(target, wt, ri, patients)
    compared = comparison.compare(target, wt, ri, patients, margin=0.02)
    plain = relative_gain(compared.values_a, compared.values_b)
    assert gain.value == pytest.approx(plain.value)
    assert gain.low < gain.value < gain.high
    assert "patients and seeds" in gain.method
    share = reuse_share_over_patients(target, wt, ri, patients)
    assert (share.value, share.low, share.high) == pytest.approx(
        [1 - 1 / end for end in (gain.value, gain.low, gain.high)]
    )


def test_over_patients_the_width_is_that_of_a_bootstrap_of_the_logarithm() -> None:
    target, wt = _scores(1.6, 1, 1)
    _, ri = _scores(1.0, 1, 2)
    patients = np.arange(300) // 2
    found = relative_gain_over_patients(target, wt, ri, patients)
    rng = np.random.default_rng(5)
    logs = []
    for _ in range(600):
        rows = (2 * rng.integers(150, size=150)[:, None] + [0, 1]).ravel()
        logs.append(np.log(roc_auc_score(target[rows], wt[0][rows]) / roc_auc_score(target[rows], ri[0][rows])))
    assert np.log(found.high / found.low) == pytest.approx(2 * stats.t.ppf(0.975, 149) * np.std(logs), rel=0.12)


def test_over_patients_says_what_is_not_covered() -> None:
    target, wt = _scores(1.6, 1, 1)
    _, ri = _scores(1.2, 2, 2)
    assert "one seed" in relative_gain_over_patients(target, wt, ri, np.arange(300)).method
    assert "each sample taken as a patient" in relative_gain_over_patients(target, ri, ri[::-1], None).method
    perfect = np.stack([target * 1.0] * 2)
    found = relative_gain_over_patients(target, perfect, perfect, np.arange(300))
    assert found.value == 1
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert "every run reaches 1" in found.method


def test_over_patients_refuses_what_has_no_ratio() -> None:
    target, wt = _scores(1.6, 2, 1)
    with pytest.raises(SpecError, match="metric is 'ece', of which less is better"):
        reuse_share_over_patients(target, wt, wt, None, metric="ece")
    with pytest.raises(DataError, match="both need the same classes"):
        reuse_share_over_patients(target, wt, np.stack([wt, wt], axis=-1), None)
    with pytest.raises(DataError, match="mean of auroc of st is 0"):
        reuse_share_over_patients(target, wt, np.stack([-target * 1.0] * 2), None)
    with pytest.raises(SpecError, match="confidence is 2"):
        reuse_share_over_patients(target, wt, wt, None, confidence=2)


def test_min_max_needs_two_settings() -> None:
    np.testing.assert_allclose(min_max([-0.1, 0.3, 0.1]), [0, 1, 0.5])
    for values in ([0.1], [0.2, 0.2], [0.1, math.nan]):
        with pytest.raises(DataError, match="cannot stretch"):
            min_max(values)


# -- depth sweeps ------------------------------------------------------------


def test_sweep_reads_n_and_m_from_the_names() -> None:
    arms = ["wt_st@layer2", "random", "wt_st@conv1", "mean_var", "wt_st_b@conv1", "wt_st@layer1"]
    found = sweep_arms(arms, BLOCKS, "wt_st", none="mean_var")
    assert [(one.arm, one.n, one.m) for one in found] == [
        ("mean_var", 0, 3),
        ("wt_st@conv1", 1, 2),
        ("wt_st@layer1", 2, 1),
        ("wt_st@layer2", 3, 0),
    ]
    assert [one.fraction for one in found] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert sweep_arms(["a@conv1", "pretrained"], BLOCKS, "a", every="pretrained")[-1].fraction == 1
    with pytest.raises(DataError, match="block 'layer3', which is not one; did you mean 'layer"):
        sweep_arms(["wt_st@layer3"], BLOCKS, "wt_st")
    with pytest.raises(DataError, match="no arm is named wt@BLOCK"):
        sweep_arms(["random"], BLOCKS, "wt")


def test_metric_against_the_fraction_keeps_an_arm_without_runs() -> None:
    sweep = sweep_arms(["st@conv1", "st@layer1", "mv"], BLOCKS, "st", none="mv")
    frame = against_depth({"mv": {0: 0.5, 1: 0.7}, "st@layer1": {0: 0.9}}, sweep).set_index("arm")
    assert frame.loc["mv", "value"] == pytest.approx(0.6)
    assert frame.loc["mv", "low"] < 0.6 < frame.loc["mv", "high"]
    assert frame.loc["st@conv1", "note"] == "no finished run"
    assert frame.loc["st@conv1", "seeds"] == 0
    assert "one seed" in frame.loc["st@layer1", "note"]


def test_best_over_depth_is_sought_in_each_run() -> None:
    values = {0: [0.5, 0.9, 0.6], 1: [0.5, 0.6, 0.7]}
    rows = pd.DataFrame(
        [("st@layer1", seed, block, v) for seed, of in values.items() for block, v in zip(BLOCKS, of, strict=True)],
        columns=["arm", "seed", "block", "value"],
    )
    sweep = sweep_arms(["st@layer1"], BLOCKS, "st")
    row = best_over_depth(rows.sample(frac=1, random_state=1), sweep).iloc[0]
    assert row["value"] == pytest.approx(0.8)  # the best of the means would be 0.75
    assert row["best"] == "layer1, layer2"
    with pytest.raises(DataError, match="several values"):
        best_over_depth(pd.concat([rows, rows]), sweep)
    with pytest.raises(DataError, match="'st@layer1' at block 'conv1' is not finite"):
        best_over_depth(rows.assign(value=math.nan), sweep)
    with pytest.raises(DataError, match="no column seed; expected arm, seed, block, value, found arm, block, value"):
        best_over_depth(rows.drop(columns="seed"), sweep)


# -- pairs of runs ------------------------------------------------------------


def test_pairs_of_seeds_and_their_difference() -> None:
    rows = pd.DataFrame(
        [
            ("b", "pre", 0.5),
            ("b", "pre", 0.7),
            ("a", "pre", 0.9),
            ("b", "rand", 0.3),
            ("a", "rand", 0.4),
            ("a", "x", 1.0),
        ],
        columns=["block", "arm", "value"],
    )
    frame = pairs_against(rows, "pre", "rand").set_index("block")
    assert list(frame.index) == ["b", "a"]
    assert frame["difference"].tolist() == pytest.approx([0.3, 0.5])
    assert frame.loc["b", "std"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert math.isnan(frame.loc["a", "std"])
    assert frame["pairs"].tolist() == [2, 1]
    with pytest.raises(DataError, match="no pair of runs of arm 'rnd'; did you mean 'rand'"):
        pairs_against(rows, "pre", "rnd")
    with pytest.raises(DataError, match="block 'b' was measured in one of 'pre' and 'x' only"):
        pairs_against(rows, "pre", "x")
    with pytest.raises(DataError, match="not finite"):
        pairs_against(rows.assign(value=math.nan), "pre", "rand")


# -- area above random ------------------------------------------------------------


def test_area_above_random_of_closed_forms() -> None:
    line = np.linspace(1, 0, 11)
    assert area_above_random(line, np.zeros(5)) == pytest.approx(0.5)
    assert area_above_random(line, line[::2]) == pytest.approx(0)  # the same curve read at fewer places
    assert area_above_random(np.zeros(3), line) == pytest.approx(-0.5)
    assert area_above_random([0.7], [0.2]) == pytest.approx(0.5)  # a single coefficient is a level
    shuffled = np.random.default_rng(0).permutation(line)
    assert area_above_random(shuffled, [0.1]) == pytest.approx(0.4)


def test_area_above_random_of_random_features_is_small_at_their_own_level() -> None:
    rng = np.random.default_rng(0)

    def coefficients() -> np.ndarray:
        x, y = (np.linalg.qr(rng.normal(size=(400, 40)))[0] for _ in range(2))
        return np.linalg.svd(x.T @ y, compute_uv=False)

    assert abs(area_above_random(coefficients(), coefficients())) < 0.02
    assert area_above_random(coefficients(), np.zeros(40)) > 0.1  # without the level it would look like similarity


@pytest.mark.parametrize("bad", [[], [1.2], [math.nan, 0.1], [[0.1, 0.2]]])
def test_area_above_random_refuses_what_is_no_correlation(bad: list[float]) -> None:
    with pytest.raises(DataError, match="coefficients has shape"):
        area_above_random(bad, [0.1])
    with pytest.raises(DataError, match="random has shape"):
        area_above_random([0.1], bad)


def test_chance_everywhere_is_not_called_perfect() -> None:
    """Relative to its own mean a constant metric is 1, which is no bound of AUROC."""
    target, _ = _scores(1.6, 2, 1)
    chance = np.full((3, 300), 0.5)
    method = reuse_share_over_patients(target, chance, chance, np.arange(300)).method
    assert method.startswith("no interval: the arms give the same value on every resample (0.5 on the sample)")
