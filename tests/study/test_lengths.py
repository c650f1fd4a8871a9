"""How long trainings are, beside trainings that are done."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from transfuse.data import open_dataset, split_by_patient
from transfuse.results.store import Store
from transfuse.specs import StudySpec, TrainSpec
from transfuse.study.events import Event, Started
from transfuse.study.lengths import lengths_of, steps_per_epoch, total_steps
from transfuse.study.plan import check, plan
from transfuse.study.run import do_run
from transfuse.study.sources import open_data, split_data
from transfuse.training import Optimizer, Recipe, fit


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2, "batch_size": 32},
        {"epochs": 1.5, "batch_size": 7, "validate_every": 0.5},
        {"epochs": 0.01, "batch_size": 32},
        {"steps": 11, "batch_size": 60, "validate_every": 4},
        {"steps": 5, "batch_size": 100, "validate_every": 2.0},
        {"epochs": 1, "batch_size": 9, "validate_every": 0.3},
        {"epochs": 3, "batch_size": 59, "validate_every": 0.5},
    ],
)
def test_lengths_are_those_of_the_training_that_is_done(tiny_npz: Path, settings: dict, batch_norm: bool) -> None:
    spec = TrainSpec(**settings)
    split = split_by_patient(open_dataset(str(tiny_npz), size=16))
    assert len(split.train) == 60
    found = lengths_of(spec, 60, batch_norm=batch_norm)
    norm = nn.BatchNorm2d(1) if batch_norm else nn.Identity()
    network = nn.Sequential(norm, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    recipe = Recipe(
        optimizer=Optimizer(learning_rate=1e-4), batch_size=spec.batch_size, validate_every=spec.validate_every
    )
    epochs = list(fit(network, split, recipe, steps=spec.steps, epochs=spec.epochs))
    assert epochs[-1].step == found.steps
    assert epochs[-1].epoch == found.steps / steps_per_epoch(spec, 60, batch_norm=batch_norm)
    validations = dict.fromkeys(max(1, round(k * found.period)) for k in range(1, 200))
    expected = [step for step in validations if step < found.steps]
    assert [epoch.step for epoch in epochs] == [*expected, found.steps]


LEFT_OUT = {"epochs": 9, "batch_size": 59, "validate_every": 1.0}
"""Of 60 images the last makes no batch, as the network has batch norm: an epoch is one step."""


def test_a_run_that_leaves_an_image_out_is_as_long_as_it_says(
    make_study: Callable[..., StudySpec], tmp_path: Path
) -> None:
    (run, *_) = plan(make_study(train={**LEFT_OUT, "epochs": 5, "snapshots": "log"}))
    assert total_steps(run.spec, split_data(run.spec.data, open_data(run.spec.data))) == 5
    events = list[Event]()
    do_run(run, events.append, root=tmp_path, device="cpu")
    record = Store(tmp_path).record(run.run_id)
    assert record is not None
    assert record.facts["steps"] == 5
    assert [event.steps for event in events if isinstance(event, Started)] == [5]
    kept = [name for name in record.files if name.startswith("steps/")]
    assert sorted(kept) == [f"steps/{step:08d}.safetensors" for step in (1, 2, 4, 5)]  # the last one too


def test_a_search_asks_for_trainings_that_end_at_a_validation(make_study: Callable[..., StudySpec]) -> None:
    arms = {"random": {}, "cut": {"truncate": "every", "level": "block"}}
    study = make_study(train=LEFT_OUT, arms=arms, search={"arm": "cut", "seeds": 1}, seeds=1)
    asked = {run.spec.train.steps for run in check(study).runs if run.role == "search"}
    assert asked == {1}  # a ninth of nine steps, of which each is an epoch
