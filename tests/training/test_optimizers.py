from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError, TrainingError
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.training import Optimizer
from transfuse.training.optimizers import OPTIMIZERS, make_optimizer


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (Optimizer(weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1)),
        (Optimizer(name="adamw", weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1)),
        (Optimizer(name="adamw"), lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0)),
        (Optimizer(name="sgd", momentum=0.0), lambda p: torch.optim.SGD(p, lr=1e-3)),
        (
            Optimizer(name="sgd", learning_rate=0.1, nesterov=True, weight_decay=5e-4),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        ),
    ],
)
def test_steps_are_those_of_pytorch(settings: Optimizer, reference: Callable) -> None:
    ours, theirs = (nn.Linear(4, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    for model, optimizer in ((ours, make_optimizer(ours, settings)), (theirs, reference(theirs.parameters()))):
        for step in range(3):
            optimizer.zero_grad()
            model(torch.full((1, 4), step + 1.0)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_every_shipped_optimizer_is_made() -> None:
    for name in OPTIMIZERS:
        make_optimizer(nn.Linear(2, 2), Optimizer(name=name))


def test_biases_and_norms_are_spared_from_decay(network: Callable[..., nn.Module]) -> None:
    model = network()
    optimizer = make_optimizer(model, Optimizer(weight_decay=1e-5, decay_1d=False))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {"0.weight": 1e-5, "1.weight": 0, "1.bias": 0, "6.weight": 1e-5, "6.bias": 0}


def test_the_head_has_a_rate_of_its_own(network: Callable[..., nn.Module]) -> None:
    model = network()
    settings = Optimizer(learning_rate=1e-4, head_learning_rate=1e-3, weight_decay=0.1, decay_1d=False)
    optimizer = make_optimizer(model, settings, head=("6",))
    rates = {id(p): group["base_rate"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 1e-4, "1.weight": 1e-4, "1.bias": 1e-4, "6.weight": 1e-3, "6.bias": 1e-3,
    }  # fmt: skip


def test_a_head_is_matched_by_path_parts() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(1, 1), "fc2": nn.Linear(1, 1)})
    optimizer = make_optimizer(model, Optimizer(head_learning_rate=0.5), head=("fc",))
    assert {group["base_rate"]: len(group["params"]) for group in optimizer.param_groups} == {0.5: 2, 1e-3: 2}


def test_frozen_parameters_take_no_part(network: Callable[..., nn.Module]) -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, Optimizer())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter of the network is frozen, there is nothing to train"):
        make_optimizer(model, Optimizer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamm"}, r"the optimizer 'adamm' is unknown: did you mean 'adam'\? Choices: adam, adamw, sgd"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001; expected a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a positive number"),
        ({"head_learning_rate": 0.0}, "head_learning_rate is 0.0; expected a positive number"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0; expected a positive number"),
        ({"weight_decay": -1e-5}, "weight_decay is -1e-05; expected 0 or more"),
        ({"momentum": 1.0}, r"momentum is 1.0; expected a number in \[0, 1\)"),
        ({"nesterov": True}, "nesterov goes with sgd and a momentum above 0, not with adam"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Optimizer(**arguments)


def test_a_head_that_is_missing_or_unknown_is_refused(network: Callable[..., nn.Module]) -> None:
    settings = Optimizer(head_learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"no head is named: fit\(\.\.\., head=blocks\.head\)"):
        make_optimizer(network(), settings)
    with pytest.raises(TrainingError, match=r"no parameter under the head '6\.weigth': did you mean '6\.weight'"):
        make_optimizer(network(), settings, head=("6.weigth",))


def rates_of(model: nn.Module, settings: Optimizer, **arguments: object) -> dict[str, float]:
    optimizer = make_optimizer(model, settings, **arguments)  # type: ignore[arg-type]
    rates = {id(p): group["base_rate"] for group in optimizer.param_groups for p in group["params"]}
    assert all(group["lr"] == group["base_rate"] for group in optimizer.param_groups)
    return {name: rates[id(p)] for name, p in model.named_parameters() if id(p) in rates}


def test_layer_decay_is_that_of_beit() -> None:
    model = create_model("deit_tiny_patch16_224", classes=2, device="meta")
    found = rates_of(model, Optimizer(learning_rate=1e-3, layer_decay=0.75), blocks=blocks_of(model))

    def layer(name: str) -> int:  # BEiT, optim_factory.py: of 14 layers, 0 are the embeddings, 13 the norm and the head
        if name.startswith(("cls_token", "pos_embed", "patch_embed")):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 13

    assert found == pytest.approx({name: 1e-3 * 0.75 ** (13 - layer(name)) for name in found})
    assert len(set(found.values())) == 14


def test_layer_decay_is_that_of_timm_but_for_the_norm_on_top() -> None:
    model = create_model("test_vit", classes=2)
    import timm.optim

    groups = timm.optim.param_groups_layer_decay(model, weight_decay=0.0, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = rates_of(model, Optimizer(learning_rate=1.0, layer_decay=0.5), blocks=blocks_of(model, "block"))
    assert ours["norm.weight"] == ours["head.weight"] == 1.0
    assert {n: r for n, r in ours.items() if n[:4] != "norm"} == {n: r for n, r in theirs.items() if n[:4] != "norm"}


def test_layer_decay_goes_with_a_rate_of_the_head_and_without_decay_of_vectors(
    network: Callable[..., nn.Module],
) -> None:
    model = network()
    blocks = Blocks("stage", (Block("conv", ("0",), "0"), Block("norm", ("1",), "1")), ("6",))
    settings = Optimizer(learning_rate=0.1, head_learning_rate=0.7, layer_decay=0.5, weight_decay=1e-3, decay_1d=False)
    assert rates_of(model, settings, blocks=blocks, head=blocks.head) == pytest.approx(
        {"0.weight": 0.025, "1.weight": 0.05, "1.bias": 0.05, "6.weight": 0.7, "6.bias": 0.7}
    )
    decays = {len(group["params"]): group["weight_decay"] for group in make_optimizer(
        model, settings, blocks.head, blocks).param_groups if group["base_rate"] < 0.06}  # fmt: skip
    assert decays == {1: 1e-3, 2: 0}
    full = rates_of(model, Optimizer(learning_rate=0.1, layer_decay=1.0), blocks=blocks)
    assert full == rates_of(model, Optimizer(learning_rate=0.1))
    model[0].weight.requires_grad_(False)  # frozen blocks still count as steps of the ladder
    assert rates_of(model, settings, blocks=blocks, head=blocks.head)["1.weight"] == 0.05


def test_what_layer_decay_needs_is_said(network: Callable[..., nn.Module]) -> None:
    for value in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(
            TrainingError, match=rf"layer_decay is {value}; expected a number in \(0, 1\], e\.g\. 0\.75"
        ):
            Optimizer(layer_decay=value)
    with pytest.raises(TrainingError, match=r"layer_decay is 0\.5, but .* not given: fit\(\.\.\., blocks=blocks_of"):
        make_optimizer(network(), Optimizer(layer_decay=0.5))
    blocks = Blocks("stage", (Block("conv", ("0",), "0"),), ("6",))
    with pytest.raises(BlocksError, match=r"do not cover this Sequential.*\n.*have no owner: 1\.weight"):
        make_optimizer(network(), Optimizer(layer_decay=0.5), blocks=blocks)
