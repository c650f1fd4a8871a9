"""What a run records of the size of its network, and what a study says of how small it may be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.models import blocks_of, create_model, truncate
from transfuse.models.complexity import complexity
from transfuse.results.network_sizes import Name
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from
from transfuse.study.carry_out import Outcome, carry_out
from transfuse.study.conclude import conclude
from transfuse.study.events import Event
from transfuse.study.plan import plan

pytestmark = pytest.mark.xdist_group("studies with MACs")  # trained once


@contextlib.contextmanager
def quiet(*_: int) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


def run_study(data: Path, root: Path, **keys: Any) -> tuple[Store, Outcome]:
    study: StudySpec = study_from(
        {
            "name": "sizes",
            "data": {"name": str(data), "size": 16},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
            "arms": {"random": {}, "cut": {"truncate": "layer2"}},
            "train": {"steps": 4, "batch_size": 16, "validate_every": 2},
            "margin": 0.3,
            "seeds": 2,
            **keys,
        }
    )
    store = Store(root)
    return store, carry_out(study, plan(study), store, show=quiet, workers=1, device="cpu")


@pytest.fixture(scope="module")
def finished(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    return run_study(tiny_npz, tmp_path_factory.mktemp("out"))


def test_a_run_records_the_macs_of_its_network(finished: tuple[Store, Outcome]) -> None:
    store, outcome = finished
    whole = create_model("cbr_demo", 2, 1, padding="same_pool", image_size=16)
    networks = {"random": whole, "cut": truncate(whole, blocks_of(whole, "stage"), "layer2", 2, image_size=16)}
    for row in outcome.plan.rows:
        record = store.record(row["run_id"])
        assert record is not None
        expected = complexity(networks[row["arm"]], 16, 1)
        assert (record.facts["parameters"], record.facts["macs"]) == expected[:2]


def test_a_study_whose_arms_differ_in_size_says_how_small_it_may_be(finished: tuple[Store, Outcome]) -> None:
    store, outcome = finished
    found = conclude(store, outcome.plan)
    assert found.network_sizes is not None
    assert [row.name for row in found.network_sizes.rows] == [Name("net", "cut"), Name("net", "random")]
    assert found.network_sizes.margin == 0.3
    values = {row.arm: row.estimate.value for row in found.estimates if row.estimate}
    assert {row.name.arm: row.value for row in found.network_sizes.rows} == values


def test_runs_of_earlier_versions_have_no_macs_and_are_not_done_again(
    tiny_npz: Path, finished: tuple[Store, Outcome]
) -> None:
    store, outcome = finished
    before = {}
    for row in outcome.plan.rows:
        path = store.run_folder(row["run_id"]) / "record.json"
        before[path] = path.read_text(encoding="utf-8")
        content = json.loads(before[path])
        del content["facts"]["macs"]
        path.write_text(json.dumps(content), encoding="utf-8")
    try:
        _, again = run_study(tiny_npz, store.root)
        assert [row["run_id"] for row in again.plan.rows] == [row["run_id"] for row in outcome.plan.rows]
        assert all("macs" not in json.loads(path.read_text(encoding="utf-8"))["facts"] for path in before)
        found = conclude(store, again.plan)
        assert found.network_sizes is not None
        assert {cost for row in found.network_sizes.rows for cost in row.costs} == {"parameters"}
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


def test_arms_of_one_size_have_no_such_section(tiny_npz: Path, tmp_path: Path) -> None:
    store, outcome = run_study(tiny_npz, tmp_path, arms={"random": {}, "other": {"random": "glorot_normal"}})
    assert conclude(store, outcome.plan).network_sizes is None


class Stubborn(nn.Module):
    """Cannot be run without values: it looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        found = self.head(images.mean((1, 2, 3), keepdim=True).flatten(1))
        return found if float(found.sum()) == float(found.sum()) else torch.zeros_like(found)


def test_a_network_that_cannot_be_run_without_values_has_unknown_macs(make_study: Callable[..., StudySpec]) -> None:
    from transfuse.study.measure import macs_of
    from transfuse.study.sources import open_data, split_data

    study = make_study()
    split = split_data(study.data, open_data(study.data))
    assert macs_of(Stubborn(), replace(plan(study)[0].spec, network_sha256="stubborn"), split) is None
