"""What the report shows of the inside of networks: one topic for each line of `analyses`, with all that is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from transfuse.report.analysis_notes import notes_of
from transfuse.report.drawings import Drawing, Table
from transfuse.report.explanations import EXPLANATIONS
from transfuse.report.findings import findings
from transfuse.report.palette import arm_styles
from transfuse.report.pictures import Picture, gallery


@dataclass(frozen=True)
class Topic:
    """One line of `analyses`: what it measured, and what it found.

    Attributes:
        what: the analysis.
        title: its heading.
        how: how to read it, in a sentence or two.
        compared: which networks, blocks and images it is of; empty where the study does not say.
        drawings, tables, galleries: what there is to see.
        notes: what it warned of, each with the networks of which it did.
        missing: analyses without a result, each with the reason.
    """

    what: str
    title: str
    how: str
    compared: str
    drawings: list[Drawing]
    tables: list[Table]
    galleries: list[str]
    notes: list[str]
    missing: list[str]


def topics(
    study: Mapping[str, Any],
    measurements: pd.DataFrame,
    pictures: Sequence[tuple[Mapping[str, Any], str, np.ndarray]],
    analyses: Sequence[Mapping[str, Any]],
) -> list[Topic]:
    """One topic for each line of `analyses`, in their order.

    Args:
        study: baseline, metric, arms and analyses (`compared`: what each compared, in words), as the report has them.
        measurements: a row a number, with the names of its analysis.
        pictures: the names of the analysis, a caption, an array.
        analyses: where each stands: its names, `state`, `reason`, `notes`.
    """
    styles = arm_styles(study.get("arms") or {}, str(study.get("baseline") or ""))
    metric = str(study.get("metric") or "auroc")
    asked = dict(enumerate(study.get("analyses") or ()))
    found = []
    # Work that two lines share is listed with the first of them only, but measured under both.
    lines = {one["place"]: one["analysis"] for one in (*analyses, *(row for row, _, _ in pictures))}
    if len(measurements):
        lines |= dict(measurements[["place", "analysis"]].drop_duplicates().itertuples(index=False))
    for place, what in sorted(lines.items()):
        here = [one for one in analyses if one["place"] == place]
        line = asked.get(place) or {}
        title, how = EXPLANATIONS[what]
        rows = measurements[measurements["place"] == place] if len(measurements) else measurements
        shown = list(findings(what, rows, styles, metric)) if len(rows) else []
        topic = Topic(
            what,
            title,
            how,
            compared=str(line.get("compared", "")),
            drawings=[one for one in shown if isinstance(one, Drawing)],
            tables=[one for one in shown if isinstance(one, Table)],
            galleries=list(_galleries(title, [one for one in pictures if one[0]["place"] == place])),
            notes=notes_of(here, bool(line.get("compares", any(map(_of_two, here))))),
            missing=_missing(here),
        )
        found.append(topic)
    return found


def _of_two(one: Mapping[str, Any]) -> bool:
    """Whether an analysis looked at more than one network, or at one in two states."""
    return any(one[key] != one[f"other_{key}"] for key in ("arm", "seed", "state"))


def _missing(analyses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Analyses without a result, each with where it stands."""
    return [
        f"{one['title']}: {one['state']}" + (f", {one['reason']}" if one["reason"] else "")
        for one in analyses
        if one["state"] != "finished"
    ]


def _galleries(title: str, shown: Sequence[tuple[Mapping[str, Any], str, np.ndarray]]) -> Iterator[str]:
    """The pictures of each network side by side."""
    for name in dict.fromkeys((row["model"], row["arm"], row["seed"]) for row, _, _ in shown):
        model, arm, seed = name
        own = [
            Picture(array, caption, f"{title} {model}, {arm}: {caption}")
            for row, caption, array in shown
            if (row["model"], row["arm"], row["seed"]) == name
        ]
        yield str(gallery(own, f"{model} · {arm} · seed {seed}"))
