"""The store: whole files or none, damage noticed, one process a run."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from transfuse.errors import StoreError
from transfuse.results.store import RunRecord, Store, replacing, write_json, write_table


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def finished(store: Store, run_id: str = "abc") -> RunRecord:
    folder = store.run_folder(run_id)
    history = pd.DataFrame(
        {"step": [1], "epoch": [1.0], "split": ["val"], "quantity": ["auroc"], "value": [0.5], "seconds": [0.1]}
    )
    write_table(folder / "history.parquet", history)
    predictions = pd.DataFrame(
        {"part": ["test"], "sample_id": ["s"], "patient_id": ["p"], "target": [[1.0]], "scores": [[0.2, 0.8]]}
    )
    write_table(folder / "predictions.parquet", predictions)
    record = RunRecord(run_id, "finished", facts={"parameters": 3}, metrics={"auroc": 0.5, "kappa": None}, notes=("n",))
    return store.finish(record, ["history.parquet", "predictions.parquet"])


ROW = {"run_id": "abc", "model": "net", "arm": "random", "seed": 0, "role": "arm"}


def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    record = finished(store)
    assert store.record("abc") == record
    assert store.record("other") is None


def test_tables_hold_the_runs_that_have_ended(store: Store) -> None:
    finished(store)
    tables = store.tables([ROW, {**ROW, "run_id": "missing"}])
    assert tables.runs.loc[0, ["run_id", "arm", "status", "test_auroc", "parameters"]].tolist() == [
        "abc",
        "random",
        "finished",
        0.5,
        3,
    ]
    assert tables.history.loc[0, "run_id"] == "abc"
    assert list(tables.predictions.loc[0, "scores"]) == [0.2, 0.8]


def test_arms_that_share_a_run_share_its_predictions(store: Store) -> None:
    finished(store)
    tables = store.tables([ROW, {**ROW, "arm": "again"}])
    assert (len(tables.runs), len(tables.history), len(tables.predictions)) == (2, 1, 1)


def test_no_runs_give_empty_tables(store: Store) -> None:
    assert all(frame.empty for frame in store.tables([ROW]))


def test_a_truncated_file_of_a_finished_run_is_named(store: Store) -> None:
    finished(store)
    path = store.run_folder("abc") / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        StoreError, match=r"predictions\.parquet has \d+ bytes instead of \d+; delete the folder .* only this"
    ):
        store.record("abc")


def test_a_missing_file_of_a_finished_run_is_named(store: Store) -> None:
    finished(store)
    (store.run_folder("abc") / "history.parquet").unlink()
    with pytest.raises(StoreError, match=r"history\.parquet is missing; delete the folder"):
        store.record("abc")


@pytest.mark.parametrize("text", ["{", '{"run_id": "abc"}', '{"notes": [], "transfer": [], "colour": 1}'])
def test_a_damaged_record_is_named(store: Store, text: str) -> None:
    finished(store)
    (store.run_folder("abc") / "record.json").write_text(text)
    with pytest.raises(StoreError, match=r"record\.json is damaged"):
        store.record("abc")


def test_publishing_forgets_an_earlier_failure(store: Store) -> None:
    store.fail("abc", "a run", "no")
    assert store.failure("abc") == {"title": "a run", "message": "no", "traceback": ""}
    with store.alone("abc", lambda: None) as held:
        store.finish(RunRecord("abc", "diverged"), [], held.folder)
        assert store.record("abc") is None
        held.publish(store.run_folder("abc"))
    record = store.record("abc")
    assert record is not None
    assert record.status == "diverged"
    assert store.failure("abc") is None


def test_a_folder_of_an_earlier_version_is_gone_on_with(store: Store) -> None:
    write_json(store.run_folder("abc") / "checkpoints" / "last.ckpt", {"step": 10})
    with store.alone("abc", lambda: None) as held:
        assert (held.folder / "checkpoints" / "last.ckpt").exists()
        assert not store.run_folder("abc").exists()
    finished(store)
    with store.alone("abc", lambda: None):
        assert store.record("abc") is not None


def test_a_full_disk_keeps_what_was_there_and_says_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.root / "file.json"
    write_json(path, {"old": 1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"no space left while writing .*file\.json; earlier results are intact: free some"
    ):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in store.root.iterdir()] == ["file.json"]


def test_a_folder_of_somebody_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(StoreError, match="choose a folder of your own with --out"):
        write_json(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_block_leaves_nothing(tmp_path: Path) -> None:
    def half_written() -> None:
        with replacing(tmp_path / "x") as path:
            path.write_text("half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_nan_is_not_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})


def test_a_run_is_held_by_one_at_a_time(store: Store) -> None:
    asked = []
    with store.alone("abc", lambda: asked.append(1)):
        assert store.is_running("abc")
    assert not store.is_running("abc")
    assert not store.is_running("never-begun")
    assert asked == []


def test_an_unknown_study_is_answered_with_the_nearest(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no study was begun there; start one with: transfuse run"):
        store.plan_file("demo")
    folder = store.study_folder("demo")
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    with pytest.raises(StoreError, match=r"there is no study 'dmo' in .*; did you mean 'demo'"):
        store.plan_file("dmo")
