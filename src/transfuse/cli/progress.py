"""Progress of a study: bars with time left on a terminal, a plain line log anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transfuse.study.events import Ended, Event, Failed, Note, Started, Tell, Validated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@contextmanager
def shown(console: Console, total: int, done: int, workers: int, later: int = 0) -> Iterator[Tell]:
    """Show the events of a study of `total` runs, of which `done` have ended already; `later` more follow."""
    total += later
    if console.is_terminal:
        with _Bars(console, total, done) as bars:
            yield bars.hear
    else:
        yield _Lines(console, total, done, workers).hear


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(0.4), duration(75), duration(4020)
    ('0.4 s', '1 min 15 s', '1 h 07 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class _Clock:
    """Time left, from what the last runs took: sources come first and are often longer than the others."""

    def __init__(self, total: int, done: int, workers: int) -> None:
        self.total, self.done, self.failed, self.workers = total, done, 0, workers
        self._seconds: list[float] = []

    def ended(self, seconds: float | None) -> None:
        """A run has ended after so many seconds, or failed."""
        if seconds is None:
            self.failed += 1
        else:
            self.done += 1
            self._seconds.append(seconds)

    def said(self) -> str:
        """How far the study is: `[5/8, 2 failed, about 8 s left]`."""
        failed = f"{self.failed} failed" if self.failed else ""
        return f"[{', '.join(filter(None, (f'{self.done}/{self.total}', failed, self.left())))}]"

    def left(self) -> str:
        runs = self.total - self.done - self.failed
        if not self._seconds or runs <= 0:
            return ""
        recent = self._seconds[-8:]
        mean = sum(recent) / len(recent)
        return f"about {duration(mean * runs / min(self.workers, runs))} left"


class _Lines:
    """One line for each thing that happens, for logs."""

    def __init__(self, console: Console, total: int, done: int, workers: int) -> None:
        self._console = console
        self._clock = _Clock(total, done, workers)
        self._titles: dict[str, str] = {}

    def hear(self, event: Event) -> None:
        self._console.print(
            f"{time.strftime('%H:%M:%S')}  {self._line(event)}", highlight=False, markup=False, soft_wrap=True
        )

    def _line(self, event: Event) -> str:
        if isinstance(event, Started):
            self._titles[event.run_id] = event.title
            again = ", going on from a checkpoint" if event.again else ""
            steps = f"  ({event.steps} steps{again})" if event.steps is not None else ""
            return f"start   {event.run_id}  {event.title}{steps}"
        if isinstance(event, Validated):
            return f"        {event.run_id}  {_validation(event)}"
        if isinstance(event, Ended):
            self._clock.ended(event.seconds)
            return (
                f"{'done' if event.status == 'finished' else event.status:<8}{event.run_id}  {event.title}  "
                f"{duration(event.seconds)}  {self._clock.said()}"
            )
        if isinstance(event, Failed):
            self._clock.ended(None)
            return f"FAILED  {event.run_id}  {event.title}  {self._clock.said()}: {event.message}"
        return event.text


class _Bars:
    """One bar for the study, one for each run that is being done."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._done, self._failed = done, 0
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", style="dim", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=3600,
        )
        self._study: TaskID = self._progress.add_task("study", total=total, completed=done, said="")
        self._runs: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def hear(self, event: Event) -> None:
        def show(text: str, style: str) -> None:
            self._progress.console.print(text, style=style, markup=False, highlight=False)

        if isinstance(event, Started):
            self._runs[event.run_id] = self._progress.add_task(event.title, total=event.steps, said="")
        elif isinstance(event, Validated):
            self._progress.update(self._runs[event.run_id], completed=event.step, said=_validation(event))
        elif isinstance(event, Ended | Failed):
            if event.run_id in self._runs:
                self._progress.remove_task(self._runs.pop(event.run_id))
            self._done += isinstance(event, Ended)
            self._failed += isinstance(event, Failed)
            said = f"{self._failed} failed" if self._failed else ""
            self._progress.update(self._study, completed=self._done, said=said)
            if isinstance(event, Failed):
                show(f"failed {event.title}: {event.message}", "red")
            elif event.status != "finished":
                show(f"{event.status} {event.title}: {event.reason}", "yellow")
        elif isinstance(event, Note):
            show(event.text, "")


def _validation(event: Validated) -> str:
    value = "undefined" if event.value is None else f"{event.value:.3f}"
    star = " (best so far)" if event.best else ""
    before = "  (done before)" if event.repeated else ""
    return f"step {event.step}  loss {event.train_loss:.3f}  val {event.monitor} {value}{star}{before}"
