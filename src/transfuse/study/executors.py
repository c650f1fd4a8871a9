"""Ways to do runs: here, or in worker processes. All state is on disk, so an executor only starts runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

from transfuse.study.events import Ended, Event, Failed, Tell


class Job(Protocol):
    """What can be done by itself: a run, or an analysis."""

    @property
    def run_id(self) -> str:
        """Its identity."""

    @property
    def needs(self) -> str | None:
        """The run that must have finished before it starts."""

    @property
    def title(self) -> str:
        """How a person recognises it."""


Work = Callable[[Any, Tell], None]
"""Does one job to its end; raises nothing but KeyboardInterrupt; must be picklable for worker processes."""


class Queue:
    """Runs in the order in which their sources allow them; those that another process is at come last.

    Args:
        runs: each once.
        done: ids of runs that need not be done.
        held: whether another process is at a run now.
    """

    def __init__(self, runs: Sequence[Job], done: set[str], held: Callable[[str], bool] = lambda run_id: False) -> None:
        self._waiting = deque(run for run in runs if run.run_id not in done)
        self._done = set(done)
        self._held = held

    def ready(self) -> Job | None:
        """Take the next run that can start now."""
        ready = [run for run in self._waiting if run.needs is None or run.needs in self._done]
        if not ready:
            return None
        run = next((run for run in ready if not self._held(run.run_id)), ready[0])
        self._waiting.remove(run)
        return run

    def hear(self, event: Event) -> Iterator[Event]:
        """Take note of an event; a source without weights to give fails its runs, and theirs, which are yielded."""
        if isinstance(event, Ended) and event.status == "finished":
            self._done.add(event.run_id)
        elif isinstance(event, Failed | Ended):
            why = event.message if isinstance(event, Failed) else event.reason
            for run in [run for run in self._waiting if run.needs == event.run_id]:
                self._waiting.remove(run)
                failed = Failed(run.run_id, run.title, f"its source run ({event.title}) gave no weights: {why}")
                yield failed
                yield from self.hear(failed)


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
    slot: int


def local_processes(queue: Queue, work: Work, tell: Tell, *, workers: int, gpus: Sequence[str] = ()) -> None:
    """Do the runs in `workers` processes; a process that dies costs its run, which fails, and is replaced.

    Args:
        queue: what is to be done.
        work: does one run.
        tell: hears every event, in this process.
        workers: how many processes at the most.
        gpus: names for CUDA_VISIBLE_DEVICES; each worker sees one of them.
    """
    context = multiprocessing.get_context("spawn")
    busy: dict[_Worker, Job] = {}
    idle: list[_Worker] = []

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        slot = min(set(range(workers)) - {worker.slot for worker in busy})
        gpu = gpus[slot % len(gpus)] if gpus else None
        process = context.Process(target=_serve, args=(theirs, work, gpu), daemon=True)
        with _ctrl_c_held_back():
            process.start()
        theirs.close()
        return _Worker(process, ours, slot)

    def give(run: Job) -> None:
        while idle:
            worker = idle.pop()
            try:
                worker.pipe.send(run)
            except OSError:  # it died while it had nothing to do
                worker.process.join()
            else:
                busy[worker] = run
                return
        worker = start()
        worker.pipe.send(run)
        busy[worker] = run

    def pass_on(event: Event) -> None:
        tell(event)
        for consequence in queue.hear(event):
            tell(consequence)

    try:
        while True:
            while len(busy) < workers and (run := queue.ready()) is not None:
                give(run)
            if not busy:
                break
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                run = busy[worker]
                try:
                    event = worker.pipe.recv()
                except (EOFError, OSError):
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
            worker.process.terminate()
        for worker in [*busy, *idle]:
            worker.process.join()
            worker.pipe.close()


@contextlib.contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """A process started within never hears Ctrl-C, which is the parent's business; the parent hears it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        cause = f"was killed by {signal.Signals(-exitcode).name}"
        hint = (
            "; often this means too little memory: use fewer workers or a smaller batch_size" if exitcode == -9 else ""
        )
        return f"its worker process {cause}{hint}"
    return f"its worker process ended unexpectedly with exit code {exitcode}"


def _serve(pipe: Connection, work: Work, gpu: str | None) -> None:
    """A worker: do what comes through the pipe until it closes; it sees one GPU at the most."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before torch is imported, which is when it counts
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            work(pipe.recv(), pipe.send)
