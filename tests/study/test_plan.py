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

from transfuse.errors import SpecError, StoreError
from transfuse.models import create_model
from transfuse.results.store import Store, write_json
from transfuse.specs import StudySpec
from transfuse.study.plan import check, plan, read_plan, replaced, status, write_plan
from transfuse.study.sources import normalisation_note, open_data

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
    assert checked.lines[-1] == "2 runs (1 networks x 1 arms x 2 seeds)"


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
    write_json(store.run_folder(runs[0].run_id) / "failure.json", {"message": "no [luck]"})
    write_json(store.run_folder(runs[1].run_id) / "spec.json", {})
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
    assert replaced(store, study, plan(study)) == ""
    write_plan(store, study, plan(study))
    more = make_study(seeds=3)
    assert replaced(store, more, plan(more)) == ""
    other = make_study(train={"steps": 6, "batch_size": 16})
    assert "2 of its runs are no longer part of it" in replaced(store, other, plan(other))
    assert "name=spots-2" in replaced(store, other, plan(other))
