"""Study files: what comes in comes out, and every mistake is listed at once."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfuse.errors import SpecError
from transfuse.specs import StudySpec, load_study, read_yaml, study_from, to_yaml
from transfuse.specs.metric import BOUNDS, Metric
from transfuse.specs.salvage import ANY, readable_part
from transfuse.specs.train import Augmentation

SMALL = """
name: small
data: {name: fundus-phantom}
models: {tiny: {name: cbr_tiny, weights: "run:natural"}}
arms: {random: {}, pretrained: {depth: all}}
sources: {natural: {data: {name: natural-phantom}, train: {epochs: 1}}}
train: {steps: 10}
"""


def problems_of(text: str, **changes: object) -> str:
    with pytest.raises(SpecError) as caught:
        study_from({**read_yaml(text), **changes}, "study.yaml")
    return str(caught.value)


def test_every_mistake_is_listed_at_once_with_its_path_and_the_nearest_name() -> None:
    message = problems_of("""
name: my study
data: {name: fundus-phantom, sise: 64, size: "64", fractions: [0.5, 0.5, 0.5], count: 3}
models: {small: {name: cbr_small, weights: "run:x"}}
baseline: rnd
arms:
  random: {}
  full: {depth: all}
  mean_var: {rest: mean_vr, depth: -1, freze: 1}
train: {optimizer: {learning_rate: 1e-4, name: adm}, batch_size: 1, validate_every: x, monitor: aurc}
metrc: auroc
seeds: x
""")
    for part in (
        "study.yaml: 17 problems",
        "name: 'my study' names a folder",
        "baseline: 'rnd' is not an arm",
        "models.small.weights: 'run:x' names no source; there are none",
        "data.sise: unknown key; did you mean 'size'?",
        "data.size: expected a whole number, found '64'",
        "data: count is 3; expected at least 10 images",
        "data: fractions are [0.5, 0.5, 0.5]; expected three positive shares",
        "arms.mean_var.rest: 'mean_vr' is unknown; did you mean 'mean_var'?",
        "arms.mean_var.freze: unknown key; did you mean 'freeze'?",
        "arms.mean_var: depth is -1; expected 0 or more blocks",
        "train.optimizer.name: 'adm' is unknown; did you mean 'adam'?",
        "train.monitor: 'aurc' is unknown; did you mean 'auroc'?",
        "train.validate_every: expected a whole number or a number, found 'x'",
        "train: give the length of the training as either epochs or steps",
        "train: batch_size is 1; batch norm needs at least 2 images",
        "metrc: unknown key; did you mean 'metric'?",
        "seeds: expected a whole number or a list, e.g. [0, 1, 2], found 'x'",
    ):
        assert part in message, f"{part!r} not in:\n{message}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": "rnd"}, "baseline: 'rnd' is not an arm; did you mean 'random'? Choices: random, pretrained"),
        ({"pairs": [["pretrained", "pretraind"]]}, "pairs.0: 'pretraind' is not an arm; did you mean 'pretrained'?"),
        ({"margin": 0.0}, "margin: 0.0 is no margin"),
        ({"seeds": [1, 1]}, "expected a positive number of seeds, or a list of different ones"),
        ({"seeds": 0}, "expected a positive number of seeds"),
        ({"models": {"a": {"name": "cbr_tiny", "weights": "run:natura"}}}, "names no source; did you mean 'natural'?"),
        ({"models": {"a": {"name": "cbr_tiny"}}}, "models.a.weights: missing, but the arm pretrained needs pretrained"),
        ({"models": {}}, "models: none given"),
        ({"arms": {}}, "arms: none given"),
        ({"name": "a/b"}, "name: 'a/b' names a folder"),
        ({"train": {"steps": 10, "epochs": 1}}, "epochs is 1.0 and steps is 10; give the length of the training as"),
        ({"train": {}}, "give the length of the training as either epochs or steps, e.g. epochs: 20"),
        ({"margin": 5}, "margin: 5.0 leaves no two arms apart: auroc lies between 0 and 1"),
        ({"threshold": 2}, "threshold: 2.0 is no value that training can reach: auroc lies between 0 and 1"),
        ({"metric": "kappa", "threshold": -1.5}, "kappa lies between -1 and 1"),
        ({"name": None}, "name: expected text, e.g. my-study, found nothing"),
        ({"train": 5}, "train: expected a mapping, e.g. {epochs: 20}, found 5"),
        ({"pairs": "pretrained"}, "pairs: expected a list, e.g. [[pretrained, mean_var]], found 'pretrained'"),
        ({"pairs": [["pretrained"]]}, 'pairs.0: expected a longer list, e.g. [pretrained, mean_var], found ["pretrain'),
        ({"arms": {"random": {"tune": "layer1"}}}, "arms.random.tune: expected a list, e.g. [layer1], found 'layer1'"),
        ({"models": {"a": "resnet18"}}, "models.a: expected a mapping, e.g. {name: resnet50}, found 'resnet18'"),
        ({"train": {"steps": 10, "schedule": {"name": "step"}}}, "a step schedule needs milestones"),
        ({"train": {"steps": 10, "schedule": {"milestones": [3.0]}}}, "milestones go with the step schedule"),
        ({"train": {"steps": 10, "optimizer": {"nesterov": True}}}, "nesterov goes with sgd, not with adam"),
        ({"train": {"steps": 10, "optimizer": {"learning_rate": -1.0}}}, "learning_rate is -1.0; expected a positive"),
        ({"train": {"steps": 10, "stopping": {"patience": 0}}}, "patience is 0; expected 1 or more"),
        (
            {"train": {"steps": 10, "augment": "cxr", "augmentation_bank": 0}},
            "augmentation_bank is 0; expected 1 or more",
        ),
        ({"train": {"steps": 10, "augmentation_bank": 4}}, "augmentation_bank: views of what? Give augment too"),
        ({"train": {"steps": 10, "patch": [32, 0, 32]}}, "patch is [32, 0, 32]; expected voxels, a side or [D, H, W]"),
        (
            {"train": {"steps": 10, "patch": 32, "patch_foreground": 2}},
            "patch_foreground is 2.0; expected a share from",
        ),
        ({"train": {"steps": 10, "patch_foreground": 0.2}}, "patch_foreground: the share of which patches? Give patch"),
        ({"arms": {"random": {"norm_statistics": "updated"}}}, "but nothing is frozen"),
        ({"data": {"name": "x", "train_fraction": 0.0}}, "train_fraction is 0.0; expected a share in (0, 1]"),
        ({"data": {"name": "x", "channels": 2}}, "channels is 2; expected 1, 3 or nothing"),
    ],
)
def test_impossible_combinations_name_the_cure(changes: dict[str, object], expected: str) -> None:
    assert expected in problems_of(SMALL, **changes)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"train": {"steps": 10, "optimizer": {"learning_rate": -1.0}}}, ["train.optimizer"]),
        ({"train": {"steps": 10, "optimizer": {"nam": "adam"}}}, ["train.optimizer.nam"]),
        ({"train": {"optimizer": {"learning_rate": -1.0}, "steps": 1, "batch_size": 1}}, ["train.optimizer", "train"]),
        ({"train": 5}, ["train"]),
        ({"train": None}, ["train"]),
        ({"data": "table.csv", "baseline": "rnd"}, ["data", "baseline"]),
        ({"models": {"a": "resnet18"}}, ["models.a", "sources.natural"]),
        ({"models": {"a": {"name": 3, "weights": "run:natural"}}}, ["models.a.name"]),
        ({"pairs": [["pretrained"]], "margin": -1.0}, ["pairs.0", "margin"]),
        ({"sources": {"natural": 5}}, ["sources.natural"]),
        ({"sources": {"natural": {"train": {"steps": 1}, "init": {"depth": -1}}}}, ["sources.natural.init"]),
        ({"analyses": [{"what": "knn", "k": -1}], "baseline": "rnd"}, ["analyses.0", "baseline"]),
        ({"arms": {"random": {}, "x": {"weights": "run:natural"}}}, ["arms.x"]),
    ],
)
def test_no_mistake_is_invented_and_none_hidden_by_another(changes: dict[str, object], keys: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        study_from({**read_yaml(SMALL), **changes})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == keys


def test_a_key_of_another_section_says_where_it_belongs() -> None:
    arms = {"random": {"first_layer": "sum", "batch_size": 8, "freeez": 1}}
    said = problems_of(SMALL, arms=arms, baseline="random")
    assert "arms.random.first_layer: unknown key; it is a key of models.<name>, give it there. Choices: " in said
    assert "arms.random.batch_size: unknown key; it is a key of train, give it there. Choices: " in said
    assert "arms.random.freeez: unknown key; did you mean 'freeze'?" in said


def test_metrics_have_the_bounds_that_margins_are_held_against() -> None:
    from transfuse.metrics import EVERY_METRIC

    assert {name: metric.bounds for name, metric in EVERY_METRIC.items()} == {
        name: BOUNDS.get(name, (0.0, 1.0)) for name in EVERY_METRIC
    }


@pytest.mark.parametrize("text", ["1e4", "1e-4", "no", "true", "2024-01-01", "010", "null", "1_000", "~", "1.5", "on"])
def test_words_that_look_like_something_else_survive_yaml(text: str) -> None:
    content = read_yaml(SMALL)
    content["data"] |= {"name": text, "label_columns": [text]}
    content["arms"] = {text: {}, "random": {}, "pretrained": {"depth": "all"}}
    study = study_from(content)
    assert study_from(read_yaml(to_yaml(study))) == study


def test_a_study_survives_yaml() -> None:
    study = study_from(read_yaml(SMALL))
    assert study_from(read_yaml(to_yaml(study))) == study


def test_one_step_is_not_one_epoch() -> None:
    """`validate_every: 1` means every step, `1.0` every epoch: writing must keep the type."""
    study = study_from({**read_yaml(SMALL), "train": {"steps": 10, "validate_every": 1}})
    again = study_from(read_yaml(to_yaml(study)))
    assert type(again.train.validate_every) is int
    assert type(study_from(read_yaml(SMALL)).train.validate_every) is float


@settings(deadline=None)  # no clock in tests
@given(st.floats(min_value=1e-9, max_value=1e9), st.integers(1, 30))
def test_numbers_survive_yaml(rate: float, seeds: int) -> None:
    content = {**read_yaml(SMALL), "seeds": seeds, "train": {"steps": 10, "optimizer": {"learning_rate": rate}}}
    study = study_from(content)
    assert study_from(read_yaml(to_yaml(study))).train.optimizer.learning_rate == rate


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001"])
def test_scientific_notation_is_a_number(text: str) -> None:
    assert read_yaml(f"x: {text}") == {"x": 1e-4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first in line 1; keep one"),
        ("- 1", "expected a mapping of keys, found list"),
        ("a: [", "this is not YAML"),
        ("", "expected a mapping of keys, found NoneType"),
        ("? [a]\n: 1", "cannot be a key; expected a name"),
    ],
)
def test_what_is_no_study_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"here\.yaml") as caught:
        read_yaml(text, "here.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["no", "yes", "on", "off"])
def test_a_word_is_a_word(word: str) -> None:
    assert read_yaml(f"{word}: {word}") == {word: word}
    assert read_yaml("x: true\ny: False") == {"x": True, "y": False}


def test_a_merge_takes_over_and_overrides() -> None:
    assert read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"threshold": float("nan")}, "threshold: nan is not a number that can be used"),
        ({"data": {"name": object()}}, "data.name: <object"),
    ],
)
def test_values_that_are_no_plain_yaml_are_named_with_their_path(changes: dict[str, object], expected: str) -> None:
    assert expected in problems_of(SMALL, **changes)


def test_a_source_that_nobody_starts_from_is_named() -> None:
    extra = {**read_yaml(SMALL)["sources"], "spare": {"data": {"name": "natural-phantom"}, "train": {"epochs": 1}}}
    assert "sources.spare: no model starts from it; give a model or an arm weights: run:spare" in problems_of(
        SMALL, sources=extra
    )


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALL)
    study = load_study(path, ["data.size=32", "train.optimizer.learning_rate=1e-4", "seeds=[4, 5]"])
    assert (study.data.size, study.train.optimizer.learning_rate, study.seed_list) == (32, 1e-4, (4, 5))


@pytest.mark.parametrize("override", ["data.size", "=3", "data..size=3"])
def test_what_is_no_override_is_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALL)
    with pytest.raises(SpecError, match="is no override; expected key=value"):
        load_study(path, [override])


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(SMALL)
    with pytest.raises(SpecError, match="which has no keys below it"):
        load_study(path, ["name.first=x"])


def test_a_missing_study_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(SMALL)
    with pytest.raises(SpecError, match=r"no study file .*stdy\.yaml'; did you mean 'study\.yaml'"):
        load_study(tmp_path / "stdy.yaml")


def test_names_listed_in_the_specs_are_the_names_that_exist() -> None:
    """The specs list names so that a typo is found without torch; the lists must not drift from the code."""
    from transfuse.data.augment import AUGMENTATIONS
    from transfuse.metrics import EVERY_METRIC

    assert set(typing.get_args(Metric)) == set(EVERY_METRIC)
    assert set(typing.get_args(Augmentation)) == set(AUGMENTATIONS)


def test_what_can_be_read_of_a_file_with_mistakes_is_a_study() -> None:
    content = read_yaml(SMALL)
    content["arms"] |= {"broken": {"dept": 1}, "sweep": {"freeze": "every"}}
    content |= {"metric": "aurc", "baseline": "rnd", "train": 5, "sources": {}}
    part = readable_part(content)
    assert part is not None
    assert list(part.arms) == ["random", "pretrained", "sweep"]
    assert (part.models["tiny"].weights, list(part.sources)) == (f"run:{ANY}", [ANY])
    assert readable_part({**content, "data": 5}) is None
    assert readable_part({**content, "models": {"tiny": 5}}) is None


def test_seeds_may_be_a_number_or_a_list() -> None:
    study = study_from(read_yaml(SMALL))
    assert study.seed_list == (0, 1, 2)
    assert isinstance(study, StudySpec)
