"""The calibration error is biased, so it gets no interval and no verdict."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit

from transfuse.metrics import evaluate
from transfuse.statistics.arm import arm_of_scores
from transfuse.statistics.comparison import compare, estimate
from transfuse.statistics.data_size import data_size_curve
from transfuse.statistics.joint import withheld


def calibrated(size: int, seeds: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the scores of an arm that is calibrated, and of one that is too sure."""
    truth = generator.beta(2, 2, size)
    arms = [expit(times * logit(truth) + 0.1 * generator.normal(size=(seeds, size))) for times in (1.0, 1.6)]
    return (generator.random(size) < truth).astype(int), arms[0], arms[1]


def test_the_calibration_error_has_no_verdict_and_says_why() -> None:
    target, good, sure = calibrated(200, 3, np.random.default_rng(0))
    for a, b in ((good, sure), (good, good[::-1])):
        found = compare(target, a, b, range(200), 0.3, metric="ece")
        assert (found.verdict, found.low, found.high) == ("undecided", -math.inf, math.inf)
        assert all(math.isnan(p) for p in (found.p_difference, found.p_equivalence, found.p_not_worse))
        assert (found.needed_patients, found.needed_seeds) == (None, None)
        assert any("the more so the better calibrated" in note and "Brier score" in note for note in found.caveats)
    own = estimate(target, good, range(200), metric="ece")
    assert (own.low, own.high) == (-math.inf, math.inf)
    assert own.method.startswith("no interval: the calibration error")
    assert compare(target, good, sure, range(200), 0.3, metric="brier").verdict == "equivalent"


def test_no_other_answer_rests_on_the_calibration_error() -> None:
    target, good, sure = calibrated(200, 3, np.random.default_rng(0))
    arms = [arm_of_scores(target, scores, range(200), "ece") for scores in (good, sure, good)]
    curve = data_size_curve([50, 100, 200], arms)
    assert len(curve.replicates.limit) == 0
    assert curve.method.startswith("no interval: the calibration error")
    assert withheld(arms[0]).startswith("the calibration error")


def test_the_bias_that_this_is_for() -> None:
    """Why: among 200 patients the difference comes out at half of what it is."""
    generator = np.random.default_rng(1)

    def difference(size: int, studies: int) -> float:
        values = []
        for _ in range(studies):
            target, good, sure = calibrated(size, 1, generator)
            values.append(evaluate("ece", target, sure[0]).value - evaluate("ece", target, good[0]).value)
        return float(np.mean(values))

    assert difference(200, 60) < 0.65 * difference(100_000, 1)
