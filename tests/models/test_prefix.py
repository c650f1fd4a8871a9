from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfuse.errors import BlocksError
from transfuse.models import Block, Blocks, blocks_of, create_model, freeze_
from transfuse.models.complexity import complexity
from transfuse.models.memory_order import takes_channels_last
from transfuse.models.prefix import cut_of, features_at, going_on_from, macs_above, why_not_from


def random_images(count: int, size: int = 32) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["cbr_demo", "test_resnet", "mobilenetv2_050", "test_vit"])
def test_features_of_an_image_do_not_depend_on_the_others(name: str) -> None:
    model = create_model(name, classes=2, image_size=32)
    blocks, images = blocks_of(model), random_images(11)
    cut = cut_of(model, blocks, "middle", 32)
    (all_of_them,) = features_at(model, [cut], images, batch_size=4)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    assert torch.equal(features_at(model, [cut], images[order], batch_size=4)[0], all_of_them[order])
    assert torch.equal(features_at(model, [cut], images[:1], batch_size=4)[0], all_of_them[:1])
    assert all_of_them.is_contiguous()
    assert not all_of_them.is_inference()  # training may save it for its backward pass


def test_training_above_the_cut_is_training_of_the_whole() -> None:
    model = create_model("test_resnet", classes=2)
    blocks, images, labels = blocks_of(model), random_images(8), torch.arange(8) % 2
    freeze_(model, blocks, "middle")
    model.train()
    other = copy.deepcopy(model)
    cut = cut_of(model, blocks, "middle", 32)
    nn.functional.cross_entropy(other(images), labels).backward()
    features = features_at(model, [cut], images, batch_size=8)[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with going_on_from(model, cut):
        nn.functional.cross_entropy(model(features), labels).backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad), name
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)
    state = model.state_dict()
    frozen = [name for name in state if blocks.owner(name) in blocks.names[: blocks.depth("middle")]]
    assert all(torch.equal(state[name], before[name]) for name in frozen)
    assert model.training


def test_within_the_network_is_the_same_object_and_afterwards_as_before() -> None:
    model = create_model("test_resnet", classes=2).eval()
    blocks, images = blocks_of(model), random_images(2)
    cut, other = cut_of(model, blocks, 1, 32), cut_of(model, blocks, "all", 32)
    keys = list(model.state_dict())
    features = features_at(model, [cut], images, batch_size=2)[0]
    with torch.no_grad():
        before = model(images)
        with going_on_from(model, cut) as same:
            assert same is model
            assert list(model.state_dict()) == keys
            assert torch.equal(features_at(model, [cut], images, batch_size=2)[0], features)  # still takes images
            torch.testing.assert_close(model(features), before)
            with (
                pytest.raises(BlocksError, match="This ResNet goes on from a cut already: leave that first"),
                going_on_from(model, other),
            ):
                pass
            torch.testing.assert_close(model(features), before)
        assert torch.equal(model(images), before)
    assert not any("forward" in vars(module) for module in model.modules())
    with pytest.raises(ZeroDivisionError), going_on_from(model, cut):
        raise ZeroDivisionError
    with torch.no_grad():
        assert torch.equal(model(images), before)


def test_one_pass_gives_every_cut_and_ends_at_the_highest() -> None:
    model = create_model("cbr_demo", classes=2)
    blocks, images = blocks_of(model), random_images(3)
    cuts = [cut_of(model, blocks, depth, 32) for depth in (2, 1)]
    takes_channels_last(model, images)  # tries a pass of its own, once
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    two, one = features_at(model, cuts, images, batch_size=3)
    assert ran == ["layer1", "layer2"]
    assert torch.equal(one, features_at(model, cuts[1:], images, batch_size=3)[0])
    assert (tuple(two.shape[1:]), tuple(one.shape[1:])) == (cuts[0].features, cuts[1].features)


@pytest.mark.parametrize("depth", [1, "middle", "all"])
def test_macs_below_and_above_a_cut_are_those_of_the_network(depth: int | str) -> None:
    model = create_model("test_resnet", classes=2)
    cut = cut_of(model, blocks_of(model), depth, 32)
    takes_channels_last(model, random_images(1))  # tries a pass of its own, once
    with FlopCounterMode(display=False) as counter:
        features_at(model, [cut], random_images(1), batch_size=1)
    assert counter.get_total_flops() // 2 + macs_above(model, cut) == complexity(model, 32).macs


class Skipping(nn.Module):
    """Its head sees the image's mean too: what lies above the cut needs more than the cut's output."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.top, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(7, 2)

    def forward(self, images: Tensor) -> Tensor:
        top = self.top(self.body(images)).mean((2, 3))
        return self.head(torch.cat([top, images.mean((2, 3))], dim=1))


class Halves(nn.Module):
    """Its first block gives out two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Two(), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        one, other = self.body(images)
        return self.head(torch.cat([one, other], dim=1))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        map_ = self.conv(images).mean((2, 3))
        return map_, map_


BODY = Blocks("stage", (Block("body", ("body",), "body"), Block("top", ("top",), "top")), ("head",))


class Gated(Skipping):
    """The skip is closed at first: no output shows it, and training opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.gate = nn.Linear(4, 2), nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        top = self.top(self.body(images)).mean((2, 3))
        return self.head(top + self.gate * images.mean((1, 2, 3))[:, None])


class Auxiliary(Skipping):
    """A lower tensor is used in training only, as by deep supervision."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        top = self.top(self.body(images)).mean((2, 3))
        return self.head(top + images.mean((1, 2, 3))[:, None] if self.training else top)


class Scaled(Skipping):
    """A parameter of the network itself, which no block freezes, lies below the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.scale = nn.Linear(4, 2), nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.top(self.body(self.scale * images)).mean((2, 3)))


class OfTheBatch(Skipping):
    """Its frozen norm has no statistics of its own: it normalises by the batch in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), norm), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.top(self.body(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Skipping, "going on from the features gives another output"),
        (Gated, "going on from the features gives another output"),
        (Auxiliary, "in training the network uses what lies below the cut"),
        (Scaled, "parameters that are trained lie below the cut"),
        (OfTheBatch, "the features of an image depend on the others of its batch"),
    ],
)
def test_a_network_that_does_not_go_on_from_its_features_is_found(make: type[nn.Module], why: str) -> None:
    model, images = make(), random_images(4)
    own = [name for name, _ in model.named_parameters(recurse=False)]
    blocks = Blocks("stage", BODY.items, ("head", *own))
    freeze_(model, blocks, 1)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert why_not_from(model, cut_of(model, blocks, 1, 32), images) == why
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.body.training  # as freeze_ left it


def test_a_trial_moves_no_statistics_and_draws_nothing() -> None:
    model = create_model("test_resnet", classes=2)
    blocks, images = blocks_of(model), random_images(4)
    freeze_(model, blocks, "middle")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert why_not_from(model, cut_of(model, blocks, "middle", 32), images) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "blocks", "depth", "message"),
    [
        (Skipping(), BODY, 0, r"^Depth 0 at level 'stage': there is no cut above no block\.$"),
        (
            Skipping(),
            Blocks("stage", (Block("body", ("body",), "body", cut=False), *BODY[1:]), ("head",)),
            1,
            r"there is no cut above block 'body', above which more than its output is needed,",
        ),
        (
            Halves(),
            Blocks("stage", (Block("body", ("body",), "body"),), ("head",)),
            "all",
            r"^The output 'body' of block 'body' is never run, or not one tensor: no cut there\.$",
        ),
        (
            Skipping(),
            Blocks("stage", (Block("top", ("top",), "top"),), ("body", "head")),
            "all",
            r"^'body.weight' is used before the end of block 'top' and is none of it: no cut there\.$",
        ),
    ],
)
def test_where_there_is_no_cut(model: nn.Module, blocks: Blocks, depth: int | str, message: str) -> None:
    with pytest.raises(BlocksError, match=message):
        cut_of(model, blocks, depth, 32)


def test_an_image_size_that_the_network_cannot_take_is_told() -> None:
    model = create_model("cbr_demo", classes=2)
    with pytest.raises(
        BlocksError, match="A forward pass without data through this Sequential fails for images of 2 x 2"
    ):
        cut_of(model, blocks_of(model), 1, 2)
