"""Expanding a study: every run once, sources first, shared where they are the same."""

from __future__ import annotations

from transfuse.specs import StudySpec, read_yaml, study_from
from transfuse.study.expand import PlannedRun, expand, without_repeats

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


def runs_of(study: StudySpec) -> list[PlannedRun]:
    return expand(study, lambda data: f"fingerprint of {data.name}", lambda name, root: f"hash of {name}")


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
