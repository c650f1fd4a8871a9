"""A study's plan: which runs it asks for, written down so that status and report need neither data nor torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from transfuse.errors import SpecError, StoreError, TransfuseError
from transfuse.results.store import Store, replacing, write_json
from transfuse.specs import DataSpec, StudySpec, read_yaml, study_from, to_yaml
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.problems import device_problems, metric_problems, network_problems
from transfuse.study.run import CHECKPOINT
from transfuse.study.sources import (
    block_names,
    fingerprint,
    normalisation_note,
    open_data,
    split_data,
    weights_sha256,
)
from transfuse.study.sweeps import Unfolded, unfold

if TYPE_CHECKING:
    from transfuse.data import Split


class Plan(NamedTuple):
    """A study and its runs, as tables name them; all that status and report need."""

    study: StudySpec
    rows: list[dict[str, Any]]


def plan(study: StudySpec) -> list[PlannedRun]:
    """Every run of the study, resolved; opens the data sets and hashes the weights."""
    return expand(unfold(study, block_names(study.data)), fingerprint, weights_sha256)


def write_plan(store: Store, study: StudySpec, runs: list[PlannedRun]) -> Plan:
    """Write down the study and the names of its runs, in one file; `study.yaml` beside it is a copy for people."""
    folder = store.study_folder(study.name)
    made = Plan(study, [{**run.row(), "title": run.title} for run in runs])
    write_json(folder / "plan.json", {"study": to_yaml(study), "runs": made.rows})
    with replacing(folder / "study.yaml") as path:
        path.write_text(to_yaml(study), encoding="utf-8")
    return made


def read_plan(store: Store, name: str) -> Plan:
    """What `write_plan` wrote."""
    path = store.plan_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(study_from(read_yaml(content["study"]), str(path)), content["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); start the study again: finished runs are kept") from None


def replaced(store: Store, study: StudySpec, runs: list[PlannedRun]) -> str:
    """What a person should know before the plan of an earlier start is replaced; empty if nothing is lost sight of."""
    try:
        earlier = {row["run_id"] for row in read_plan(store, study.name).rows}
    except StoreError:
        return ""
    gone = len(earlier - {run.run_id for run in runs})
    if not gone:
        return ""
    return (
        f"The study {study.name!r} was started here with other settings: {gone} of its runs are no longer part "
        f"of it and its report will be replaced (the runs are kept). To keep both, give this one another name: "
        f"name={study.name}-2"
    )


@dataclass(frozen=True)
class RunStatus:
    """Where one run stands: `finished`, `diverged`, `failed`, `damaged`, `running`, `interrupted` or `waiting`."""

    row: dict[str, Any]
    state: str
    detail: str = ""
    seconds: float | None = None


def status(store: Store, rows: list[dict[str, Any]]) -> list[RunStatus]:
    """Where every run of a study stands, from its files alone; runs that share an id are listed once."""
    states: dict[str, RunStatus] = {}
    for row in rows:
        states.setdefault(row["run_id"], _state(store, row))
    return list(states.values())


def _state(store: Store, row: dict[str, Any]) -> RunStatus:
    folder = store.run_folder(row["run_id"])
    try:
        record = store.record(row["run_id"])
    except StoreError as error:
        return RunStatus(row, "damaged", str(error))
    if record is not None:
        return RunStatus(row, record.status, record.reason, record.facts.get("total_seconds"))
    if store.is_running(row["run_id"]):
        return RunStatus(row, "running")
    failure = store.failure(row["run_id"])
    if failure is not None:
        return RunStatus(row, "failed", str(failure.get("message", "")))
    if (folder / "checkpoints" / CHECKPOINT).exists():
        return RunStatus(row, "interrupted", "goes on from its last checkpoint")
    if (folder / "spec.json").exists():
        return RunStatus(row, "interrupted", "starts again: it had no checkpoint yet")
    return RunStatus(row, "waiting")


@dataclass(frozen=True)
class Checked:
    """What `check` found: nothing wrong, and how much there is to do; the study has no arm that says `every` left."""

    study: StudySpec
    runs: list[PlannedRun]
    lines: tuple[str, ...]


def check(study: StudySpec, where: str = "", device: str = "auto") -> Checked:
    """Look at everything that a study needs before anything is trained.

    Opens and splits every data set, measures the metric on made-up predictions, finds and reads every weights file,
    builds every network and initialises it as each arm says.

    Raises:
        SpecError: everything that is wrong, at once.
    """
    problems = device_problems(study, device)
    lines: list[str] = []
    splits: dict[DataSpec, Split] = {}
    named = [("data", study.data), *((f"sources.{name}.data", study.source_data(name)) for name in study.sources)]
    for path, data in named:
        if data in splits:
            continue
        try:
            split = splits[data] = split_data(data, open_data(data))
        except TransfuseError as error:
            problems.append(f"{path}: {error}")
            continue
        info = split.test.dataset.info
        parts = f"{len(split.train)} train, {len(split.val)} val, {len(split.test)} test"
        count, size = len(split.test.dataset), split.test.dataset.size
        lines.append(f"{path}: {info.name}, {count} images at {size} px, {parts}; {info.task}")
    if study.data in splits:
        problems += metric_problems("metric", study.metric, splits[study.data].test)
        problems += metric_problems("train.monitor", study.train.monitor or study.metric, splits[study.data].val)
    for name, source in study.sources.items():
        if study.source_data(name) in splits:
            part = splits[study.source_data(name)].val
            problems += metric_problems(f"sources.{name}.train.monitor", source.train.monitor or "loss", part)
    single = tuple(name for name, arm in study.arms.items() if not arm.sweeps)
    unfolded = Unfolded(study, dict.fromkeys(study.models, single))
    if study.data in splits:
        try:
            unfolded = unfold(study, block_names(study.data))
        except TransfuseError as error:
            problems.append(str(error))
        problems += network_problems(unfolded, splits)
    if not problems:
        dataset = splits[study.data].test.dataset
        names = [model.weights for model in study.models.values()] + [arm.weights for arm in study.arms.values()]
        notes = [normalisation_note(study.data, dataset, name) for name in names]
        lines += [f"note: {note}" for note in dict.fromkeys(notes) if note]
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), where)
    runs = expand(unfolded, fingerprint, weights_sha256)
    roles = Counter(run.role for run in runs)
    distinct = len({run.run_id for run in runs})
    lines.append(
        f"{roles['arm']} runs ({_arms(unfolded)} x {len(study.seed_list)} seeds)"
        + (f" and {roles['source']} source runs" if roles["source"] else "")
        + (f"; {distinct} different ones" if distinct < len(runs) else "")
    )
    return Checked(unfolded.study, runs, tuple(lines))


def _arms(unfolded: Unfolded) -> str:
    counts = {label: len(arms) for label, arms in unfolded.arms.items()}
    if len(set(counts.values())) == 1:
        return f"{len(counts)} networks x {next(iter(counts.values()))} arms"
    return "(" + " + ".join(f"{count} arms of {label}" for label, count in counts.items()) + ")"
