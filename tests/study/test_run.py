"""One run: what goes wrong is recorded and told, and nothing is recorded under a wrong name."""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transfuse.results.attempts import Attempt
from transfuse.results.store import Store
from transfuse.specs import StudySpec
from transfuse.study import sources
from transfuse.study.events import Ended, Event, Failed, Note, Started, Validated
from transfuse.study.plan import plan
from transfuse.study.run import do_run

MakeStudy = Callable[..., StudySpec]


@pytest.fixture(autouse=True)
def _fresh_look_ups() -> Iterator[None]:
    sources.fingerprint.cache_clear()
    sources.weights_sha256.cache_clear()
    yield
    sources.fingerprint.cache_clear()
    sources.weights_sha256.cache_clear()


def test_a_run_tells_what_it_does_and_leaves_its_files(make_study: MakeStudy, tmp_path: Path) -> None:
    run, events = plan(make_study())[0], list[Event]()
    do_run(run, events.append, root=tmp_path, device="cpu")
    assert [type(event) for event in events] == [Started, Validated, Validated, Ended]
    record = Store(tmp_path).record(run.run_id)
    assert record is not None
    assert record.status == "finished"
    assert set(record.files) == {
        "spec.json",
        "environment.json",
        "initial.safetensors",
        "history.parquet",
        "best.safetensors",
        "predictions.parquet",
    }
    assert 0 <= (record.metrics["auroc"] or 0) <= 1
    assert not (Store(tmp_path).run_folder(run.run_id) / "checkpoints").exists()


def test_a_finished_run_is_not_done_again(make_study: MakeStudy, tmp_path: Path) -> None:
    run, events = plan(make_study())[0], list[Event]()
    do_run(run, lambda event: None, root=tmp_path, device="cpu")
    do_run(run, events.append, root=tmp_path, device="cpu")
    assert [type(event) for event in events] == [Ended]


def test_a_run_that_another_process_took_over_is_waited_for(make_study: MakeStudy, tmp_path: Path) -> None:
    run, events = plan(make_study(train={"steps": 6, "batch_size": 16, "validate_every": 2}))[0], list[Event]()
    home = Store(tmp_path / "taken").attempts(run.run_id)

    def hear(event: Event) -> None:
        events.append(event)
        if isinstance(event, Validated) and event.step == 2 and not event.repeated:
            (mine,) = home.glob("claim-*")  # now it belongs to a machine that works for half a second
            mine.write_text(json.dumps({"token": "theirs", "machine": "another"}))
            os.utime(mine)
            threading.Timer(0.5, mine.unlink).start()

    do_run(run, hear, root=tmp_path / "taken", device="cpu")
    notes = [event.text for event in events if isinstance(event, Note)]
    assert [note.partition(": ")[2] for note in notes] == [
        "another process took it over, as this one stood still; waiting for it",
        "another process is at it; waiting for it",
    ]
    assert [event.again for event in events if isinstance(event, Started)] == [False, True]
    assert isinstance(events[-1], Ended)
    do_run(run, lambda event: None, root=tmp_path / "whole", device="cpu")
    taken, whole = (Store(tmp_path / name) for name in ("taken", "whole"))
    assert taken.predictions(run.run_id).equals(whole.predictions(run.run_id))
    assert list(home.parent.iterdir()) == []


def test_a_run_that_was_killed_before_it_was_published_is_published(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, events = plan(make_study())[0], list[Event]()
    with monkeypatch.context() as patched:
        patched.setattr(Attempt, "publish", lambda self, to: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            do_run(run, lambda event: None, root=tmp_path, device="cpu")
    assert Store(tmp_path).record(run.run_id) is None
    do_run(run, events.append, root=tmp_path, device="cpu")
    assert [type(event) for event in events] == [Ended]
    assert Store(tmp_path).record(run.run_id) is not None


def test_data_that_changed_after_planning_are_refused(make_study: MakeStudy, tiny_npz: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    shutil.copy(tiny_npz, path)
    run, events = plan(make_study(data={"name": str(path), "size": 16}))[0], list[Event]()
    arrays = dict(np.load(path))
    arrays["train_images"] = arrays["train_images"][::-1]
    np.savez(path, **arrays)
    do_run(run, events.append, root=tmp_path / "out", device="cpu")
    (failed,) = events
    assert isinstance(failed, Failed)
    assert "changed after planning" in failed.message
    assert "start the study again" in failed.message
    assert Store(tmp_path / "out").record(run.run_id) is None
    assert Store(tmp_path / "out").failure(run.run_id) is not None


def test_a_full_disk_names_the_file_and_the_cure(make_study: MakeStudy, tmp_path: Path) -> None:
    run, events = plan(make_study())[0], list[Event]()
    sources.open_data(run.spec.data).pixels()  # so that only results are written below
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        do_run(run, events.append, root=tmp_path, device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    (failed,) = events
    assert isinstance(failed, Failed)
    assert "cannot write" in failed.message
    assert "initial.safetensors" in failed.message
    assert not list(tmp_path.rglob("*.part"))
    do_run(run, events.append, root=tmp_path, device="cpu")
    assert isinstance(events[-1], Ended)


def test_a_listener_that_is_gone_is_no_fault_of_the_run(make_study: MakeStudy, tmp_path: Path) -> None:
    run = plan(make_study())[0]

    def gone(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        do_run(run, gone, root=tmp_path, device="cpu")
    assert Store(tmp_path).failure(run.run_id) is None


def test_a_failure_keeps_its_traceback(make_study: MakeStudy, tmp_path: Path) -> None:
    run, events = plan(make_study())[0], list[Event]()
    broken = replace(run, spec=replace(run.spec, model=replace(run.spec.model, name="cbr_nosuch")))
    do_run(broken, events.append, root=tmp_path, device="cpu")
    failure = Store(tmp_path).failure(run.run_id)
    assert failure is not None
    assert "cbr_nosuch" in failure["message"]
    assert "Traceback" in failure["traceback"]


NETWORK = """
from torch import nn

from {layers} import WIDTH


def net(classes, channels):
    body = nn.Conv2d(channels, WIDTH, 3)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, classes))
"""


def test_ones_own_network_that_was_changed_is_trained_again(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own module, and one beside it that it uses; what else lies there is none of its business."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(width: int, comment: str = "", other: str = "", beside: str = "") -> str:
        for module in ("own_net", "own_layers"):
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        (tmp_path / "own_net.py").write_text(NETWORK.format(layers="own_layers") + comment)
        (tmp_path / "own_layers.py").write_text(f"import torch\n\nWIDTH = {width}\n\n\ndef layer():\n    ...\n{beside}")
        (tmp_path / "own_other.py").write_text(other)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        (run,) = plan(make_study(models={"net": {"name": "own_net:net"}}, seeds=1))
        return run.run_id

    first = found(4)
    assert found(4) == first
    assert found(4, other="x = 1") == first
    assert found(8) != first
    assert found(4, comment="# otherwise") != first
    assert found(4, beside="# otherwise") != first


def test_a_network_that_changed_after_planning_is_refused(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "late_layers.py").write_text("WIDTH = 4\n")
    (tmp_path / "late_net.py").write_text(NETWORK.format(layers="late_layers"))
    (run,) = plan(make_study(models={"net": {"name": "late_net:net"}}, seeds=1))
    with (tmp_path / "late_net.py").open("a") as file:
        file.write("# another\n")
    events = list[Event]()
    do_run(run, events.append, root=tmp_path / "out", device="cpu")
    (failed,) = events
    assert isinstance(failed, Failed)
    assert "the network 'late_net:net' changed after planning; start the study again" in failed.message
