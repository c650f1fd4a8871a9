"""What `transfuse run` and `truncate` do of a study, and what they say where it is stopped or has no result."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfuse.cli.text import say, working
from transfuse.errors import SpecError
from transfuse.results.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from transfuse.specs import StudySpec
    from transfuse.study.carry_out import Outcome
    from transfuse.study.expand import PlannedRun

OUT = Path("transfuse-out")
OPENING = "Opening data and weights (phantoms are drawn when they are first used) ..."


def outcome_of(
    console: Console, spec: StudySpec, command: Sequence[str], *, out: Path, workers: int | None, device: str
) -> Outcome | None:
    """Check a study and do what is to be done of it; None where it was stopped, after saying how to go on."""
    from transfuse.cli.progress import shown
    from transfuse.study.carry_out import carry_out, default_workers
    from transfuse.study.plan import check as look
    from transfuse.study.plan import replaced
    from transfuse.study.tuning import still_to_name

    with working(console, OPENING):
        checked = look(spec, command[1], device)
        count = default_workers(spec.train.threads, device) if workers is None else workers
    if count < 1:
        raise SpecError(f"--workers is {count}; expected 1 or more")
    say(console, spec.title or spec.name, style="bold")
    for line in checked.lines:
        say(console, f"  {line}")
    store = Store(out)
    later = 0

    def named(store: Store) -> list[PlannedRun]:
        nonlocal later  # of a study that tunes, the display counts the runs that are not named yet too
        runs = checked.round(store)
        later = still_to_name(checked.study, [run.row() for run in runs])
        return runs

    for notice in replaced(store, checked.study, named(store), "--name=" if command[0] == "truncate" else "name="):
        say(console, notice, style="yellow")
    try:
        return carry_out(
            checked.study,
            named,
            store,
            show=lambda total, done, workers: shown(console, total, done, workers, later),
            workers=count,
            device=device,
        )
    except KeyboardInterrupt:
        options = [f"--out={out}"] * (out != OUT) + [f"--workers={workers}"] * (workers is not None)
        options += [f"--device={device}"] * (device != "auto")
        say(
            console,
            "\nStopped. Nothing is lost: finished runs are kept, the others go on from their last validation.\n"
            f"  go on:   {shlex.join(['transfuse', *command, *options])}\n"
            f"  look:    {shlex.join(['transfuse', 'status', '--out', str(out)])}",
        )
        return None


def exit_code(console: Console, outcome: Outcome, out: Path) -> int:
    """The exit code, after saying what has no result."""
    if not outcome.complete:
        counts = ", ".join(f"{number} {state}" for state, number in outcome.states.items())
        why = shlex.join(["transfuse", "status", "--out", str(out)])
        text = f"Not everything has a result: {counts}. The same command tries again; {why} says why"
        say(console, text, style="red")
    return 0 if outcome.complete else 1
