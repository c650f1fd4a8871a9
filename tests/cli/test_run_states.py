"""Where the runs of a study stand: the rounds of a search beside its final runs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from transfuse.cli.run_states import show_status
from transfuse.results.cut_search import FILE
from transfuse.results.store import Store, write_json

STUDY = """
name: spots
data: {name: fundus-phantom, size: 32, count: 60}
models: {net: {name: cbr_tiny}}
arms: {whole: {truncate: all}, cut: {truncate: every}}
baseline: whole
metric: referable_auroc
search: {arm: cut}
seeds: 2
train: {steps: 9}
"""


def row(run: str, arm: str, role: str, steps: int | None, seed: int = 0) -> dict[str, object]:
    return {"run_id": run, "model": "net", "arm": arm, "seed": seed, "role": role, "asked_steps": steps}


def shown(store: Store) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    show_status(console, store, "spots")
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def write_search(store: Store, *rounds: tuple[str, int]) -> None:
    """What a search has seen of one cut: rounds and their steps."""
    seen = {"arm": "cut@layer1", "quantity": "auroc", "value": 0.5, "low": None, "high": None, "kept": True}
    entry = dict.fromkeys(("strategy", "metric", "test_metric", "margin", "slack", "seeds", "best", "smallest"))
    entry |= {"model": "net", "arm": "cut", "cuts": ["cut@layer1"], "whole": "whole", "stopped": ""}
    entry["rounds"] = [{**seen, "round": name, "steps": steps} for name, steps in rounds]
    write_json(store.study_folder("spots") / FILE, [entry])


def test_an_arm_has_one_name_and_its_round_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [
        row("a1", "cut@layer1", "search", 1),
        row("a2", "cut@layer1", "search", 9),
        row("a2", "cut@layer1", "arm", 9),
        row("a3", "cut@layer1", "arm", 9, seed=1),
    ]
    write_json(store.study_folder("spots") / "plan.json", {"study": STUDY, "runs": rows, "analyses": []})
    told = shown(store)
    assert told[1] == ["run", "network", "arm", "round", "seed", "state", "time"]
    assert told[2][:5] == ["a1", "net", "cut@layer1", "search, 1 step", "0"]  # the file of the search is not there yet
    write_search(store, ("rung 1", 1), ("rung 3", 9))
    told = [line[:5] for line in shown(store)[2:5]]
    assert told == [
        ["a1", "net", "cut@layer1", "rung 1", "0"],
        ["a2", "net", "cut@layer1", "rung 3, final", "0"],
        ["a3", "net", "cut@layer1", "final", "1"],
    ]


def test_a_whole_training_of_epochs_is_of_no_shorter_round(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [row("a1", "cut@layer1", "search", 1), row("a2", "cut@layer1", "search", None)]
    study = STUDY.replace("steps: 9", "epochs: 9")
    write_json(store.study_folder("spots") / "plan.json", {"study": study, "runs": rows, "analyses": []})
    write_search(store, ("rung 1", 1))  # the last round goes on
    assert [line[3] for line in shown(store)[2:4]] == ["rung 1", "search"]
    write_search(store, ("rung 1", 1), ("rung 2", 9))
    assert [line[3] for line in shown(store)[2:4]] == ["rung 1", "rung 2"]


def test_a_study_that_does_not_search_has_no_rounds(tmp_path: Path) -> None:
    store, plain = Store(tmp_path), STUDY.replace("search: {arm: cut}\n", "")
    write_json(
        store.study_folder("spots") / "plan.json",
        {"study": plain, "runs": [row("a1", "whole", "arm", 9)], "analyses": []},
    )
    assert shown(store)[1:3] == [
        ["run", "network", "arm", "seed", "state", "time"],
        ["a1", "net", "whole", "0", "waiting"],
    ]
