"""The cuts of one network as a strategy of search sees them: what it may ask for, and what it writes down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from transfuse.metrics import find_metric
from transfuse.results.store import Store
from transfuse.specs import SearchSpec
from transfuse.study.expand import PlannedRun, Planner
from transfuse.study.lengths import Lengths
from transfuse.study.tested import arm_of_predictions

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.statistics.arm import Arm


class UnfinishedError(Exception):
    """What the search needs next has no result yet; not an error."""


class StoppedError(Exception):
    """What the search needs next will never have a result; says why."""


@dataclass
class Cuts:
    """The cuts of one network, as a strategy sees them.

    Attributes:
        spec: the search.
        label: the network's.
        arms: the cuts, the smallest first.
        whole: the one that is the whole network.
        blocks: the cut after each block.
        stages: for each cut, from the image on, the number of the stage that ends there; None inside of a stage.
        seeds: that the search trains with.
        margin, metric: of the search.
        lengths: of the whole training.
        planner: makes runs.
        store: where they are; None: nowhere yet.
        measured_of: gives the rows of the search's own analysis of a network, None while it has not been done, or why
            it never will be.
        rounds: what was looked at so far.
        runs: what was asked for so far.
        analyses: ids of those that were read.
    """

    spec: SearchSpec
    label: str
    arms: tuple[str, ...]
    whole: str
    blocks: Mapping[str, str]
    stages: Mapping[str, int | None]
    seeds: tuple[int, ...]
    margin: float
    metric: str
    lengths: Lengths
    planner: Planner
    store: Store | None
    measured_of: Callable[[str], pd.DataFrame | str | None]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    runs: list[PlannedRun] = field(default_factory=list)
    analyses: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        """1 where more of the metric is better."""
        return 1 if find_metric(self.metric).higher_is_better else -1

    def train(self, arms: Sequence[str], name: str, steps: int | None = None) -> dict[str, Arm | None]:
        """Train cuts and give what they do on the validation part; None for one that diverged.

        Args:
            arms: the cuts.
            name: of the round, for people.
            steps: the length; None: the study's.
        """
        asked = {arm: [self._run(arm, seed, steps) for seed in self.seeds] for arm in arms}
        self.runs += [run for runs in asked.values() for run in runs]
        records = {run.run_id: self._record(run) for runs in asked.values() for run in runs}
        if any(record is None for record in records.values()):
            raise UnfinishedError
        found = {
            arm: None if any(records[run.run_id] == "diverged" for run in runs) else self._validated(arm, runs)
            for arm, runs in asked.items()
        }
        taken = self.lengths.steps if steps is None else steps
        for arm, one in found.items():
            low, high = (math.nan, math.nan) if one is None else _interval(one)
            self.note(name, arm, self.metric, math.nan if one is None else one.value, low, high, taken)
        return found

    def _run(self, arm: str, seed: int, steps: int | None) -> PlannedRun:
        run = self.planner.of_arm(self.label, arm, seed, "search", steps=steps)
        before = [one for one in self.runs if (one.arm, one.spec.seed) == (arm, seed)]
        return replace(run, continues=before[-1].run_id if before else None)

    def _record(self, run: PlannedRun) -> str | None:
        record = None if self.store is None else self.store.record(run.run_id)
        return None if record is None else record.status

    def _validated(self, arm: str, runs: Sequence[PlannedRun]) -> Arm:
        assert self.store is not None
        tables = [self.store.predictions(run.run_id) for run in runs]
        return arm_of_predictions([table[table["part"] == "val"] for table in tables], self.metric, arm)

    def measured(self) -> pd.DataFrame:
        """The rows of the search's own analysis of the whole network."""
        found = self.measured_of(self.label)
        if isinstance(found, str):
            raise StoppedError(found)
        if found is None:
            raise UnfinishedError
        self.analyses = tuple(found["analysis_id"].unique())
        return found

    def note(
        self, name: str, arm: str, quantity: str, value: float, low: float, high: float, steps: int | None = None
    ) -> None:
        """Writes down what was seen of a cut in a round."""
        row = {"round": name, "arm": arm, "quantity": quantity, "value": value, "low": low, "high": high}
        self.rounds.append({**row, "steps": steps, "kept": True})

    def drop(self, name: str, arms: Sequence[str]) -> None:
        """Writes down that cuts go no further than this round."""
        for row in self.rounds:
            row["kept"] = row["kept"] and not (row["round"] == name and row["arm"] in arms)


def resampled(arm: Arm) -> np.ndarray:
    """The metric of an arm, the mean over its seeds, on each resample of patients, `(B,)`."""
    return np.mean([part.values[:, 0].mean(axis=0) for part in arm.parts], axis=0)


def _interval(arm: Arm) -> tuple[float, float]:
    """Of 95 %, from patients alone: what another seed would do is not in it."""
    low, high = np.nanquantile(resampled(arm), (0.025, 0.975))
    return float(low), float(high)
