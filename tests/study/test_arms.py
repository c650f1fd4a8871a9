"""Every way to start and to train an arm, through a whole run: what had to stay stayed, what had to change changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from transfuse.errors import SpecError
from transfuse.models import blocks_of, create_model
from transfuse.results.store import RunRecord, Store
from transfuse.specs import DataSpec, StudySpec
from transfuse.study.events import Event, Failed
from transfuse.study.expand import without_repeats
from transfuse.study.plan import check, plan
from transfuse.study.run import do_run, training_images
from transfuse.study.sources import open_data, split_data

MakeStudy = Callable[..., StudySpec]
State = dict[str, Tensor]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the network with statistics that no untrained network has."""
    model = create_model("cbr_demo", 2, 1, padding="same_pool")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.fill_(0.2)
    save_file(state, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


@pytest.fixture
def done(make_study: MakeStudy, weights: Path, tmp_path: Path) -> Callable[..., tuple[RunRecord, State, State]]:
    """Runs one arm to its end: its record, the weights it began with and the ones it ended with."""

    def run(arm: dict[str, Any], **keys: Any) -> tuple[RunRecord, State, State]:
        study = make_study(
            **{
                "models": {"net": {"name": "cbr_demo", "padding": "same_pool", "weights": str(weights)}},
                "arms": {"random": {}, "arm": arm},
                "seeds": 1,
                **keys,
            }
        )
        check(study, device="cpu")
        store, events = Store(tmp_path / "out"), list[Event]()
        runs = [run for run in without_repeats(plan(study)) if run.arm != "random"]
        for one in runs:
            do_run(one, events.append, root=store.root, device="cpu")
        assert not [event for event in events if isinstance(event, Failed)]
        record = store.record(runs[-1].run_id)
        assert record is not None
        assert record.status == "finished"
        folder = store.run_folder(runs[-1].run_id)
        return record, load_file(folder / "initial.safetensors"), load_file(folder / "best.safetensors")

    return run


def blocks_that_changed(before: State, after: State) -> set[str]:
    assert before.keys() == after.keys()
    blocks = blocks_of(create_model("cbr_demo", 2, 3))
    return {blocks.owner(name) for name in before if not torch.equal(before[name], after[name])}


def test_fixed_features_change_above_only(done) -> None:  # type: ignore[no-untyped-def]
    _, before, after = done({"depth": "all", "freeze": "layer2"})
    assert blocks_that_changed(before, after) == {"layer3", "layer4", "head"}


def test_surgical_fine_tuning_changes_the_named_blocks_and_the_head(done) -> None:  # type: ignore[no-untyped-def]
    record, before, after = done({"depth": "all", "tune": ["layer2", "layer3"]})
    assert blocks_that_changed(before, after) == {"layer2", "layer3", "head"}
    assert record.facts["trained_parameters"] < record.facts["parameters"]


def test_a_truncated_network_has_what_was_kept_and_a_head_of_its_own(done, weights: Path) -> None:  # type: ignore[no-untyped-def]
    source = load_file(weights)
    record, before, _ = done({"depth": "all", "truncate": "layer2"})
    assert {name.split(".")[0] for name in before} == {"layer1", "layer2", "head"}
    assert all(torch.equal(before[name], source[name]) for name in before if not name.startswith("head"))
    assert before["head.weight"].shape == (2, 32)
    assert record.facts["parameters"] == sum(
        t.numel() for n, t in before.items() if "running" not in n and "num" not in n
    )
    _, flat, _ = done({"depth": "all", "truncate": "layer2", "pool": "none"})
    assert flat["head.weight"].shape == (2, 32 * 4 * 4)


def test_a_slim_network_is_half_as_wide_above(done, weights: Path) -> None:  # type: ignore[no-untyped-def]
    _, before, _ = done({"depth": "layer2", "slim": "layer2"})
    assert before["layer3.conv.weight"].shape == (32, 32, 5, 5)
    assert before["head.weight"].shape == (2, 64)
    assert torch.equal(before["layer2.conv.weight"], load_file(weights)["layer2.conv.weight"])


def test_recalibrated_statistics_are_of_the_training_images(done, weights: Path) -> None:  # type: ignore[no-untyped-def]
    record, before, _ = done({"depth": "all", "norm": "recalibrate"})
    source = load_file(weights)
    assert not torch.equal(before["layer1.bn.running_mean"], source["layer1.bn.running_mean"])
    assert torch.equal(before["layer1.conv.weight"], source["layer1.conv.weight"])
    assert "recalibrated" in {row["treatment"] for row in record.transfer}


def test_recalibration_sees_every_class_though_files_lie_class_by_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random choice of the training images, the same for the same seed, and not just the first of the folder."""
    labels = np.repeat([0, 1], 30)
    images = np.broadcast_to((labels * 200 + np.tile(np.arange(30), 2))[:, None, None], (60, 16, 16)).astype(np.uint8)
    arrays = {
        f"{part}_{what}": a for part in ("train", "val", "test") for what, a in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "sorted.npz", **arrays)
    spec = DataSpec(name=str(tmp_path / "sorted.npz"), size=16)
    split = split_data(spec, open_data(spec))
    monkeypatch.setattr("transfuse.study.run.RECALIBRATION_IMAGES", 20)
    chosen = [torch.cat(list(training_images(split, seed))) for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert len(chosen[0]) == len(chosen[0].unique(dim=0)) == 20
    assert 5 <= int((chosen[0].mean(dim=(1, 2, 3)) > 1).sum()) <= 15


def test_gabor_filters_have_the_magnitude_of_the_networks_weights(done, weights: Path) -> None:  # type: ignore[no-untyped-def]
    _, before, _ = done({"overrides": {"layer1.conv": "gabor"}})
    filters, source = before["layer1.conv.weight"], load_file(weights)["layer1.conv.weight"]
    torch.testing.assert_close(filters.double().std(), source.double().std(), rtol=1e-5, atol=0)
    assert not torch.equal(before["layer2.conv.weight"], load_file(weights)["layer2.conv.weight"])


def test_lp_ft_starts_from_the_probe(done, weights: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    probe = {"init": {"depth": "all", "freeze": "all"}, "train": {"steps": 4, "validate_every": 2}}
    arm = {"weights": "run:probe", "depth": "all", "head": "source"}
    _, before, after = done(arm, sources={"probe": probe})
    source = load_file(weights)
    assert all(torch.equal(before[name], source[name]) for name in source if not name.startswith("head"))
    folders = [path.parent for path in (tmp_path / "out" / "runs").glob("*/best.safetensors")]
    ends = [load_file(folder / "best.safetensors") for folder in folders]
    assert any(torch.equal(end["head.weight"], before["head.weight"]) for end in ends)
    assert blocks_that_changed(before, after) == {"layer1", "layer2", "layer3", "layer4", "head"}


def test_a_strong_pull_keeps_transferred_weights_and_layer_decay_slows_the_lowest(done) -> None:  # type: ignore[no-untyped-def]
    def moved(arm: dict[str, Any], name: str) -> float:
        _, before, after = done({"depth": "all", **arm}, train={"steps": 6, "batch_size": 16, "validate_every": 6})
        return float((after[name] - before[name]).norm())

    low, high = "layer1.conv.weight", "layer4.conv.weight"
    assert moved({"layer_decay": 0.1}, low) < 0.01 * moved({}, low)
    assert moved({"layer_decay": 0.1}, high) > 0.03 * moved({}, high)
    assert moved({"l2_sp": 1000.0}, high) < 0.8 * moved({}, high)


def test_l2_sp_of_the_whole_study_leaves_alone_what_has_nothing_to_draw_back(done) -> None:  # type: ignore[no-untyped-def]
    train = {"steps": 2, "batch_size": 16, "optimizer": {"l2_sp": 0.1}}
    for arm in ({"depth": "layer1", "freeze": "layer2"}, {"rest": "mean_var"}, {"depth": "all", "freeze": 4}):
        done(arm, train=train)


def test_an_arm_with_l2_sp_and_nothing_for_it_is_found(done) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SpecError, match=r"arms.arm.l2_sp with models.net: it draws transferred weights back to their"):
        done({"depth": "layer1", "freeze": "layer2", "l2_sp": 0.1})
    with pytest.raises(SpecError, match=r"and the arm trains none of them \(depth 4, freeze 4, tune \[\]\)"):
        done({"depth": 4, "freeze": "all", "rest": "mean_var", "embeddings": "keep", "l2_sp": 0.1} | {"freeze": 4})
    done({"depth": "layer2", "freeze": "layer1", "l2_sp": 0.1})


def test_lora_ends_as_a_plain_network(make_study: MakeStudy, tmp_path: Path) -> None:
    model = create_model("test_vit", 2, 1, image_size=32)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    study = make_study(
        models={"net": {"name": "test_vit", "weights": str(tmp_path / "vit.safetensors")}},
        arms={"random": {}, "lora": {"depth": "all", "lora": 4}},
        data={**make_study().data.__dict__, "size": 32},
        seeds=1,
    )
    check(study, device="cpu")
    store, events = Store(tmp_path / "out"), list[Event]()
    run = next(run for run in plan(study) if run.arm == "lora")
    do_run(run, events.append, root=store.root, device="cpu")
    assert not [event for event in events if isinstance(event, Failed)], events
    before, after = (load_file(store.run_folder(run.run_id) / f"{name}.safetensors") for name in ("initial", "best"))
    assert before.keys() == after.keys() == model.state_dict().keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "blocks.0.attn.qkv.weight"} <= changed
    assert not [name for name in changed if "mlp" in name or "norm" in name or "patch" in name]
    record = store.record(run.run_id)
    assert record is not None
    assert record.facts["trained_parameters"] < 0.2 * record.facts["parameters"]
