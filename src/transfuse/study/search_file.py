"""What a search has found, written down with what it cost: all that a report needs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transfuse.results.cut_search import FILE
from transfuse.results.store import Store, write_json
from transfuse.study.cut_sizes import size_of
from transfuse.study.search import Choice
from transfuse.study.sources import images_of
from transfuse.study.sweeps import Unfolded

if TYPE_CHECKING:
    from transfuse.data import Split

TRAINED = 3
"""A training step costs so many forward passes: one forward, two backward."""


def write_search(store: Store, unfolded: Unfolded, found: Mapping[str, Choice], split: Split) -> None:
    """Write down how far the search over each network's cuts is, and, once it has ended, what it cost."""
    study = unfolded.study
    assert study.search is not None
    content = []
    for label, one in found.items():
        row: dict[str, Any] = {
            "model": label,
            "arm": study.search.arm,
            "strategy": study.search.strategy,
            "metric": study.search.metric or study.metric,
            "test_metric": study.metric,
            "margin": study.margin,
            "slack": study.search.slack,
            "seeds": len(study.seed_list) if study.search.strategy == "exhaustive" else study.search.seeds,
            "cuts": list(one.cuts),
            "whole": one.whole,
            "stopped": one.stopped,
            "rounds": [_plain(entry) for entry in one.rounds],
            "best": one.best,
            "smallest": one.smallest,
        }
        if one.best is not None:
            row |= _costs(store, unfolded, one, split)
        content.append(row)
    write_json(store.study_folder(study.name) / FILE, content)


def _costs(store: Store, unfolded: Unfolded, found: Choice, split: Split) -> dict[str, Any]:
    """Of every cut, and of the search and an exhaustive one with as many seeds, in multiply-accumulate operations.

    A step of training counts three forward passes, frozen blocks or not. The training that leads to the chosen network
    is left out of both.
    """
    study, images = unfolded.study, images_of(split)
    model = study.models[found.model]
    ended = {run.run_id: store.record(run.run_id) for run in found.searched}
    of_run = {run.arm: record.facts for run in found.searched if (record := ended[run.run_id]) is not None}
    known = {
        arm: (facts["parameters"], facts["macs"]) for arm, facts in of_run.items() if facts.get("macs") is not None
    }
    cuts = {arm: known.get(arm) or size_of(model, study.arms[arm], images) for arm in found.cuts}
    seen: dict[str, float] = {}  # images that a run trained on, itself and those that it continues
    spent, of_best, longest = 0.0, 0.0, 0.0
    for run in found.searched:
        record = ended[run.run_id]
        if record is None:
            continue
        seen[run.run_id] = float(record.facts["epochs"]) * len(split.train)
        new = seen[run.run_id] - (seen.get(run.continues, 0.0) if run.continues else 0.0)
        work = TRAINED * cuts[run.arm][1] * new
        spent += work
        longest = max(longest, seen[run.run_id])
        of_best += work if run.arm == found.best else 0.0
    spent += sum(float(record.facts.get("macs") or 0.0) for record in _analyses(store, found))
    whole = longest or _planned(unfolded, split)
    if study.search is not None and study.search.strategy == "overlap" and found.best != found.whole:
        spent += TRAINED * cuts[found.whole][1] * whole  # the whole network is trained before the choice
    seeds = len({run.spec.seed for run in found.searched}) or 1
    every = sum(TRAINED * macs * whole * seeds for _, macs in cuts.values())
    final = TRAINED * cuts[str(found.best)][1] * whole * seeds
    return {
        "sizes": [{"arm": arm, "parameters": parameters, "macs": macs} for arm, (parameters, macs) in cuts.items()],
        "macs": spent - of_best,
        "macs_exhaustive": every - final,
    }


def _planned(unfolded: Unfolded, split: Split) -> float:
    """The images that a whole training sees."""
    train = unfolded.study.train
    if train.epochs is not None:
        return train.epochs * len(split.train)
    return float(min(train.batch_size, len(split.train)) * (train.steps or 0))


def _analyses(store: Store, found: Choice) -> Sequence[Any]:
    """The record of the analysis by which the search chose."""
    records = (store.analyses.record(name) for name in found.measured)
    return [record for record in records if record is not None]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that JSON can hold: what is no number, and the end of an interval that is none, is nothing."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
