"""What `transfuse truncate` searches, and the network that it hands over."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transfuse.cli.text import say
from transfuse.errors import SpecError, nearest
from transfuse.results.cut_search import Search
from transfuse.results.store import Store
from transfuse.specs import StudySpec, load_study
from transfuse.specs.arm import Level
from transfuse.specs.search import STRATEGIES
from transfuse.study.plan import Plan
from transfuse.study.truncation import smallest_run, study_of_run, truncation_study

if TYPE_CHECKING:
    from rich.console import Console

SMALLEST = "smallest"


def meant(
    source: str,
    overrides: Sequence[str],
    store: Store,
    *,
    strategy: str | None,
    margin: float | None,
    arm: str | None,
    level: str | None,
    name: str | None = None,
) -> StudySpec:
    """The study that searches: from the file of another, or from one of its runs; by another `name` where one is given.

    Raises:
        SpecError: no such file or run, or settings that cannot be meant.
    """
    for option, value, choices in (("--strategy", strategy, STRATEGIES), ("--level", level, get_args(Level))):
        if value is not None and value not in choices:
            raise SpecError(f"{option} is {value!r}; {nearest(value, choices)}")
    if margin is not None and not margin > 0:
        raise SpecError(f"--margin is {margin:g}; expected a positive loss in the study's metric, such as 0.01")
    settings: dict[str, Any] = {"strategy": strategy, "margin": margin, "level": level}
    if Path(source).exists():
        return _named(truncation_study(load_study(source, overrides), arm=arm, **settings), name)
    known = sorted(path.name for path in (store.root / "runs").glob("*") if path.is_dir())
    found = [name for name in known if name.startswith(source)]
    if len(found) != 1:
        which = f"{len(found)} runs" if found else "no run"
        near = f" ({nearest(source, known)})" if not found and 0 < len(known) <= 20 else ""
        raise SpecError(
            f"there is no study file {source!r}, and {which} in {str(store.root)!r} whose id begins so{near}"
        )
    if overrides:
        raise SpecError(
            f"{' '.join(overrides)}: a run's study is taken as it was; name its file, with the changes, instead"
        )
    study, own = study_of_run(store, found[0])
    return _named(truncation_study(study, arm=arm or own, **settings), name)


def _named(study: StudySpec, name: str | None) -> StudySpec:
    return study if name is None else replace(study, name=name)


def export_smallest(
    console: Console, store: Store, plan: Plan, searches: Sequence[Search], to: Path | None, licence: str | None
) -> bool:
    """Write the smallest network that is shown to be as good, for each network of the study, and say where.

    Returns:
        Whether there was one for each.
    """
    from transfuse.results.export import export
    from transfuse.study.program import write_program

    complete = True
    for search in searches:
        run = smallest_run(store, plan, search)
        if run is None:
            why = search.stopped or (
                "no training of the chosen cuts has a result" if search.best else "it has not ended"
            )
            say(console, f"No network of {search.model} to hand over: {why}.", style="yellow")
            complete = False
            continue
        if to is None:  # derived, as the report is: what an earlier start chose is replaced
            shutil.rmtree(store.study_folder(plan.study.name) / SMALLEST / search.model, ignore_errors=True)
        folder = (to or store.study_folder(plan.study.name) / SMALLEST) / search.model
        written = [
            *export(store.run_folder(run), folder, licence=licence, search=search),
            write_program(store, run, folder),
        ]
        seed = next(row["seed"] for row in plan.rows if row["run_id"] == run)
        shown = "" if search.is_shown else ", the best guess, which is not shown to be as good as the whole one"
        which = f"{search.to_use} of {search.model}{shown}; run {run}, seed {seed}, the best on validation data"
        say(
            console,
            f"\nThe network to use: {which}. How this one seed does on the test part stands in its card:",
            style="bold",
        )
        for path in written:
            say(console, f"  {path}", soft_wrap=True)
    return complete
