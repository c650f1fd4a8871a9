"""How long trainings are, beside trainings that are done."""

from pathlib import Path

import pytest
from torch import nn

from transfuse.data import open_dataset, split_by_patient
from transfuse.specs import TrainSpec
from transfuse.study.lengths import lengths_of, steps_per_epoch
from transfuse.training import Optimizer, Recipe, fit


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 2, "batch_size": 32},
        {"epochs": 1.5, "batch_size": 7, "validate_every": 0.5},
        {"epochs": 0.01, "batch_size": 32},
        {"steps": 11, "batch_size": 60, "validate_every": 4},
        {"steps": 5, "batch_size": 100, "validate_every": 2.0},
        {"epochs": 1, "batch_size": 9, "validate_every": 0.3},
    ],
)
def test_lengths_are_those_of_the_training_that_is_done(tiny_npz: Path, settings: dict) -> None:
    spec = TrainSpec(**settings)
    split = split_by_patient(open_dataset(str(tiny_npz), size=16))
    found = lengths_of(spec, len(split.train))
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 2))
    recipe = Recipe(
        optimizer=Optimizer(learning_rate=1e-4), batch_size=spec.batch_size, validate_every=spec.validate_every
    )
    epochs = list(fit(network, split, recipe, steps=spec.steps, epochs=spec.epochs))
    assert epochs[-1].step == found.steps
    assert epochs[-1].epoch == found.steps / steps_per_epoch(spec, len(split.train))
    validations = dict.fromkeys(max(1, round(k * found.period)) for k in range(1, 200))
    expected = [step for step in validations if step < found.steps]
    assert [epoch.step for epoch in epochs] == [*expected, found.steps]
