"""Every executor does the same: each run once, after its source, and goes on when one fails or its process dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transfuse.specs import DataSpec, InitSpec, ModelSpec, RunSpec, TrainSpec
from transfuse.study.events import Ended, Event, Failed, Tell
from transfuse.study.executors import Queue, Work, in_process, local_processes
from transfuse.study.expand import PlannedRun

SPEC = RunSpec(
    data=DataSpec(name="x"),
    model=ModelSpec(name="x"),
    init=InitSpec(),
    train=TrainSpec(steps=1),
    seed=0,
    monitor="loss",
    fingerprint="x",
)


def planned(name: str, needs: str | None = None) -> PlannedRun:
    return PlannedRun(SPEC, name, "net", name, "arm", needs)


RUNS = [planned("a", "source"), planned("b"), planned("source"), planned("c", "source"), planned("d")]


class OneLine:
    """Ends every run, leaving a line; fails `bad`; dies at `dead`. A class, so that worker processes can import it."""

    def __init__(self, folder: Path, bad: str = "", dead: str = "", dies_after: str = "", slow: str = "") -> None:
        self.folder, self.bad, self.dead, self.dies_after, self.slow = folder, bad, dead, dies_after, slow

    def __call__(self, run: PlannedRun, tell: Tell) -> None:
        with (self.folder / "order").open("a") as order:
            order.write(run.run_id + "\n")
        if run.run_id == self.slow:
            time.sleep(1.5)
        if run.run_id == self.dead:
            os.kill(os.getpid(), signal.SIGKILL)
        if run.run_id == self.bad:
            tell(Failed(run.run_id, run.title, "bad"))
        else:
            tell(Ended(run.run_id, run.title, "finished", "", 0.0))
        if run.run_id == self.dies_after:
            time.sleep(0.2)  # until the parent has heard the end of the run
            os.kill(os.getpid(), signal.SIGKILL)


def two_processes(queue: Queue, work: Work, tell: Tell) -> None:
    local_processes(queue, work, tell, workers=2)


class ShowGpu:
    """Notes the GPU that its process sees."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, run: PlannedRun, tell: Tell) -> None:
        with (self.folder / "gpus").open("a") as gpus:
            gpus.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\n")
        tell(Ended(run.run_id, run.title, "finished", "", 0.0))


Executor = Callable[[Queue, Work, Tell], None]
EXECUTORS = pytest.mark.parametrize("executor", [in_process, two_processes], ids=["in_process", "local_processes"])


def carried_out(executor: Executor, folder: Path, done: set[str], **work: str) -> tuple[list[str], list[Event]]:
    events: list[Event] = []
    executor(Queue(RUNS, done), OneLine(folder, **work), events.append)
    order = folder / "order"
    return (order.read_text().split() if order.exists() else []), events


@EXECUTORS
def test_each_run_is_done_once_and_after_its_source(executor: Executor, tmp_path: Path) -> None:
    order, events = carried_out(executor, tmp_path, set())
    assert sorted(order) == ["a", "b", "c", "d", "source"]
    assert order.index("source") < min(order.index("a"), order.index("c"))
    assert len(events) == 5


@EXECUTORS
def test_what_is_done_is_not_done_again(executor: Executor, tmp_path: Path) -> None:
    order, _ = carried_out(executor, tmp_path, {"source", "b", "d"})
    assert sorted(order) == ["a", "c"]


@EXECUTORS
def test_a_failed_source_fails_its_runs_and_no_others(executor: Executor, tmp_path: Path) -> None:
    order, events = carried_out(executor, tmp_path, set(), bad="source")
    assert sorted(order) == ["b", "d", "source"]
    failed = {event.run_id: event.message for event in events if isinstance(event, Failed)}
    assert set(failed) == {"source", "a", "c"}
    assert "its source run (net · source · seed 0) gave no weights: bad" in failed["a"]
    assert {event.run_id for event in events if isinstance(event, Ended)} == {"b", "d"}


@EXECUTORS
def test_a_failed_source_fails_all_that_comes_of_it(executor: Executor, tmp_path: Path) -> None:
    chain = [planned("arm", "second"), planned("second", "first"), planned("first"), planned("b")]
    events: list[Event] = []
    executor(Queue(chain, set()), OneLine(tmp_path, bad="first"), events.append)
    failed = {event.run_id: event.message for event in events if isinstance(event, Failed)}
    assert set(failed) == {"first", "second", "arm"}
    assert failed["arm"].startswith(
        "its source run (net · second · seed 0) gave no weights: its source run (net · first"
    )
    assert failed["arm"].endswith("bad")
    assert (tmp_path / "order").read_text().split() in (["first", "b"], ["b", "first"])


def test_a_source_that_had_diverged_before_fails_all_that_comes_of_it(tmp_path: Path) -> None:
    queue = Queue([planned("arm", "second"), planned("second", "first"), planned("first")], {"first"})
    heard = list(queue.hear(Ended("first", "first", "diverged", "the loss is not finite", 0.0)))
    assert [(type(event), event.run_id) for event in heard] == [(Failed, "second"), (Failed, "arm")]
    assert queue.ready() is None


def test_a_worker_that_is_killed_costs_one_run(tmp_path: Path) -> None:
    order, events = carried_out(two_processes, tmp_path, set(), dead="b")
    assert sorted(order) == ["a", "b", "c", "d", "source"]
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.run_id == "b"
    assert "was killed by SIGKILL; often this means too little memory" in failed.message
    assert len([event for event in events if isinstance(event, Ended)]) == 4


def test_a_worker_that_dies_while_idle_is_replaced(tmp_path: Path) -> None:
    events: list[Event] = []
    queue = Queue([run for run in RUNS if run.run_id != "d"], set())
    two_processes(queue, OneLine(tmp_path, dies_after="b", slow="source"), events.append)
    assert sorted((tmp_path / "order").read_text().split()) == ["a", "b", "c", "source"]
    assert len([event for event in events if isinstance(event, Ended)]) == 4


def test_runs_that_another_process_is_at_come_last(tmp_path: Path) -> None:
    in_process(Queue(RUNS, {"source"}, lambda run_id: run_id == "a"), OneLine(tmp_path), lambda event: None)
    assert (tmp_path / "order").read_text().split()[-1] == "a"


def test_every_worker_sees_one_gpu(tmp_path: Path) -> None:
    local_processes(Queue(RUNS, set()), ShowGpu(tmp_path), lambda event: None, workers=2, gpus=("GPU-a", "GPU-b"))
    assert set((tmp_path / "gpus").read_text().split()) <= {"GPU-a", "GPU-b"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_no_runs_need_no_worker(tmp_path: Path) -> None:
    order, events = carried_out(two_processes, tmp_path, {run.run_id for run in RUNS})
    assert (order, events) == ([], [])
