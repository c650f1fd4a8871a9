"""Carry out a study: plan it, start what is not done yet, keep going when a run fails."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from typing import NamedTuple

from transfuse.results.cut_search import read_search
from transfuse.results.store import Store
from transfuse.specs import StudySpec
from transfuse.study.analyse import do_analysis
from transfuse.study.analyses import PlannedAnalysis, plan_analyses
from transfuse.study.conclude import write_samples
from transfuse.study.events import Ended, Event, Failed, Note, Tell
from transfuse.study.executors import Queue, in_process, local_processes
from transfuse.study.expand import PlannedRun, without_repeats
from transfuse.study.feature_files import delete_features
from transfuse.study.plan import Plan, analysis_status, lacks_snapshots, status, write_plan
from transfuse.study.rounds import Round
from transfuse.study.run import do_run
from transfuse.study.search import of_search
from transfuse.study.sources import open_data

Show = Callable[[int, int, int], AbstractContextManager[Tell]]
"""Opens a display for (runs in all, runs done already, workers)."""


class Outcome(NamedTuple):
    """The plan that was carried out, and how many of its runs and analyses stand where: by state, as `status` says."""

    plan: Plan
    states: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether every run and every analysis has ended with a record."""
        return set(self.states) <= {"finished", "diverged"}


def default_workers(threads: int, device: str = "auto") -> int:
    """One worker for each GPU, or as many as the CPU's cores can hold at `threads` each."""
    from transfuse.training.device import choose_device

    kind = choose_device(device)
    if kind != "cpu":
        return max(1, len(_gpus()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def carry_out(
    study: StudySpec,
    runs: Sequence[PlannedRun] | Round,
    store: Store,
    *,
    show: Show,
    workers: int,
    device: str = "auto",
) -> Outcome:
    """Do every run of the study that has no record yet, then every analysis of finished runs that has none.

    A study that tunes comes in rounds: its trials, then the arms at the rates that were best. So does one that
    searches; where it chooses by an analysis, that one is done before the next round.

    Args:
        study: the study.
        runs: its runs, or what names them round by round.
        store: where everything is kept; what is there already is not done again.
        show: opens the display of progress.
        workers: processes; 1 runs everything in this one.
        device: `auto`, `cpu`, `cuda`, `mps`.

    Raises:
        StoreError: the folder cannot be written.
        KeyboardInterrupt: on Ctrl-C; every run goes on from its last checkpoint at the next start.
    """
    named: Round = runs if callable(runs) else lambda _: list(runs)
    known = named(store)
    while True:
        _train(study, known, store, show=show, workers=workers, device=device)
        first = [job for job in plan_analyses(study, known) if job.place in of_search(study)]
        _analyse(first, store, show=show, workers=workers, device=device)
        before, known = known, named(store)
        if {run.run_id for run in known} <= {run.run_id for run in before}:
            break
    delete_features(store.root)
    if study.search is not None and all(
        search.best is not None or search.stopped for search in read_search(store.study_folder(study.name))
    ):
        _delete_checkpoints(known, store)
    analyses = plan_analyses(study, known)
    plan = write_plan(store, study, known, analyses)
    _analyse(analyses, store, show=show, workers=workers, device=device)
    looked = {one.row["analysis_id"]: one for one in analysis_status(store, plan.analyses)}
    found = chain(status(store, plan.rows), looked.values())
    return Outcome(plan, dict(Counter(one.state for one in found)))


def _delete_checkpoints(runs: Sequence[PlannedRun], store: Store) -> None:
    """Of finished runs that kept theirs so that longer ones could go on from them."""
    for run_id in {run.run_id for run in runs if run.role == "search"}:
        if store.record(run_id) is not None:
            shutil.rmtree(store.run_folder(run_id) / "checkpoints", ignore_errors=True)


def _train(study: StudySpec, runs: list[PlannedRun], store: Store, *, show: Show, workers: int, device: str) -> None:
    """Do the runs of a round that have no record yet."""
    write_plan(store, study, runs, plan_analyses(study, runs))
    distinct = without_repeats(runs)
    records = {run.run_id: None if lacks_snapshots(store, run) else store.record(run.run_id) for run in distinct}
    done = {run_id for run_id, record in records.items() if record is not None and record.status == "finished"}
    ended = {run_id for run_id, record in records.items() if record is not None}
    queue = Queue(distinct, ended, store.is_running)
    write_samples(store, study.name, open_data(study.data))
    with show(len(distinct), len(ended), workers) as say:

        def tell(event: Event) -> None:
            if isinstance(event, Failed):
                _write_failure(store, event)
            say(event)

        for run in distinct:
            record = records[run.run_id]
            if record is not None and run.run_id not in done:
                for consequence in queue.hear(Ended(run.run_id, run.title, record.status, record.reason, 0.0)):
                    tell(consequence)
        _execute(queue, do_run, store, tell, workers, device)


def _analyse(analyses: list[PlannedAnalysis], store: Store, *, show: Show, workers: int, device: str) -> None:
    """Do the analyses whose runs have finished and that have no record yet."""
    records = store.analyses
    distinct = list({job.run_id: job for job in analyses if _can_be_done(job, store)}.values())
    ended = {job.run_id for job in distinct if records.record(job.run_id) is not None}
    if len(ended) == len(distinct):
        return
    queue = Queue(distinct, ended, records.is_running)
    with show(len(distinct), len(ended), workers) as say:
        say(Note(f"Looking inside the networks: {len(distinct) - len(ended)} analyses"))

        def tell(event: Event) -> None:
            if isinstance(event, Failed):
                _write_failure(records, event)
            say(event)

        _execute(queue, do_analysis, store, tell, workers, device)


def _execute(queue: Queue, do: Callable[..., None], store: Store, tell: Tell, workers: int, device: str) -> None:
    work = partial(do, root=store.root, device=device)
    if workers == 1:
        in_process(queue, work, tell)
    else:
        local_processes(queue, work, tell, workers=workers, gpus=_gpus() if device in ("auto", "cuda") else ())


def _can_be_done(job: PlannedAnalysis, store: Store) -> bool:
    for side in job.sides:
        record = store.record(side.run.run_id)
        if record is None or (record.status != "finished" and side.state != "initial"):
            return False
    return True


def _write_failure(store: Store, event: Failed) -> None:
    """What a run could not write down itself: that its worker died, or that its source gave no weights."""
    if store.record(event.run_id) is None and store.failure(event.run_id) is None:
        store.fail(event.run_id, event.title, event.message)


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch

    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(visible or (str(number) for number in range(torch.cuda.device_count())))
