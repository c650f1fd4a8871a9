"""Initialising networks of which modules or tensors have two names, and what their sources must be."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, TransferError
from transfuse.inits import initialise_
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.models.draws import generator_of


class Alias(nn.Module):
    """Its first layer has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3)])
        self.norm, self.first, self.fc = nn.BatchNorm2d(8), self.layers[0], nn.Linear(8, 4)
        self.again = self.norm

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layers[1](self.again(self.first(images))).mean((2, 3)))


ALIAS = Blocks(
    "stage",
    (Block("a", ("layers.0", "first", "norm", "again"), "norm"), Block("b", ("layers.1",), "layers.1")),
    head=("fc",),
)


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(width, 8, 3, bias=False) for width in (3, 8, 8))
        self.c.weight = self.b.weight
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(images))).mean((2, 3)))


TIED = Blocks("stage", tuple(Block(name, (name,), name) for name in "abc"), head=("fc",))


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor + 1 for key, tensor in model.state_dict().items()}


def test_modules_of_two_names_are_initialised_once_and_recorded_twice() -> None:
    model = Alias()
    source = trained(model)
    transfer = initialise_(model, ALIAS, source=source, depth=1, rest="mean_var")
    assert torch.equal(model.first.weight, source["first.weight"])
    assert model.first is model.layers[0]
    assert {row.name: row.treatment for row in transfer.tensors if row.block == "a"} == dict.fromkeys(
        [key for key in source if key.startswith(("layers.0", "first", "norm", "again"))], "transferred"
    )
    filters = initialise_(model, ALIAS, overrides={"layers.0": "gabor", "first": "gabor"})
    assert filters.counts["gabor"] == 2
    measured = initialise_(
        model, ALIAS, source=source, depth=1, norm="recalibrate", images=[torch.rand(4, 3, 16, 16)], seed=1
    )
    assert measured.counts["recalibrated"] == 8  # scale, shift, mean and variance, by two names


def test_a_convolution_at_two_places_of_a_sequence_is_initialised() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4))
    for blocks in (
        blocks_of(model),
        Blocks("stage", (Block("a", ("0",), "0"), Block("b", ("2", "4.weight", "4.bias"), "5")), ("8",)),
    ):
        initialise_(model, blocks, seed=3)
        drawn = torch.empty(8, 8, 3, 3).normal_(generator=generator_of(3, "4.weight")) * (2 / (8 * 9)) ** 0.5
        torch.testing.assert_close(shared.weight.detach(), drawn)
    transfer = initialise_(model, blocks_of(model), source=trained(model), depth="all")
    assert transfer.counts == {"transferred": 6, "fresh": 2}


@pytest.mark.parametrize("arguments", [{"depth": "all"}, {"rest": "mean_var"}, {"depth": 2, "rest": "transfer"}])
def test_a_source_with_two_values_for_one_tensor_is_refused(arguments: dict[str, object]) -> None:
    model = Tied()
    source = trained(model)
    source["c.weight"] = source["c.weight"] + 1
    before = model.b.weight.detach().clone()
    if arguments.get("rest") == "transfer":
        arguments = {"depth": 2, "overrides": {"c": "transfer"}}
    with pytest.raises(
        TransferError, match=r"'b.weight' and 'c.weight' are one tensor .* two that differ in the source"
    ):
        initialise_(model, TIED, source=source, **arguments)  # type: ignore[arg-type]
    assert torch.equal(model.b.weight, before)
    source["c.weight"] = source["b.weight"].clone()
    initialise_(model, TIED, source=source, **arguments)  # type: ignore[arg-type]
    assert model.b.weight is model.c.weight


def test_blocks_in_another_order_are_refused_before_anything_changes() -> None:
    model = Tied()
    before = model.a.weight.detach().clone()
    with pytest.raises(BlocksError, match=r"given in the order b, a, c, and .* ends them in the order a, b, c"):
        initialise_(model, Blocks("stage", (TIED[1], TIED[0], TIED[2]), ("fc",)))  # type: ignore[arg-type]
    assert torch.equal(model.a.weight, before)


def test_overrides_of_other_types_and_unknown_names() -> None:
    model = create_model("test_vit", classes=2)
    blocks = blocks_of(model)
    with pytest.raises(TransferError, match=r"overrides is \['conv1'\]; expected \{block, module or parameter: scheme"):
        initialise_(model, blocks, overrides=["conv1"])  # type: ignore[arg-type]
    with pytest.raises(TransferError, match=r"'conv1', the first convolution of this network is 'patch_embed.proj'"):
        initialise_(model, blocks, overrides={"conv1": "gabor"})
    with pytest.raises(TransferError, match=r"parameter '', Choices: patch_embed, blocks.0, blocks.1, "):
        initialise_(model, blocks, overrides={"": "mean_var"})
    with pytest.raises(TransferError, match=r"'blocks.0.qkv', did you mean '(blocks.0.attn.qkv)'\? Choices: \1, "):
        initialise_(model, blocks, overrides={"blocks.0.qkv": "mean_var"})


def test_a_message_is_the_same_in_every_process() -> None:
    code = (
        "from transfuse.inits import initialise_; from transfuse.models import blocks_of, create_model\n"
        "model = create_model('cbr_demo', 2)\n"
        "try: initialise_(model, blocks_of(model), overrides={'stem': 'mean_var'})\n"
        "except Exception as error: print(error)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


def test_a_parametrised_layer_says_when_to_initialise() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(4, 2))
    blocks = Blocks("stage", (Block("a", ("0",), "0"),), ("2",))
    with pytest.raises(TransferError, match=r"Nothing is known about .*is initialised before it is parametrised"):
        initialise_(model, blocks)
