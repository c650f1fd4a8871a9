"""One attempt at a run or an analysis: alone at it, and whatever goes wrong is recorded and told, never raised."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from transfuse.errors import StoreError, TransfuseError
from transfuse.results.attempts import Attempt, AttemptLost
from transfuse.results.store import RunRecord, Store
from transfuse.study.events import Ended, Event, Failed, Note, Tell, Validated
from transfuse.study.executors import Job


def attempt(
    job: Job,
    store: Store,
    tell: Tell,
    do: Callable[[Path, Tell], RunRecord],
    *,
    enough: Callable[[RunRecord], bool] = lambda record: True,
) -> None:
    """Do a job that has no record yet; another process that is at it is waited for.

    Args:
        job: the run, or the analysis.
        store: where its record is kept.
        tell: hears what happens.
        do: does it in a folder, telling what happens, and gives the record that it wrote there last.
        enough: whether a record that is there will do; if not, the job is done again and takes its place.
    """
    try:
        while not _attempted(job, store, tell, do, enough):
            tell(Note(f"{job.title}: another process took it over, as this one stood still; waiting for it"))
    except (BrokenPipeError, ConnectionResetError):
        raise  # nobody listens any more: the study was stopped, the job was not at fault
    except Exception as error:  # the study goes on without it
        message = str(error) if isinstance(error, TransfuseError) else f"{type(error).__name__}: {error}"
        try:
            store.fail(job.run_id, job.title, message, traceback.format_exc())
        except StoreError as second:
            message = f"{message} (and the failure could not be written down: {second})"
        tell(Failed(job.run_id, job.title, message))


def _attempted(
    job: Job,
    store: Store,
    tell: Tell,
    do: Callable[[Path, Tell], RunRecord],
    enough: Callable[[RunRecord], bool],
) -> bool:
    """Whether the job has ended; not where another process has taken it over."""
    waiting = Note(f"{job.title}: another process is at it; waiting for it")
    with store.alone(job.run_id, lambda: tell(waiting)) as held:
        began = time.monotonic()
        record = store.record(job.run_id)
        if record is None or not enough(record):
            try:
                record = _done(held, do, tell, enough, store)
                held.publish(store.run_folder(job.run_id))
            except AttemptLost:
                return False
        tell(Ended(job.run_id, job.title, record.status, record.reason, time.monotonic() - began))
    return True


def _done(
    held: Attempt,
    do: Callable[[Path, Tell], RunRecord],
    tell: Tell,
    enough: Callable[[RunRecord], bool],
    store: Store,
) -> RunRecord:
    record = store.record_in(held.folder)  # of one who was killed before it was published
    if record is not None and enough(record):
        return record

    def tell_if_held(event: Event) -> None:
        if isinstance(event, Validated):
            held.check()
        tell(event)

    return do(held.folder, tell_if_held)
