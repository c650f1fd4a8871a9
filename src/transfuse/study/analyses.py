"""From a study and its runs to its analyses: which networks each of them looks at, and the identity it goes by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from transfuse.specs import AnalysisSpec, RunSpec, StudySpec
from transfuse.specs.analyses import PICTURES
from transfuse.study.expand import PlannedRun

ANALYSIS_VERSION = 1
"""Raised whenever a change of ours alters the numbers of an analysis; part of every analysis's identity."""

STATES = ("initial", "trained")


class Side(NamedTuple):
    """One of the networks that an analysis looks at: a run's, at its start (`initial`) or `trained`."""

    run: PlannedRun
    state: str

    @property
    def name(self) -> str:
        """How a person recognises it."""
        return self.run.arm if self.state == "trained" else f"{self.run.arm}:{self.state}"


@dataclass(frozen=True)
class PlannedAnalysis:
    """An analysis of one network, or of two, and what the study calls them.

    It has `run_id`, `needs` and `title` as a run has, so that it can be done by the same executors.
    """

    spec: AnalysisSpec
    sides: tuple[Side, ...]
    place: int
    metric: str = "auroc"
    other_data: RunSpec | None = None
    needs: None = None

    @property
    def run_id(self) -> str:
        """The identity: the first 12 hex digits of the SHA-256 of all that decides the numbers."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as plain values; the data are part of the identity of the runs."""
        networks = [[side.run.run_id, side.state] for side in self.sides]
        other = {} if self.other_data is None else {"other_data": self.other_data.identity()["data"]}
        kept = [side.run.spec.train.snapshots for side in self.sides[:1]]
        along = {"snapshots": kept} if self.spec.what in ("dynamics", "filters") and any(kept) else {}
        metric = {"metric": self.metric} if self.spec.what == "reinitialise" else {}
        metric |= {"metric": self.cut_metric} if self.spec.what in ("cut_ranking", "cut_screen") else {}
        schedule = self.sides[0].run.spec.train.schedule
        if self.spec.what == "cut_screen" and (schedule.milestones or schedule.warmup):
            metric |= {"schedule": "of the screen's length"}  # once it was the study's, whose last rates never came
        plain = {
            "version": ANALYSIS_VERSION,
            "analysis": self.spec.identity(),
            "networks": networks,
            **metric,
            **along,
            **other,
        }
        return json.loads(json.dumps(plain))

    @property
    def cut_metric(self) -> str:
        """The metric by which cuts are ranked."""
        return self.spec.metric or self.metric

    @property
    def title(self) -> str:
        """How a person recognises the analysis."""
        first, last = self.sides[0], self.sides[-1]
        seeds = dict.fromkeys(f"{side.run.spec.seed}" for side in self.sides)
        names = [first.name] if len(self.sides) == 1 else [first.name, last.name]
        return f"{self.spec.what} · {first.run.model} · {' and '.join(names)} · seed {' and '.join(seeds)}"

    def row(self) -> dict[str, Any]:
        """The names of the analysis, as columns of the study's tables."""
        first, last = self.sides[0], self.sides[-1]
        return {
            "analysis_id": self.run_id,
            "analysis": self.spec.what,
            "place": self.place,
            "title": self.title,
            "model": first.run.model,
            "run_id": first.run.run_id,
            "arm": first.run.arm,
            "seed": first.run.spec.seed,
            "state": first.state,
            "other_run_id": last.run.run_id,
            "other_arm": last.run.arm,
            "other_seed": last.run.spec.seed,
            "other_state": last.state,
        }


def plan_analyses(study: StudySpec, runs: Sequence[PlannedRun]) -> list[PlannedAnalysis]:
    """Every analysis that a study asks for, of the runs of its arms, in the order of the study file.

    Args:
        study: the study, with one arm for each block where it says `every`.
        runs: what `expand` gave.
    """
    planned: list[PlannedAnalysis] = []
    for place, spec in enumerate(study.analyses):
        first_only = spec.what in PICTURES and not spec.seeds
        for model in study.models:
            covered = [
                run
                for run in runs
                if run.role == "arm"
                and run.model == model
                and spec.covers(model, run.arm, run.spec.seed)
                and not (first_only and run.spec.seed != study.seed_list[0])
            ]
            of_all = [run for run in runs if run.role == "arm" and run.model == model]
            other = _source_run(spec, model, runs)
            groups: Iterator[tuple[Side, ...]] = (
                _pairs(spec, covered, of_all) if spec.compares else _each(spec, covered)
            )
            planned += [PlannedAnalysis(spec, sides, place, study.metric, other) for sides in groups]
    return planned


def _source_run(spec: AnalysisSpec, model: str, runs: Sequence[PlannedRun]) -> RunSpec | None:
    if spec.source is None:
        return None
    named = [run for run in runs if run.role == "source" and run.arm == spec.source]
    own = [run for run in named if run.model == model]  # a network with other weights has no run of it; its data are
    return next((run.spec for run in own + named), None)


def _each(spec: AnalysisSpec, runs: list[PlannedRun]) -> Iterator[tuple[Side, ...]]:
    """Networks by themselves; what is seen over the training, and the features of FID, are of the first weights too."""
    for run in runs:
        if spec.what == "fid" or spec.what in ("cut_ranking", "cut_screen"):
            yield (Side(run, "initial"),)
        elif spec.what in ("dynamics", "reinitialise", "filters", "histogram", "maps", "cut_overlap"):
            yield Side(run, "initial"), Side(run, "trained")
        else:
            yield (Side(run, "trained"),)


def _pairs(spec: AnalysisSpec, runs: list[PlannedRun], of_all: list[PlannedRun]) -> Iterator[tuple[Side, Side]]:
    if spec.between == "before_after":
        for run in runs:
            yield Side(run, "initial"), Side(run, "trained")
    elif spec.between == "seeds":
        for a, b in combinations(runs, 2):
            if a.arm == b.arm:
                yield Side(a, "trained"), Side(b, "trained")
    elif spec.between in ("arms", "all"):
        states = STATES if spec.between == "all" else ("trained",)
        for one, other in combinations([Side(run, state) for run in runs for state in states], 2):
            if one.run.spec.seed == other.run.spec.seed:
                yield one, other
    elif isinstance(spec.between, tuple):
        seeds = {run.spec.seed for run in runs}
        there = [run for run in of_all if run.spec.seed in seeds]  # the pair names its arms itself
        for first, second in spec.between:
            yield from _named_pairs(_side_name(first), _side_name(second), there)


def _side_name(name: str) -> tuple[str, str]:
    arm, _, state = name.partition(":")
    return arm, state or "trained"


def _named_pairs(
    first: tuple[str, str], second: tuple[str, str], runs: list[PlannedRun]
) -> Iterator[tuple[Side, Side]]:
    """Networks of two named arms; the name of a sweep stands for all its arms, of two sweeps at the same block."""
    ones = [Side(run, first[1]) for run in runs if first[0] in _names(run.arm)]
    others = [Side(run, second[1]) for run in runs if second[0] in _names(run.arm)]
    if first == second:  # the same arm in the same state: its seeds against each other
        yield from ((one, other) for one, other in combinations(ones, 2) if one.run.arm == other.run.arm)
        return
    for one in ones:
        for other in others:
            swept = one.run.arm != first[0] and other.run.arm != second[0]
            elsewhere = one == other or (swept and _block(one) != _block(other))
            if one.run.spec.seed == other.run.spec.seed and not elsewhere:
                yield one, other


def _names(arm: str) -> tuple[str, str]:
    """What an arm may be called: by its name, or that of the sweep that it is of."""
    return arm, arm.partition("@")[0]


def _block(side: Side) -> str:
    return side.run.arm.partition("@")[2]
