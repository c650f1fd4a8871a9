"""The ways to fine-tune, each as a training: which weights move, and by how much."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from transfuse.data import Split
from transfuse.errors import TrainingError
from transfuse.models import Block, Blocks, blocks_of, create_model, freeze_
from transfuse.models.freeze import frozen_fingerprint, tune_only_
from transfuse.models.lora import add_lora_, merge_lora_
from transfuse.training import Optimizer, Recipe, fit, predict

BLOCKS = Blocks("stage", (Block("conv", ("0",), "0"), Block("norm", ("1",), "1")), ("6",))


def vit() -> nn.Module:
    return create_model("test_vit", classes=3, channels=1, image_size=16)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest change of each tensor that changed."""
    changes = {name: (tensor - before[name]).abs().max().item() for name, tensor in model.state_dict().items()}
    return {name: change for name, change in changes.items() if change}


@pytest.mark.parametrize("head", [(), ("6",)])
def test_each_block_learns_at_its_rate(network: Callable[..., nn.Module], split: Split, head: tuple[str, ...]) -> None:
    model = network()
    before = weights_of(model)
    optimizer = Optimizer(learning_rate=1e-4, head_learning_rate=1e-2, layer_decay=0.1)
    list(fit(model, split, Recipe(optimizer=optimizer), steps=1, blocks=BLOCKS, head=head))
    found = moved(model, before)
    # Adam's first step is the rate itself for every weight with a gradient
    expected = {"0.weight": 1e-6, "1.weight": 1e-5, "6.weight": 1e-2}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=0.05)


def test_layer_decay_without_blocks_is_refused_at_the_call(network: Callable[..., nn.Module], split: Split) -> None:
    with pytest.raises(TrainingError, match=r"layer_decay is 0\.5, but the network's blocks are not given"):
        fit(network(), split, Recipe(optimizer=Optimizer(layer_decay=0.5)), steps=1)


def test_a_linear_probe_and_then_everything(network: Callable[..., nn.Module], split: Split) -> None:
    model = freeze_(network(), BLOCKS, "all")
    before = weights_of(model)
    list(fit(model, split, steps=3, learning_rate=1e-2, frozen_check=frozen_fingerprint))
    assert set(moved(model, before)) == {"6.weight", "6.bias"}
    probed = weights_of(model)
    freeze_(model, BLOCKS, 0)
    list(fit(model, split, steps=1, learning_rate=1e-6))
    found = moved(model, probed)
    assert {"0.weight", "1.weight", "1.running_mean", "6.weight"} <= set(found)
    assert found["6.weight"] < 2e-6  # it went on from the probe's head


def test_surgery_is_checked_while_it_trains(split: Split) -> None:
    model = vit()
    blocks = blocks_of(model)
    tune_only_(model, blocks, ("blocks.2", "blocks.1"))
    before = weights_of(model)
    list(fit(model, split, steps=2, frozen_check=frozen_fingerprint))
    assert {blocks.owner(name) for name in moved(model, before)} == {"blocks.1", "blocks.2", "head"}

    def spoil() -> None:
        for epoch in fit(model, split, Recipe(validate_every=1), steps=2, frozen_check=frozen_fingerprint):
            with torch.no_grad():
                model.norm.weight.add_(epoch.step)

    with pytest.raises(TrainingError, match="the frozen part of the network moved before step 2"):
        spoil()


def test_adapters_are_trained_and_folded_in(split: Split) -> None:
    model, again = vit(), vit()
    before = weights_of(model)
    optimizer = Optimizer(learning_rate=1e-2, layer_decay=0.9)
    for one in (model, again):
        blocks = blocks_of(one)
        add_lora_(one, blocks, rank=2)
        state = torch.get_rng_state()
        list(fit(one, split, Recipe(optimizer=optimizer, monitor="accuracy"), steps=6, blocks=blocks))
        assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(weights_of(model), weights_of(again), rtol=0, atol=0)
    scores = predict(model, split.test)
    merge_lora_(model)
    found = set(moved(model, before))
    assert {name for name in found if name.startswith("blocks.")} == {
        f"blocks.{i}.attn.{part}.weight" for i in range(6) for part in ("qkv", "proj")
    }
    assert {name for name in found if not name.startswith("blocks.")} == {"head.weight", "head.bias"}
    plain = vit()
    plain.load_state_dict(model.state_dict())
    assert predict(plain, split.test) == pytest.approx(scores, abs=1e-5)
