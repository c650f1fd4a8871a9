from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from transfuse.data import Split
from transfuse.errors import TrainingError
from transfuse.models import blocks_of, create_model
from transfuse.models.lora import add_lora_
from transfuse.training import Optimizer, Recipe, fit
from transfuse.training.l2_sp import anchored_parameters, draw_back
from transfuse.training.optimizers import make_optimizer

Network = Callable[..., nn.Module]
BODY = ("0.weight", "1.weight", "1.bias", "1.running_mean")  # of the fixture's network; the last is a buffer


def penalised(model: nn.Module, settings: Optimizer, images: torch.Tensor, *, by_autograd: bool) -> None:
    """Three steps with the penalty of the paper, as a term of the loss or as `draw_back` adds it."""
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, settings, anchored=BODY)
    if not by_autograd:
        draw_back(optimizer, anchored_parameters(model, BODY).values(), settings.l2_sp or 0)
    for _ in range(3):
        loss = model(images).square().sum()
        if by_autograd:
            pulls = [(p - start[name]).square().sum() for name, p in model.named_parameters() if name in BODY]
            loss = loss + (settings.l2_sp or 0) / 2 * torch.stack(pulls).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_step_is_that_of_the_penalised_loss(network: Network, name: str) -> None:
    settings = Optimizer(name=name, learning_rate=0.01, weight_decay=0.1, l2_sp=5.0)
    ours, theirs, free = (network(dropout=0.0).double() for _ in range(3))
    images = torch.randn(8, 1, 16, 16, dtype=torch.float64)
    penalised(ours, settings, images, by_autograd=False)
    penalised(theirs, settings, images, by_autograd=True)
    penalised(free, Optimizer(name=name, learning_rate=0.01, weight_decay=0.1), images, by_autograd=True)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours[0].weight, free[0].weight, rtol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_drawn_to_zero_is_weight_decay_to_the_bit(name: str) -> None:
    ours, theirs = nn.Linear(4, 2), nn.Linear(4, 2)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    one = make_optimizer(ours, Optimizer(name=name, l2_sp=0.3), anchored=["weight", "bias"])
    draw_back(one, ours.parameters(), 0.3)
    two = make_optimizer(theirs, Optimizer(name=name, weight_decay=0.3))
    ours.load_state_dict(theirs.state_dict())
    for _ in range(4):
        for model, optimizer in ((ours, one), (theirs, two)):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_the_others_decay_and_the_transferred_do_not(network: Network) -> None:
    model = network()
    for decay_1d, spared in ((True, set()), (False, {"1.weight", "1.bias"})):
        settings = Optimizer(weight_decay=0.1, l2_sp=0.5, decay_1d=decay_1d)
        decay = {
            id(p): group["weight_decay"]
            for group in make_optimizer(model, settings, anchored=BODY).param_groups
            for p in group["params"]
        }
        found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
        others = {"6.weight": 0.1, "6.bias": 0.1 if decay_1d else 0}
        assert found == {"0.weight": 0, "1.weight": 0, "1.bias": 0, **others}
        assert set(anchored_parameters(model, BODY, decay_1d=decay_1d)) == set(BODY[:3]) - spared


def test_frozen_parameters_and_those_without_a_gradient_stay(network: Network) -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    drawn = anchored_parameters(model, BODY)
    assert set(drawn) == {"1.weight", "1.bias"}
    optimizer = make_optimizer(model, Optimizer(l2_sp=1.0), anchored=BODY)
    draw_back(optimizer, drawn.values(), 1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.step()  # nothing has a gradient yet
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_the_first_step_is_not_changed_and_later_ones_are(network: Network, split: Split) -> None:
    ended = []
    for steps in (1, 2):  # an epoch has two
        for l2_sp in (None, 10.0):
            model = network()
            recipe = Recipe(optimizer=Optimizer(name="sgd", learning_rate=0.05, l2_sp=l2_sp), monitor="loss")
            for epoch in fit(model, split, recipe, steps=steps, anchored=BODY):
                ended.append((epoch.step, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
    (_, free), (_, held), (_, free2), (_, held2) = ended
    torch.testing.assert_close(
        free, held, rtol=0, atol=0
    )  # w = w0: the penalty has no gradient, not even a rounded one
    assert not torch.equal(free2["0.weight"], held2["0.weight"])


def test_a_strong_pull_holds_the_body_and_leaves_the_head(network: Network, split: Split) -> None:
    moved = {}
    for l2_sp in (1e-6, 100.0):
        model = network()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        recipe = Recipe(optimizer=Optimizer(name="sgd", momentum=0.0, learning_rate=0.01, l2_sp=l2_sp), monitor="loss")
        for epoch in fit(model, split, recipe, epochs=10, anchored=BODY):
            if epoch.stop_reason:
                state = model.state_dict()
                moved[l2_sp] = {name: (state[name] - before[name]).norm().item() for name in ("0.weight", "6.weight")}
    assert moved[100.0]["0.weight"] < moved[1e-6]["0.weight"] / 5
    assert moved[100.0]["6.weight"] > moved[1e-6]["6.weight"] / 5


def test_names_without_adapters_do_for_a_network_with_adapters() -> None:
    model = create_model("test_vit", classes=3)
    names = list(model.state_dict())
    add_lora_(model, blocks_of(model))
    assert set(anchored_parameters(model, names)) == {"head.weight", "head.bias"}


def test_what_cannot_be_meant_is_refused(network: Network, split: Split) -> None:
    recipe = Recipe(optimizer=Optimizer(l2_sp=0.1))
    with pytest.raises(TrainingError, match=r"l2_sp is set, but not which .* transferred: fit\(\.\.\., anchored="):
        fit(network(), split, recipe, steps=1)
    message = r"no parameter '6\.weigth' to draw back \(anchored\): did you mean '6\.weight'\?"
    with pytest.raises(TrainingError, match=message):
        fit(network(), split, recipe, steps=1, anchored=["0.weight", "6.weigth"])
    for value in (0.0, -1.0, float("inf")):
        with pytest.raises(TrainingError, match=rf"l2_sp is {value}; expected a positive number"):
            Optimizer(l2_sp=value)
    list(fit(network(), split, recipe, steps=1, anchored=[]))  # nothing was transferred: plain weight decay
    list(fit(network(), split, steps=1, anchored=["unknown"]))  # no L2-SP, no question
    model = network()
    model.get_parameter("0.weight").requires_grad_(False)
    with pytest.raises(TrainingError, match=r"none of the 1 entries that were transferred \(the first is '0.weight'\)"):
        fit(model, split, recipe, steps=1, anchored=["0.weight"])
