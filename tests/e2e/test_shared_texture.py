"""The whole path must be able to find an advantage where there is one, and none where there is none.

Source and target share the fine texture that carries the label, so pretraining on the source must help; pretraining on
the same images with shuffled labels must not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from transfuse.results.store import Store
from transfuse.specs import read_yaml, study_from
from transfuse.statistics.comparison import Comparison
from transfuse.study.conclude import conclude
from transfuse.study.events import Ended, Event, Failed
from transfuse.study.executors import Queue, in_process
from transfuse.study.plan import plan, write_plan
from transfuse.study.run import do_run

pytestmark = pytest.mark.xdist_group("shared texture")  # trained once

STUDY = """
name: texture
data: {name: texture-target, size: 32, count: 800, normalise: half, fractions: [0.25, 0.1, 0.65]}
models:
  shared: {name: cbr_demo, weights: "run:shared"}
  shuffled: {name: cbr_demo, weights: "run:shuffled"}
arms: {random: {}, pretrained: {depth: all}}
metric: auroc
margin: 0.08
seeds: 3
train: {epochs: 24, batch_size: 32, validate_every: 3.0}
sources:
  shared:
    data: {name: texture-source, size: 32, normalise: half}
    train: {epochs: 6, batch_size: 64, monitor: accuracy}
  shuffled:
    data: {name: texture-source, size: 32, normalise: half, permute_labels: true}
    train: {epochs: 6, batch_size: 64, monitor: accuracy}
"""


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comparison]:
    study, store = study_from(read_yaml(STUDY)), Store(tmp_path_factory.mktemp("out"))
    runs = plan(study)
    made = write_plan(store, study, runs)
    events: list[Event] = []
    distinct = list({run.run_id: run for run in runs}.values())
    in_process(Queue(distinct, set()), _Work(store.root), events.append)
    assert not [event for event in events if isinstance(event, Failed)]
    assert len([event for event in events if isinstance(event, Ended)]) == 2 + 3 + 3 + 3  # random arms are shared
    found = conclude(store, made).comparisons
    return {one.model: one.comparison for one in found}


class _Work:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, run, tell) -> None:  # type: ignore[no-untyped-def]
        do_run(run, tell, root=self.root, device="cpu")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_shared_texture_helps(comparisons: dict[str, Comparison]) -> None:
    shared = comparisons["shared"]
    assert shared.verdict == "helps", shared
    assert shared.low > 0


@pytest.mark.slow
@pytest.mark.exhaustive
def test_shuffled_source_labels_do_not(comparisons: dict[str, Comparison]) -> None:
    shuffled = comparisons["shuffled"]
    assert shuffled.verdict != "helps", shuffled
    assert shuffled.difference < comparisons["shared"].difference / 2
