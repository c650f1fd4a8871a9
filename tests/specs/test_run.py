"""The identity of a run: what decides its numbers and nothing else."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from transfuse.errors import SpecError
from transfuse.specs import NUMERICS_VERSION, DataSpec, InitSpec, ModelSpec, RunSpec, ScheduleSpec, TrainSpec
from transfuse.study.sources import open_data

RUN = RunSpec(
    data=DataSpec(name="fundus-phantom"),
    model=ModelSpec(name="cbr_tiny", weights="weights.safetensors"),
    init=InitSpec(depth="all"),
    train=TrainSpec(steps=10),
    seed=0,
    monitor="auroc",
    fingerprint="abc",
    weights_sha256="def",
)


@pytest.mark.parametrize(
    "same",
    [
        replace(RUN, data=replace(RUN.data, root="/elsewhere")),
        replace(RUN, data=replace(RUN.data, name="other/path.npz")),
        replace(RUN, model=replace(RUN.model, weights="other/name.safetensors")),
        replace(RUN, train=replace(RUN.train, monitor="auroc")),
    ],
)
def test_names_and_paths_do_not_change_it(same: RunSpec) -> None:
    assert same.run_id == RUN.run_id


# What else may change without making another run, and why.
ELSEWHERE = {
    "data.name": "through the fingerprint",
    "data.root": "a path",
    "data.count": "through the fingerprint",
    "data.seed": "through the fingerprint",
    "data.image_column": "through the fingerprint",
    "data.label_columns": "through the fingerprint",
    "data.patient_column": "through the fingerprint",
    "data.part_column": "through the fingerprint",
    "data.mask_column": "through the fingerprint",
    "data.mask_classes": "through the fingerprint",
    "data.observer": "through the fingerprint",
    "data.uncertain_labels": "through the fingerprint",
    "data.blank_labels": "through the fingerprint",
    "data.bad_images": "through the fingerprint",
    "data.permute_labels": "through the fingerprint",
    "model.weights": "through weights_sha256 and source_run",
    "init.weights": "through weights_sha256 and source_run",
    "train.monitor": "through monitor",
    "train.snapshots": "kept along the way, they change no number",
}


def changed(value: object) -> object:
    """Another value of the same kind; nothing here validates, so any will do."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, 0.5)
    if isinstance(value, dict):
        return {**value, "x": "transfer"}
    return 7


def leaves(spec: object, path: str = "") -> list[tuple[str, RunSpec]]:
    """Every field of a run, each with a copy of the run in which only that field is another."""
    found = []
    for field in dataclasses.fields(spec):  # type: ignore[arg-type]
        value, here = getattr(spec, field.name), f"{path}.{field.name}".lstrip(".")
        found += (
            leaves(value, here) if dataclasses.is_dataclass(value) else [(here, with_value(RUN, here, changed(value)))]
        )
    return found


def with_value(spec: Any, path: str, value: object) -> Any:
    name, _, rest = path.partition(".")
    other = copy.copy(spec)
    object.__setattr__(other, name, with_value(getattr(spec, name), rest, value) if rest else value)
    return other


@pytest.mark.parametrize(("path", "other"), leaves(RUN), ids=[path for path, _ in leaves(RUN)])
def test_every_setting_decides_the_numbers_or_says_why_not(path: str, other: RunSpec) -> None:
    assert (other.run_id == RUN.run_id) == (path in ELSEWHERE)


@pytest.mark.parametrize(
    ("setting", "other"),
    [("seed", 1), ("count", 30), ("permute_labels", True), ("name", "natural-phantom")],
)
def test_what_acts_through_the_fingerprint_changes_it(setting: str, other: object) -> None:
    spec = DataSpec(name="texture-target", size=32, count=20)
    assert open_data(spec).info.fingerprint != open_data(replace(spec, **{setting: other})).info.fingerprint


def test_a_whole_number_and_its_fraction_are_the_same_run() -> None:
    train = TrainSpec(epochs=5, schedule=ScheduleSpec(warmup=0))
    same = TrainSpec(epochs=5.0, schedule=ScheduleSpec(warmup=0.0))
    assert replace(RUN, train=train).run_id == replace(RUN, train=same).run_id


def test_one_step_and_one_epoch_between_validations_are_not() -> None:
    every = [replace(RUN, train=replace(RUN.train, validate_every=value)).run_id for value in (1, 1.0)]
    assert every[0] != every[1]


def test_a_random_start_does_not_depend_on_the_weights_settings() -> None:
    """The random baseline is shared by studies that differ only in their pretrained weights."""
    random = replace(RUN, init=InitSpec(), weights_sha256=None)
    assert replace(random, model=replace(RUN.model, first_layer="first", weights=None)).run_id == random.run_id


def test_statistics_that_are_measured_otherwise_than_before_are_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recalibrated = replace(RUN, init=InitSpec(depth="all", norm="recalibrate"))
    before = recalibrated.run_id, RUN.run_id
    monkeypatch.setattr("transfuse.specs.run._RECALIBRATION", 99)
    assert recalibrated.run_id != before[0]
    assert RUN.run_id == before[1]


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ({"l2_sp": 0.1}, "and nothing is transferred; give depth, e.g. depth: all, or leave l2_sp out"),
        ({"rest": "mean_var", "embeddings": "resample", "l2_sp": 0.1}, "nothing that is transferred is trained"),
        ({"depth": "all", "freeze": "all", "l2_sp": 0.1}, "nothing that is transferred is trained; freeze less"),
        ({"depth": "layer2", "freeze": "layer2", "l2_sp": 0.1}, "nothing that is transferred is trained"),
        ({"depth": "all", "lora": 4, "l2_sp": 0.1}, "nothing that is transferred is trained"),
    ],
)
def test_l2_sp_that_can_do_nothing_is_refused(arm: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        InitSpec(**arm)
    assert expected in str(caught.value)
    assert "l2_sp is 0.1" in str(caught.value)


@pytest.mark.parametrize(
    "arm",
    [
        {"depth": "all"},
        {"depth": "layer3", "freeze": "layer2"},
        {"overrides": {"conv1": "transfer"}},
        {"rest": "mean_var", "norm": "transfer"},
        {"depth": "all", "freeze": "all", "head": "source"},
    ],
)
def test_l2_sp_that_draws_something_back_is_not(arm: dict[str, Any]) -> None:
    assert InitSpec(**arm, l2_sp=0.1).l2_sp == 0.1


def test_a_patch_is_part_of_it_where_there_is_one_however_it_is_written() -> None:
    cube, sides, rare = (
        replace(RUN, train=replace(RUN.train, patch=patch, patch_foreground=share))
        for patch, share in ((32, 0.5), ((32, 32, 32), 0.5), (32, 0.1))
    )
    assert cube.run_id == sides.run_id
    assert len({RUN.run_id, cube.run_id, rare.run_id}) == 3
    assert not [key for key in RUN.identity()["train"] if key.startswith("patch")]


def test_it_is_stable() -> None:
    """Another value here means that every finished run of every user is done again: raise NUMERICS_VERSION, say so."""
    assert NUMERICS_VERSION == 1
    assert RUN.run_id == "6481fa956ad7"
