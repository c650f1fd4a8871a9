"""One attempt at a run or an analysis: alone at it, and whatever goes wrong is recorded and told, never raised."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

from transfuse.errors import StoreError, TransfuseError
from transfuse.results.store import RunRecord, Store, write_json
from transfuse.study.events import Ended, Failed, Note, Tell
from transfuse.study.executors import Job


def attempt(
    job: Job,
    store: Store,
    tell: Tell,
    do: Callable[[], RunRecord],
    *,
    enough: Callable[[RunRecord], bool] = lambda record: True,
) -> None:
    """Do a job that has no record yet; another process that is at it is waited for.

    Args:
        job: the run, or the analysis.
        store: where its record is kept.
        tell: hears what happens.
        do: does it, and gives the record that it wrote.
        enough: whether a record that is there will do; if not, it is given up and the job is done again.
    """
    try:
        with store.alone(job.run_id, lambda: tell(Note(f"{job.title}: another process is at it; waiting for it"))):
            began = time.monotonic()
            record = store.record(job.run_id)
            if record is not None and not enough(record):
                (store.run_folder(job.run_id) / "record.json").unlink()
                record = None
            record = record or do()
            tell(Ended(job.run_id, job.title, record.status, record.reason, time.monotonic() - began))
    except (BrokenPipeError, ConnectionResetError):
        raise  # nobody listens any more: the study was stopped, the job was not at fault
    except Exception as error:  # the study goes on without it
        message = str(error) if isinstance(error, TransfuseError) else f"{type(error).__name__}: {error}"
        failure = {"title": job.title, "message": message, "traceback": traceback.format_exc()}
        try:
            write_json(store.run_folder(job.run_id) / "failure.json", failure)
        except StoreError as second:
            message = f"{message} (and the failure could not be written down: {second})"
        tell(Failed(job.run_id, job.title, message))
