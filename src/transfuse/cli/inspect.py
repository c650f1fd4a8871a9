"""What is in a data set, as a person wants to read it before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transfuse.errors import DataError
from transfuse.results import phrases
from transfuse.specs import DataSpec
from transfuse.study.sources import open_data, split_data

if TYPE_CHECKING:
    from rich.console import Console


def describe(spec: DataSpec, console: Console) -> None:
    """Print classes, patients and parts of a data set, and everything that a study should know about it."""
    from rich.markup import escape
    from rich.table import Table

    dataset = open_data(spec)
    info = dataset.info
    say = lambda text: console.print(escape(text), highlight=False, soft_wrap=True)  # noqa: E731
    known = dataset.patient_ids != dataset.sample_ids  # else each image counts as a patient, as a note says
    patients = phrases.counted(len(set(dataset.patient_ids)), "patient") if known else "patients unknown"
    say(f"{info.name}: {phrases.counted(len(dataset), 'image')}, {patients}, task {info.task}")
    say(f"source: {info.source}; licence: {info.licence}; fingerprint {info.fingerprint[:12]}")
    try:
        split = split_data(spec, dataset)
    except DataError as error:
        say(f"This data set cannot be split as it is: {error}")
        parts, notes = {}, dataset.notes
    else:
        parts = {"train": split.train, "val": split.val, "test": split.test}
        notes = (*dataset.notes, *split.notes)
    table = Table(box=None, header_style="bold")
    table.add_column("class")
    for column in ("all", *parts):
        table.add_column(column, justify="right")
    for number, label in enumerate(info.classes):
        counts = [_count(dataset.targets, number), *(_count(part.targets, number) for part in parts.values())]
        table.add_row(str(label), *map(str, counts))
    columns = [dataset.patient_ids, *(part.patient_ids for part in parts.values())]
    what, counts = (
        ("patients", [len(set(ids)) for ids in columns]) if known else ("images", [len(ids) for ids in columns])
    )
    table.add_row(what, *map(str, counts), style="dim")
    console.print(table)
    for note in dict.fromkeys(notes):
        say(f"note: {note}")


def _count(targets: np.ndarray, number: int) -> int:
    return int(np.sum(targets == number if targets.ndim == 1 else targets[:, number] == 1))
