"""Where the runs and analyses of a study stand, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from transfuse.cli.progress import duration
from transfuse.cli.text import say
from transfuse.results.cut_search import Search, read_search
from transfuse.results.phrases import counted
from transfuse.results.store import Store
from transfuse.study.plan import RunStatus, analysis_status, read_plan, status

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"finished": "green", "failed": "red", "damaged": "red", "diverged": "yellow", "running": "cyan"}


def show_status(console: Console, store: Store, name: str) -> None:
    """Print where every run of a study stands, and how many of its analyses stand where.

    Args:
        console: where to.
        store: where the study is kept.
        name: the study's.
    """
    plan = read_plan(store, name)
    found = status(store, plan.rows)
    table = Table(title=f"study {name}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    why = any(one.state != "finished" and one.detail for one in found)
    rounds = _rounds(plan.rows, read_search(store.study_folder(name))) if plan.study.search is not None else {}
    of = ["round"] if rounds else []
    for column in ("run", "network", "arm", *of, "seed", "state", "time", *(["why"] if why else [])):
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "seed", "state"))
    for one in found:
        row = one.row
        spent = "" if one.seconds is None else duration(one.seconds)
        cells = (row["run_id"], row["model"], _arm_of(row), *([rounds[row["run_id"]]] if of else []), str(row["seed"]))
        reason = [Text("" if one.state == "finished" else one.detail)] if why else []
        table.add_row(*map(Text, cells), Text(one.state, style=COLOURS.get(one.state, "")), spent, *reason)
    console.print(table)
    trained = sum(one.seconds or 0.0 for one in found)
    say(console, f"{counted(len(found), 'run')}: {_states(found)}; {duration(trained)} of training so far")
    looked = {one.row["analysis_id"]: one for one in analysis_status(store, plan.analyses)}.values()
    if looked:
        say(console, f"{counted(len(looked), 'analysis', 'analyses')}: {_states(looked)}")
    for one in looked:
        if one.state in ("failed", "damaged"):
            say(console, f"  {one.state} {one.row['title']}: {one.detail}", style="red")


def _states(found: Iterable[RunStatus]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).items())


def _arm_of(row: Mapping[str, Any]) -> str:
    """What a planned run trains, short enough for a row of 80 columns.

    >>> _arm_of({"role": "size", "arm": "pretrained", "train_fraction": 0.5})
    'pretrained, 50 %'
    >>> _arm_of({"role": "trial", "arm": "pretrained", "learning_rate": 0.001})
    'pretrained, rate 0.001'
    >>> _arm_of({"role": "search", "arm": "cut@layer2"})
    'cut@layer2'
    """
    if row["role"] == "source":
        return f"source {row['arm']}"
    if row["role"] == "trial":
        return f"{row['arm']}, rate {row['learning_rate']:g}"
    return f"{row['arm']}, {100 * row['train_fraction']:.4g} %" if row["role"] == "size" else str(row["arm"])


def _rounds(rows: Sequence[Mapping[str, Any]], searches: Sequence[Search]) -> dict[str, str]:
    """Of every run of a study that searches, the rounds that it is part of; a long one may be of two.

    >>> row = {"run_id": "a1", "model": "net", "arm": "cut@layer2", "asked_steps": 100}
    >>> _rounds([{**row, "role": "search"}, {**row, "role": "arm"}], [])
    {'a1': 'search, 100 steps, final'}
    """
    found: dict[str, list[str]] = {}
    shorter = {row.get("asked_steps") for row in rows if row["role"] == "search"}
    for row in rows:
        said = found.setdefault(row["run_id"], [])
        if row["role"] == "search":
            said.append(_round_of(row, searches, shorter))
        elif row["role"] == "arm":
            said.append("final")
    return {run: ", ".join(dict.fromkeys(said)) for run, said in found.items()}


def _round_of(row: Mapping[str, Any], searches: Sequence[Search], shorter: Collection[int | None]) -> str:
    """The round of a training of a search, as far as that is written down, else its length.

    A whole training asks for no number of steps where the study's length is in epochs: it is of none of the rounds that
    ask for one, the `shorter` ones.
    """
    steps = row.get("asked_steps")
    seen = [one for search in searches if search.model == row["model"] for one in search.seen if one.arm == row["arm"]]
    names = [one.round for one in seen if (one.steps == steps if steps is not None else one.steps not in shorter)]
    return names[-1] if names else f"search, {counted(steps, 'step')}" if steps else "search"
