"""Ways to do runs: here, or in worker processes. All state is on disk, so an executor only starts runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from transfuse.study.events import Ended, Event, Failed, Tell
from transfuse.study.expand import PlannedRun

Work = Callable[[PlannedRun, Tell], None]
"""Does one run to its end; raises nothing but KeyboardInterrupt; must be picklable for worker processes."""


class Queue:
    """Runs in the order in which their sources allow them.

    Args:
        runs: each once.
        done: run ids that have ended well already.
    """

    def __init__(self, runs: Sequence[PlannedRun], done: set[str]) -> None:
        self._waiting = deque(run for run in runs if run.run_id not in done)
        self._done = set(done)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ready(self) -> PlannedRun | None:
        """Take the next run that can start now."""
        for run in self._waiting:
            if run.needs is None or run.needs in self._done:
                self._waiting.remove(run)
                return run
        return None

    def hear(self, event: Event) -> Iterator[Event]:
        """Take note of an event; when a source has no weights to give, its runs fail too, and are yielded."""
        if isinstance(event, Ended) and event.status == "finished":
            self._done.add(event.run_id)
        elif isinstance(event, Failed | Ended):
            for run in [run for run in self._waiting if run.needs == event.run_id]:
                self._waiting.remove(run)
                yield Failed(run.run_id, run.title, f"its source run {event.run_id} ({event.title}) gave no weights")


def in_process(queue: Queue, work: Work, tell: Tell) -> None:
    """Do the runs one after the other in this process."""

    def pass_on(event: Event) -> None:
        tell(event)
        for consequence in queue.hear(event):
            tell(consequence)

    while (run := queue.ready()) is not None:
        work(run, pass_on)


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


def local_processes(queue: Queue, work: Work, tell: Tell, *, workers: int) -> None:
    """Do the runs in `workers` processes; a process that dies costs its run, which fails, and is replaced."""
    context = multiprocessing.get_context("spawn")
    busy: dict[_Worker, PlannedRun] = {}
    idle: list[_Worker] = []

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _deaf_to_ctrl_c():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def pass_on(event: Event) -> None:
        tell(event)
        for consequence in queue.hear(event):
            tell(consequence)

    try:
        while True:
            while len(busy) < workers and (run := queue.ready()) is not None:
                worker = idle.pop() if idle else start()
                worker.pipe.send(run)
                busy[worker] = run
            if not busy:
                break
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                run = busy[worker]
                try:
                    event = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    del busy[worker]
                    worker.process.join()
                    pass_on(Failed(run.run_id, run.title, _death(worker.process.exitcode)))
                    continue
                pass_on(event)
                if isinstance(event, Ended | Failed):
                    idle.append(worker)
                    del busy[worker]
    finally:
        for worker in [*busy, *idle]:
            worker.pipe.close()
            worker.process.terminate()
        for worker in [*busy, *idle]:
            worker.process.join()


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process started within ignores Ctrl-C from its first moment on: stopping is the parent's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        cause = f"was killed by {signal.Signals(-exitcode).name}"
        hint = (
            "; often this means too little memory: use fewer workers or a smaller batch_size" if exitcode == -9 else ""
        )
        return f"its worker process {cause}{hint}"
    return f"its worker process ended unexpectedly with exit code {exitcode}"


def _serve(pipe: Connection, work: Work) -> None:
    """A worker: do what comes through the pipe until it closes."""
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            work(pipe.recv(), pipe.send)
