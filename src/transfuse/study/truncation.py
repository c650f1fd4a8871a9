"""The smallest network that is as good, from a study or from one of its runs: a study of its own that searches it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transfuse.errors import SpecError, StoreError, nearest
from transfuse.metrics import EVERY_METRIC
from transfuse.results import phrases
from transfuse.results.cut_search import Search
from transfuse.results.network_sizes import Sizes
from transfuse.results.store import Store
from transfuse.specs import InitSpec, ModelSpec, SearchSpec, SourceSpec, StudySpec
from transfuse.specs.arm import EVERY, Level
from transfuse.specs.search import STRATEGIES, Strategy
from transfuse.study.carry_out import carry_out
from transfuse.study.conclude import Conclusion, conclude
from transfuse.study.events import Event
from transfuse.study.plan import Plan, check, read_plan

WHOLE, CUT = "whole", "truncated"
"""Names of the arms: the network with a new head, and cut after each block."""

USUAL: Strategy = "halving"
"""The strategy where none is asked for; a search by another one has it in its name, so that both are kept."""


class Truncation(NamedTuple):
    """What `search_truncation` gives.

    Attributes:
        search: what was looked at, chosen, and found on the test part; what it cost.
        sizes: every arm that was compared, by parameters, MACs and (with `latency`) measured latency: the Pareto front.
        run_id: the training to use: of the smallest network that is shown to be as good as the whole one
            (`search.is_shown`), else of the best guess, the seed with the best validation value; None where nothing has
            finished.
        conclusion: all else that a report shows.
        plan: the study that was carried out.
    """

    search: Search
    sizes: Sizes | None
    run_id: str | None
    conclusion: Conclusion
    plan: Plan


def search_truncation(
    study: StudySpec,
    *,
    strategy: Strategy | None = None,
    margin: float | None = None,
    arm: str | None = None,
    level: Level | None = None,
    out: str | Path = "transfuse-out",
    workers: int = 1,
    device: str = "auto",
) -> list[Truncation]:
    """Search the smallest network that is as good as the best cut of it (P; TTL), and train it.

    Every strategy ends in the same way: the cut with the best validation value, the smallest that is little worse, and
    the whole network are trained with all seeds of the study and compared on the test part by patients and seeds. What
    is on disk already is not done again.

    Args:
        study: its data, networks, training, seeds, metric and margin; see `truncation_study` for its arms.
        strategy: of `SearchSpec`; None: the study's own, else `halving`.
        margin: the loss in the metric that does not matter; None: the study's.
        arm: which arm is cut; None: see `truncation_study`.
        level: how finely it is cut; None: see `truncation_study`.
        out: the folder of all results.
        workers: processes.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Returns:
        One result for each network of the study.

    Raises:
        SpecError: everything that is wrong with the study, at once.
        StoreError: the folder cannot be written.

    ::

        found, = tfu.search_truncation(load_study("studies/pneumonia.yaml", ["arms={full: {depth: all}}"]), margin=0.01)
        found.search.verdict.smallest, found.search.share_of_exhaustive
    """
    derived = truncation_study(study, strategy=strategy, margin=margin, arm=arm, level=level)
    checked = check(derived, device=device)
    store = Store(out)
    outcome = carry_out(checked.study, checked.round, store, show=_silent, workers=workers, device=device)
    found = conclude(store, outcome.plan)
    plan, sizes = outcome.plan, found.network_sizes
    return [Truncation(one, sizes, smallest_run(store, plan, one), found, plan) for one in found.searches]


def truncation_study(
    study: StudySpec,
    *,
    strategy: Strategy | None = None,
    margin: float | None = None,
    arm: str | None = None,
    level: Level | None = None,
) -> StudySpec:
    """The study that searches the cuts of an arm of another one.

    A study that has a `search` is taken as it is, with a `strategy` at the defaults of that. Of another study the arm
    that says `truncate: every` is searched; else the named one, or the only one that transfers all blocks (`depth:
    all`), is cut after every block, and compared with itself, whole: other arms, pairs, analyses and sources that
    nothing starts from are left out. Without a `level` it is cut at every `block`, where its own level decides nothing
    else.

    Its name is that of the study and `-truncated`. What is asked for besides is part of it, so that no search replaces
    another: an `arm` that is not the one that would be taken, and a `strategy` other than `halving` or the study's own.

    Raises:
        SpecError: no arm, or several, that could be meant; one that is cut already.
    """
    if margin is not None:
        study = replace(study, margin=margin)
    if study.search is not None and arm is None:
        if level is not None:
            raise SpecError(
                f"level is {level!r}, and the study has a search of its own: change arms.{study.search.arm}.level in "
                "its file, or name the arm to cut"
            )
        if strategy in (None, study.search.strategy):
            return study
        name = f"{study.name.removesuffix(f'-{study.search.strategy}')}-{strategy}"
        return replace(study, name=name, search=SearchSpec(arm=study.search.arm, strategy=strategy))
    name = arm or _meant(study)
    if name not in study.arms:
        raise SpecError(f"there is no arm {name!r} to cut; {nearest(name, study.arms)}")
    init = study.arms[name]
    if init.truncate not in (None, EVERY, "all"):
        raise SpecError(f"the arm {name!r} is cut already (truncate: {init.truncate}); name the arm that is whole")
    if set(init.sweeps) - {"truncate"} or init.slim is not None:
        what = "slim" if init.slim is not None else next(field for field in init.sweeps if field != "truncate")
        raise SpecError(f"the arm {name!r} says {what} too; one that is searched for its cut says truncate alone")
    free = init.depth in (0, "all") and init.freeze in (0, "all") and init.truncate != EVERY and not init.tune
    init = replace(init, level=level or ("block" if free and init.level == "stage" else init.level))
    init = replace(init, head="fresh") if init.head == "source" else init
    arms = {WHOLE: replace(init, truncate="all"), CUT: replace(init, truncate=EVERY)}
    if study.tune != "none" and init.learning_rate is None:
        raise SpecError(
            f"the study chooses learning rates (tune), and a search trains every cut at one: give arms.{name}."
            "learning_rate, or name a run of the arm, whose rate is taken"
        )
    models = study.models
    if not init.uses_weights:
        models = {label: replace(model, weights=None) for label, model in models.items()}
    return replace(
        study,
        name=_name(study, arm, strategy or USUAL),
        models=models,
        title=f"How small can {phrases.listed(list(models))} be?" + ("" if name == WHOLE else f" (arm {name})"),
        question="Is the network as good when it is cut off early?",
        arms=arms,
        baseline=WHOLE,
        pairs=(),
        analyses=(),
        sources=_needed(study, init, models),
        train_fractions=(),
        tune="none",
        search=SearchSpec(arm=CUT, strategy=strategy or USUAL),
    )


def _meant(study: StudySpec) -> str:
    """The arm to cut, where none was named."""
    swept = [name for name, init in study.arms.items() if "truncate" in init.sweeps]
    whole = [name for name, init in study.arms.items() if init.depth == "all" and not init.sweeps and init.freeze == 0]
    alone = list(study.arms) if all(model.weights is None for model in study.models.values()) else []
    for found in (swept, whole, alone):
        if len(found) == 1:
            return found[0]
        if found:
            break
    known = ", ".join(map(repr, study.arms))
    raise SpecError(
        "which arm is to be cut? There is not exactly one that says truncate: every, or depth: all with nothing "
        f"frozen; name one with --arm (in Python arm=): {known}"
    )


def _name(study: StudySpec, arm: str | None, strategy: str) -> str:
    """The name of the study that searches."""
    parts = [study.name]
    if arm is not None and len(study.arms) > 1:
        try:
            usual = _meant(study)
        except SpecError:
            usual = None
        parts += [_in_a_name(arm)] * (arm != usual)
    return "-".join([*parts, CUT, *[strategy] * (strategy != USUAL)])


def _in_a_name(text: str) -> str:
    """A label as part of the name of a study.

    >>> _in_a_name("cut@layer 2")
    'cut-layer-2'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)


def _needed(study: StudySpec, init: InitSpec, models: Mapping[str, ModelSpec]) -> dict[str, SourceSpec]:
    """The sources that an arm of networks starts from, and theirs."""
    asked = [init.weights or model.weights for model in models.values()] if init.uses_weights else []
    found = set()
    while asked:
        name = (asked.pop() or "").removeprefix("run:")
        if name in study.sources and name not in found:
            found.add(name)
            source = study.sources[name]
            asked += [source.init.weights, source.model.weights if source.model is not None else None]
    return {name: source for name, source in study.sources.items() if name in found}


def study_of_run(store: Store, run: str) -> tuple[StudySpec, str]:
    """The study of a run, its network and arm alone, at the rate that it was trained at; and the arm's name.

    Args:
        store: where it is.
        run: its id.

    Raises:
        StoreError: no study has an arm with this run.
    """
    for name in store.studies():
        plan = read_plan(store, name)
        for row in plan.rows:
            if row["run_id"] == run and row["role"] == "arm":
                return _alone(plan.study, str(row["model"]), str(row["arm"]), row["learning_rate"]), str(row["arm"])
    raise StoreError(f"no study in {str(store.root)!r} has an arm with the run {run}; name the study's file instead")


def _alone(study: StudySpec, label: str, arm: str, rate: float) -> StudySpec:
    """A study of one network and one arm, by a name that says which where there are several.

    One that was itself made to search for the cut gives its name back without that.
    """
    model, init = study.models[label], study.arms[arm]
    own = re.fullmatch(rf"(.+)-{CUT}(?:-(?:{'|'.join(STRATEGIES)}))?", study.name)
    again = own is not None and arm == WHOLE and study.search is not None and study.search.arm == CUT
    parts = [own[1] if own is not None and again else study.name, *[_in_a_name(label)] * (len(study.models) > 1)]
    parts += [_in_a_name(arm)] * (len(study.arms) > 1 and not again)
    if not init.uses_weights:  # the source of the network's weights is left out, too
        model = replace(model, weights=None)
    if study.tune != "none" and init.learning_rate is None:
        init = replace(init, learning_rate=rate)
    return replace(
        study,
        name="-".join(parts),
        models={label: model},
        arms={arm: init},
        baseline=arm,
        pairs=(),
        analyses=(),
        sources=_needed(study, init, {label: model}),
        train_fractions=(),
        tune="none",
        search=None,
    )


def smallest_run(store: Store, plan: Plan, search: Search) -> str | None:
    """Of the network to use, the training with the best validation value; None where it has not been trained."""
    best: tuple[float, str] | None = None
    for row in plan.rows:
        if (row["model"], row["arm"], row["role"]) != (search.model, search.to_use, "arm"):
            continue
        record = store.record(row["run_id"])
        if record is None or record.status != "finished":
            continue
        monitor = str(record.facts.get("monitor"))
        sign = 1 if monitor in EVERY_METRIC and EVERY_METRIC[monitor].higher_is_better else -1
        value = record.facts.get("best_value")
        judged = -math.inf if value is None else sign * float(value)
        if best is None or judged > best[0]:
            best = judged, row["run_id"]
    return None if best is None else best[1]


def _silent(total: int, done: int, workers: int) -> nullcontext[Callable[[Event], None]]:
    return nullcontext(lambda event: None)
