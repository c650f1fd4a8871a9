"""What is in a data set, as a person wants to read it before training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from transfuse.errors import DataError
from transfuse.results import phrases
from transfuse.specs import DataSpec
from transfuse.study.sources import open_data, split_data

if TYPE_CHECKING:
    from rich.console import Console

    from transfuse.data import Part

_CURES = re.compile(r"\b(bad_images|duplicates|official_split): (exclude|drop|false)\b")
"""Settings of a study file that messages about data name as cures."""


def describe(spec: DataSpec, console: Console) -> bool:
    """Print classes, patients and parts of a data set, and everything that a study should know about it.

    Returns:
        Whether it can be split as it is, as a study needs it.

    Raises:
        DataError: it cannot be opened; a cure is written as this command takes it too.
    """
    from rich.markup import escape
    from rich.table import Table

    from transfuse.data import Part

    say = lambda text: console.print(escape(text), highlight=False, soft_wrap=True)  # noqa: E731
    try:
        dataset = open_data(spec)
    except DataError as error:
        raise DataError(f"{error}{_as_typed([str(error)])}") from None
    info, known = dataset.info, dataset.patients_known
    patients = phrases.counted(len(set(dataset.patient_ids)), "patient") if known else "patients unknown"
    what = "volume" if info.spatial_dims == 3 else "image"
    say(f"{info.name}: {phrases.counted(len(dataset), what)}, {patients}, task {info.task}")
    say(f"source: {info.source}; licence: {info.licence}; fingerprint {info.fingerprint[:12]}")
    problem, parts, notes = "", dict[str, Part](), dataset.notes
    try:
        split = split_data(spec, dataset)
    except DataError as error:
        problem = str(error)
    else:
        parts = {"train": split.train, "val": split.val, "test": split.test}
        notes = (*dataset.notes, *split.notes)
    table = Table(box=None, header_style="bold", title_justify="left")
    table.add_column("images of patients" if known else "images")
    for column in ("all", *parts):
        table.add_column(column, justify="right")
    columns = [Part(dataset, np.arange(len(dataset))), *parts.values()]
    for number, label in enumerate(info.classes):
        table.add_row(str(label), *(_cell(part, _members(part, number)) for part in columns))
    table.add_row("all", *(_cell(part, np.ones(len(part), bool)) for part in columns), style="dim")
    console.print(table)
    for note in dict.fromkeys(notes):
        say(f"note: {note}")
    if problem:
        say(f"This data set cannot be split as it is, and a study of it stops here: {problem}")
    if cure := _as_typed([problem, *notes]):
        say(cure.strip())
    return not problem


def _members(part: Part, number: int) -> np.ndarray:
    return part.targets == number if part.targets.ndim == 1 else part.targets[:, number] == 1


def _cell(part: Part, members: np.ndarray) -> str:
    """How many images, and of how many patients where these are known."""
    count = int(members.sum())
    if not part.dataset.patients_known:
        return str(count)
    return f"{count} of {len(set(np.asarray(part.patient_ids)[members]))}"


def _as_typed(texts: Iterable[str]) -> str:
    """The settings that messages name as cures, as the command line takes them; empty if they name none."""
    found: Sequence[str] = list(
        dict.fromkeys(f"{key}={value}" for text in texts for key, value in _CURES.findall(text))
    )
    if not found:
        return ""
    return f" To try it here, add to the command: {' or '.join(found)}."
