"""Networks that call `.view` on a map work everywhere, in the order of memory that they can take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transfuse.analysis import activations
from transfuse.data import open_dataset, split_by_patient
from transfuse.models import create_model
from transfuse.models.memory_order import takes_channels_last
from transfuse.training import fit, predict


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(4), nn.Linear(4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pool(self.conv(x))).view(len(x), -1))


def test_it_is_tried_and_the_network_is_left_as_it_was() -> None:
    model = Viewing().train()
    state = torch.get_rng_state()
    assert not takes_channels_last(model, torch.zeros(2, 3, 16, 16))
    assert takes_channels_last(create_model("cbr_tiny", classes=2), torch.zeros(2, 3, 32, 32))
    assert model.training
    assert model.drop.training
    assert torch.equal(torch.get_rng_state(), state)


def test_other_failures_are_left_to_where_the_network_is_used() -> None:
    assert takes_channels_last(Viewing(), torch.zeros(2, 7, 16, 16))


def test_such_a_network_is_trained_predicts_and_is_looked_into() -> None:
    split = split_by_patient(open_dataset("fundus-phantom", size=32, count=60, seed=0), seed=0)
    model = Viewing()
    epochs = list(fit(model, split, steps=2, learning_rate=1e-3, device="cpu"))
    assert epochs[-1].step == 2
    assert predict(model, split.test).shape == (len(split.test), 5)
    assert activations(model, split.test.batches(8), ["conv"])["conv"].shape[0] == len(split.test)
