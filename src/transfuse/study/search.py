"""The searches of a study: over which cuts of which network, how far each is, and the runs and analyses it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from transfuse.errors import SpecError
from transfuse.results.store import Store
from transfuse.specs import AnalysisSpec, StudySpec
from transfuse.study.cuts import Cuts, StoppedError, UnfinishedError
from transfuse.study.expand import PlannedRun, Planner, Searched
from transfuse.study.lengths import Lengths
from transfuse.study.strategies import STRATEGIES, Chosen
from transfuse.study.sweeps import Unfolded

if TYPE_CHECKING:
    import pandas as pd

MEASURED: dict[str, Any] = {"rank": "cut_ranking", "overlap": "cut_overlap", "screen": "cut_screen"}
"""The analysis that a strategy chooses by; the others train."""

Parameters = Callable[[str, str], int]
"""Gives the parameters of an arm of a network, by their labels."""

Length = Callable[[str, str], Lengths]
"""Gives how long the training of an arm of a network is, by their labels."""

FEWEST = 2
"""A search over one cut would be none."""


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


def look(cuts: Cuts) -> Choice:
    """How far a search is, from what is on disk."""
    found: Chosen | None = None
    stopped = ""
    try:
        found = STRATEGIES[cuts.spec.strategy](cuts)
        last = cuts.rounds[-1]["round"] if cuts.rounds else ""
        cuts.drop(last, [arm for arm in cuts.arms if arm not in found])
    except UnfinishedError:
        pass
    except StoppedError as why:
        stopped = str(why)
    best, smallest = (None, None) if found is None else found
    needs_whole = cuts.spec.strategy in MEASURED
    return Choice(
        cuts.label, cuts.arms, cuts.whole, tuple(cuts.rounds), best, smallest, tuple(cuts.runs), cuts.analyses,
        stopped, needs_whole,
    )  # fmt: skip


def choices(
    unfolded: Unfolded, planner: Planner, store: Store | None, length: Length, parameters: Parameters
) -> dict[str, Choice]:
    """How far the search over each network's cuts is; empty for a study that does not search.

    Args:
        unfolded: the study, with one arm for each cut.
        planner: of the study.
        store: where runs and analyses are; None: nowhere yet.
        length: of the study's training of an arm, by network and arm.
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
        own = study.arms[whole]
        if own.pool == "none" or own.head == "mlp":  # the head of an early cut can be larger than all that is cut off
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
            lengths=length(label, whole),
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
