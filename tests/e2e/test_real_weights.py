"""ImageNet weights on real chest X-rays: with few images and equal steps they help, and the interval says so."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from transfuse.results.store import Store
from transfuse.specs import read_yaml, study_from
from transfuse.statistics.comparison import Comparison
from transfuse.study.conclude import conclude
from transfuse.study.events import Event, Failed
from transfuse.study.executors import Queue, in_process
from transfuse.study.plan import check, write_plan
from transfuse.study.run import do_run

WEIGHTS = "weights/mobilenetv2_100/mobilenetv2_100_imagenet1k.safetensors"
STUDY = f"""
name: real
data: {{name: pneumoniamnist, size: 64, channels: 1, normalise: half, duplicates: drop, train_fraction: 0.1062}}
models: {{mobilenet: {{name: mobilenetv2_100, padding: same, weights: {WEIGHTS}}}}}
arms:
  random: {{}}
  pretrained: {{depth: all}}
metric: auroc
seeds: 3
train: {{steps: 64, batch_size: 32, validate_every: 32}}
"""


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comparison]:
    if not os.environ.get("TRANSFUSE_DATA"):
        pytest.skip("needs real images and weights: set TRANSFUSE_DATA to their folder")
    study, store = study_from(read_yaml(STUDY)), Store(tmp_path_factory.mktemp("out"))
    runs = check(study, device="cpu").runs
    made, events = write_plan(store, study, runs), list[Event]()
    in_process(Queue(runs, set()), partial(_work, root=store.root), events.append)
    assert not [event for event in events if isinstance(event, Failed)]
    return {one.arm: one.comparison for one in conclude(store, made).comparisons}


def _work(run, tell, *, root: Path) -> None:  # type: ignore[no-untyped-def]
    do_run(run, tell, root=root, device="cpu")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_imagenet_weights_beat_random_ones_at_500_images_and_equal_steps(comparisons: dict[str, Comparison]) -> None:
    found = comparisons["pretrained"]
    assert found.difference > 0.02, found
    assert found.low > 0, found
