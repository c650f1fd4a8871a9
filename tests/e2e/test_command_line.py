"""The command line as a person uses it: run, look, break, go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from transfuse.results.cut_search import Search, read_search
from transfuse.results.store import Store, Tables
from transfuse.study.plan import RunStatus, read_plan, status

Study = Callable[..., Path]
TIMES = ["train_seconds", "total_seconds"]


def transfuse(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from transfuse.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from transfuse.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore Ctrl-C
    )


def tables_of(out: Path) -> Tables:
    return Store(out).tables(read_plan(Store(out), "spots").rows)


def states_of(out: Path) -> list[RunStatus]:
    return status(Store(out), read_plan(Store(out), "spots").rows)


def searches_of(out: Path) -> list[Search]:
    return read_search(Store(out).study_folder("spots"))


def assert_same_results(one: Tables, other: Tables) -> None:
    """Bit-identical, times aside."""
    pd.testing.assert_frame_equal(one.runs.drop(columns=TIMES), other.runs.drop(columns=TIMES), check_exact=True)
    pd.testing.assert_frame_equal(
        one.history.drop(columns="seconds"), other.history.drop(columns="seconds"), check_exact=True
    )
    assert one.predictions["sample_id"].tolist() == other.predictions["sample_id"].tolist()
    np.testing.assert_array_equal(np.stack(one.predictions["scores"]), np.stack(other.predictions["scores"]))


@pytest.mark.slow
def test_a_study_from_start_to_report_and_again(tmp_path: Path, study_file: Study) -> None:
    study = study_file()
    checked = transfuse("check", study, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "6 runs (1 network x 3 arms x 2 seeds) and 1 source run" in checked.stdout

    first = transfuse("run", study, "--workers", 1, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("  start   ") == 7
    assert "val auroc" in first.stdout
    assert "net · source earlier · seed 0" in first.stdout
    report = tmp_path / "transfuse-out/studies/spots/report.html"
    assert f"Report: {report}" in first.stdout
    assert "Source earlier: NEGATIVE CONTROL: the labels were shuffled" in report.read_text()
    names = {path.name for path in (tmp_path / "transfuse-out/studies/spots/tables").iterdir()}
    assert names == {"runs.parquet", "history.parquet", "predictions.parquet"}

    second = transfuse("run", study, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "  start   " not in second.stdout

    shown = transfuse("status", cwd=tmp_path)
    assert "7 runs: 7 finished" in shown.stdout
    assert "why" not in shown.stdout  # nothing failed
    report.unlink()
    assert transfuse("report", cwd=tmp_path).returncode == 0
    assert report.exists()

    elsewhere = transfuse("run", study, "--out", "other", "--workers", 2, cwd=tmp_path)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert_same_results(tables_of(tmp_path / "transfuse-out"), tables_of(tmp_path / "other"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_killed_study_goes_on_to_the_same_tables(tmp_path: Path, study_file: Study, workers: int) -> None:
    study = study_file(train="{steps: 60, batch_size: 16, validate_every: 3}", seeds="1")
    whole = transfuse("run", study, "--out", "whole", "--workers", 1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    rng = np.random.default_rng(workers)
    kills = 0
    for _ in range(3):
        process = started("run", study, "--out", "killed", "--workers", workers, cwd=tmp_path)
        assert process.stdout is not None
        validations = int(rng.integers(2, 8))
        for line in process.stdout:
            validations -= " val auroc " in line
            if not validations:
                time.sleep(float(rng.uniform(0, 0.1)))
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
        process.stdout.close()
        process.wait()
    assert kills == 3
    again = transfuse("run", study, "--out", "killed", "--workers", workers, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_results(tables_of(tmp_path / "whole"), tables_of(tmp_path / "killed"))
    assert not list((tmp_path / "killed").rglob("*.part"))


@pytest.fixture
def search_file(study_file: Study) -> Path:
    """A search over the cuts of a network, which trains in rounds: each goes on from the checkpoints of the last."""
    return study_file(
        models="{net: {name: cbr_demo, padding: same_pool}}",
        arms="{whole: {truncate: all}, cut: {truncate: every}}",
        baseline="whole",
        search="{arm: cut, strategy: halving}",
        pairs="[]",
        sources="{}",
        train="{steps: 27, batch_size: 16, validate_every: 3}",
    )


@pytest.mark.exhaustive
def test_a_killed_search_goes_on_to_the_same_choice(tmp_path: Path, search_file: Path) -> None:
    whole = transfuse("run", search_file, "--out", "whole", "--workers", 1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    starts = []
    for kill_at in (3, 6, 7):  # the runs that have started in one life: within a round, and after the first one
        process = started("run", search_file, "--out", "killed", "--workers", 1, cwd=tmp_path)
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "  start   " in line
            if seen == kill_at:
                os.killpg(process.pid, signal.SIGKILL)
                break
        starts.append(seen)
        process.stdout.close()
        process.wait()
    assert starts[0] == 3
    again = transfuse("run", search_file, "--out", "killed", "--workers", 1, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert_same_results(tables_of(tmp_path / "whole"), tables_of(tmp_path / "killed"))
    assert searches_of(tmp_path / "whole") == searches_of(tmp_path / "killed")
    assert not list((tmp_path / "killed").rglob("*.ckpt"))


@pytest.mark.exhaustive
def test_two_processes_at_one_search_train_nothing_twice(tmp_path: Path, search_file: Path) -> None:
    whole = transfuse("run", search_file, "--out", "whole", "--workers", 1, cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    both = [started("run", search_file, "--out", "shared", "--workers", 1, cwd=tmp_path) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n\n".join(said)
    alone = whole.stdout.count("  start   ")
    assert sum(words.count("  start   ") for words in said) == alone
    assert_same_results(tables_of(tmp_path / "whole"), tables_of(tmp_path / "shared"))
    assert searches_of(tmp_path / "whole") == searches_of(tmp_path / "shared")


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, study_file: Study) -> None:
    study = study_file(train="{steps: 5000, batch_size: 16, validate_every: 5}")
    process = started("run", study, "--workers", 2, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if " val auroc " in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
            break
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert "Stopped. Nothing is lost" in rest
    assert f"transfuse run {study}" in rest
    assert "Traceback" not in rest
    states = {found.state for found in states_of(tmp_path / "transfuse-out")}
    assert "interrupted" in states
    assert "running" not in states


@pytest.mark.slow
def test_a_run_that_diverges_is_recorded_and_the_others_go_on(tmp_path: Path, study_file: Study) -> None:
    rate = "optimizer: {name: sgd, learning_rate: 1e30}"
    study = study_file(train=f"{{steps: 12, batch_size: 16, validate_every: 4, {rate}}}", seeds="1")
    found = transfuse("run", study, "--workers", 1, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("diverged") >= 3
    states = {one.row["arm"]: one for one in states_of(tmp_path / "transfuse-out")}
    assert {arm: one.state for arm, one in states.items()} == {
        "earlier": "finished",
        "random": "diverged",
        "pretrained": "diverged",
        "mean_var": "diverged",
    }
    assert "Lower the learning rate" in states["random"].detail
    assert (tmp_path / "transfuse-out/studies/spots/report.html").exists()


@pytest.mark.exhaustive
def test_a_failed_run_leaves_the_others_and_is_tried_again(tmp_path: Path, study_file: Study) -> None:
    study = study_file(seeds="1")
    first = transfuse("run", study, "--workers", 1, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    store = Store(tmp_path / "transfuse-out")
    rows = {row["arm"]: row["run_id"] for row in read_plan(store, "spots").rows}
    broken = store.run_folder(rows["pretrained"])
    (broken / "record.json").unlink()
    (broken / "checkpoints").mkdir(exist_ok=True)
    (store.run_folder(rows["earlier"]) / "best.safetensors").rename(tmp_path / "away")
    damaged = transfuse("run", study, "--workers", 1, cwd=tmp_path)
    assert damaged.returncode == 2
    assert "best.safetensors is missing; delete the folder" in damaged.stderr
    (tmp_path / "away").rename(store.run_folder(rows["earlier"]) / "best.safetensors")
    mended = transfuse("run", study, "--workers", 1, cwd=tmp_path)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert mended.stdout.count("  start   ") == 1


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ({"metrc": "auroc"}, ["metrc: unknown key; did you mean 'metric'?"]),
        ({"data": "{name: missing.npz, size: 16}"}, ["data: ", "missing.npz"]),
        ({"models": "{net: {name: cbr_dmo, weights: 'run:earlier'}}"}, ["models.net", "did you mean 'cbr_demo'?"]),
        (
            {"arms": "{random: {}, upto: {depth: layer9}}", "pairs": "[]"},
            ["arms.upto with models.net: ", "did you mean 'layer"],
        ),
        (
            {"models": "{net: {name: cbr_demo, padding: same_pool, weights: none.safetensors}}", "sources": "{}"},
            ["none.safetensors"],
        ),
        ({"models": "{net: {name: resnet18, weights: resnet18.a1_in1k}}", "sources": "{}"}, ["resnet18.a1_in1k"]),
    ],
)
def test_what_is_wrong_with_a_study_is_one_clear_message(
    tmp_path: Path, study_file: Study, lines: dict[str, str], messages: list[str]
) -> None:
    found = transfuse("check", study_file(**lines), cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    for message in messages:
        assert message in found.stderr


def test_a_missing_study_file_is_one_clear_message(tmp_path: Path) -> None:
    found = transfuse("run", "stdy.yaml", cwd=tmp_path)
    assert (found.returncode, "there is no study file 'stdy.yaml'" in found.stderr) == (2, True)


def test_status_of_nothing_says_how_to_begin(tmp_path: Path) -> None:
    found = transfuse("status", cwd=tmp_path)
    assert found.returncode == 2
    assert "no study was begun in 'transfuse-out'; start one with: transfuse run STUDY.yaml" in found.stderr


def test_blocks_of_a_network_are_shown(tmp_path: Path) -> None:
    found = transfuse("show", "blocks", "resnet18", "--level", "wt-st", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "layer4" in found.stdout
    assert "11,177,538" in found.stdout  # ResNet-18 with two outputs


def test_data_are_described(tmp_path: Path, tiny_npz: Path) -> None:
    found = transfuse("data", "inspect", tiny_npz, "--size", 16, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "120 images, patients unknown" in found.stdout
    assert "Without patient ids" in found.stdout
