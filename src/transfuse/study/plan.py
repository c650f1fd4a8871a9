"""A study's plan: which runs it asks for, written down so that status and report need neither data nor torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from transfuse.errors import BlocksError, SpecError, StoreError, TransfuseError
from transfuse.results.store import Store, replacing, write_json
from transfuse.specs import DataSpec, ModelSpec, StudySpec, to_yaml
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.sources import fingerprint, open_data, split_data, weights_sha256


def plan(study: StudySpec) -> list[PlannedRun]:
    """Every run of the study, resolved; opens the data sets and hashes the weights."""
    return expand(study, fingerprint, weights_sha256)


def write_plan(store: Store, study: StudySpec, runs: list[PlannedRun]) -> None:
    """Write down the study file and the names of its runs."""
    folder = store.study_folder(study.name)
    with replacing(folder / "study.yaml") as path:
        path.write_text(to_yaml(study), encoding="utf-8")
    write_json(folder / "runs.json", [{**run.row(), "title": run.title} for run in runs])


def read_plan(store: Store, name: str) -> list[dict[str, Any]]:
    """The rows that `write_plan` wrote."""
    path = store.study_file(name).with_name("runs.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}); start the study again: finished runs are kept") from None


@dataclass(frozen=True)
class RunStatus:
    """Where one run stands: `finished`, `diverged`, `failed`, `running`, `interrupted` or `waiting`."""

    row: dict[str, Any]
    state: str
    detail: str = ""
    seconds: float | None = None


def status(store: Store, name: str) -> list[RunStatus]:
    """Where every run of a study stands, from its files alone."""
    states: dict[str, RunStatus] = {}
    for row in read_plan(store, name):
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
    if (folder / "spec.json").exists():
        return RunStatus(row, "interrupted", "goes on from its last checkpoint")
    return RunStatus(row, "waiting")


@dataclass(frozen=True)
class Checked:
    """What `check` found: nothing wrong, and how much there is to do."""

    runs: list[PlannedRun]
    lines: tuple[str, ...]


def check(study: StudySpec, where: str = "") -> Checked:
    """Look at everything that a study needs before anything is trained.

    Opens every data set, splits it, finds every weights file, and builds every network without memory (on torch's
    `meta` device) to see that its blocks have the names that the arms use.

    Raises:
        SpecError: everything that is wrong, at once.
    """
    problems: list[str] = []
    lines: list[str] = []
    infos: dict[DataSpec, tuple[int, int, int]] = {}
    named = [("data", study.data)] + [(f"sources.{name}.data", source.data) for name, source in study.sources.items()]
    for path, data in named:
        try:
            dataset = open_data(data)
            split = split_data(data, dataset)
        except TransfuseError as error:
            problems.append(f"{path}: {error}")
            continue
        info = dataset.info
        infos[data] = (len(info.classes), info.channels, dataset.size)
        parts = f"{len(split.train)} train, {len(split.val)} val, {len(split.test)} test"
        lines.append(f"{path}: {info.name}, {len(dataset)} images at {dataset.size} px, {parts}; {info.task}")
    for path, model, data, arms in _networks(study):
        try:
            if model.weights is not None and not model.weights.startswith("run:"):
                weights_sha256(model.weights, data.root)
        except TransfuseError as error:
            problems.append(f"{path}.weights: {error}")
        if data in infos:
            problems += _block_problems(path, model, infos[data], arms)
    if problems:
        raise SpecError(problems, where)
    runs = plan(study)
    roles = Counter(run.role for run in runs)
    distinct = len({run.run_id for run in runs})
    lines.append(
        f"{roles['arm']} runs ({len(study.models)} networks x {len(study.arms)} arms x {len(study.seed_list)} seeds)"
        + (f" and {roles['source']} source runs" if roles["source"] else "")
        + (f"; {distinct} different ones" if distinct < len(runs) else "")
    )
    return Checked(runs, tuple(lines))


def _networks(study: StudySpec) -> list[tuple[str, ModelSpec, DataSpec, dict[str, Any]]]:
    found = [(f"models.{label}", model, study.data, dict(study.arms)) for label, model in study.models.items()]
    for name, source in study.sources.items():
        if source.model is not None:
            found.append((f"sources.{name}.model", source.model, source.data, {name: source.init}))
    return found


def _block_problems(path: str, model: ModelSpec, info: tuple[int, int, int], arms: dict[str, Any]) -> list[str]:
    from transfuse.models import blocks_of, create_model

    classes, channels, size = info
    try:
        network = create_model(
            model.name, classes=classes, channels=channels, image_size=size, padding=model.padding, device="meta"
        )
    except TransfuseError as error:
        return [f"{path}: {error}"]
    problems = []
    for arm, init in arms.items():
        for name in ("depth", "freeze"):
            try:
                blocks_of(network, init.level).depth(getattr(init, name))
            except BlocksError as error:
                problems.append(f"arms.{arm}.{name} with {path}: {error}")
    return problems
