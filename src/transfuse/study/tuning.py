"""Which learning rate each arm gets: the best of a small grid on validation data, once all of its trials have ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from transfuse.metrics import EVERY_METRIC
from transfuse.results.store import RunRecord, Store
from transfuse.specs import StudySpec
from transfuse.specs.tune import TuneSpec

Rates = Mapping[tuple[str, str], float]
"""The learning rate of an arm, by the network's label and the arm's name."""


class Choice(NamedTuple):
    """What an arm of a network was tried at, and what was best.

    Fields:
        model, arm: labels.
        rate: the best; of equals the smallest.
        values: the mean over seeds of the best validation value at each rate, ascending; NaN where a trial diverged.
        monitor: of what.
    """

    model: str
    arm: str
    rate: float
    values: dict[float, float]
    monitor: str

    @property
    def at_the_edge(self) -> bool:
        """Whether a better rate may lie beyond the grid."""
        return self.rate in (min(self.values), max(self.values))


def choices(rows: Iterable[Mapping[str, Any]], store: Store) -> list[Choice]:
    """The choice of every arm all of whose trials have ended.

    Args:
        rows: the runs of the plan as tables name them; those with the role `trial` count.
        store: where their records are.
    """
    tried: dict[tuple[str, str], list[tuple[float, RunRecord | None]]] = {}
    for row in rows:
        if row["role"] == "trial":
            tried.setdefault((row["model"], row["arm"]), []).append((row["learning_rate"], store.record(row["run_id"])))
    found = []
    for (model, arm), trials in tried.items():
        records = [(rate, record) for rate, record in trials if record is not None]
        if len(records) == len(trials):
            found.append(_choice(model, arm, records))
    return found


def _choice(model: str, arm: str, trials: list[tuple[float, RunRecord]]) -> Choice:
    monitor = str(next((record.facts["monitor"] for _, record in trials if "monitor" in record.facts), "loss"))
    sign = 1 if monitor in EVERY_METRIC and EVERY_METRIC[monitor].higher_is_better else -1
    values: dict[float, float] = {}
    for rate in sorted({rate for rate, _ in trials}):
        own = [record for other, record in trials if other == rate]
        best = [float(record.facts.get("best_value", math.nan)) for record in own if record.status == "finished"]
        values[rate] = sum(best) / len(best) if len(best) == len(own) else math.nan
    usable = {rate: sign * value for rate, value in values.items() if not math.isnan(value)}
    # Where every rate diverges, the smallest is the nearest to one that would not.
    rate = max(usable, key=lambda rate: usable[rate]) if usable else min(values)
    return Choice(model, arm, rate, values, monitor)


def still_to_name(study: StudySpec, runs: Iterable[Mapping[str, Any]]) -> int:
    """How many runs will be named once the trials among `runs` have ended: those at the rates that are chosen then.

    Arms that are tried in the same runs come to the same runs.

    Args:
        study: the study, without an arm that says `every`.
        runs: what is known of it so far, as tables name it.
    """
    grid, rows = tuned(study), list(runs)
    if grid is None:
        return 0
    chosen = {(row["model"], row["arm"]) for row in rows if row["role"] == "arm"}
    trials: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["role"] == "trial" and (row["model"], row["arm"]) not in chosen:
            trials.setdefault((row["model"], row["arm"]), set()).add(row["run_id"])
    seeds = len(study.seed_list)
    each = seeds - min(grid.seeds, seeds) + seeds * len(study.smaller_data)
    return each * len({frozenset(tried) for tried in trials.values()})


def tuned(study: StudySpec) -> TuneSpec | None:
    """The grid of a study; None where rates are as its file says."""
    return None if isinstance(study.tune, str) else study.tune
