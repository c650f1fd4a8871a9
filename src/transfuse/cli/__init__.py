"""The command line: `transfuse demo | check | run | truncate | status | report | export | show | data`.

Nothing here imports torch at import: `transfuse --help` answers at once.
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from transfuse.cli.conclusion import concluded
from transfuse.cli.outcome import OPENING, OUT, exit_code, outcome_of
from transfuse.cli.show import shipped, show
from transfuse.cli.text import say, working
from transfuse.errors import SpecError, TransfuseError, nearest
from transfuse.results.store import Store

if TYPE_CHECKING:
    from rich.console import Console

    from transfuse.specs import StudySpec

app = App(
    name="transfuse",
    help="Are pretrained weights worth it for your medical images, how small can the network be, and how sure are we?"
    "\n\nStart with `transfuse demo`; `transfuse show studies` lists study files to look at before you write your own.",
    version=lambda: _version(),
    version_flags=["--version"],
)
app.command(show)
data = app.command(App(name="data", help="Look at data before training on them."))

Out = Annotated[
    Path, Parameter(name=["--out", "-o"], help="Folder of all results; finished runs are found there again.")
]
Workers = Annotated[
    int | None, Parameter(name=["--workers", "-w"], help="Runs at a time; default: cores / threads, or one a GPU.")
]
Device = Annotated[str, Parameter(name="--device", help="auto, cpu, cuda or mps.")]


@app.command
def demo(*, out: Out = OUT, workers: Workers = None, device: Device = "auto") -> int:
    """Run the demo study: synthetic data, small networks, a few minutes on two cores; ends with a report."""
    return run(shipped("demo"), out=out, workers=workers, device=device)


@app.command
def check(study: Path, *overrides: str, device: Device = "auto") -> int:
    """Look at everything a study needs, and list every mistake at once, without training.

    Parameters
    ----------
    study
        The study file.
    overrides
        Changes to it: key.sub=value, for example data.size=64.
    """
    from transfuse.study.plan import check as look

    spec = _load(study, overrides, device)
    console = _console()
    with working(console, OPENING):
        checked = look(spec, str(study), device)
    for line in checked.lines:
        say(console, line if line.startswith("note: ") else f"✓ {line}")
    say(console, f"Nothing wrong found. Start it with: {shlex.join(['transfuse', 'run', str(study), *overrides])}")
    return 0


@app.command
def run(study: Path, *overrides: str, out: Out = OUT, workers: Workers = None, device: Device = "auto") -> int:
    """Carry out a study and write its report; what is done already is not done again.

    Parameters
    ----------
    study
        The study file.
    overrides
        Changes to it: key.sub=value, for example data.size=64.
    """
    spec = _load(study, overrides, device)
    console = _console()
    outcome = outcome_of(console, spec, ["run", str(study), *overrides], out=out, workers=workers, device=device)
    if outcome is None:
        return 130
    concluded(console, Store(out), outcome.plan)
    return exit_code(console, outcome, out)


@app.command
def truncate(
    source: str,
    *overrides: str,
    margin: float | None = None,
    strategy: str | None = None,
    arm: str | None = None,
    level: str | None = None,
    name: str | None = None,
    to: Path | None = None,
    licence: str | None = None,
    out: Out = OUT,
    workers: Workers = None,
    device: Device = "auto",
) -> int:
    """Find the smallest network that is as good: search where to cut it, train it, compare, and export it.

    Parameters
    ----------
    source
        A study file, or a run, whose network is cut then: its id or the first characters of it (transfuse status).
    overrides
        Changes to the study: key.sub=value, for example data.size=64. Not with a run.
    margin
        The loss in the study's metric that does not matter; default: the study's.
    strategy
        exhaustive, two_stage, overlap, rank, screen or halving; default: the study's, else halving.
    arm
        Which arm is cut; default: that of the study's search, or of the run; else the one that says truncate: every,
        the only one with depth: all and nothing frozen, or the only one of a study without pretrained weights.
    level
        How finely it is cut: stage, block or layer; default: block, but the arm's own level where that is not stage, or
        where the arm's depth, freeze or tune name blocks of it, or it says truncate: every. Not for a study with a
        search of its own.
    name
        Of the study that searches, which names the folder of its report; default: the source's name and -truncated,
        then the strategy where it is not halving. A study with a search of its own keeps its name, followed by the
        strategy where that is another.
    to
        Folder for the network, in a folder of its name; must not hold one yet. Default: OUT/studies/NAME/smallest.
    licence
        Of the weights, for the card, as an SPDX identifier such as cc-by-4.0; without it the card says that none was
        chosen, except for a training on phantoms from random weights.
    """
    from transfuse.cli.smallest import export_smallest, meant
    from transfuse.results.export import check_destination

    console = _console()
    spec = meant(source, overrides, Store(out), strategy=strategy, margin=margin, arm=arm, level=level, name=name)
    if to is not None:
        for model in spec.models:
            check_destination(to / model)
    given = {
        "margin": margin,
        "strategy": strategy,
        "arm": arm,
        "level": level,
        "name": name,
        "to": to,
        "licence": licence,
    }
    again = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = ["truncate", source, *overrides, *again]
    outcome = outcome_of(console, spec, command, out=out, workers=workers, device=device)
    if outcome is None:
        return 130
    found = concluded(console, Store(out), outcome.plan)
    handed_over = export_smallest(console, Store(out), outcome.plan, found.searches, to, licence)
    return exit_code(console, outcome, out) or int(not handed_over)


@app.command
def status(study: str | None = None, *, out: Out = OUT) -> int:
    """Say where every run of a study stands: finished, diverged, failed, damaged, running, interrupted or waiting.

    Parameters
    ----------
    study
        The study's name; default: all studies in the folder.
    """
    from transfuse.cli.run_states import show_status
    from transfuse.errors import StoreError

    store = Store(out)
    names = [study] if study else store.studies()
    if not names:
        raise StoreError(f"no study was begun in {str(out)!r}; start one with: transfuse run STUDY.yaml")
    console = _console()
    for name in names:
        show_status(console, store, name)
    return 0


@app.command
def report(study: str | None = None, *, out: Out = OUT) -> int:
    """Write the report of a study from its files, without its data.

    Networks are built only where latency: true asks for times that were not taken yet.

    Parameters
    ----------
    study
        The study's name; default: the only one in the folder.
    """
    from transfuse.study.plan import read_plan

    store = Store(out)
    names = store.studies()
    if study is None and len(names) != 1:
        raise SpecError(f"there are {len(names)} studies in {str(out)!r}; name one: {', '.join(names) or 'none yet'}")
    concluded(_console(), store, read_plan(store, study or names[0]))
    return 0


@app.command
def export(run: str, folder: Path, *, out: Out = OUT, licence: str | None = None) -> int:
    """Write a trained network as safetensors with a model card beside it.

    Parameters
    ----------
    run
        The run's id, or its first characters (transfuse status).
    folder
        Where to write; must not hold anything yet.
    licence
        Of the weights, for the card, as an SPDX identifier such as cc-by-4.0; without it the card says that none was
        chosen, except for a training on phantoms from random weights.
    """
    from transfuse.results.export import export as write

    console = _console()
    for path in write(_run_folder(Store(out), run), folder, licence=licence):
        say(console, str(path))
    return 0


@data.command(name="inspect")
def inspect(
    name: str,
    *settings: str,
    root: str | None = None,
    size: int | None = None,
    image_column: str | None = None,
    label_columns: tuple[str, ...] = (),
    patient_column: str | None = None,
    part_column: str | None = None,
    mask_column: str | None = None,
) -> int:
    """Open a data set and say what is in it: classes, patients, parts, and what a study should know.

    Ends with 1 where the data cannot be split as they are.

    Parameters
    ----------
    name
        A catalogue name, or the path of an .npz file, a folder of class folders, a table, or a study file, whose data
        it is then.
    settings
        Any key of data: in a study file as key=value, for example bad_images=exclude.
    root
        Folder that a relative name starts from; default: the environment variable TRANSFUSE_DATA.
    size
        Side of the images in pixels; default: 64, or the study's.
    image_column
        Of a table: the column of image paths.
    label_columns
        Of a table: a column of labels; repeat the option for several.
    patient_column
        Of a table: the column that names the patient.
    part_column
        Of a table: the column that says train, val or test.
    mask_column
        Of a table: the column of mask files, instead of labels.
    """
    from transfuse.cli.inspect import describe
    from transfuse.specs import data_from

    options = {
        "root": root,
        "size": size,
        "image_column": image_column,
        "label_columns": list(label_columns) or None,
        "patient_column": patient_column,
        "part_column": part_column,
        "mask_column": mask_column,
    }
    spec = data_from(name, {key: value for key, value in options.items() if value is not None}, settings)
    return 0 if describe(spec, _console()) else 1


def _run_folder(store: Store, run: str) -> Path:
    """The folder of the one run whose id begins so."""
    known = sorted({path.name for kind in ("runs", "attempts") for path in (store.root / kind).glob("*")})
    found = [name for name in known if name.startswith(run)]
    if len(found) != 1:
        which = f"{len(found)} runs begin so" if found else nearest(run, known)
        raise SpecError(f"there is no one run {run!r} in {str(store.root)!r}: {which}")
    return store.run_folder(found[0])


def main() -> None:
    """Run the command line; errors of ours are one clear message and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)  # a scheduler's time limit stops as cleanly as Ctrl-C
    try:
        code = app(result_action="return_value")
    except TransfuseError as error:
        console = _console(stderr=True)
        console.print("[bold red]error:[/] ", end="")
        say(console, str(error), soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _version() -> str:
    from importlib.metadata import version

    return version("transfuse")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _load(study: Path, overrides: tuple[str, ...], device: str) -> StudySpec:
    from transfuse.specs import read_study, study_from

    content = read_study(study, overrides)
    try:
        return study_from(content, str(study))
    except SpecError as error:
        from transfuse.study.plan import all_mistakes

        raise all_mistakes(error, content, device) from None
