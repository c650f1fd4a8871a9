"""Features of frozen blocks are computed once for all runs that share them, and change no bit of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from transfuse.errors import StoreError
from transfuse.models import create_model
from transfuse.results.store import Store
from transfuse.specs import StudySpec
from transfuse.study import feature_files, shared_features
from transfuse.study import run as run_module
from transfuse.study.carry_out import carry_out
from transfuse.study.events import Event, Failed, Tell
from transfuse.study.expand import PlannedRun, without_repeats
from transfuse.study.plan import plan
from transfuse.study.run import do_run

MakeStudy = Callable[..., StudySpec]
Make = Callable[..., StudySpec]

TRAIN = {"epochs": 3, "batch_size": 16, "validate_every": 1.0}
ARMS = {"random": {}, "probe": {"depth": "all", "freeze": "all"}, "half": {"depth": "all", "freeze": "middle"}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    model = create_model("cbr_demo", 2, 1, padding="same_pool").train()
    with torch.no_grad():  # statistics that no untrained network has
        for seed in range(20):
            model(torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(seed)))
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def study(make_study: MakeStudy, weights: Path) -> Make:
    def make(**keys: Any) -> StudySpec:
        models = {"net": {"name": "cbr_demo", "padding": "same_pool", "weights": str(weights)}}
        return make_study(**{"models": models, "arms": ARMS, "train": TRAIN, "seeds": 2, **keys})

    return make


def carried_out(study: StudySpec, root: Path, arms: tuple[str, ...] = ("probe", "half")) -> dict[str, PlannedRun]:
    """Does the runs of some arms one after the other in a store of their own; by arm and seed."""
    events: list[Event] = []
    runs = [run for run in without_repeats(plan(study)) if run.arm in arms]
    for run in runs:
        do_run(run, events.append, root=root, device="cpu")
    assert [event.message for event in events if isinstance(event, Failed)] == []
    return {f"{run.arm} {run.spec.seed}": run for run in runs}


def bits(root: Path, run: PlannedRun) -> tuple[dict[str, torch.Tensor], pd.DataFrame, pd.DataFrame]:
    folder = Store(root).run_folder(run.run_id)
    history = pd.read_parquet(folder / "history.parquet").drop(columns="seconds")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    predictions["scores"] = [tuple(scores) for scores in predictions["scores"]]
    predictions["target"] = [tuple(target) for target in predictions["target"]]
    return load_file(folder / "best.safetensors"), history, predictions


def assert_same_bits(one: Path, other: Path, runs: dict[str, PlannedRun]) -> None:
    for name, run in runs.items():
        (weights, *tables), (weights_2, *tables_2) = bits(one, run), bits(other, run)
        assert all(torch.equal(tensor, weights_2[key]) for key, tensor in weights.items()), name
        for table, table_2 in zip(tables, tables_2, strict=True):
            pd.testing.assert_frame_equal(table, table_2, check_exact=True)


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "features").glob("*.npy")}


def equivalents(root: Path, run: PlannedRun) -> float:
    record = Store(root).record(run.run_id)
    assert record is not None
    return record.facts["training_equivalents"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The images for which features are computed, with the cuts: (paths, images) for each call."""
    from transfuse.models import prefix

    seen: list[tuple[str, int]] = []
    real = prefix.features_at

    def counted(model: Any, cuts: Any, images: Any, *, batch_size: int) -> Any:
        seen.append((" ".join(cut.path for cut in cuts), len(images)))
        return real(model, cuts, images, batch_size=batch_size)

    monkeypatch.setattr(prefix, "features_at", counted)
    return seen


def test_sharing_changes_no_bit(study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = carried_out(study(), tmp_path / "shared")
    assert len(files(tmp_path / "shared")) == 6  # train, val and test at two cuts, for two seeds each
    for name, run in shared.items():  # each alone: nothing that was computed for another is there
        alone = carried_out(study(seeds=[run.spec.seed]), tmp_path / name, (run.arm,))
        assert_same_bits(tmp_path / "shared", tmp_path / name, alone)
    monkeypatch.setattr(feature_files, "FREE_SHARE", 0.0)  # no room: computed at each step
    carried_out(study(), tmp_path / "direct")
    assert not files(tmp_path / "direct")
    assert_same_bits(tmp_path / "shared", tmp_path / "direct", shared)


def test_one_pass_for_every_cut_and_every_seed(study: Make, tmp_path: Path, passes: list[tuple[str, int]]) -> None:
    carried_out(study(), tmp_path)
    both = [images for paths, images in passes if " " in paths]
    assert sum(both) == 60 + 30 + 30  # every image once, for two arms with two seeds each


def test_it_is_the_whole_network_s_training_up_to_rounding(
    study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = carried_out(study(), tmp_path / "shared")

    @contextmanager
    def whole(network: Any, split: Any, *_: Any) -> Iterator[shared_features.Frozen]:
        yield shared_features.Frozen(split)

    monkeypatch.setattr(run_module, "frozen_features", whole)
    carried_out(study(), tmp_path / "whole")
    for run in runs.values():
        ours, theirs = bits(tmp_path / "shared", run)[2], bits(tmp_path / "whole", run)[2]
        np.testing.assert_allclose(np.stack(ours["scores"]), np.stack(theirs["scores"]), atol=1e-5)
        assert equivalents(tmp_path / "whole", run) == 1.0


def test_the_work_of_a_run_is_counted(study: Make, tmp_path: Path) -> None:
    runs = carried_out(study(), tmp_path, ("random", "probe"))
    assert equivalents(tmp_path, runs["random 0"]) == 1.0
    record = Store(tmp_path).record(runs["probe 0"].run_id)
    assert record is not None
    macs, above = record.facts["macs"], 128 * 2  # the head alone: from the pooled features to two classes
    macs_below, looked_at = macs - above, 4 * 30 + 30
    rest = (3 * 3 * 60 + looked_at) * above
    alone = (3 * 60 + looked_at) * macs_below + rest
    # every image once, and a few of each part at the start and at the end
    first = (120 + 2 * 15) * macs_below + rest
    again = 2 * 15 * macs_below + rest
    assert above == create_model("cbr_demo", 2, 1).get_submodule("head").weight.numel()
    assert equivalents(tmp_path, runs["probe 0"]) == pytest.approx(first / alone, rel=1e-12)
    assert equivalents(tmp_path, runs["probe 1"]) == pytest.approx(again / alone, rel=1e-12)


def test_a_bank_of_views_is_computed_once_and_changes_no_bit(
    study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[str, int]]
) -> None:
    arms = {name: ARMS[name] for name in ("random", "probe")}
    made = study(arms=arms, train={**TRAIN, "augment": "cifar", "augmentation_bank": 2})
    runs = carried_out(made, tmp_path / "shared", ("random", "probe"))
    proof = 8 + 1 + 2 * 15  # of each run: what is tried, and a few of each part at the start and at the end
    assert sum(images for _, images in passes) == 2 * 60 + 30 + 30 + 2 * proof
    monkeypatch.setattr(feature_files, "FREE_SHARE", 0.0)
    carried_out(made, tmp_path / "direct", ("random", "probe"))
    assert_same_bits(tmp_path / "shared", tmp_path / "direct", runs)
    plain = carried_out(study(arms=arms), tmp_path / "plain", ("probe",))
    assert plain["probe 0"].run_id != runs["probe 0"].run_id
    weights, other = bits(tmp_path / "shared", runs["probe 0"])[0], bits(tmp_path / "plain", plain["probe 0"])[0]
    assert not torch.equal(weights["head.weight"], other["head.weight"])


def test_other_weights_share_nothing(study: Make, tmp_path: Path) -> None:
    arms = {"random": {}, "fixed": {"freeze": "middle"}}
    carried_out(study(arms=arms), tmp_path, ("fixed",))
    assert len(files(tmp_path)) == 6  # each seed draws its own


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nonsense"], ids=["other features", "nonsense"])
def test_damaged_and_foreign_files_are_computed_again(study: Make, tmp_path: Path, damage: bytes) -> None:
    carried_out(study(seeds=[1]), tmp_path / "alone")
    carried_out(study(seeds=[0]), tmp_path / "out")
    written = sorted((tmp_path / "out" / "features").glob("*.npy"), key=lambda file: file.stat().st_mtime_ns)
    assert len(written) == 6
    for file in written if damage else written[:2]:  # the first are of the training part
        if damage:
            file.write_bytes(damage)
        else:
            np.save(file, np.load(file) * 1.5)
    runs = carried_out(study(seeds=[1]), tmp_path / "out")
    assert_same_bits(tmp_path / "alone", tmp_path / "out", runs)


def test_a_disk_that_fills_while_features_are_written_costs_only_time(
    study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = carried_out(study(seeds=[0]), tmp_path / "room")

    @contextmanager
    def full(path: Path, need: int = 0) -> Iterator[Any]:
        raise StoreError(f"{path}: no space left on device")
        yield

    monkeypatch.setattr(feature_files, "written", full)
    carried_out(study(seeds=[0]), tmp_path / "full")
    assert not files(tmp_path / "full")
    assert_same_bits(tmp_path / "room", tmp_path / "full", runs)


def test_files_that_are_there_need_no_room(study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried_out(study(seeds=[0]), tmp_path)
    monkeypatch.setattr(feature_files, "FREE_SHARE", 0.0)
    runs = carried_out(study(seeds=[1]), tmp_path)
    assert all(equivalents(tmp_path, run) < 1 for run in runs.values())


def test_what_another_process_is_writing_is_not_deleted_and_what_it_left_is(study: Make, tmp_path: Path) -> None:
    carried_out(study(seeds=[0]), tmp_path, ("probe",))
    (file, *_) = (tmp_path / "features").glob("*.npy")
    half = file.with_name(file.name + ".abc123")
    half.write_bytes(b"half")
    feature_files.delete_features(tmp_path)
    assert not files(tmp_path)
    assert half.exists()
    carried_out(study(seeds=[1]), tmp_path, ("probe",))
    assert not half.exists()


def test_only_runs_that_can_share_are_siblings(study: Make) -> None:
    arms = {
        "random": {},
        "probe": {"depth": "all", "freeze": "all"},
        "updated": {"depth": "all", "freeze": "middle", "norm_statistics": "updated"},
        "gabor": {"depth": "all", "freeze": "middle", "overrides": {"layer1": "gabor"}},
        "cut": {"depth": "all", "freeze": 1, "truncate": 2},
    }
    found = {run.arm: run.siblings for run in plan(study(arms=arms, seeds=2))}
    assert found == {
        **dict.fromkeys(("random", "updated", "cut"), ()),
        "probe": (shared_features.Sibling("all", "all"),) * 2,
        "gabor": (shared_features.Sibling("all", "middle"),) * 2,
    }


def test_why_features_are_not_used_is_written_down(
    study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfuse.models import prefix

    monkeypatch.setattr(prefix, "why_not_from", lambda *_: "it skips")
    runs = carried_out(study(seeds=[0]), tmp_path, ("probe",))
    record = Store(tmp_path).record(runs["probe 0"].run_id)
    assert record is not None
    assert record.facts["features_not_shared"] == "it skips"
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("arm", "train"),
    [
        ({"depth": "all", "freeze": "middle", "norm_statistics": "updated"}, {}),
        ({"depth": "all", "freeze": "middle"}, {"augment": "cifar"}),
        ({"depth": "all", "freeze": "middle"}, {"precision": "bf16"}),
        ({"depth": "all", "freeze": "middle"}, {"test_crops": "ten"}),
        ({"depth": "all", "tune": ["layer1"]}, {}),
    ],
    ids=["updated statistics", "augmentation", "mixed precision", "ten crops", "nothing below"],
)
def test_where_features_would_not_be_the_same_there_are_none(
    study: Make, tmp_path: Path, arm: dict[str, Any], train: dict[str, Any]
) -> None:
    runs = carried_out(study(arms={"random": {}, "arm": arm}, train={**TRAIN, **train}), tmp_path, ("arm",))
    assert not files(tmp_path)
    assert {equivalents(tmp_path, run) for run in runs.values()} == {1.0}


def test_surgical_fine_tuning_shares_what_lies_below(study: Make, tmp_path: Path) -> None:
    arms = {"random": {}, "surgical": {"depth": "all", "tune": ["layer3"]}}
    runs = carried_out(study(arms=arms), tmp_path, ("surgical",))
    assert len(files(tmp_path)) == 3
    assert all(equivalents(tmp_path, run) < 1 for run in runs.values())


def test_fewer_steps_than_an_epoch_do_not_compute_the_whole_training_part(
    study: Make, tmp_path: Path, passes: list[tuple[str, int]]
) -> None:
    arms = {name: ARMS[name] for name in ("random", "probe")}
    carried_out(study(arms=arms, train={"steps": 1, "batch_size": 16}, seeds=1), tmp_path, ("probe",))
    assert len(files(tmp_path)) == 2  # validation and test
    assert sum(images for _, images in passes) < 60 + 30 + 30


def test_frozen_blocks_that_move_stop_the_run(study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_module.frozen_features

    @contextmanager
    def moving(network: Any, *rest: Any) -> Iterator[Any]:
        with real(network, *rest) as frozen:
            yield frozen
            with torch.no_grad():
                next(network.model.parameters()).add_(1.0)

    monkeypatch.setattr(run_module, "frozen_features", moving)
    events: list[Event] = []
    run = next(run for run in plan(study()) if run.arm == "probe")
    do_run(run, events.append, root=tmp_path, device="cpu")
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.message.startswith("the frozen part of the network moved: at the end it makes other features")


@pytest.mark.exhaustive
def test_a_study_deletes_its_features_and_two_workers_give_the_same_bits(study: Make, tmp_path: Path) -> None:
    @contextmanager
    def show(total: int, done: int, workers: int) -> Iterator[Tell]:
        yield lambda event: None

    spec = study()
    for workers in (1, 2):
        store = Store(tmp_path / str(workers))
        assert carry_out(spec, plan(spec), store, show=show, workers=workers, device="cpu").complete
        assert not files(store.root)
    assert_same_bits(tmp_path / "1", tmp_path / "2", {run.title: run for run in plan(spec)})
