"""Modules with two names, modules that run twice, and tensors that two modules share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.models import Block, Blocks, blocks_of, check_blocks, create_model, freeze_, tune_only_
from transfuse.models.matching import match_weights
from transfuse.models.truncate import truncate

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def with_a_shared_convolution(relu: Any = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    layers = [nn.Conv2d(3, 8, 3), relu(), shared, relu(), shared, relu(), nn.Conv2d(8, 6, 3), relu()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


class Alias(nn.Module):
    """Its first layer and its classifier have two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)])
        self.first = self.layers[0]
        self.pool, self.flat, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        self.classifier = self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.flat(self.pool(self.layers[1](self.first(images)))))


ALIAS = Blocks(
    "stage",
    (Block("a", ("layers.0", "first"), "first"), Block("b", ("layers.1",), "layers.1")),
    head=("fc", "classifier"),
)


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(width, 8, 3) for width in (3, 8, 8))
        self.c.weight = self.b.weight
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(images))).mean((2, 3)))


TIED = Blocks("stage", tuple(Block(name, (name,), name) for name in "abc"), head=("fc",))


def test_a_convolution_at_two_places_of_a_sequence_is_one_block_with_what_lies_between() -> None:
    model = with_a_shared_convolution()
    assert [(block.name, block.paths, block.output) for block in blocks_of(model)] == [
        ("0", ("0", "1"), "1"),
        ("2", ("2", "3", "4", "5"), "5"),
        ("6", ("6", "7", "8", "9"), "9"),
    ]
    model[10] = model[2]  # what ends the network must be there once
    with pytest.raises(BlocksError, match=r"is not the nn.Linear that a classifier would be"):
        blocks_of(model)
    linear = nn.Linear(4, 4)
    with pytest.raises(BlocksError, match=r"stands at several places of it \(1, 3\)"):
        blocks_of(nn.Sequential(nn.Flatten(), linear, nn.ReLU(), linear))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_network_with_a_shared_convolution_is_cut_and_frozen(depth: int) -> None:
    model = with_a_shared_convolution()
    blocks = blocks_of(model)
    place = int(blocks[depth - 1].output) + 1
    place = min(place, 8)  # the last block ends with the pooling
    expected = model[:place](IMAGES)
    short = truncate(model, blocks, depth, 3)
    assert torch.equal(short[:place](IMAGES), expected)
    assert short(IMAGES).shape == (2, 3)
    assert short[2] is short[4]
    assert ("4.weight" in short.state_dict()) == (depth > 1)
    assert blocks_of(short).names == blocks.names[:depth]
    freeze_(model, blocks, depth)
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    assert trained == {name for name in model.state_dict() if not any(block.owns(name) for block in blocks[:depth])}


@pytest.mark.parametrize("depth", [1, 2])
def test_modules_with_two_names_are_cut_and_frozen(depth: int) -> None:
    model = Alias().eval()
    expected = model.layers[0](IMAGES) if depth == 1 else model.layers[1](model.layers[0](IMAGES))
    short = truncate(model, ALIAS, depth, 3, image_size=16)
    torch.testing.assert_close(short(IMAGES), short.fc(expected.mean((2, 3))))
    assert short.first is short.layers[0]
    assert short.classifier is short.fc
    assert short.fc.out_features == 3
    freeze_(model, ALIAS, depth)
    assert [p.requires_grad for p in model.layers.parameters()] == [False] * 2 * depth + [True] * 2 * (2 - depth)


def test_passes_without_data_leave_modules_of_two_names_their_values() -> None:
    model = Alias()
    before = copy.deepcopy(model.state_dict())
    check_blocks(model, ALIAS)
    truncate(model, ALIAS, 1, 3, image_size=16)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_a_block_of_which_another_name_lies_above_the_cut_is_no_cut() -> None:
    items = (Block("a", ("layers.0",), "layers.0"), Block("b", ("layers.1", "first"), "layers.1"))
    with pytest.raises(BlocksError, match=r"'first.weight' of block 'b' is used before the cut"):
        truncate(Alias(), Blocks("stage", items, ("fc", "classifier")), 1, 3, image_size=16)


def test_a_first_convolution_of_two_names_is_fitted_to_other_channels_under_both() -> None:
    model = Alias()
    source = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.first = model.layers[0] = nn.Conv2d(1, 8, 3)  # type: ignore[assignment]
    matched = match_weights(model, ALIAS, source, ["layers.0.weight", "first.weight"])
    assert torch.equal(matched.tensors["first.weight"], source["first.weight"].sum(1, keepdim=True))
    assert torch.equal(matched.tensors["first.weight"], matched.tensors["layers.0.weight"])


def test_one_relu_at_several_places_of_a_sequence_is_named_with_a_cure() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), relu, nn.Conv2d(8, 8, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(8, 4))
    with pytest.raises(BlocksError, match=r"one ReLU stands at 2 places of it \(1, 3\)") as caught:
        blocks_of(model)
    cure = next(part for part in str(caught.value).splitlines() if "model.set_submodule" in part)
    exec(cure[cure.index("model.set_submodule") : cure.rindex("))") + 2], {"model": model, "copy": copy})
    assert [block.output for block in blocks_of(model)] == ["1", "5"]
    inside = with_a_shared_convolution(lambda: relu)
    with pytest.raises(BlocksError, match=r"one ReLU stands at 4 places of it \(1, 3, 5, 7\)"):
        blocks_of(inside)
    twice = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), relu, relu), nn.Flatten())
    assert blocks_of(twice.append(nn.Linear(8, 4))).names == ("0", "1")  # inside of one block they do no harm


class OneReLU(nn.Module):
    """Calls one activation after each of its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(width, 8, 3) for width in (3, 8, 8))
        self.relu, self.pool, self.flat, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.c(self.relu(self.b(self.relu(self.a(images))))))
        return self.fc(self.flat(self.pool(hidden)))


CONVOLUTIONS = Blocks("stage", TIED.items, ("fc",))


def test_an_activation_on_both_sides_of_a_cut_is_named() -> None:
    model = OneReLU().eval()
    short = truncate(model, CONVOLUTIONS, 1, 3)
    torch.testing.assert_close(short(IMAGES), short.fc(model.a(IMAGES).mean((2, 3))))
    with pytest.raises(BlocksError, match=r"would still apply 'relu' before its head, which runs below the cut too"):
        truncate(model, CONVOLUTIONS, 2, 3)


def test_blocks_by_hand_stand_in_the_order_in_which_they_run() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(8, 4))
    a, b = Block("a", ("0",), "0"), Block("b", ("1",), "1")
    wrong, right = Blocks("stage", (b, a), ("4",)), Blocks("stage", (a, b), ("4",))
    message = r"given in the order b, a, and a forward pass through this Sequential ends them in the order a, b"
    for use in (check_blocks, lambda m, blocks: freeze_(m, blocks, 1), lambda m, blocks: tune_only_(m, blocks, "a")):
        with pytest.raises(BlocksError, match=message):
            use(model, wrong)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert check_blocks(model, right) == right
    model.transfuse_blocks = lambda level: wrong  # type: ignore[assignment]
    with pytest.raises(BlocksError, match=message):
        blocks_of(model)


def test_the_order_of_a_network_that_no_pass_without_data_goes_through_is_believed() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            noise = torch.rand(1)
            return self.fc((self.b if float(images.sum() + noise) > 0 else self.a)(images).mean((2, 3)))

    items = (Block("b", ("b",), "b"), Block("a", ("a",), "a"))
    model, state = Looks(), torch.get_rng_state()
    assert check_blocks(model, Blocks("stage", items, ("fc",))).names == ("b", "a")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_block_that_runs_again_and_again_ends_with_its_last_run() -> None:
    class Loop(OneReLU):
        def forward(self, images: Tensor) -> Tensor:
            hidden = self.c(self.a(images))
            for _ in range(3):
                hidden = self.b(hidden)
            return self.fc(self.flat(self.pool(hidden)))

    items = (TIED[0], TIED[2], TIED[1])
    assert check_blocks(Loop(), Blocks("stage", items, ("fc",))).names == ("a", "c", "b")  # type: ignore[arg-type]
    with pytest.raises(BlocksError, match=r"in the order a, b, c, and .* ends them in the order a, c, b"):
        check_blocks(Loop(), CONVOLUTIONS)


def test_tied_weights_are_never_frozen_on_one_side_only() -> None:
    model = Tied()
    with pytest.raises(BlocksError, match=r"'b.weight' and 'c.weight' are one tensor .* a depth that has both or nei"):
        freeze_(model, TIED, "b")
    with pytest.raises(BlocksError, match=r"'b.weight' and 'c.weight' are one tensor"):
        tune_only_(model, TIED, "c")
    assert all(parameter.requires_grad for parameter in model.parameters())
    freeze_(model, TIED, "c")
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]
    freeze_(model, TIED, "a")
    assert model.c.weight.requires_grad


def test_one_dropout_is_never_frozen_on_one_side_only() -> None:
    drop = nn.Dropout()
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 3, 3), drop), "b": nn.Sequential(nn.Conv2d(3, 3, 3), drop)})
    model["fc"] = nn.Linear(3, 2)
    blocks = Blocks("stage", tuple(Block(name, (name,), name) for name in "ab"), ("fc",))
    with pytest.raises(BlocksError, match=r"'a.1' and 'b.1' are one dropout, .*its own nn.Dropout"):
        freeze_(model, blocks, 1)
    assert not freeze_(model, blocks, "all").train()["b"].training


def test_a_lazy_network_is_to_be_run_first() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(BlocksError, match=r"4 tensors have no shape yet \(0.weight, .*run the network once on a batch"):
        check_blocks(model, Blocks("stage", (Block("a", ("0",), "0"),), ("4",)))
    with pytest.raises(BlocksError, match=r"tensors have no shape yet"):
        blocks_of(model)
    model(IMAGES)
    assert blocks_of(model).names == ("0",)


def test_what_is_no_blocks_and_names_among_many() -> None:
    model = create_model("resnet50", classes=2, device="meta")
    for wrong in (None, ["conv1"]):
        with pytest.raises(BlocksError, match=r"blocks is .*; expected Blocks, as blocks_of\(model\) gives them"):
            check_blocks(model, wrong)  # type: ignore[arg-type]
    rest = tuple(Block(name, (name,), name) for name in ("conv1", "bn1", "layer1", "layer2", "layer4"))
    with pytest.raises(
        BlocksError, match=r"parameter 'layer3.9', did you mean 'layer3.\d'\? Choices: layer3\.\d, [^,]"
    ):
        check_blocks(model, Blocks("stage", (*rest, Block("x", ("layer3.9",), "layer3")), ("fc",)))
