from __future__ import annotations

import io

from rich.console import Console

from transfuse.cli.progress import shown
from transfuse.study.events import Ended, Failed, Started, Validated


def lines_of(*events: object, total: int = 3, later: int = 0) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=False)
    with shown(console, total, 0, 1, later) as hear:
        for event in events:
            hear(event)  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_failed_runs_are_counted_as_failed() -> None:
    done = Ended("a", "net · random · seed 0", "finished", "", 2.0)
    said = lines_of(Failed("b", "net · tall · seed 0", "out of memory"), done)
    assert "[0/3, 1 failed]: out of memory" in said[0]
    assert said[1].endswith("[1/3, 1 failed, about 2.0 s left]")


def test_validations_of_before_an_interruption_are_marked() -> None:
    old = Validated("a", 50, 1.0, "auroc", 0.9, 0.2, True, repeated=True)
    new = Validated("a", 100, 2.0, "auroc", 0.8, 0.1, False)
    _, first, second = lines_of(Started("a", "net", 150, again=True), old, new)
    assert first.endswith("val auroc 0.900 (best so far)  (done before)")
    assert second.endswith("val auroc 0.800")


def test_the_time_left_is_that_of_the_runs_that_trials_will_name_too() -> None:
    done = Ended("a", "net · random at rate 0.001 · seed 0", "finished", "", 2.0)
    (said,) = lines_of(done, total=3, later=7)
    assert said.endswith("[1/10, about 18 s left]")


def test_a_bar_counts_them_too() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with shown(console, 3, 1, 1, 7):
        pass
    assert "1/10" in console.file.getvalue()  # type: ignore[attr-defined]
