"""Searches for the smallest network: which cuts are trained next, and which are chosen, from what is on disk.

A strategy is a plain function of a `Cuts`: it asks for trainings and measurements as if they were there. Where one is
not there yet, the function ends, and is called again from its start once it is: it comes to the same place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transfuse.errors import SpecError
from transfuse.metrics import find_metric
from transfuse.results.store import Store
from transfuse.specs import AnalysisSpec, SearchSpec, StudySpec
from transfuse.study.expand import PlannedRun, Planner, Searched
from transfuse.study.lengths import Lengths
from transfuse.study.sweeps import Unfolded
from transfuse.study.tested import arm_of_predictions

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.statistics.arm import Arm

MEASURED: dict[str, Any] = {"rank": "cut_ranking", "overlap": "cut_overlap", "screen": "cut_screen"}
"""The analysis that a strategy chooses by; the others train."""

Parameters = Callable[[str, str], int]
"""Gives the parameters of an arm of a network, by their labels."""

FEWEST = 2
"""A search over one cut would be none."""

WORSE = 0.05
"""A cut leaves the race where so small a share of resamples of the validation patients has it close to the best."""


@dataclass(frozen=True)
class Choice:
    """What a search has found for one network.

    Attributes:
        model: the network's label.
        cuts: the arms among which was chosen, the smallest network first.
        whole: the one of them that is the whole network.
        rounds: what was looked at: `round, arm, quantity, value, low, high, steps, kept`.
        best: the arm with the best validation value; None while the search goes on.
        smallest: the smallest arm that loses no more than the slack.
        searched: the trainings of the search, in their order.
        measured: ids of the analyses by which it chose.
        stopped: why it can choose nothing; empty where it can, or may yet.
        needs_whole: whether the whole network is trained before the choice.
    """

    model: str
    cuts: tuple[str, ...]
    whole: str
    rounds: tuple[Mapping[str, Any], ...] = ()
    best: str | None = None
    smallest: str | None = None
    searched: tuple[PlannedRun, ...] = ()
    measured: tuple[str, ...] = ()
    stopped: str = ""
    needs_whole: bool = False

    @property
    def finals(self) -> tuple[str, ...]:
        """The cuts that are compared on the test part, as far as they are known, with the whole network."""
        chosen = {self.best, self.smallest}
        if self.best is not None or self.needs_whole:
            chosen |= {self.whole}
        return tuple(arm for arm in self.cuts if arm in chosen)


class _UnfinishedError(Exception):
    """What the search needs next has no result yet; not an error."""


class _StoppedError(Exception):
    """What the search needs next will never have a result; says why."""


@dataclass
class Cuts:
    """The cuts of one network, as a strategy sees them.

    Attributes:
        spec: the search.
        label: the network's.
        arms: the cuts, the smallest first.
        whole: the one that is the whole network.
        blocks: the cut after each block.
        stages: for each cut, from the image on, the number of the stage that ends there; None inside of a stage.
        seeds: that the search trains with.
        margin, metric: of the search.
        lengths: of the whole training.
        planner: makes runs.
        store: where they are; None: nowhere yet.
        measured_of: gives the rows of the search's own analysis of a network, None while it has not been done, or why
            it never will be.
        rounds: what was looked at so far.
        runs: what was asked for so far.
        analyses: ids of those that were read.
    """

    spec: SearchSpec
    label: str
    arms: tuple[str, ...]
    whole: str
    blocks: Mapping[str, str]
    stages: Mapping[str, int | None]
    seeds: tuple[int, ...]
    margin: float
    metric: str
    lengths: Lengths
    planner: Planner
    store: Store | None
    measured_of: Callable[[str], pd.DataFrame | str | None]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    runs: list[PlannedRun] = field(default_factory=list)
    analyses: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        """1 where more of the metric is better."""
        return 1 if find_metric(self.metric).higher_is_better else -1

    def train(self, arms: Sequence[str], name: str, steps: int | None = None) -> dict[str, Arm | None]:
        """Train cuts and give what they do on the validation part; None for one that diverged.

        Args:
            arms: the cuts.
            name: of the round, for people.
            steps: the length; None: the study's.
        """
        asked = {arm: [self._run(arm, seed, steps) for seed in self.seeds] for arm in arms}
        self.runs += [run for runs in asked.values() for run in runs]
        records = {run.run_id: self._record(run) for runs in asked.values() for run in runs}
        if any(record is None for record in records.values()):
            raise _UnfinishedError
        found = {
            arm: None if any(records[run.run_id] == "diverged" for run in runs) else self._validated(arm, runs)
            for arm, runs in asked.items()
        }
        taken = self.lengths.steps if steps is None else steps
        for arm, one in found.items():
            low, high = (math.nan, math.nan) if one is None else _interval(one)
            self.note(name, arm, self.metric, math.nan if one is None else value_of(one), low, high, taken)
        return found

    def _run(self, arm: str, seed: int, steps: int | None) -> PlannedRun:
        run = self.planner.of_arm(self.label, arm, seed, "search", steps=steps)
        before = [one for one in self.runs if (one.arm, one.spec.seed) == (arm, seed)]
        return replace(run, continues=before[-1].run_id if before else None)

    def _record(self, run: PlannedRun) -> str | None:
        record = None if self.store is None else self.store.record(run.run_id)
        return None if record is None else record.status

    def _validated(self, arm: str, runs: Sequence[PlannedRun]) -> Arm:
        assert self.store is not None
        tables = [self.store.predictions(run.run_id) for run in runs]
        return arm_of_predictions([table[table["part"] == "val"] for table in tables], self.metric, arm)

    def measured(self) -> pd.DataFrame:
        """The rows of the search's own analysis of the whole network."""
        found = self.measured_of(self.label)
        if isinstance(found, str):
            raise _StoppedError(found)
        if found is None:
            raise _UnfinishedError
        self.analyses = tuple(found["analysis_id"].unique())
        return found

    def note(
        self, name: str, arm: str, quantity: str, value: float, low: float, high: float, steps: int | None = None
    ) -> None:
        """Writes down what was seen of a cut in a round."""
        row = {"round": name, "arm": arm, "quantity": quantity, "value": value, "low": low, "high": high}
        self.rounds.append({**row, "steps": steps, "kept": True})

    def drop(self, name: str, arms: Sequence[str]) -> None:
        """Writes down that cuts go no further than this round."""
        for row in self.rounds:
            row["kept"] = row["kept"] and not (row["round"] == name and row["arm"] in arms)


def value_of(arm: Arm) -> float:
    """The metric of an arm, the mean over its seeds."""
    return float(np.mean([part.points[:, 0] for part in arm.parts]))


def _resampled(arm: Arm) -> np.ndarray:
    """The same on each resample of patients, `(B,)`."""
    return np.mean([part.values[:, 0].mean(axis=0) for part in arm.parts], axis=0)


def _interval(arm: Arm) -> tuple[float, float]:
    """Of 95 %, from patients alone: what another seed would do is not in it."""
    low, high = np.nanquantile(_resampled(arm), (0.025, 0.975))
    return float(low), float(high)


def _worse(arm: Arm, best: Arm, sign: int, allowed: float) -> bool:
    """Whether an arm is worse than the best one by more than is allowed and chance in the patients explains."""
    ahead = sign * (_resampled(arm) - _resampled(best)) + allowed
    return float(np.mean(ahead[np.isfinite(ahead)] >= 0)) < WORSE


class _Chosen(NamedTuple):
    best: str
    smallest: str


def chosen(cuts: Cuts, values: Mapping[str, float]) -> _Chosen:
    """The cut with the best value, of equals the smallest; and the smallest that loses no more than the slack."""
    known = {arm: cuts.sign * values[arm] for arm in cuts.arms if arm in values and not math.isnan(values[arm])}
    if not known:
        return _Chosen(cuts.whole, cuts.whole)
    best = max(known, key=lambda arm: known[arm])
    allowed = known[best] - cuts.spec.slack * cuts.margin
    return _Chosen(best, next(arm for arm in known if known[arm] >= allowed))


def _exhaustive(cuts: Cuts) -> _Chosen:
    found = cuts.train(cuts.arms, "every cut")
    return chosen(cuts, _values(found))


def _two_stage(cuts: Cuts) -> _Chosen:
    """METHODS FT-9: the ends of the stages, then every block inside of the best stage."""
    order = list(cuts.stages)
    ends = [arm for arm in order if cuts.stages[arm] is not None]
    coarse = cuts.train(ends, "ends of stages")
    best = chosen(cuts, _values(coarse)).best
    cuts.drop("ends of stages", [arm for arm in ends if arm != best])
    at, before = order.index(best), ends[: ends.index(best)]
    inside = order[order.index(before[-1]) + 1 if before else 0 : at]
    fine = cuts.train(inside, "inside of the best stage") if inside else {}
    return chosen(cuts, {**_values(fine), best: _values(coarse)[best]})


def _halving(cuts: Cuts) -> _Chosen:
    """Successive halving (Jamieson and Talwalkar 2016): all a little, the better ones longer; none starts anew."""
    alive: Sequence[str] = cuts.arms
    values: dict[str, float] = {}
    for number, steps in enumerate(rungs(cuts.lengths, cuts.spec.rungs, cuts.spec.keep), 1):
        name = f"rung {number}"
        found = cuts.train(alive, name, steps)
        values = _values(found)
        if steps is None:
            break
        left = survivors(cuts, found, race=number > 1)
        cuts.drop(name, [arm for arm in alive if arm not in left])
        alive = left
    return chosen(cuts, values)


def survivors(cuts: Cuts, found: Mapping[str, Arm | None], *, race: bool) -> list[str]:
    """The cuts that go on: the best ones, at most the share that is kept, and the smallest that is close to the best.

    In a `race`, one that is significantly worse than the best less the slack does not go on. After the shortest
    trainings there is none: chance in the patients is then not what separates the cuts, but how fast each begins.
    """
    ranked = sorted(
        ((arm, one) for arm, one in found.items() if one is not None and math.isfinite(value_of(one))),
        key=lambda pair: -cuts.sign * value_of(pair[1]),
    )
    most = max(1, math.ceil(cuts.spec.keep * len(found)))
    allowed = cuts.spec.slack * cuts.margin
    if not ranked:
        return []
    best = ranked[0][1]
    level = [arm for arm, one in ranked if not race or one is best or not _worse(one, best, cuts.sign, allowed)]
    close = {arm for arm, one in ranked if cuts.sign * (value_of(one) - value_of(best)) >= -allowed}
    smallest = next(arm for arm in cuts.arms if arm in close)  # what is looked for; it costs the least, too
    return [arm for arm in cuts.arms if arm in (*level[:most], smallest)]


def rungs(lengths: Lengths, count: int, keep: float) -> list[int | None]:
    """The lengths of training of successive halving, ascending; each ends at a validation, the last is the whole.

    >>> rungs(Lengths(900, 50), 3, 1 / 3)
    [100, 300, None]
    >>> rungs(Lengths(10, 5), 4, 0.5)
    [5, None]
    """
    found = []
    for number in range(count - 1, 0, -1):
        periods = max(1, round(lengths.steps * keep**number / lengths.period))
        found.append(round(periods * lengths.period))
    shorter: list[int | None] = [steps for steps in sorted(set(found)) if 0 < steps < lengths.steps]
    return [*shorter, None]


def _rank(cuts: Cuts) -> _Chosen:
    """By what the pretrained features of each cut tell of the training images, before any training."""
    quantity = cuts.spec.score
    rows = cuts.measured()
    rows = rows[rows["quantity"] == quantity]
    return _by_rows(cuts, rows, "features before training", by_margin=quantity != "logme")


def _screen(cuts: Cuts) -> _Chosen:
    """By the heads of one training that has one at every cut."""
    rows = cuts.measured()
    return _by_rows(cuts, rows[rows["quantity"] == cuts.metric], "one training, a head at every cut", by_margin=True)


def _overlap(cuts: Cuts) -> _Chosen:
    """METHODS FT-10: the blocks up to where training leaves the features at the similarity of random ones."""
    rows = cuts.measured()
    for row in rows[rows["quantity"] == "overlap"].to_dict("records"):
        if (arm := cuts.blocks.get(row["block"])) is not None:
            cuts.note("before and after training", arm, "overlap", row["value"], math.nan, math.nan)
    # a block without an arm is the last one: its cut is the whole network
    picked = cuts.blocks.get(str(rows[rows["quantity"] == "chosen"]["block"].iloc[0]), cuts.whole)
    cuts.drop("before and after training", [arm for arm in cuts.arms if arm != picked])
    return _Chosen(picked, picked)


def _by_rows(cuts: Cuts, rows: pd.DataFrame, name: str, *, by_margin: bool) -> _Chosen:
    values = {}
    for row in rows.to_dict("records"):
        arm = cuts.blocks.get(row["block"])
        if arm is not None:
            values[arm] = float(row["value"])
            low, high = (math.nan if row[end] is None else float(row[end]) for end in ("low", "high"))
            cuts.note(name, arm, str(row["quantity"]), values[arm], low, high)
    if by_margin:
        found = chosen(cuts, values)
    else:  # on no metric's scale: more is better, and no margin can be said
        usable = {arm: values[arm] for arm in cuts.arms if math.isfinite(values.get(arm, math.nan))}
        best = max(usable, key=lambda arm: usable[arm]) if usable else cuts.whole
        found = _Chosen(best, best)
    cuts.drop(name, [arm for arm in cuts.arms if arm not in found])
    return found


def _values(found: Mapping[str, Arm | None]) -> dict[str, float]:
    return {arm: math.nan if one is None else value_of(one) for arm, one in found.items()}


_STRATEGIES: dict[str, Callable[[Cuts], _Chosen]] = {
    "exhaustive": _exhaustive,
    "two_stage": _two_stage,
    "overlap": _overlap,
    "rank": _rank,
    "screen": _screen,
    "halving": _halving,
}


def look(cuts: Cuts) -> Choice:
    """How far a search is, from what is on disk."""
    found: _Chosen | None = None
    stopped = ""
    try:
        found = _STRATEGIES[cuts.spec.strategy](cuts)
        last = cuts.rounds[-1]["round"] if cuts.rounds else ""
        cuts.drop(last, [arm for arm in cuts.arms if arm not in found])
    except _UnfinishedError:
        pass
    except _StoppedError as why:
        stopped = str(why)
    best, smallest = (None, None) if found is None else found
    needs_whole = cuts.spec.strategy in MEASURED
    return Choice(
        cuts.label, cuts.arms, cuts.whole, tuple(cuts.rounds), best, smallest, tuple(cuts.runs), cuts.analyses,
        stopped, needs_whole,
    )  # fmt: skip


def choices(
    unfolded: Unfolded, planner: Planner, store: Store | None, lengths: Lengths, parameters: Parameters
) -> dict[str, Choice]:
    """How far the search over each network's cuts is; empty for a study that does not search.

    Args:
        unfolded: the study, with one arm for each cut.
        planner: of the study.
        store: where runs and analyses are; None: nowhere yet.
        lengths: of the study's training.
        parameters: of a cut, by network and arm.
    """
    study = unfolded.study
    spec = study.search
    if spec is None:
        return {}
    found = {}
    for label, model in study.models.items():
        swept = _swept(unfolded, label)
        if len(swept) < FEWEST:
            level = next((study.arms[arm].level for arm in swept), "layer")
            raise SpecError(
                f"search.arm: the network {label} has {len(swept)} cuts at level {level!r}, and a search takes "
                f"{FEWEST} or more; give arms.{spec.arm}.level: block"
            )
        named, blocks = cuts_of(unfolded, label), [arm.partition("@")[2] for arm in swept]
        arms, whole = named, named[-1]
        if study.arms[whole].pool == "none":  # the head of an early cut can be larger than all that is cut off
            arms = tuple(sorted(named, key=partial(parameters, label)))
        stage_of = {one.name: one.stage for one in unfolded.names(model, study.arms[arms[0]].level)}
        cuts = Cuts(
            spec=spec,
            label=label,
            arms=arms,
            whole=whole,
            blocks=dict(zip(blocks, named, strict=True)),
            stages={arm: stage_of[block] for block, arm in zip(blocks, named, strict=True)},
            seeds=study.seed_list if spec.strategy == "exhaustive" else study.seed_list[: spec.seeds],
            margin=study.margin,
            metric=spec.metric or study.metric,
            lengths=lengths,
            planner=planner,
            store=store,
            measured_of=partial(_measurements, unfolded, planner, store),
        )
        found[label] = look(cuts)
    return found


def cuts_of(unfolded: Unfolded, label: str) -> tuple[str, ...]:
    """The arms of a network among which the search chooses, the smallest first.

    The last is the whole network: by the name of the arm that says `truncate: all`, if one is otherwise as these are.
    """
    arms = _swept(unfolded, label)
    if not arms:
        return ()
    study = unfolded.study
    last = replace(study.arms[arms[-1]], truncate="all")
    same = (name for name, init in study.arms.items() if init == last)
    return (*arms[:-1], next(same, arms[-1]))


def _swept(unfolded: Unfolded, label: str) -> tuple[str, ...]:
    """By their names: the study file on a page has single arms already."""
    search = unfolded.study.search
    return tuple(arm for arm in unfolded.arms[label] if search is not None and arm.startswith(f"{search.arm}@"))


def searched(found: Mapping[str, Choice], unfolded: Unfolded) -> dict[str, Searched]:
    """What a search adds to a study's runs; in an exhaustive one every cut is an arm of the study."""
    spec = unfolded.study.search
    every = spec is not None and spec.strategy == "exhaustive"
    return {
        label: Searched(_swept(unfolded, label), one.searched, one.cuts if every else one.finals)
        for label, one in found.items()
    }


def with_analysis(unfolded: Unfolded) -> Unfolded:
    """The study with the analysis by which its search chooses, where it chooses by one."""
    study = unfolded.study
    own = _analysis(unfolded)
    if own is None or own in study.analyses:
        return unfolded
    return unfolded._replace(study=replace(study, analyses=(*study.analyses, own)))


def of_search(study: StudySpec) -> list[int]:
    """The places of the analyses that a search waits for."""
    what = None if study.search is None else MEASURED.get(study.search.strategy)
    return [place for place, spec in enumerate(study.analyses) if spec.what == what]


def _analysis(unfolded: Unfolded) -> AnalysisSpec | None:
    """The analysis of the whole networks, in their first training, by which a search chooses."""
    study = unfolded.study
    spec = study.search
    whole = tuple(dict.fromkeys(cuts_of(unfolded, label)[-1] for label in study.models if cuts_of(unfolded, label)))
    if spec is None or spec.strategy not in MEASURED or not whole:
        return None
    settings: dict[str, Any] = {"images": spec.images} if spec.strategy != "screen" else {}
    if spec.strategy == "screen":
        settings |= {"trunk": spec.trunk, "length": spec.length}
    if spec.strategy == "overlap":
        settings["take"] = spec.take
    else:
        settings["metric"] = spec.metric
    level = study.arms[whole[0]].level
    return AnalysisSpec(what=MEASURED[spec.strategy], arms=whole, seeds=study.seed_list[:1], level=level, **settings)


def _measurements(unfolded: Unfolded, planner: Planner, store: Store | None, label: str) -> pd.DataFrame | str | None:
    """The rows of the search's own analysis of a network; None while it has not been done, or why it never will be."""
    from transfuse.study.analyses import plan_analyses

    own = _analysis(unfolded)
    if store is None or own is None:
        return None
    study = unfolded.study
    run = planner.of_arm(label, cuts_of(unfolded, label)[-1], study.seed_list[0])
    jobs = [job for job in plan_analyses(study, [run]) if job.spec == own]
    record = store.record(run.run_id)
    if own.what == "cut_overlap" and record is not None and record.status == "diverged":
        return f"the training of the whole network ({run.arm}) diverged: {record.reason}"
    return store.measurements(jobs[0].row()) if jobs else None
