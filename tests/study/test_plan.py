"""Check finds before training what would make runs fail; the plan on disk is all that status needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import transfuse.models
from transfuse.errors import SpecError, StoreError
from transfuse.models import create_model
from transfuse.results.store import Store, write_json
from transfuse.specs import SearchSpec, StudySpec, read_yaml, study_from, to_yaml
from transfuse.study.plan import all_mistakes, check, plan, read_plan, replaced, status, write_plan
from transfuse.study.sources import normalisation_note, open_data
from transfuse.study.truncation import CUT, truncation_study

MakeStudy = Callable[..., StudySpec]


def source(npz: Path, **keys: Any) -> dict[str, Any]:
    return {"earlier": {"data": {"name": str(npz), "size": 16}, "train": {"steps": 2}, **keys}}


def net(**keys: Any) -> dict[str, Any]:
    return {"net": {"name": "cbr_demo", "padding": "same_pool", **keys}}


def problems(study: StudySpec, device: str = "auto") -> str:
    with pytest.raises(SpecError) as caught:
        check(study, "study.yaml", device)
    return str(caught.value)


def test_nothing_wrong_says_what_there_is_to_do(make_study: MakeStudy) -> None:
    checked = check(make_study())
    assert len(checked.runs) == 2
    assert checked.lines[-1] == "2 runs (1 network x 1 arm x 2 seeds)"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"metric": "referable_auroc"}, "metric: referable_auroc cannot be measured on"),
        ({"models": {"net": {"name": "cbr_dmo"}}}, "models.net: Unknown network 'cbr_dmo': did you mean 'cbr_demo'?"),
        ({"arms": {"random": {"freeze": "layer9"}}}, "arms.random with models.net: "),
        ({"arms": {"random": {"overrides": {"nosuch": "he_fan_out"}}}}, "nosuch"),
        ({"models": {"net": {"name": "cbr_demo"}}}, "padding='same_pool'"),
    ],
)
def test_what_would_fail_is_found(make_study: MakeStudy, keys: dict[str, Any], expected: str) -> None:
    assert expected in problems(make_study(**keys))


def test_an_arm_with_an_at_sign_is_looked_at_like_any_other(make_study: MakeStudy) -> None:
    arms = {"random": {}, "x@1": {"freeze": "nonsense"}, "x@2": {"freeze": "all"}}
    assert "arms.x@1 with models.net: Unknown depth 'nonsense'" in problems(make_study(arms=arms))


def test_a_mistake_of_an_arm_is_said_once_for_all_networks(make_study: MakeStudy) -> None:
    models = {**net(), "two": {"name": "cbr_demo", "padding": "same_pool"}}
    found = problems(make_study(models=models, arms={"random": {"freeze": "layer9"}}))
    assert found.count("arms.random with models.net, models.two: Unknown depth") == 1
    assert "1 problem" in found


def test_a_loss_that_does_not_fit_the_labels_is_found(make_study: MakeStudy, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {f"{part}_labels": rng.integers(0, 2, (40, 3)) for part in ("train", "val", "test")}
    images = {f"{part}_images": rng.integers(0, 255, (40, 16, 16), np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "labels.npz", **images, **labels)
    data = {"name": str(tmp_path / "labels.npz"), "size": 16}
    train = {"steps": 4, "loss": "softmax"}
    assert "train.loss: the loss 'softmax' needs one class an image" in problems(make_study(data=data, train=train))
    keys = {"models": net(weights="run:earlier"), "arms": {"random": {}, "full": {"depth": "all"}}}
    sources = {"earlier": {"data": data, "train": train}}
    assert "sources.earlier.train.loss: the loss 'softmax'" in problems(make_study(**keys, sources=sources))


def test_a_network_of_ones_own_is_run_before_it_is_trained(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "networks_for_check.py").write_text(
        "from torch import nn\n"
        "def wrong(classes, channels):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 7))\n"
        "def fails(classes, channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels + 1, 4, 3), nn.Flatten(), nn.Linear(4, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = problems(make_study(models={"w": {"name": "networks_for_check:wrong"}}))
    assert "models.w: 'networks_for_check:wrong' makes outputs of shape (2, 7) from 2 images; expected (2, 2)" in found
    assert "use the argument `classes` in 'networks_for_check:wrong'" in found
    found = problems(make_study(models={"f": {"name": "networks_for_check:fails"}}))
    assert "models.f: 'networks_for_check:fails' fails on images of shape (2, 1, 16, 16) (RuntimeError: " in found


def test_frozen_batch_norms_that_have_seen_no_image_are_noted(make_study: MakeStudy) -> None:
    def notes(**arm: Any) -> list[str]:
        return [line for line in check(make_study(arms={"random": {}, "rf": arm})).lines if "frozen blocks" in line]

    (note,) = notes(freeze="all")
    assert note.startswith("note: arms.rf with models.net: frozen blocks (layer1, layer2, layer3 and 1 more) whose")
    assert notes(freeze="every")
    assert not notes(freeze="all", norm_statistics="updated")
    assert not notes(freeze="all", norm="recalibrate")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"seeds": 1}, "note: seeds: with one training an arm"),
        ({"train": {"steps": 4, "batch_size": 1000}}, "note: train.batch_size is 1000, and the training part has"),
        (
            {"train": {"steps": 4, "validate_every": 500}},
            "note: train.validate_every is 500 steps, and a training",
        ),
        (
            {"train": {"steps": 40, "validate_every": 1}},
            "note: train.validate_every: 1 is a whole number and",
        ),
        (
            {"train": {"steps": 40, "validate_every": 5, "schedule": {"warmup": 90.0}}},
            "note: train.schedule.warmup is 90 steps",
        ),
    ],
)
def test_settings_that_can_hardly_be_meant_are_noted(
    make_study: MakeStudy, keys: dict[str, Any], expected: str
) -> None:
    lines = check(make_study(**keys)).lines
    assert any(line.startswith(expected) for line in lines), lines
    assert not any(line.startswith(expected) for line in check(make_study()).lines)


def test_what_is_known_of_the_data_is_noted(make_study: MakeStudy) -> None:
    data = {"name": make_study().data.name, "size": 16, "train_fraction": 0.2}
    lines = check(make_study(data=data)).lines
    assert any(line.startswith("note: data: ") and "patient" in line for line in lines), lines
    assert any("note: data: the training part has" in line and "too few" in line for line in lines), lines


def test_mistakes_outside_the_file_are_listed_beside_those_in_it(make_study: MakeStudy) -> None:
    content = read_yaml(to_yaml(make_study()))
    content["models"]["two"] = {"name": "cbr_dmo"}
    content["arms"] |= {"full": {"depth": "layer9"}, "x": {"dept": 1}}
    content["metric"] = "aurc"

    def found(**keys: Any) -> tuple[str, ...]:
        with pytest.raises(SpecError) as caught:
            study_from({**content, **keys})
        return all_mistakes(caught.value, {**content, **keys}).problems

    assert sorted(problem.partition(":")[0] for problem in found()) == [
        *("arms.full with models.net", "arms.x.dept", "metric"),
        *("models.net.weights", "models.two", "models.two.weights"),
    ]
    assert any(problem.startswith("models.two: Unknown network") for problem in found(data={"name": "x", "sise": 1}))


def test_arms_that_draw_on_nothing_need_no_second_network(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, built = tmp_path / "net.safetensors", []
    state = create_model("cbr_demo", classes=2, padding="same_pool").state_dict()
    save_file({name: value + 1 if value.is_floating_point() else value for name, value in state.items()}, path)
    made = transfuse.models.create_model
    monkeypatch.setattr(
        transfuse.models, "create_model", lambda *a, **k: built.append(k.get("device")) or made(*a, **k)
    )
    arms = {"random": {}, "f": {"freeze": 1}, "full": {"depth": "all"}, "probe": {"depth": "all", "freeze": "all"}}
    check(make_study(models=net(weights=str(path)), arms=arms))
    assert built.count(None) == 1


def test_a_device_that_is_not_there_is_found(make_study: MakeStudy) -> None:
    assert "--device: " in problems(make_study(), "gpuu")
    half = {"steps": 4, "batch_size": 16, "precision": "fp16"}
    assert "train.precision: precision 'fp16' needs a GPU" in problems(make_study(train=half), "cpu")


def test_weights_of_another_architecture_are_found(make_study: MakeStudy, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(create_model("cbr_small", classes=2).state_dict(), path)
    study = make_study(models=net(weights=str(path)), arms={"random": {}, "full": {"depth": "all"}})
    assert "arms.full with models.net: " in problems(study)


def test_the_settings_of_a_source_are_looked_at_too(make_study: MakeStudy, tiny_npz: Path) -> None:
    keys = {"models": net(weights="run:earlier"), "arms": {"random": {}, "full": {"depth": "all"}}}
    frozen = source(tiny_npz, init={"freeze": "layer99"})
    assert "sources.earlier.init with sources.earlier: " in problems(make_study(**keys, sources=frozen))
    metric = source(tiny_npz, train={"steps": 2, "monitor": "referable_auroc"})
    assert "sources.earlier.train.monitor: " in problems(make_study(**keys, sources=metric))
    check(make_study(**keys, sources=source(tiny_npz)))


def test_checking_leaves_the_global_generator_alone(make_study: MakeStudy) -> None:
    before = torch.get_rng_state()
    check(make_study())
    assert torch.equal(before, torch.get_rng_state())


def test_weights_that_saw_other_pixel_values_are_said(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm knows the normalisation of its tags: here one with mean and deviation 0.5, from a local copy of its file."""
    tag = "resnetv2_50x1_bit.goog_in21k"
    model = create_model("resnetv2_50x1_bit", classes=2)
    torch.nn.init.normal_(model.norm.weight, 1.0, 0.1)
    save_file(model.state_dict(), tmp_path / f"{tag}.safetensors")
    study = make_study(
        models={"net": {"name": "resnetv2_50x1_bit", "weights": tag}},
        data={
            "name": make_study().data.name,
            "size": 32,
            "channels": 3,
            "root": str(tmp_path),
        },
    )
    data = open_data(study.data)
    note = normalisation_note(study.data, data, tag)
    assert "were trained on images normalised by mean [0.5, 0.5, 0.5]" in note
    assert normalisation_note(study.data, data, None) == ""
    half = replace(study.data, normalise="half")
    assert normalisation_note(half, open_data(half), tag) == ""


def test_grades_of_a_file_are_ordinal_when_the_study_says_so(make_study: MakeStudy, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grades = {f"{part}_labels": np.arange(40)[:, None] % 5 for part in ("train", "val", "test")}
    images = {f"{part}_images": rng.integers(0, 255, (40, 16, 16), np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "grades.npz", **images, **grades)
    data = {"name": str(tmp_path / "grades.npz"), "size": 16}
    assert "; multiclass" in check(make_study(data=data)).lines[0]
    assert "; ordinal" in check(make_study(data={**data, "task": "ordinal"}, metric="kappa")).lines[0]


def test_status_reads_files_alone(make_study: MakeStudy, tmp_path: Path) -> None:
    store, study = Store(tmp_path), make_study()
    runs = plan(study)
    assert write_plan(store, study, runs) == read_plan(store, "spots")
    rows = read_plan(store, "spots").rows
    assert [found.state for found in status(store, rows)] == ["waiting", "waiting"]
    store.fail(runs[0].run_id, runs[0].title, "no [luck]")
    with store.alone(runs[1].run_id, lambda: None) as held:
        write_json(held.folder / "spec.json", {})
        assert [found.state for found in status(store, rows)] == ["failed", "running"]
    found = status(store, rows)
    assert [(one.state, one.detail) for one in found] == [
        ("failed", "no [luck]"),
        ("interrupted", "starts again: it had no checkpoint yet"),
    ]


def test_a_damaged_plan_is_named(make_study: MakeStudy, tmp_path: Path) -> None:
    store, study = Store(tmp_path), make_study()
    write_plan(store, study, plan(study))
    store.plan_file("spots").write_text("{")
    with pytest.raises(
        StoreError, match=r"plan\.json cannot be read .*; start the study again: finished runs are kept"
    ):
        read_plan(store, "spots")


def test_another_study_of_the_same_name_is_said(make_study: MakeStudy, tmp_path: Path) -> None:
    store, study = Store(tmp_path), make_study()
    assert replaced(store, study, plan(study)) == []
    write_plan(store, study, plan(study))
    more = make_study(seeds=3)
    assert replaced(store, more, plan(more)) == []
    other = make_study(train={"steps": 6, "batch_size": 16})
    assert "2 of its runs are no longer part of it" in replaced(store, other, plan(other))[0]
    assert "name=spots-2" in replaced(store, other, plan(other))[0]


def test_another_search_of_the_same_name_is_said(make_study: MakeStudy, tmp_path: Path) -> None:
    store, study = Store(tmp_path), truncation_study(make_study(), arm="random")
    searched = replace(study, name="spots", search=SearchSpec(arm=CUT, strategy="rank"))
    write_plan(store, searched, [])
    assert replaced(store, searched, []) == []
    other = replace(searched, search=SearchSpec(arm=CUT, strategy="screen"))
    (said,) = replaced(store, other, [], "--name=")
    assert "was started here with another search (rank, margin 0.02; now screen, margin 0.02)" in said
    assert said.endswith("To keep both, give this one another name: --name=spots-2")
    (said,) = replaced(store, replace(searched, margin=0.3), [])
    assert "now rank, margin 0.3): its report will be replaced, and the network that it handed over" in said
