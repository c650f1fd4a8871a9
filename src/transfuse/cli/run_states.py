"""Where the runs and analyses of a study stand, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from transfuse.cli.progress import duration
from transfuse.cli.text import say
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
    table = Table(title=f"study {name}", title_justify="left", box=None, header_style="bold")
    why = any(one.state != "finished" and one.detail for one in found)
    for column in ("run", "network", "arm", "seed", "state", "time", *(["why"] if why else [])):
        table.add_column(column, overflow="fold", no_wrap=column in ("run", "seed", "state"))
    for one in found:
        row = one.row
        spent = "" if one.seconds is None else duration(one.seconds)
        cells = (row["run_id"], row["model"], _arm_of(row), str(row["seed"]))
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
    >>> _arm_of({"role": "search", "arm": "cut@layer2", "asked_steps": 100})
    'cut@layer2, 100 steps'
    """
    if row["role"] == "source":
        return f"source {row['arm']}"
    if row["role"] == "trial":
        return f"{row['arm']}, rate {row['learning_rate']:g}"
    if row["role"] == "search" and row.get("asked_steps"):
        return f"{row['arm']}, {row['asked_steps']} steps"
    return f"{row['arm']}, {100 * row['train_fraction']:.4g} %" if row["role"] == "size" else str(row["arm"])
