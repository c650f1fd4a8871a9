"""Expanding a study: every run once, sources first, shared where they are the same."""

from __future__ import annotations

import pytest

from transfuse.errors import SpecError
from transfuse.specs import ModelSpec, StudySpec, read_yaml, study_from
from transfuse.study.expand import PlannedRun, expand, without_repeats
from transfuse.study.sweeps import BlockName, unfold

TEXT = """
name: small
data: {name: target}
models:
  a: {name: cbr_tiny, weights: "run:natural"}
  b: {name: cbr_small, weights: "run:natural"}
  c: {name: resnet18, weights: file.safetensors}
arms: {random: {}, pretrained: {depth: all}, mean_var: {rest: mean_var}}
sources: {natural: {data: {name: source}, train: {epochs: 1}}}
train: {steps: 10}
seeds: 2
"""


BLOCKS = {"cbr_tiny": 4, "cbr_small": 4, "resnet18": 5}


def names_of(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
    return tuple(BlockName(f"{level}{number}", number != 1) for number in range(1, BLOCKS[model.name] + 1))


def runs_of(study: StudySpec) -> list[PlannedRun]:
    return expand(
        unfold(study, names_of),
        lambda data: f"fingerprint of {data.name}",
        lambda name, root: f"hash of {name}",
        lambda model, data: f"code of {model.name}" if ":" in model.name else None,
    )


STUDY = study_from(read_yaml(TEXT))


def test_every_arm_and_seed_is_one_run_and_each_network_has_its_own_source() -> None:
    runs = runs_of(STUDY)
    assert len([run for run in runs if run.role == "arm"]) == 3 * 3 * 2
    assert [run.title for run in runs if run.role == "source"] == [
        "a · source natural · seed 0",
        "b · source natural · seed 0",
    ]
    assert len({run.run_id for run in runs}) == len(runs)


def test_runs_come_after_the_source_they_need() -> None:
    seen: set[str] = set()
    for run in runs_of(STUDY):
        assert run.needs is None or run.needs in seen
        seen.add(run.run_id)


def test_only_arms_that_use_weights_depend_on_them() -> None:
    for run in runs_of(STUDY):
        uses = run.arm in ("pretrained", "mean_var")
        assert (run.spec.weights_sha256 is not None) == (uses and run.model == "c")
        assert (run.needs is not None) == (uses and run.model in "ab")


def test_a_seed_more_adds_runs_and_changes_none() -> None:
    more = study_from({**read_yaml(TEXT), "seeds": 3})
    assert {run.run_id for run in runs_of(STUDY)} < {run.run_id for run in runs_of(more)}


def test_another_margin_asks_for_the_same_runs() -> None:
    other = study_from({**read_yaml(TEXT), "margin": 0.05, "name": "other", "title": "x", "threshold": 0.9})
    assert {run.run_id for run in runs_of(STUDY)} == {run.run_id for run in runs_of(other)}


def test_another_source_seed_changes_the_source_and_what_starts_from_it_only() -> None:
    content = read_yaml(TEXT)
    content["sources"]["natural"]["seed"] = 1
    before, after = runs_of(STUDY), runs_of(study_from(content))
    changed = {
        old.title.replace("seed 1", "seed 0")
        for old, new in zip(before, after, strict=True)
        if old.run_id != new.run_id
    }
    assert all("random" not in title and not title.startswith("c ") for title in changed)
    assert any("source" in title for title in changed)


def test_arms_that_come_to_the_same_run_share_it() -> None:
    content = read_yaml(TEXT)
    content["arms"]["again"] = {}
    runs = runs_of(study_from(content))
    assert len(without_repeats(runs)) == len(runs) - 3 * 2


def test_a_source_that_names_its_network_is_trained_once_for_all() -> None:
    content = read_yaml(TEXT)
    content["sources"]["natural"]["model"] = {"name": "cbr_tiny"}
    assert len([run for run in runs_of(study_from(content)) if run.role == "source"]) == 2
    assert len({run.run_id for run in runs_of(study_from(content)) if run.role == "source"}) == 1


def with_arms(arms: dict, **keys: object) -> StudySpec:
    return study_from({**read_yaml(TEXT), "arms": {"random": {}, **arms}, **keys})


def arms_of(study: StudySpec, model: str) -> list[str]:
    return list(dict.fromkeys(run.arm for run in runs_of(study) if run.model == model and run.role == "arm"))


def test_every_makes_one_arm_of_each_block_of_each_network() -> None:
    study = with_arms({"fixed": {"depth": "all", "freeze": "every"}})
    assert arms_of(study, "a") == ["random", *(f"fixed@stage{number}" for number in (1, 2, 3, 4))]
    assert arms_of(study, "c") == ["random", *(f"fixed@stage{number}" for number in (1, 2, 3, 4, 5))]
    freezes = {run.arm: run.spec.init.freeze for run in runs_of(study)}
    assert (freezes["fixed@stage3"], freezes["fixed@stage4"], freezes["fixed@stage5"]) == ("middle", "stage4", "all")
    assert unfold(study, names_of).arms["a"] == tuple(arms_of(study, "a"))


def test_every_is_the_same_block_wherever_an_arm_says_it() -> None:
    runs = runs_of(with_arms({"fixed_2": {"depth": "every", "freeze": "every", "level": "block"}}))
    for run in runs:
        if run.arm != "random" and run.role == "arm":
            count = BLOCKS[run.spec.model.name]
            named = {"all": f"block{count}", "middle": f"block{(count + 1) // 2}"}
            assert run.arm == f"fixed_2@{named.get(str(run.spec.init.depth), run.spec.init.depth)}"
            assert run.spec.init.depth == run.spec.init.freeze


def test_a_cut_or_a_slimming_of_every_block_leaves_out_what_makes_no_sense() -> None:
    study = with_arms({"ttl": {"depth": "all", "truncate": "every"}, "tf": {"depth": "every", "slim": "every"}})
    assert [arm for arm in arms_of(study, "a") if arm.startswith("ttl")] == [f"ttl@stage{n}" for n in (2, 3, 4)]
    assert [arm for arm in arms_of(study, "a") if arm.startswith("tf")] == [f"tf@stage{n}" for n in (1, 2, 3)]


def test_a_pair_of_sweeps_is_compared_block_by_block() -> None:
    arms = {"one": {"depth": "all", "freeze": "every"}, "two": {"depth": "every", "freeze": "every"}}
    pairs = unfold(with_arms(arms, pairs=[["one", "two"], ["one", "random"]]), names_of).study.pairs
    assert ("one@stage5", "two@stage5") in pairs
    assert ("one@stage1", "random") in pairs
    assert len(pairs) == 10


def test_a_name_that_a_sweep_wants_too_is_refused() -> None:
    study = with_arms({"fixed": {"freeze": "every"}, "fixed@stage2": {"freeze": 2}})
    with pytest.raises(SpecError, match=r"'fixed@stage2' is also one of the arms that 'fixed' stands for; rename it"):
        unfold(study, names_of)


def test_an_arm_has_weights_of_its_own_where_it_says_so() -> None:
    runs = runs_of(with_arms({"pretrained": {"depth": "all"}, "other": {"depth": "all", "weights": "other.pth"}}))
    hashes = {(run.model, run.arm): (run.spec.weights_sha256, run.needs) for run in runs}
    assert hashes["c", "pretrained"] == ("hash of file.safetensors", None)
    assert hashes["a", "other"] == hashes["c", "other"] == ("hash of other.pth", None)
    assert hashes["a", "pretrained"][1] is not None


def test_lp_ft_starts_from_a_probe_of_the_networks_own_weights_on_the_studys_own_data() -> None:
    content = read_yaml(TEXT)
    content["sources"]["probe"] = {"init": {"depth": "all", "freeze": "all"}, "train": {"epochs": 2}}
    content["arms"]["lp_ft"] = {"weights": "run:probe", "depth": "all", "head": "source"}
    runs = {(run.model, run.role, run.arm): run for run in runs_of(study_from(content))}
    probe = runs["c", "source", "probe"]
    assert probe.spec.data.name == "target"
    assert probe.spec.weights_sha256 == "hash of file.safetensors"
    assert runs["c", "arm", "lp_ft"].needs == probe.run_id
    chained = runs["a", "source", "probe"]
    assert chained.needs == runs["a", "source", "natural"].run_id
    order = [run.run_id for run in runs_of(study_from(content))]
    assert order.index(chained.needs) < order.index(chained.run_id) < order.index(runs["a", "arm", "lp_ft"].run_id)


def test_rates_of_an_arm_are_those_of_the_training_so_that_equal_trainings_are_one() -> None:
    arms = {"decay": {"depth": "all", "layer_decay": 0.7, "learning_rate": 1e-4}, "plain": {"depth": "all"}}
    runs = {run.arm: run for run in runs_of(with_arms(arms)) if run.model == "c"}
    assert runs["decay"].spec.train.optimizer.layer_decay == 0.7
    assert runs["decay"].spec.train.optimizer.learning_rate == 1e-4
    assert runs["plain"].spec.train.optimizer.layer_decay is None
    same = {"steps": 10, "optimizer": {"layer_decay": 0.7, "learning_rate": 1e-4}}
    other = {run.arm: run for run in runs_of(with_arms({"plain": {"depth": "all"}}, train=same)) if run.model == "c"}
    assert other["plain"].run_id == runs["decay"].run_id


def ids(arms: dict, model: str = "c", **keys: object) -> dict[str, str]:
    """The run of seed 0 of each arm."""
    runs = runs_of(with_arms(arms, **keys))
    return {run.arm: run.run_id for run in runs if (run.model, run.role, run.spec.seed) == (model, "arm", 0)}


SAME = {
    "all blocks, by any name": [
        {"depth": "all"},
        {"depth": 5},
        {"depth": "stage5"},
        {"depth": "all", "level": "block"},
        {"depth": "wt-st5", "level": "wt-st", "rest": "mean_var", "norm": "mean_var", "embeddings": "resample"},
        {"depth": 5, "random": "he_fan_out", "biases": "random", "gabor_scale": "l2"},
    ],
    "half of them": [{"depth": "middle"}, {"depth": 3}, {"depth": "stage3"}, {"depth": 3, "biases": "random"}],
    "none": [{}, {"level": "layer"}, {"biases": "random"}, {"gabor_scale": "max_abs"}, {"embeddings": "resample"}],
    "nothing but statistics": [{"rest": "mean_var"}, {"rest": "mean_var", "level": "wt-st", "random": "he_fan_out"}],
    "cut": [
        {"depth": "all", "truncate": 3, "freeze": 2},
        {"depth": "all", "truncate": "middle", "freeze": "stage2"},
    ],
    "cut, all of it frozen": [
        {"depth": "all", "truncate": 3, "freeze": 3},
        {"depth": "all", "truncate": 3, "freeze": "all"},
    ],
    "tuned": [{"depth": "all", "tune": ["stage2", "stage3"]}, {"depth": 5, "tune": ["stage3", "stage2"]}],
    "rates": [
        {"depth": "all", "learning_rate": 1e-3, "head_learning_rate": 1e-3},
        {"depth": "all"},
        {"depth": "all", "learning_rate": 1e-3},
    ],
}


@pytest.mark.parametrize("arms", SAME.values(), ids=SAME)
def test_spellings_of_one_training_are_one_run(arms: list[dict]) -> None:
    found = ids({f"arm{number}": arm for number, arm in enumerate(arms)})
    del found["random"]
    assert len(set(found.values())) == 1


def test_what_is_another_training_is_another_run() -> None:
    """Every two of these differ in something that decides the numbers."""
    arms = [
        *({"depth": depth} for depth in (0, 1, "middle", "all")),
        {"depth": 2, "level": "block"},
        {"rest": "mean_var"},
        {"rest": "mean_var", "biases": "random"},
        {"rest": "mean_var", "norm": "mean_var"},
        {"rest": "mean_var", "embeddings": "resample"},
        {"random": "he_fan_out"},
        {"depth": "all", "norm": "recalibrate"},
        {"depth": "all", "freeze": "all"},
        {"depth": "all", "freeze": "all", "level": "block"},
        {"depth": "all", "truncate": 2},
        {"depth": "all", "level": "block", "layer_decay": 0.5},
        {"depth": "all", "layer_decay": 0.5},
        {"depth": "all", "overrides": {"fc": "mean_var"}, "embeddings": "resample"},
        {"depth": "all", "overrides": {"fc": "mean_var"}},
        {"depth": "all", "head_learning_rate": 1e-2},
    ]
    found = ids({f"arm{number}": arm for number, arm in enumerate(arms)})
    del found["random"]
    assert len(set(found.values())) == len(arms)
    assert ids({})["random"] not in set(found.values()) - {found["arm0"]}


def test_what_the_network_has_none_of_is_no_difference() -> None:
    def without(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
        return tuple(block._replace(roles=frozenset({"weight", "norm"})) for block in names_of(model, level))

    arms = {"st": {"rest": "mean_var"}, "resampled": {"rest": "mean_var", "embeddings": "resample"}}
    arms["biases"] = {"rest": "mean_var", "biases": "random"}
    runs = expand(unfold(with_arms(arms), without), lambda data: "", lambda name, root: "", lambda model, data: None)
    assert len({run.run_id for run in runs if run.model == "c" and run.arm in arms}) == 2  # seeds


def test_a_setting_of_another_optimiser_or_schedule_is_no_difference() -> None:
    plain = {"steps": 10}
    idle = {"steps": 10, "optimizer": {"momentum": 0.5}, "schedule": {"factor": 0.5, "warmup_start": 1e-5}}
    assert ids({}, train=plain) == ids({}, train=idle)
    sgd = {"steps": 10, "optimizer": {"name": "sgd"}}
    assert ids({}, train=sgd) != ids({}, train={"steps": 10, "optimizer": {"name": "sgd", "momentum": 0.5}})


def test_an_arm_that_fits_no_network_is_left_to_check() -> None:
    assert ids({"strange": {"depth": "nosuch"}})["strange"]
    assert ids({"strange": {"depth": 99}})["strange"]


def test_an_arms_rate_is_the_heads_too_unless_it_says_another() -> None:
    arms = {"slow": {"learning_rate": 1e-5}, "lwft": {"learning_rate": 1e-5, "head_learning_rate": 1e-4}}
    train = {"steps": 10, "optimizer": {"learning_rate": 1e-3, "head_learning_rate": 1e-2}}
    rates = {
        run.arm: (run.spec.train.optimizer.learning_rate, run.spec.train.optimizer.head_learning_rate)
        for run in runs_of(with_arms(arms, train=train))
        if run.role == "arm"
    }
    assert rates == {"random": (1e-3, 1e-2), "slow": (1e-5, None), "lwft": (1e-5, 1e-4)}


def test_l2_sp_of_a_whole_study_is_none_of_arms_that_have_nothing_for_it() -> None:
    arms = {
        "full": {"depth": "all"},
        "fixed": {"depth": 2, "freeze": 3},
        "probe": {"depth": "all", "freeze": "all"},
        "above": {"depth": 2, "tune": ["stage4"]},
        "below": {"depth": 2, "tune": ["stage2"]},
        "lora": {"depth": "all", "lora": 2},
        "head": {"depth": "all", "freeze": "all", "head": "source"},
    }
    runs = runs_of(with_arms(arms, train={"steps": 10, "optimizer": {"l2_sp": 0.1}}))
    drawn = {run.arm for run in runs if run.role == "arm" and run.spec.train.optimizer.l2_sp is not None}
    assert drawn == {"full", "below", "head"}


def test_a_source_of_a_source_is_of_the_network_that_asks() -> None:
    content = read_yaml(TEXT)
    content["models"] = {"a": {"name": "cbr_tiny", "weights": "run:second"}}
    content["sources"] = {
        "second": {"model": {"name": "cbr_small", "weights": "run:first"}, "init": {"depth": "all"}},
        "first": {},
    }
    for source in content["sources"].values():
        source["train"] = {"steps": 2}
    runs = {run.arm: run for run in runs_of(study_from(content)) if run.role == "source"}
    assert runs["second"].spec.model.name == runs["first"].spec.model.name == "cbr_small"
    assert runs["second"].needs == runs["first"].run_id


def test_another_code_of_ones_own_network_is_another_run() -> None:
    study = study_from(
        {**read_yaml(TEXT), "models": {"c": {"name": "mine:net"}}, "arms": {"random": {}}, "sources": {}}
    )
    ends = [
        [
            run.run_id
            for run in expand(
                unfold(study, names_of), lambda data: "", lambda name, root: "", lambda model, data, code=code: code
            )
        ]
        for code in ("first", "second")
    ]
    assert not set(ends[0]) & set(ends[1])
