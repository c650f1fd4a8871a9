"""A study's plan: which runs it asks for, written down so that status and report need neither data nor torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from transfuse.errors import SpecError, StoreError, TransfuseError
from transfuse.results.store import Store, replacing, write_json
from transfuse.specs import DataSpec, StudySpec, read_yaml, study_from, to_yaml
from transfuse.specs.salvage import ANY, readable_networks, readable_part
from transfuse.study.analyses import PlannedAnalysis, plan_analyses
from transfuse.study.analysis_problems import analysis_problems
from transfuse.study.data_sizes import look_at_sizes
from transfuse.study.expand import PlannedRun
from transfuse.study.leaks import leak_notes, leak_problems
from transfuse.study.meaning import l2_sp_problems
from transfuse.study.notes import setting_notes
from transfuse.study.problems import (
    device_problems,
    look_at_networks,
    metric_problems,
    name_problems,
    training_problems,
)
from transfuse.study.rounds import Round, known_runs, next_round
from transfuse.study.run import CHECKPOINT
from transfuse.study.run_counts import counts
from transfuse.study.search import with_analysis
from transfuse.study.snapshots import has_snapshots
from transfuse.study.sources import (
    block_names,
    normalisation_note,
    open_data,
    source_normalisation_note,
    split_data,
)
from transfuse.study.sweeps import Unfolded, unfold

if TYPE_CHECKING:
    from transfuse.data import Split


class Plan(NamedTuple):
    """A study, its runs and its analyses, as tables name them; all that status and report need."""

    study: StudySpec
    rows: list[dict[str, Any]]
    analyses: list[dict[str, Any]]


def plan(study: StudySpec) -> list[PlannedRun]:
    """Every run of the study, resolved; opens the data sets and hashes the weights."""
    return known_runs(with_analysis(unfold(study, block_names(study.data))))


def write_plan(
    store: Store, study: StudySpec, runs: list[PlannedRun], analyses: Sequence[PlannedAnalysis] = ()
) -> Plan:
    """Write down the study and the names of all that it does, in one file; `study.yaml` is a copy for people."""
    folder = store.study_folder(study.name)
    made = Plan(study, [{**run.row(), "title": run.title} for run in runs], [job.row() for job in analyses])
    write_json(folder / "plan.json", {"study": to_yaml(study), "runs": made.rows, "analyses": made.analyses})
    with replacing(folder / "study.yaml") as path:
        path.write_text(to_yaml(study), encoding="utf-8")
    return made


def read_plan(store: Store, name: str) -> Plan:
    """What `write_plan` wrote."""
    path = store.plan_file(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        study = study_from(read_yaml(content["study"]), str(path))
        return Plan(study, content["runs"], content.get("analyses", []))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); start the study again: finished runs are kept") from None


def replaced(store: Store, study: StudySpec, runs: list[PlannedRun], rename: str = "name=") -> list[str]:
    """What a person should know before a study is started again with other settings; empty if nothing is lost.

    Args:
        store: where it was started before.
        study: as it is to be now.
        runs: those that are known of it now.
        rename: how the command gives it another name.
    """
    notices = []
    again = len({run.run_id for run in runs if lacks_snapshots(store, run)})
    if again:
        notices.append(
            f"{again} finished run{'s' if again > 1 else ''} did not keep the weights along the training that are "
            "asked for now (train.snapshots, or the analysis dynamics) and will be done again for them, with the same "
            "result."
        )
    try:
        earlier = read_plan(store, study.name)
    except StoreError:
        return notices
    to_keep_both = f"To keep both, give this one another name: {rename}{study.name}-2"
    searched = earlier.study.search is not None and study.search is not None
    if searched and (earlier.study.search, earlier.study.margin) != (study.search, study.margin):
        notices.append(
            f"The study {study.name!r} was started here with another search ({_search(earlier.study)}; now "
            f"{_search(study)}): its report will be replaced, and the network that it handed over (the runs are kept). "
            f"{to_keep_both}"
        )
        return notices
    gone = len({row["run_id"] for row in earlier.rows} - {run.run_id for run in runs})
    if gone:
        notices.append(
            f"The study {study.name!r} was started here with other settings: {gone} of its runs are no longer part "
            f"of it and its report will be replaced (the runs are kept). {to_keep_both}"
        )
    asked = {job.run_id for job in plan_analyses(study, runs)}
    left = {row["analysis_id"]: row["analysis"] for row in earlier.analyses if row["analysis_id"] not in asked}
    if left and not gone:
        notices.append(
            f"{len(left)} analyses of the last start ({', '.join(dict.fromkeys(left.values()))}) are no longer part of "
            "the study and leave its report; they are kept. To have both, write them into analyses: of the study file."
        )
    return notices


def _search(study: StudySpec) -> str:
    """How a study searches, in a few words."""
    return f"{study.search.strategy if study.search else 'none'}, margin {study.margin:g}"


def lacks_snapshots(store: Store, run: PlannedRun) -> bool:
    """Whether a run is done but did not keep the weights along its training that are asked for now."""
    if not run.spec.train.snapshots:
        return False
    record = store.record(run.run_id)
    return record is not None and not has_snapshots(record, run.spec.train.snapshots)


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


def analysis_status(store: Store, rows: list[dict[str, Any]]) -> list[RunStatus]:
    """Where every analysis of a study stands, row by row; one of a run that diverged counts as `diverged` too."""
    states: dict[str, RunStatus] = {}
    for row in rows:
        name = row["analysis_id"]
        if name not in states:
            states[name] = _state(store.analyses, {**row, "run_id": name})
            lost = [run for run in (row["run_id"], row["other_run_id"]) if _diverged(store, run)]
            if states[name].state in ("waiting", "interrupted") and lost:
                states[name] = RunStatus(row, "diverged", f"the run {lost[0]} diverged and has no trained weights")
    return [replace(states[row["analysis_id"]], row=row) for row in rows]


def _diverged(store: Store, run_id: str) -> bool:
    try:
        record = store.record(run_id)
    except StoreError:
        return False
    return record is not None and record.status == "diverged"


def _state(store: Store, row: dict[str, Any]) -> RunStatus:
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
    left = store.unfinished(row["run_id"])
    if left is None:
        return RunStatus(row, "waiting")
    if (left / "checkpoints" / CHECKPOINT).exists():
        return RunStatus(row, "interrupted", "goes on from its last checkpoint")
    return RunStatus(row, "interrupted", "starts again: it had no checkpoint yet")


@dataclass(frozen=True)
class Checked:
    """What `check` found: nothing wrong, and how much there is to do; the study has no arm that says `every` left.

    Attributes:
        study: what there is to do.
        runs: all that is known of it now: the arms that are tuned are not part of it yet.
        lines: for people; those that begin with `note: ` say what is allowed and can hardly be meant.
        round: the runs that are known once those in a store have ended.
    """

    study: StudySpec
    runs: list[PlannedRun]
    lines: tuple[str, ...]
    round: Round


def check(study: StudySpec, where: str = "", device: str = "auto") -> Checked:
    """Look at everything that a study needs before anything is trained.

    Opens and splits every data set, looks for patients and images of the test part in what sources are trained on,
    measures the metric on made-up predictions, finds and reads every weights file, builds every network, runs it on two
    images and initialises it as each arm says.

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
        what = f"volumes at {size} x {size} x {size} voxels" if info.spatial_dims == 3 else f"images at {size} px"
        lines.append(f"{path}: {info.name}, {count} {what}, {parts}; {info.task}")
    if study.data in splits:
        problems += metric_problems("metric", study.metric, splits[study.data].test)
        if study.train.monitor is not None or not problems:
            monitor = study.train.monitor or study.metric
            problems += metric_problems("train.monitor", monitor, splits[study.data].val)
        problems += training_problems("train", study.train, splits[study.data].train)
    for name, source in study.sources.items():
        if study.source_data(name) in splits:
            split = splits[study.source_data(name)]
            problems += metric_problems(f"sources.{name}.train.monitor", source.train.monitor or "loss", split.val)
            problems += training_problems(f"sources.{name}.train", source.train, split.train)
    problems += leak_problems(study, splits)
    single = tuple(name for name, arm in study.arms.items() if not arm.sweeps)
    unfolded = Unfolded(study, dict.fromkeys(study.models, single), {})
    notes: list[str] = []
    if study.data in splits:
        unfolding = []
        try:
            unfolded = with_analysis(unfold(study, block_names(study.data)))
            problems += l2_sp_problems(unfolded)
        except TransfuseError as error:
            unfolding = [str(error)]
        found = look_at_networks(unfolded, splits)
        problems += [text for text in unfolding if not any(other.endswith(text) for other in found.problems)]
        problems += found.problems
        notes += found.notes
        problems += analysis_problems(unfolded.study, splits[study.data])
        if study.search is not None:
            metric = study.search.metric or study.metric
            problems += metric_problems("search.metric", metric, splits[study.data].val)
        if study.train_fractions:
            fewer, line = look_at_sizes(study, splits[study.data])
            lines.append(line)
            problems += fewer.problems
            notes += fewer.notes
    if not problems:
        dataset = splits[study.data].test.dataset
        names = [model.weights for model in study.models.values()] + [arm.weights for arm in study.arms.values()]
        notes += [normalisation_note(study.data, dataset, name) for name in names]
        notes += [
            source_normalisation_note(study.source_data(name).normalise, study.data.normalise, f"sources.{name}.data")
            for name in study.sources
        ]
        notes += leak_notes(study, splits)
        notes += setting_notes(study, splits)
        lines += [f"note: {note}" for note in dict.fromkeys(notes) if note]
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), where)
    runs = known_runs(unfolded)
    lines.append(counts(unfolded, runs))
    study = unfolded.study
    if study.analyses:
        planned = plan_analyses(unfolded.study, runs)
        idle = sorted(set(range(len(study.analyses))) - {job.place for job in planned})
        useless = [f"analyses.{place}: {_NOTHING}" for place in idle]
        useless += [
            f"analyses.{place}: the same as analyses.{study.analyses.index(analysis)}; keep one"
            for place, analysis in enumerate(study.analyses)
            if study.analyses.index(analysis) < place
        ]
        if useless:
            raise SpecError(useless, where)
        jobs = Counter(job.spec.what for job in planned)
        lines.append(
            f"{jobs.total()} {'analysis' if jobs.total() == 1 else 'analyses'}: "
            + ", ".join(f"{count} {what}" for what, count in jobs.items())
        )
    return Checked(unfolded.study, runs, tuple(lines), partial(next_round, unfolded))


def all_mistakes(error: SpecError, content: Mapping[str, Any], device: str = "auto") -> SpecError:
    """The mistakes of a study file, and those of its networks, blocks, weights and data that can be known all the same.

    Args:
        error: what is wrong with the file itself.
        content: what the file holds.
        device: where the study would run.
    """
    part = readable_part(content)
    more: tuple[str, ...] = ()
    if part is None:
        more = tuple(name_problems(readable_networks(content)))
    else:
        try:
            check(part, device=device)
        except SpecError as found:
            more = tuple(problem.replace(f", sources.{ANY}", "") for problem in found.problems)
    known = {problem.partition(":")[0].partition(".")[0] for problem in error.problems}
    unsure = [f"sources.{ANY}", *(f"{key}:" for key in known), *(f"{key}." for key in known & {"train", "data"})]
    unsure += ["train.monitor:"] * ("metric" in known)
    later = [problem for problem in more if not problem.startswith(tuple(unsure)) and problem not in error.problems]
    return SpecError([*error.problems, *later], error.where)


_NOTHING = (
    "no network of the study is meant by it; between: seeds needs two seeds, arms needs two arms, and arms, models and "
    "seeds leave out all others"
)
