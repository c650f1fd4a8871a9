"""How long networks take: asked for by a study, timed once a shape, kept, and never a part of a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import complexity
from transfuse.models.complexity import Latency
from transfuse.results.network_sizes import Name, Timings
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from, to_yaml
from transfuse.study import measure
from transfuse.study.carry_out import Outcome, carry_out
from transfuse.study.conclude import conclude
from transfuse.study.events import Event
from transfuse.study.latencies import latencies
from transfuse.study.plan import plan, read_plan

pytestmark = pytest.mark.xdist_group("studies with latencies")  # trained once

ARMS: dict[str, dict[str, Any]] = {"random": {}, "cut": {"truncate": "layer2"}, "other": {"random": "glorot_normal"}}


@contextlib.contextmanager
def quiet(*_: int) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


def study_on(data: Path, **keys: Any) -> StudySpec:
    content = {
        "name": "timed",
        "data": {"name": str(data), "size": 16},
        "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
        "arms": ARMS,
        "train": {"steps": 4, "batch_size": 16, "validate_every": 2},
        "margin": 0.3,
        "seeds": 2,
        "latency": True,
    }
    return study_from({**content, **keys})


@pytest.fixture(scope="module")
def finished(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    store, study = Store(tmp_path_factory.mktemp("out")), study_on(tiny_npz)
    return store, carry_out(study, plan(study), store, show=quiet, workers=1, device="cpu")


class Clock:
    """Stands for `latency`: 1 ms for the first network it is given, 2 ms for the second, ..."""

    def __init__(self) -> None:
        self.timed: list[tuple[Any, ...]] = []

    def __call__(self, model: nn.Module, *images: int, repeats: int) -> Latency:
        self.timed.append((sum(parameter.numel() for parameter in model.parameters()), *images, repeats))
        seconds = 0.001 * len(self.timed)
        return Latency(seconds, 0.9 * seconds, 1.1 * seconds)


@pytest.fixture
def clock(finished: tuple[Store, Outcome], monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    store, outcome = finished
    found = Clock()
    monkeypatch.setattr(complexity, "latency", found)
    yield found
    table(store, outcome).unlink(missing_ok=True)


def table(store: Store, outcome: Outcome) -> Path:
    return store.study_folder(outcome.plan.study.name) / "tables" / "latency.parquet"


def timings(store: Store, outcome: Outcome, **keys: Any) -> Timings:
    study = study_from({**read(outcome), **keys})
    found = latencies(store, study, store.tables(outcome.plan.rows).runs)
    assert found is not None
    return found


def read(outcome: Outcome) -> dict[str, Any]:
    from transfuse.specs import read_yaml

    return dict(read_yaml(to_yaml(outcome.plan.study)))


def test_each_shape_is_timed_once_and_kept(finished: tuple[Store, Outcome], clock: Clock) -> None:
    store, outcome = finished
    found = timings(store, outcome)
    assert len(clock.timed) == 2  # two of the three arms are of one shape
    assert {one[1:] for one in clock.timed} == {(16, 1, 30)}
    runs = store.tables(outcome.plan.rows).runs.drop_duplicates("arm").set_index("arm")["parameters"]
    assert [one[0] for one in clock.timed] == [runs["random"], runs["cut"]]
    assert found.arms["net", "random"] == found.arms["net", "other"] == pytest.approx((1, 0.9, 1.1))
    assert found.arms["net", "cut"] == pytest.approx((2, 1.8, 2.2))
    kept = pd.read_parquet(table(store, outcome))
    assert kept["milliseconds"].tolist() == [1, 2, 1]
    assert kept["shape"].nunique() == 2
    assert timings(store, outcome) == found  # from the file
    assert len(clock.timed) == 2


def test_the_conditions_are_said(finished: tuple[Store, Outcome], clock: Clock) -> None:
    store, outcome = finished
    said = timings(store, outcome).conditions
    here = measure.environment("cpu", 1)
    assert said.startswith(
        "Latency is of one image at a time on the CPU: the median of 30 passes in eval mode with 1 thr"
    )
    assert here["processor"] in said
    assert f"torch {here['versions']['torch']}" in said


def test_another_machine_draws_what_was_timed_and_times_all_where_one_is_missing(
    finished: tuple[Store, Outcome], clock: Clock
) -> None:
    store, outcome = finished
    timings(store, outcome)
    path = table(store, outcome)
    elsewhere = pd.read_parquet(path).assign(processor="another one")
    elsewhere.to_parquet(path)
    assert "another one" in timings(store, outcome).conditions
    assert len(clock.timed) == 2
    elsewhere[elsewhere["arm"] != "cut"].to_parquet(path)
    found = timings(store, outcome)
    assert len(clock.timed) == 4
    assert "another one" not in found.conditions
    kept = pd.read_parquet(path)
    kept[kept["arm"] != "cut"].to_parquet(path)  # on this machine only the missing one is
    timings(store, outcome)
    assert len(clock.timed) == 5
    path.write_bytes(b"damaged")
    assert len(timings(store, outcome).arms) == 3


def test_what_cannot_be_timed_is_named(
    finished: tuple[Store, Outcome], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Latency:
        raise BlocksError("images of this kind do not pass")

    store, outcome = finished
    monkeypatch.setattr(complexity, "latency", refuse)
    found = timings(store, outcome)
    assert found.arms == {}
    assert found.conditions.startswith("Not timed: net · random, as images of this kind do not pass.")
    assert not table(store, outcome).exists()
    sizes = conclude(store, outcome.plan).network_sizes
    assert sizes is not None
    assert "Not timed" in sizes.timed
    assert {cost for row in sizes.rows for cost in row.costs} == {"parameters", "macs"}


def test_the_study_says_how_small_it_may_be_by_latency_too(finished: tuple[Store, Outcome], clock: Clock) -> None:
    store, _ = finished
    sizes = conclude(store, read_plan(store, "timed")).network_sizes
    assert sizes is not None
    rows = {row.name: row for row in sizes.rows}
    assert rows[Name("net", "cut")].costs["latency"] == pytest.approx(2)
    assert rows[Name("net", "cut")].timing == pytest.approx((2, 1.8, 2.2))
    assert set(rows[Name("net", "cut")].not_dominated) == {"parameters", "macs", "latency"}
    assert [answer.cost for answer in sizes.answers] == ["parameters", "macs", "latency"]
    assert all(math.isfinite(row.not_dominated["latency"]) for row in sizes.rows)


def test_a_study_that_does_not_ask_is_not_timed_and_its_runs_are_the_same(
    tiny_npz: Path, finished: tuple[Store, Outcome], clock: Clock
) -> None:
    store, outcome = finished
    plain = study_on(tiny_npz, latency=False)
    assert latencies(store, plain, store.tables(outcome.plan.rows).runs) is None
    assert latencies(store, study_on(tiny_npz), pd.DataFrame()) is None
    assert [run.run_id for run in plan(plain)] == [row["run_id"] for row in outcome.plan.rows]
    assert clock.timed == []


def test_a_network_is_really_timed(finished: tuple[Store, Outcome]) -> None:
    store, outcome = finished
    try:
        found = timings(store, outcome)
    finally:
        table(store, outcome).unlink()
    assert all(0 < one.low <= one.median <= one.high for one in found.arms.values())
