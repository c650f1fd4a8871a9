from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from transfuse.results import arms, phrases, plateaus
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.recommend import recommend
from transfuse.statistics.comparison import Comparison, Estimate
from transfuse.statistics.planning import Components
from transfuse.statistics.plateau import Plateau

ARMS: dict[str, dict[str, Any]] = {
    "random": {"depth": 0, "rest": "random", "norm": "identity", "freeze": 0},
    "pretrained": {"depth": "all"},
    "mean_var": {"depth": 0, "rest": "mean_var"},
    "middle": {"depth": "middle"},
}
STUDY: dict[str, Any] = {
    "metric": "auroc",
    "margin": 0.02,
    "baseline": "random",
    "arms": ARMS,
    "models": {"small": {}},
    "data": {"name": "fundus-phantom"},
}


def make(
    verdict: Any, difference: float = 0.038, low: float = 0.011, high: float = 0.065, **changes: Any
) -> Comparison:
    found = Comparison(
        difference=difference,
        low=low,
        high=high,
        verdict=verdict,
        margin=0.02,
        metric="auroc",
        standard_error=0.01,
        df=8.0,
        patients=60,
        seeds_a=3,
        seeds_b=3,
        values_a=(),
        values_b=(),
        equivalence=(low, high),
        components=Components(1e-4, 0.0, 0.0, 1e-5, 1e-5),
        needed_patients=2200,
        needed_seeds=7,
    )
    return replace(found, **changes)


def against(
    verdict: Any, arm: str = "pretrained", baseline: str = "random", model: str = "small", **numbers: Any
) -> ArmComparison:
    return ArmComparison(model, arm, baseline, make(verdict, **numbers))


UNSURE = {"difference": 0.004, "low": -0.03, "high": 0.038}


def estimates(model: str = "small", **values: float) -> list[ArmEstimate]:
    return [ArmEstimate(model, arm, Estimate(v, v - 0.02, v + 0.02, 0.95, "", 60), {0: v}) for arm, v in values.items()]


def runs_table(*rows: tuple[str, int, str], **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["arm", "seed", "status"])
    frame = frame.assign(model="small", role="arm", run_id=[f"r{i}" for i in range(len(rows))], monitor="auroc")
    return frame.assign(**columns)


def test_a_gain_is_said_with_its_numbers() -> None:
    said = recommend(STUDY, [against("helps")], estimates(pretrained=0.912, random=0.874))
    assert said.choice == "pretrained"
    assert said.headline == "Pretrained weights help."
    assert said.sentence == (
        "For small on fundus-phantom, pretrained weights help: test AUROC 0.912 versus 0.874 from random "
        "initialisation (difference +0.038, 95 % interval +0.011 to +0.065; 60 test patients, 3 seeds per arm; "
        "margin 0.02)."
    )


def test_a_loss_recommends_the_baseline() -> None:
    said = recommend(STUDY, [against("hurts", difference=-0.05, low=-0.08, high=-0.02)])
    assert (said.choice, said.headline) == ("random", "Pretrained weights hurt.")
    assert said.sentence.endswith("Train from random initialisation.")
    assert "−0.050, 95 % interval −0.080 to −0.020" in said.sentence


def test_equivalence_recommends_the_baseline() -> None:
    said = recommend(STUDY, [against("equivalent", difference=0.001, low=-0.012, high=0.014)])
    assert said.choice == "random"
    assert "make no difference that matters, that is, none as large as 0.02" in said.sentence


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({}, "about 2,200 test patients (with these seeds) or 7 seeds per arm (with these patients) are needed"),
        ({"needed_seeds": None}, "about 2,200 test patients are needed; more seeds alone would not do"),
        ({"needed_patients": None}, "about 7 seeds per arm are needed; more test patients alone would not do"),
        ({"needed_patients": None, "needed_seeds": None}, "both more test patients and more seeds are needed"),
        ({"needed_patients": 50}, "more data will help only slowly"),
        ({"seeds_a": 1, "needed_patients": None, "needed_seeds": None}, "at least 3 seeds per arm are needed"),
        ({"low": -math.inf, "high": math.inf}, "More test patients are needed before anything can be said"),
    ],
)
def test_undecided_says_what_would_decide(changes: dict[str, Any], cure: str) -> None:
    said = recommend(STUDY, [against("undecided", **{**UNSURE, **changes})])
    assert said.choice == "can't tell"
    assert said.headline == "Can't tell whether pretrained weights help."
    assert cure in said.sentence


def test_images_of_unknown_patients_are_not_called_patients() -> None:
    study = {**STUDY, "data": {"name": "folders", "patients_known": False}}
    said = recommend(study, [against("helps")]).sentence
    assert "60 test images, patients unknown, 3 seeds per arm" in said
    for missing in ({}, {"needed_seeds": None}, {"needed_patients": None}, {"low": -math.inf, "high": math.inf}):
        said = recommend(study, [against("undecided", **{**UNSURE, **missing})]).sentence
        assert "test image" in said
        assert "test patient" not in said
        assert "these patients" not in said


def test_a_data_set_has_the_name_that_the_rest_of_the_page_has() -> None:
    study = {**STUDY, "data": {"name": "table.csv", "dataset": "lesions"}}
    assert recommend(study, [against("helps")]).sentence.startswith("For small on lesions, ")
    synthetic = {**study, "data": {**study["data"], "synthetic": True}}
    assert any("lesions is synthetic" in caveat for caveat in recommend(synthetic, [against("helps")]).caveats)


def test_a_large_point_estimate_alone_is_never_a_claim() -> None:
    said = recommend(STUDY, [against("undecided", difference=0.3, low=-0.05, high=0.65)])
    assert said.choice == "can't tell"
    assert " help:" not in said.sentence.replace("whether pretrained weights help:", "")


def test_no_interval_is_said_and_not_printed_as_infinity() -> None:
    said = recommend(STUDY, [against("undecided", low=-math.inf, high=math.inf)])
    assert "no interval can be given" in said.sentence
    assert "inf" not in said.sentence


def test_another_arm_is_chosen_by_its_safest_limit() -> None:
    rows = [
        against("undecided", **UNSURE),
        against("helps", "mean_var", low=0.004, difference=0.06, high=0.12),
        against("helps", "middle", low=0.01, difference=0.03, high=0.05),
    ]
    said = recommend(STUDY, rows)
    assert said.choice == "middle"
    assert said.headline == "Pretrained weights up to the middle help."
    assert "For pretrained weights, we can't tell" in said.sentence


def test_where_the_gain_sits_follows_the_intervals() -> None:
    rows = [
        against("helps"),
        against("equivalent", "mean_var"),
        against("helps", "pretrained", "mean_var"),
        against("undecided", "middle", "pretrained", **UNSURE),
    ]
    reuse, scale, upper = recommend(STUDY, rows).reasons
    assert reuse.startswith("Feature reuse: the learned features themselves help")
    assert scale.startswith("Weight scale: the mean and variance of the pretrained weights alone make no difference")
    assert upper.startswith("Upper layers: whether the lower layers are enough can't be told")


def test_improvement_is_the_word_where_smaller_is_better() -> None:
    said = recommend({**STUDY, "metric": "brier"}, [against("helps", metric="brier")])
    assert "(improvement +0.038" in said.sentence


def test_networks_are_never_averaged() -> None:
    study = {**STUDY, "models": {"small": {}, "large": {}}}
    said = recommend(study, [against("helps"), against("undecided", model="large", **UNSURE)])
    assert (said.choice, said.verdict) == ("by network", "mixed")
    assert said.headline == "Pretrained weights help for small; can't tell for large."
    both = recommend(study, [against("helps"), against("helps", model="large")])
    assert (both.choice, both.headline) == ("pretrained", "Pretrained weights help, for both networks.")
    one = recommend(study, [against("helps")])
    assert one.headline == "Pretrained weights help for small; no result yet for large."
    opposite = recommend(study, [against("hurts"), against("helps", model="large")])
    assert opposite.headline == "Pretrained weights help for large; they hurt for small."


def test_many_networks_are_counted() -> None:
    study = {**STUDY, "models": {f"n{i}": {} for i in range(5)}}
    rows = [against("helps" if i < 3 else "undecided", model=f"n{i}", **({} if i < 3 else UNSURE)) for i in range(5)]
    said = recommend(study, rows)
    assert said.headline == "Pretrained weights help for 3 of 5 networks; can't tell for n3 and n4."
    assert said.sentence == "On fundus-phantom: a gain for n0, n1 and n2; no decision for n3 and n4."


def test_without_results_nothing_is_claimed() -> None:
    assert recommend(STUDY, []).choice == "no result"
    assert recommend({}, []).headline == "No result yet."
    undefined = recommend(STUDY, [against("undecided", difference=math.nan, low=math.nan, high=math.nan)])
    assert "the test AUROC is undefined" in undefined.sentence
    assert undefined.choice == "no result"


def test_forty_arms_are_grouped() -> None:
    names = [f"upto{i}" for i in range(39)]
    study = {**STUDY, "arms": {"random": {}, "pretrained": {"depth": "all"}} | {n: {"depth": n} for n in names}}
    said = recommend(study, [against("helps"), *(against("undecided", n, **UNSURE) for n in names)])
    assert len(said.reasons) == 1
    assert said.reasons[0].startswith("Of the other arms, 39 can't be told: upto0, upto1")
    assert any("about 2 of them would exclude zero" in caveat for caveat in said.caveats)


def test_speed_counts_the_runs_that_never_arrive() -> None:
    runs = runs_table(*((arm, seed, "finished") for arm in ("pretrained", "random") for seed in range(3)))
    first = [100, 120, 300, 500, None, None]
    history = pd.DataFrame(
        [
            (f"r{i}", step, "val", "auroc", 0.9 if at is not None and step >= at else 0.7)
            for i, at in enumerate(first)
            for step in range(0, 601, 20)
        ],
        columns=["run_id", "step", "split", "quantity", "value"],
    )
    said = recommend({**STUDY, "threshold": 0.85}, [against("helps")], runs=runs, history=history)
    (reason,) = said.reasons
    assert reason == (
        "Speed: validation AUROC 0.85 was reached after 120 steps (median of 3 seeds) with pretrained weights, "
        "by only 1 of 3 seeds from random initialisation."
    )
    speeds = {speed.arm: speed for speed in arms.steps_to_threshold(runs, history, "auroc", 0.85)}
    assert dict(speeds["random"].seeds) == {0: 500, 1: None, 2: None}
    assert speeds["random"].never == 2
    shuffled = arms.steps_to_threshold(
        runs.sample(frac=1, random_state=1), history.sample(frac=1, random_state=2), "auroc", 0.85
    )
    assert {speed.arm: speed for speed in shuffled} == speeds


def test_caveats_name_what_limits_the_answer() -> None:
    runs = runs_table(
        ("random", 0, "finished"),
        ("random", 1, "diverged"),
        ("pretrained", 0, "finished"),
        weights="run:natural",
        source_run="abc",
        best_step=[600, 0, 300],
        steps=[600, 20, 600],
    )
    rows = [against("helps", notes=("Class 2 is left out.",)), against("helps", "middle")]
    failures = [{"model": "small", "arm": "middle", "seed": 2, "reason": "disk full"}]
    study = {**STUDY, "data": {"name": "fundus-phantom", "synthetic": True}}
    text = "\n".join(recommend(study, rows, runs=runs, failures=failures, notes=("No patient ids.",)).caveats)
    assert "one source training (natural): the interval does not hold the chance of that training" in text
    assert "1 of 3 runs diverged (random, seed 1) and is missing from the averages" in text
    assert "1 run failed and left no result (middle, seed 2): disk full." in text
    assert "may not have levelled off: random (1 of 1 seeds)" in text
    assert "fundus-phantom is synthetic" in text
    assert "No patient ids." in text
    assert "In 1 of 2 comparisons (pretrained − random): Class 2 is left out." in text
    assert "2 comparisons were made. Their verdicts are corrected for that" in text


def missing(state: str, arm: str = "pretrained", seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "model": "small", "arm": arm, "seed": seed, "run_id": f"{arm}{seed}", "role": "arm", "state": state,
        "reason": "", **changes,
    }  # fmt: skip


def test_unfinished_runs_are_the_first_caveat() -> None:
    runs = runs_table(*((arm, seed, "finished") for arm in ("pretrained", "random") for seed in range(3)))
    failures = [
        missing("waiting", "middle", 0),
        missing("waiting", "middle", 1),
        missing("interrupted", "middle", 2, reason="goes on from its last checkpoint"),
    ]
    first, *rest = recommend(STUDY, [against("helps")], runs=runs, failures=failures, notes=("A note.",)).caveats
    assert first == (
        "3 of 9 runs are not finished yet (1 interrupted, 2 waiting): these numbers will change; "
        "start the study again to go on."
    )
    assert not any("failed" in caveat for caveat in rest)
    failures.append(missing("running", "middle", 3))
    first = recommend(STUDY, [against("helps")], runs=runs, failures=failures).caveats[0]
    assert first == (
        "4 of 10 runs are not finished yet (1 running, 1 interrupted, 2 waiting): these numbers will change."
    )
    first = recommend(STUDY, [], failures=failures[:1]).caveats[0]
    assert first.startswith("1 of 1 run is not finished yet (1 waiting): there are no numbers yet")
    two = {**STUDY, "models": {"small": {}, "large": {}}}
    assert recommend(two, [], failures=failures[:1]).caveats[0] == first


def test_failures_show_one_reason_and_count_the_others() -> None:
    failures = [
        missing("failed", seed=0, reason="out of memory"),
        missing("failed", seed=1, reason="disk full.\nTraceback"),
        missing("failed", seed=2, reason="disk full"),
        missing("damaged", seed=3, reason="record.json is damaged"),
    ]
    (caveat,) = recommend(STUDY, [against("helps")], failures=failures).caveats
    assert caveat == (
        "4 runs failed and left no result (pretrained, seed 0; pretrained, seed 1; pretrained, seed 2; "
        "pretrained, seed 3): disk full (and 2 other reasons)."
    )


def test_a_diverged_source_takes_its_arms_along() -> None:
    runs = runs_table(("natural", 0, "diverged"), ("random", 0, "finished"), reason=["loss is nan at step 3", ""])
    runs["role"] = ["source", "arm"]
    failures = [missing("waiting", arm, seed) for arm in ("pretrained", "mean_var", "middle") for seed in range(3)]
    (caveat,) = recommend(STUDY, [], runs=runs, failures=failures).caveats
    assert caveat == (
        "Source training natural diverged: loss is nan at step 3; "
        "the arms that start from it (pretrained, mean_var and middle) have no result."
    )
    failures.append(missing("waiting", "random", 1))
    first, second = recommend(STUDY, [], runs=runs, failures=failures).caveats
    assert first.startswith("1 of 12 runs is not finished yet")
    assert second == caveat


def test_a_failed_source_is_named_and_what_waits_for_it_may_still_come() -> None:
    runs = runs_table(("random", 0, "finished"))
    failures = [
        missing("failed", "natural", role="source", reason="out of memory"),
        missing("waiting", "pretrained"),
        missing("failed", "mean_var", reason="its source run gave no weights"),
    ]
    first, second = recommend(STUDY, [], runs=runs, failures=failures).caveats
    assert first.startswith("1 of 4 runs is not finished yet (1 waiting)")
    assert second.startswith("Source training natural failed: out of memory; the arms that start from it (pret")


def test_runs_of_different_machines_are_said() -> None:
    def said(**columns: Any) -> tuple[str, ...]:
        runs = runs_table(("random", 0, "finished"), ("pretrained", 0, "finished"), ("natural", 0, "finished"))
        runs["role"] = ["arm", "arm", "source"]
        return recommend(STUDY, [against("helps")], runs=runs.assign(**columns)).caveats

    tail = "their last digits, and rarely more, differ by that."
    assert said(device=["cpu", "cuda", "cpu"]) == (f"The runs come from different devices (cpu, cuda): {tail}",)
    assert said(device="cpu", torch=["2.12.0", "2.13.0", None]) == (
        f"The runs come from different versions of torch (2.12.0, 2.13.0): {tail}",
    )
    (both,) = said(device=["cpu", "mps", "cpu"], torch=["2.12.0", "2.13.0", None])
    assert "different devices (cpu, mps) and versions of torch (2.12.0, 2.13.0)" in both
    assert said(device=["cpu", "cpu", "cuda"], torch=["2.13.0", None, "2.12.0"]) == ()


def test_a_frozen_arm_is_no_plain_transfer() -> None:
    study = {**STUDY, "arms": {"random": {}, "frozen": {"depth": "all", "freeze": "all"}, **ARMS}}
    rows = [
        against("hurts", "frozen", difference=-0.05, low=-0.08, high=-0.02),
        against("helps", "frozen", "mean_var"),
        against("equivalent", "middle", "frozen"),
        against("undecided", **UNSURE),
    ]
    said = recommend(study, rows)
    assert said.headline == "Can't tell whether pretrained weights help."
    assert said.reasons == ("Frozen pretrained weights hurt (−0.050, 95 % interval −0.080 to −0.020).",)
    rows = [against("undecided", "frozen", **UNSURE), against("undecided", "middle", **UNSURE)]
    assert recommend(study, rows).headline == "Can't tell whether pretrained weights up to the middle help."


def test_a_run_that_diverged_before_its_first_validation_never_arrived() -> None:
    runs = runs_table(("random", 0, "finished"), ("random", 1, "diverged"), ("random", 2, "diverged"))
    history = pd.DataFrame(
        [("r0", 10, "val", "auroc", 0.9), ("r1", 5, "train", "loss", 9.0)],
        columns=["run_id", "step", "split", "quantity", "value"],
    )
    (speed,) = arms.steps_to_threshold(runs, history, "auroc", 0.85)
    assert dict(speed.seeds) == {0: 10, 1: None, 2: None}
    assert (speed.median, speed.never) == (None, 2)
    (speed,) = arms.steps_to_threshold(runs[1:], pd.DataFrame(), "auroc", 0.85)
    assert speed.never == 2
    assert arms.steps_to_threshold(runs, history, "kappa", 0.85)[0].seeds == {1: None, 2: None}


def test_a_clean_study_has_no_invented_caveats() -> None:
    runs = runs_table(("random", 0, "finished"), best_step=300, steps=600, weights=None, source_run=None)
    assert recommend(STUDY, [against("helps")], runs=runs).caveats == ()


def test_shared_caveats_are_said_once() -> None:
    frames = [runs_table(("pretrained", 0, "finished"), weights="run:natural", source_run="a") for _ in range(2)]
    frames[1]["model"] = "large"
    study = {**STUDY, "models": {"small": {}, "large": {}}}
    said = recommend(study, [against("helps"), against("helps", model="large")], runs=pd.concat(frames))
    assert sum("one source training" in caveat for caveat in said.caveats) == 1
    assert said.caveats[0].startswith("small and large: all transferred")


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"depth": "all", "freeze": 0, "overrides": {}}, arms.FULL, "pretrained weights"),
        ({"depth": "all", "freeze": "all"}, arms.OTHER, "frozen pretrained weights"),
        (
            {"depth": "all", "freeze": "middle"},
            arms.OTHER,
            "pretrained weights with the blocks up to the middle frozen",
        ),
        ({"depth": "all", "freeze": 2}, arms.OTHER, "pretrained weights with the blocks up to block 2 frozen"),
        ({"depth": "middle", "freeze": "middle"}, arms.OTHER, "frozen pretrained weights up to the middle"),
        ({"depth": 2, "freeze": "all"}, arms.OTHER, "pretrained weights up to block 2 with every block frozen"),
        ({"depth": 0, "freeze": "all"}, arms.OTHER, "frozen random weights"),
        ({"rest": "mean_var", "freeze": "all"}, arms.OTHER, "frozen Mean Var weights"),
        ({"depth": "all", "overrides": {"stem": "random"}}, arms.OTHER, "weights of arm x"),
        ({"depth": "layer2", "rest": "mean_var"}, arms.PARTIAL, "pretrained weights up to layer2 and mean var above"),
        ({"depth": 2}, arms.PARTIAL, "pretrained weights up to block 2"),
        ({"rest": "shuffled"}, arms.OTHER, "shuffled pretrained weights"),
        ({"norm": "transfer"}, arms.OTHER, "weights of arm x"),
        ({"depth": "all", "truncate": "layer2"}, arms.OTHER, "pretrained weights cut after layer2"),
        ({"depth": 2, "slim": 2}, arms.OTHER, "pretrained weights up to block 2 at half width above block 2"),
        ({"depth": "all", "tune": ["layer1"]}, arms.OTHER, "pretrained weights tuned in layer1 only"),
        ({"depth": "all", "lora": 8}, arms.OTHER, "pretrained weights tuned by LoRA"),
        ({"depth": "all", "layer_decay": 0.7}, arms.OTHER, "pretrained weights with layer-wise learning-rate decay"),
        ({"depth": "all", "l2_sp": 0.1}, arms.OTHER, "pretrained weights with L2-SP"),
        ({"depth": "all", "norm": "recalibrate"}, arms.FULL, "pretrained weights"),
    ],
)
def test_arms_in_words(settings: dict[str, Any], kind: str, words: str) -> None:
    assert arms.kind_of(settings) == kind
    assert arms.subjects({"x": settings}) == {"x": words}


def test_arms_that_read_alike_get_their_label() -> None:
    alike = arms.subjects({"slow": {"depth": "all"}, "fast": {"depth": "all"}})
    assert alike == {"slow": "pretrained weights (slow)", "fast": "pretrained weights (fast)"}


def test_directions_are_those_of_the_metrics() -> None:
    assert [phrases.smaller_is_better(name) for name in ("auroc", "ece", "brier", "loss", "auroc/grade 2")] == [
        False, True, True, True, False,
    ]  # fmt: skip


def test_published_weights_are_one_set() -> None:
    runs = runs_table(("random", 0, "finished"), ("pretrained", 0, "finished"), weights=[None, "resnet18.a1_in1k"])
    (caveat,) = recommend(STUDY, [against("helps")], runs=runs).caveats
    assert "one set of pretrained weights (resnet18.a1_in1k), not about pretraining in general" in caveat


def test_a_study_of_one_arm_says_what_it_measured_and_compares_nothing() -> None:
    study = {**STUDY, "metric": "accuracy", "arms": {"random": {}}, "models": {"a": {}, "b": {}}}
    estimates = [
        ArmEstimate(model, "random", Estimate(value, 0.7, 0.9, 0.95, "mean of seeds", 60), {0: value})
        for model, value in (("a", 0.794), ("b", 0.824))
    ]
    found = recommend(study, [], estimates)
    assert found.headline == "One arm: nothing to compare."
    assert "a on fundus-phantom has one arm, random weights: test accuracy 0.794. There is nothing" in found.sentence
    assert "test accuracy 0.824" in found.sentence
    assert recommend(study, []).headline == "No result yet."


TWO_SOURCES: dict[str, Any] = {
    **STUDY,
    "models": {"small": {"weights": "run:x"}},
    "sources": {"x": {}, "y": {}, "probe": {}, "later": {"init": {"depth": "all", "weights": "run:y"}}},
    "arms": {
        **ARMS,
        "of_y": {"weights": "run:y", "rest": "mean_var"},
        "lp_ft": {"weights": "run:probe", "depth": "all"},
        "whole": {"depth": "all", "head": "source"},
        "of_later": {"weights": "run:later", "depth": "all"},
    },
}


def test_no_part_of_the_gain_is_claimed_between_different_weights_or_heads() -> None:
    rows = [
        against("helps", "pretrained", "of_y"),
        against("helps", "lp_ft", "of_y"),
        against("helps", "middle", "lp_ft"),
        against("helps", "whole", "mean_var"),
    ]
    assert recommend(TWO_SOURCES, rows).reasons == ()
    (reason,) = recommend(TWO_SOURCES, [against("helps", "of_y", "random")]).reasons
    assert reason.startswith("Weight scale: the mean and variance of the pretrained weights alone")
    assert "(Mean Var weights of source y against random weights: " in reason


def test_an_arm_with_its_own_weights_or_head_is_named_by_them() -> None:
    said = arms.subjects(TWO_SOURCES["arms"])
    assert said["pretrained"] == "pretrained weights"
    assert said["lp_ft"] == "pretrained weights of source probe"
    assert said["whole"] == "pretrained weights with the source's head"
    own = arms.subjects({"fast": {"depth": "all", "weights": "w/net.pth", "learning_rate": 0.01}, "random": {}})
    assert own["fast"] == "pretrained weights of net.pth at learning rate 0.01"


def test_several_comparisons_of_one_part_are_one_line() -> None:
    rows = [
        against("helps", "pretrained", "random"),
        against("undecided", "middle", "pretrained", **UNSURE),
        against("undecided", "layer1", "pretrained", **UNSURE),
        against("hurts", "stem", "pretrained"),
    ]
    study = {**STUDY, "arms": {**ARMS, "stem": {"depth": "stem"}, "layer1": {"depth": "layer1"}}}
    (upper,) = recommend(study, rows).reasons
    assert upper.startswith(
        "Upper layers: whether the lower layers are enough can't be told (pretrained weights up to the middle against"
    )
    assert "; pretrained weights up to layer1 against pretrained weights: +0.004" in upper
    assert "; the lower layers are not enough: transferring all of them is better (pretrained weights up to" in upper


def test_weights_from_a_file_and_from_a_source_are_each_named() -> None:
    runs = runs_table(
        *((arm, 0, "finished") for arm in ("random", "pretrained", "middle", "lp_ft")),
        weights=[None, "nets/r20.th", "nets/r20.th", "run:probe"],
        source_run=[None, None, None, "abc"],
    )
    text = "\n".join(recommend(STUDY, [against("helps")], runs=runs).caveats)
    assert "All transferred weights" not in text
    assert "The weights of lp_ft come from one source training (probe): the interval does not hold" in text
    assert "The verdict on pretrained and middle is about one set of pretrained weights (nets/r20.th), not" in text


def test_a_lost_source_takes_only_the_arms_along_that_rest_on_it() -> None:
    failures = [missing("failed", "y", role="source", reason="disk full")]
    caveats = recommend(TWO_SOURCES, [against("helps")], failures=failures).caveats
    assert "Source training y failed: disk full; the arms that start from it (of_y and of_later) have no result." in (
        caveats
    )


def rising(gained: float = 0.1, last: float = 300.0) -> Plateau:
    return Plateau(False, gained, 0.02, (gained,), (2 * last / 3,), (last,))


def test_without_a_plateau_the_sentence_says_who_gained_what_and_to_train_longer() -> None:
    row = replace(against("undecided"), rising={"pretrained": rising(0.012), "random": rising(0.036)})
    said = recommend(STUDY, [row], estimates(pretrained=0.912, random=0.874))
    assert (said.choice, said.headline) == ("can't tell", "Can't tell whether pretrained weights help.")
    assert said.sentence == (
        "For small on fundus-phantom, we can't tell whether pretrained weights help: training had not levelled off "
        "(pretrained gained 0.012 and random 0.036 validation AUROC in the last third of their 300 steps). "
        "So far: test AUROC 0.912 versus 0.874 from random initialisation (difference +0.038, 95 % interval +0.011 to "
        "+0.065; 60 test patients, 3 seeds per arm; margin 0.02). "
        "To decide it, train longer, until less than 0.01, half the margin, is gained there."
    )
    one_seed = replace(row, comparison=make("undecided", seeds_a=1))
    assert recommend(STUDY, [one_seed]).sentence.endswith("is gained there, with at least 3 seeds per arm.")


def test_an_arm_without_a_plateau_is_never_the_choice_and_its_lines_say_why() -> None:
    held = replace(against("undecided", "middle", low=0.03), rising={"middle": rising()})
    said = recommend(STUDY, [held, against("helps")])
    assert said.choice == "pretrained"
    (reason,) = said.reasons
    assert reason == (
        "For pretrained weights up to the middle, we can't tell (+0.038, 95 % interval +0.030 to +0.065; training had "
        "not levelled off)."
    )
    scale = replace(against("undecided", "pretrained", "mean_var"), rising={"mean_var": rising()})
    (reuse,) = recommend(STUDY, [against("helps"), scale]).reasons
    assert reuse.startswith("Feature reuse: whether the learned features add to the scale of the weights can't be told")
    assert reuse.endswith("+0.011 to +0.065; training had not levelled off).")


def curves(**arms: list[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = runs_table(*((arm, 0, "finished") for arm in arms), best_step=300, steps=300)
    history = [
        (f"r{place}", 100 * (step + 1), "val", "auroc", value)
        for place, values in enumerate(arms.values())
        for step, value in enumerate(values)
    ]
    return runs, pd.DataFrame(history, columns=["run_id", "step", "split", "quantity", "value"])


def test_arms_without_a_plateau_are_a_caveat_of_their_network_said_once() -> None:
    runs, history = curves(random=[0.5, 0.6, 0.636], pretrained=[0.8, 0.9, 0.905])
    still = {"random": rising(0.036)}
    notes = plateaus.notes(still, "auroc")
    row = replace(against("undecided", notes=(*notes, "Class 2 is left out.")), rising=still)
    said = recommend(STUDY, [row], runs=runs, history=history)
    first, second = said.caveats
    assert first == (
        "Training had not levelled off in 1 of 2 arms, so no verdict is given on it: train longer, until less than "
        "0.01 of validation AUROC, half the margin, is gained in the last third of the steps "
        "(random: 0.036 over steps 200 to 300)."
    )
    assert second == "Class 2 is left out."


def test_the_best_at_the_end_is_a_caveat_only_where_the_curve_does_not_tell() -> None:
    runs, history = curves(random=[0.5, 0.6, 0.605])
    assert recommend(STUDY, [against("helps")], runs=runs, history=history).caveats == ()
    first, second = recommend(
        STUDY, [against("helps")], runs=runs.assign(monitor="loss"), history=history.assign(quantity="loss")
    ).caveats
    assert first == "Whether training had levelled off can't be told for random: the validations did not log AUROC."
    assert second.startswith("Training ended at its best validation value, so it may not have levelled off: random")


def test_speed_says_that_no_seed_got_there() -> None:
    runs, history = curves(random=[0.5, 0.6, 0.6], pretrained=[0.8, 0.9, 0.9])
    said = recommend({**STUDY, "threshold": 0.85}, [against("helps")], runs=runs, history=history)
    (reason,) = said.reasons
    assert reason == (
        "Speed: validation AUROC 0.85 was reached after 200 steps (median of 1 seed) with pretrained weights, "
        "by none of 1 seed from random initialisation."
    )
