"""How long a pass of each network of a study takes: timed once for each shape, and kept beside the report's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfuse.errors import TransfuseError
from transfuse.results import phrases
from transfuse.results.network_sizes import Timing, Timings
from transfuse.results.store import Store, write_table
from transfuse.specs import StudySpec

if TYPE_CHECKING:
    import pandas as pd

REPEATS = 30
"""Passes that are timed of each network."""
NAMES, NUMBERS = ("model", "arm", "run_id"), ("milliseconds", "low", "high")
CONDITIONS = ("processor", "cores", "system", "threads", "torch")
"""What timings must have in common to stand side by side."""


def latencies(store: Store, study: StudySpec, runs: pd.DataFrame) -> Timings | None:
    """The latency of each arm that has a run that ended; None where the study does not ask for it.

    One image at a time on the CPU, with the study's `train.threads`. What has been timed is not timed again, whichever
    machine draws the report; where a network is missing and the machine is another one, all are timed there, so that
    they can be compared.

    Args:
        store: where the study is kept.
        study: with single arms.
        runs: the table of its runs.
    """
    if not study.latency or runs.empty:
        return None
    own = runs[runs["role"] == "arm"].drop_duplicates(["model", "arm"])
    asked = [{key: str(row[key]) for key in (*NAMES, "data")} for row in own.to_dict("records")]
    path = store.study_folder(study.name) / "tables" / "latency.parquet"
    kept = _read(path)
    reasons: dict[str, str] = {}
    if not {row["run_id"] for row in asked} <= {row["run_id"] for row in kept}:
        kept, reasons = _measured(study, asked, kept)
        import pandas as pd

        if kept:
            write_table(path, pd.DataFrame(kept))
    of_run = {row["run_id"]: row for row in kept}
    found = {
        (row["model"], row["arm"]): Timing(*(float(of_run[row["run_id"]][key]) for key in NUMBERS))
        for row in asked
        if row["run_id"] in of_run
    }
    said = [_conditions(kept[0])] if kept else []
    said += [f"Not timed: {names}, as {why}." for names, why in reasons.items()]
    return Timings(found, " ".join(said))


def _read(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    try:
        rows = pd.read_parquet(path, columns=[*NAMES, "shape", *NUMBERS, "batch_size", "repeats", *CONDITIONS])
        return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]
    except (OSError, ValueError):
        return []  # not there, or damaged: it is written again


def _measured(
    study: StudySpec, asked: list[dict[str, Any]], kept: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row an arm, with what was kept where it is of this machine; and why an arm has none."""
    from transfuse.models.complexity import latency, shape_of
    from transfuse.study.measure import environment
    from transfuse.study.network import Images, skeleton
    from transfuse.study.run import threads_of_run

    threads = study.train.threads
    here = environment("cpu", threads)
    now = {"threads": threads, "torch": here["versions"]["torch"]} | {key: here[key] for key in CONDITIONS[:3]}
    known = {row["shape"]: row for row in kept if all(row[key] == now[key] for key in CONDITIONS)}
    rows, reasons = [], {}
    for row in asked:
        data = json.loads(row["data"])
        images = Images(len(data["classes"]), data["channels"], data["image_size"], data.get("spatial_dims", 2))
        try:
            network = skeleton(study.models[row["model"]], study.arms[row["arm"]], images)
            shape = shape_of(network)
            if shape not in known:
                with threads_of_run(threads):
                    found = latency(network, images.size, images.channels, repeats=REPEATS)
                known[shape] = dict(zip(NUMBERS, (1000 * one for one in found), strict=True))
        except TransfuseError as error:
            reasons[f"{row['model']} · {row['arm']}"] = str(error).rstrip(".")
            continue
        took = {key: known[shape][key] for key in NUMBERS}
        names = {key: row[key] for key in NAMES}
        rows.append({**names, "shape": shape, **took, "batch_size": 1, "repeats": REPEATS, **now})
    return rows, reasons


def _conditions(row: Mapping[str, Any]) -> str:
    return (
        f"Latency is of one image at a time on the CPU: the median of {row['repeats']} passes in eval mode with "
        f"{phrases.counted(row['threads'], 'thread')}, torch {row['torch']}, {row['processor']} ({row['cores']} cores, "
        f"{row['system']}), and its 95 % interval. Other machines have others."
    )
