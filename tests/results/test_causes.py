from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transfuse.results.arms import ArmComparison
from transfuse.results.causes import Waterfall, cause_of, cause_pairs, step_of, waterfalls
from transfuse.results.claims import GAIN_TEXTS
from transfuse.results.recommend import recommend
from transfuse.statistics.comparison import Comparison, compare
from transfuse.statistics.many import compare_all

FULL, SCALE, FROZEN = {"depth": "all"}, {"rest": "mean_var"}, {"depth": "all", "freeze": "all"}
ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "pretrained": FULL,
    "mean_var": SCALE,
    "frozen": FROZEN,
    "middle": {"depth": "middle"},
}
STRENGTH = {"random": 0.6, "mean_var": 0.9, "middle": 1.0, "frozen": 1.3, "pretrained": 1.8}
NETWORK = {"weights": "run:x"}


@pytest.mark.parametrize(
    ("arm", "baseline", "cause"),
    [
        (FULL, SCALE, "Feature reuse"),
        (SCALE, FULL, None),
        (SCALE, {}, "Weight scale"),
        (SCALE, {"random": "glorot_normal"}, "Weight scale"),
        ({"depth": "layer2"}, FULL, "Upper layers"),
        (FULL, FROZEN, "Adaptation"),
        (FROZEN, FULL, None),
        (FULL, {**FROZEN, "norm_statistics": "updated"}, "Adaptation"),
        (FULL, {**FROZEN, "weights": "run:x"}, "Adaptation"),
        (FULL, {**FROZEN, "weights": "run:y"}, None),
        ({**FULL, "tune": (), "freeze": 0}, FROZEN, "Adaptation"),
        ({"depth": 2}, {"depth": 2, "freeze": 2}, "Adaptation"),
        ({"depth": 2}, {"depth": 2, "freeze": "all"}, None),  # the random blocks above stay as they are too
        (FULL, {"depth": "all", "freeze": 2}, None),  # a part of the transferred blocks is tuned in both
        (FULL, {**FROZEN, "learning_rate": 0.1}, None),
        ({**FULL, "learning_rate": 0.1}, {**FROZEN, "learning_rate": 0.1}, "Adaptation"),
        ({**FULL, "truncate": "layer2"}, {**FROZEN, "truncate": "layer2"}, "Adaptation"),
        ({**FULL, "lora": 4}, FROZEN, None),
        (FULL, {"depth": "middle", "freeze": "middle"}, None),
        ({}, {"freeze": "all"}, None),  # nothing was transferred
        (FULL, {}, None),
        ({**FULL, "weights": "run:y"}, SCALE, None),
        ({**FULL, "head": "source"}, SCALE, None),
        ({"overrides": "unknown"}, {}, None),
    ],
)
def test_a_pair_isolates_a_cause_where_its_arms_differ_in_nothing_else(
    arm: Mapping[str, Any], baseline: Mapping[str, Any], cause: str | None
) -> None:
    assert cause_of(arm, baseline, NETWORK) == cause


def test_a_study_is_split_without_a_list_of_pairs() -> None:
    assert cause_pairs(ARMS, NETWORK) == [("mean_var", "random"), ("pretrained", "mean_var"), ("pretrained", "frozen")]
    assert cause_pairs({"random": {}, "pretrained": FULL}, NETWORK) == []
    assert cause_pairs({}) == []


def test_each_source_has_pairs_of_its_own() -> None:
    own = {"full_y": {**FULL, "weights": "run:y"}, "scale_y": {**SCALE, "weights": "run:y"}}
    found = cause_pairs({**ARMS, **own}, NETWORK)
    assert set(found) - set(cause_pairs(ARMS, NETWORK)) == {("full_y", "scale_y"), ("scale_y", "random")}
    # where the network draws on source y as well, the arms of both names are of the same weights
    assert ("full_y", "mean_var") not in found
    assert cause_pairs({"a": own["full_y"], "b": SCALE}, {"weights": "run:y"}) == [("a", "b")]


def test_of_several_partners_the_most_alike_is_taken_and_then_the_first() -> None:
    arms = {
        "one": {**SCALE, "norm": "mean_var"},
        "two": SCALE,
        "three": SCALE,
        "pretrained": FULL,
        "random": {},
        "recalibrated": {"norm": "recalibrate"},
        "scaled": {**SCALE, "norm": "recalibrate"},
    }
    found = cause_pairs(arms, NETWORK)
    assert [pair for pair in found if pair[0] == "pretrained"] == [("pretrained", "two")]
    assert ("scaled", "recalibrated") in found
    assert ("two", "random") in found


def test_every_pair_of_a_large_sweep_is_one_that_isolates_a_cause() -> None:
    swept = {f"at@{i}": {"depth": i} for i in range(1, 5)} | {
        f"fix@{i}": {"depth": i, "freeze": i} for i in range(1, 5)
    }
    found = cause_pairs({**ARMS, **swept}, NETWORK)
    assert {pair for pair in found if "@" in pair[0]} == {(f"at@{i}", f"fix@{i}") for i in range(1, 5)}
    assert len({frozenset(pair) for pair in found}) == len(found) == 3 + 4


def scores(arm: str, metric: str = "auroc", seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(sorted(STRENGTH).index(arm))
    target = np.arange(120) % 2
    raw = (2 * target - 1) * STRENGTH[arm] + generator.normal(size=(seeds, 120))
    if metric == "auroc":
        return target, raw
    positive = 1 / (1 + np.exp(-raw))
    return target, np.stack([1 - positive, positive], axis=-1)


def compared(arm: str, baseline: str, metric: str = "auroc", seeds: int = 3) -> ArmComparison:
    target, a = scores(arm, metric, seeds)
    found = compare(target, a, scores(baseline, metric, seeds)[1], range(120), margin=0.02, metric=metric)
    return ArmComparison("net", arm, baseline, found)


def fall_of(rows: list[ArmComparison]) -> Waterfall:
    (fall,) = waterfalls(rows, ARMS, NETWORK)
    return fall


@pytest.mark.parametrize("metric", ["auroc", "brier"])
def test_a_mirrored_comparison_is_the_one_that_was_not_made(metric: str) -> None:
    for arm, baseline in (("pretrained", "mean_var"), ("pretrained", "frozen"), ("mean_var", "random")):
        asked, turned = compared(arm, baseline, metric), compared(baseline, arm, metric)
        step, other = step_of(asked, ARMS, NETWORK), step_of(turned, ARMS, NETWORK)
        assert step
        assert other
        assert (step.mirrored, other.mirrored) == (False, True)
        assert (other.arm, other.baseline, other.cause) == (arm, baseline, step.cause)
        assert step.difference == asked.comparison.difference
        numbers = [(one.difference, *one.interval, one.start, one.end) for one in (step, other)]
        np.testing.assert_allclose(*numbers)
        assert step.verdict == other.verdict == asked.comparison.verdict
    assert {compared("pretrained", "random", metric).comparison.verdict} == {"helps"}
    assert step_of(compared("pretrained", "random"), ARMS, NETWORK) is None


@pytest.mark.parametrize("metric", ["auroc", "brier"])
def test_the_steps_lead_from_random_to_pretrained_weights(metric: str) -> None:
    rows = [
        compared("random", "mean_var", metric),
        compared("pretrained", "random", metric),
        compared("frozen", "pretrained", metric),
        compared("pretrained", "mean_var", metric),
        compared("middle", "pretrained", metric),
    ]
    fall = fall_of(rows)
    assert [step.cause for step in (*fall.steps, *fall.beside)] == ["Weight scale", "Feature reuse", "Adaptation"]
    assert (fall.bottom, fall.top) == ("random", "pretrained")
    scale, reuse = fall.steps
    assert scale.end == pytest.approx(reuse.start)
    assert reuse.end == pytest.approx(fall.beside[0].end)
    assert scale.difference + reuse.difference == pytest.approx(rows[1].comparison.difference)
    for step in (*fall.steps, *fall.beside):
        assert step.level(step.difference) == pytest.approx(step.end)
        assert (step.end > step.start) == (metric == "auroc")  # these steps are gains, and a Brier score falls
        low, high = sorted(map(step.level, step.interval))
        assert low < step.end < high


def test_a_waterfall_has_two_steps_at_least() -> None:
    scale, reuse = compared("mean_var", "random"), compared("pretrained", "mean_var")
    adaptation = compared("pretrained", "frozen")
    assert waterfalls([reuse], ARMS, NETWORK) == []
    assert waterfalls([scale, adaptation], ARMS, NETWORK) == []
    assert waterfalls([], ARMS, NETWORK) == []
    assert fall_of([reuse, adaptation]).bottom == "mean_var"
    assert fall_of([scale, reuse]).beside == ()


def test_a_step_without_a_difference_is_left_out() -> None:
    rows = [compared("mean_var", "random"), compared("pretrained", "mean_var"), compared("pretrained", "frozen")]
    lost = replace(rows[0].comparison, difference=math.nan, low=math.nan, high=math.nan)
    fall = fall_of([replace(rows[0], comparison=lost), *rows[1:]])
    assert [step.cause for step in fall.steps] == ["Feature reuse"]
    assert waterfalls([replace(rows[0], comparison=lost), rows[1]], ARMS, NETWORK) == []


def test_two_sources_make_two_waterfalls() -> None:
    arms = {**ARMS, "full_y": {**FULL, "weights": "run:y"}, "scale_y": {**SCALE, "weights": "run:y"}}
    first = [compared("mean_var", "random"), compared("pretrained", "mean_var")]
    second = [replace(first[0], arm="scale_y"), replace(first[1], arm="full_y", baseline="scale_y")]
    found = waterfalls([*first, *second], arms, NETWORK)
    assert [(fall.bottom, fall.top) for fall in found] == [("random", "pretrained"), ("random", "full_y")]
    assert [fall.steps[0].arm for fall in found] == ["mean_var", "scale_y"]


def test_a_class_has_the_same_steps_and_the_numbers_of_its_own() -> None:
    generator = np.random.default_rng(3)
    target = np.arange(150) % 3
    scores = {}
    for arm, strength in STRENGTH.items():
        raw = generator.normal(size=(3, 150, 3)) + strength * np.eye(3)[target] * [0.5, 1.0, 2.0]
        scores[arm] = np.exp(raw) / np.exp(raw).sum(axis=-1, keepdims=True)
    pairs = [("random", "mean_var"), ("pretrained", "mean_var"), ("pretrained", "frozen")]
    found = [compare(target, scores[a], scores[b], range(150), margin=0.02) for a, b in pairs]
    decided = compare_all(found)
    fall = fall_of([ArmComparison("net", *pair, one) for pair, one in zip(pairs, decided, strict=True)])
    assert fall.classes == (0, 1, 2)
    for index in fall.classes:
        own = fall.of_class(index)
        assert (own.bottom, own.top) == (fall.bottom, fall.top)
        steps, whole = (*own.steps, *own.beside), (*fall.steps, *fall.beside)
        for step, macro, one, sign in zip(steps, whole, decided, (-1, 1, 1), strict=True):
            assert (step.cause, step.arm, step.mirrored) == (macro.cause, macro.arm, sign < 0)
            assert step.difference == sign * one.per_class[index].difference
            assert step.comparison.family == 9  # classes of all comparisons together
        assert own.steps[0].end == pytest.approx(own.steps[1].start)
    mean = np.mean([fall.of_class(index).steps[1].difference for index in fall.classes])
    assert mean == pytest.approx(fall.steps[1].difference)  # a macro mean
    lost = replace(decided[1], per_class={**decided[1].per_class, 2: replace(decided[1], difference=math.nan)})
    rows = [ArmComparison("net", *pair, one) for pair, one in zip(pairs, [decided[0], lost, decided[2]], strict=True)]
    assert fall_of(rows).classes == (0, 1)
    assert fall_of([compared("mean_var", "random", "brier"), compared("pretrained", "mean_var", "brier")]).classes == ()


def made(row: ArmComparison, verdict: Any) -> Comparison:
    return replace(row.comparison, verdict=verdict)


@pytest.mark.parametrize("verdict", list(GAIN_TEXTS["Adaptation"]))
def test_adaptation_is_told_as_its_verdict_allows(verdict: str) -> None:
    row = compared("pretrained", "frozen")
    rows = [compared("pretrained", "random"), replace(row, comparison=made(row, verdict))]
    study = {"arms": ARMS, "models": {"net": NETWORK}, "baseline": "random"}
    (line,) = (reason for reason in recommend(study, rows).reasons if reason.startswith("Adaptation"))
    assert line.startswith(f"Adaptation: {GAIN_TEXTS['Adaptation'][verdict]} (pretrained weights against frozen pretr")


def test_a_study_against_pretrained_weights_tells_the_same_causes_and_each_arm_once() -> None:
    rows = [compared(arm, "pretrained") for arm in ("random", "mean_var", "frozen")]
    study = {"arms": ARMS, "models": {"net": NETWORK}, "baseline": "pretrained"}
    reasons = recommend(study, rows).reasons
    assert [reason.partition(":")[0] for reason in reasons] == ["Feature reuse", "Adaptation"]
    assert reasons[0].startswith("Feature reuse: the learned features themselves help")
    assert "pretrained weights against Mean Var weights: +" in reasons[0]


def test_why_a_class_is_open_is_of_the_class_and_not_of_the_mean() -> None:
    generator, target = np.random.default_rng(0), np.tile([0, 1, 2], 40)
    scores = [generator.normal(size=(3, 120, 3)) + effect * np.eye(3)[target] for effect in (1.0, 0.9)]
    found = compare(target, *scores, range(120), 0.02)
    taken = replace(found, verdict="undecided", p_difference=0.02, p_equivalence=0.9, family=5)
    classes = {
        c: replace(one, verdict="undecided", p_difference=0.5, p_equivalence=0.9) for c, one in found.per_class.items()
    }
    row = ArmComparison("net", "pretrained", "mean_var", replace(taken, per_class=classes))
    (mean,) = [step for step in [step_of(row, ARMS)] if step]
    assert mean.why_undecided == "Holm, 5 comparisons"
    fall = Waterfall((mean,), ())
    assert fall.of_class(0).steps[0].why_undecided == ""
    rising = replace(mean, why_undecided="not levelled off")  # of the training, so of every class
    assert Waterfall((rising,), ()).of_class(0).steps[0].why_undecided == "not levelled off"
