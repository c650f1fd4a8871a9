"""An encoder with a light head at every cut of its U-Net: what the heads see, draw, cost, and hand back."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfuse.errors import BlocksError
from transfuse.models import MaskExits, blocks_of, create_model, freeze_, mask_exits, truncate_unet
from transfuse.models.complexity import complexity

STAGES = ("encoder.stem", "encoder.layer1", "encoder.layer2", "encoder.layer3")


@cache
def unet() -> nn.Module:
    """A U-Net of four stages, with batch norms that are no identities; nothing may change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = truncate_unet(create_model("unet_resnet18", 2, 1), None, "encoder.layer3", 2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
        return model.eval()


def images() -> Tensor:
    return torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def by_hand(head: Any, features: list[Tensor], sides: tuple[int, ...]) -> Tensor:
    """A head's map, from the features of the stages that it reads."""
    total = torch.zeros(())
    for projection, one in zip(head.projections, features, strict=True):
        small = torch.einsum("nchw,oc->nohw", one, projection.weight[:, :, 0, 0])
        total = total + F.interpolate(small, features[0].shape[2:], mode="bilinear")
    for convolution, norm in ((head.first, head.first_norm), (head.second, head.second_norm)):
        total = norm(F.conv2d(total.relu(), convolution.weight, padding=1))
    return F.interpolate(head.classify(total.relu()), sides, mode="bilinear")


def test_every_head_sees_the_stages_up_to_its_cut() -> None:
    model: Any = unet()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = mask_exits(model, None, 3, image_size=32)
    assert [one.name for one in network.exits] == list(STAGES)
    network.eval()
    with torch.no_grad():
        found, features = network(images()), model.encoder(images())[1:]
        assert found.shape == (2, 4, 3, 32, 32)
        for number, head in enumerate(network.heads):
            expected = by_hand(head, features[: number + 1], (32, 32))
            torch.testing.assert_close(found[:, number], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert not any("decoder" in name or "segmentation" in name for name in network.state_dict())


def test_sizes_are_those_of_the_truncated_unets() -> None:
    model = unet()
    network = mask_exits(model, None, 2, depths=["encoder.layer2", 1, "all"], image_size=64)
    assert [one.depth for one in network.exits] == [1, 3, 4]
    for one in network.exits:
        size = complexity(truncate_unet(model, None, one.name, 2), 64)
        assert (one.parameters, one.macs) == (size.parameters, size.macs)


@cache
def doubled() -> nn.Module:
    return copy.deepcopy(unet()).double()


def gradients(network: MaskExits, exits: list[int]) -> dict[str, Tensor]:
    network.zero_grad()
    maps = network(images().double())
    torch.stack([maps[:, number].square().mean() for number in exits]).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("depths", [None, ["encoder.stem", "encoder.layer2"]])
def test_a_block_gets_the_mean_gradient_of_the_exits_that_read_it(depths: list[int | str] | None) -> None:
    """Without the rule ("top" for one exit at a time) the gradients are autograd's own."""
    network = mask_exits(doubled(), None, 2, depths=depths, image_size=32).eval()
    count = len(network.exits)
    together = gradients(network, list(range(count)))
    alone = []
    for one in network.exits:
        single = mask_exits(doubled(), None, 2, depths=[one.name], image_size=32, trunk="top").eval()
        alone.append(gradients(single, [0]))
    stages = [one.name for one in network.exits]
    for name, gradient in together.items():
        if name.startswith("heads."):
            number = int(name.split(".")[1])
            expected = alone[number]["heads.0." + name.split(".", 2)[2]]
        else:
            below = STAGES.index(network.blocks.owner(name))
            readers = [i for i, stage in enumerate(stages) if STAGES.index(stage) >= below]
            expected = torch.stack([alone[i][name] for i in readers]).mean(0)
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
    assert any(name.startswith("network.encoder.layer2") for name in together)


def reached(trunk: str, number: int) -> set[str]:
    """The stages and heads that get a gradient from the loss of one exit."""
    network = mask_exits(doubled(), None, 2, depths=["encoder.layer1", "encoder.layer2"], image_size=32, trunk=trunk)
    if trunk == "frozen":
        freeze_(network, network.blocks, "all")
    found = {name for name, gradient in gradients(network, [number]).items() if bool(gradient.any())}
    return {".".join(name.split(".")[:2]) if name.startswith("heads") else network.blocks.owner(name) for name in found}


def test_losses_train_what_the_trunk_says() -> None:
    assert reached("joint", 0) == {"heads.0", *STAGES[:2]}
    assert reached("top", 0) == reached("frozen", 0) == {"heads.0"}
    assert reached("top", 1) == reached("joint", 1) == {"heads.1", *STAGES[:3]}
    assert reached("frozen", 1) == {"heads.1"}


@pytest.mark.parametrize("level", ["stage", "block", "layer"])
def test_blocks_of_every_level_are_the_encoder_s(level: str) -> None:
    model = unet()
    blocks = blocks_of(model, level)
    network = mask_exits(model, blocks, 2, image_size=32)
    encoder = [name for name in blocks.names if name.startswith("encoder.")]
    assert list(network.blocks.names) == encoder
    assert [encoder[one.depth - 1] for one in network.exits] == [one.name for one in network.exits]
    assert network.exits[-1].depth == len(encoder)
    assert network.names_of("encoder.conv1.weight") == ["network.encoder.conv1.weight"]
    assert network.names_of("segmentation_head.0.weight") == []


def test_what_is_frozen_stays_frozen() -> None:
    model = copy.deepcopy(unet())
    freeze_(model, blocks_of(model), "encoder.layer1")
    network = mask_exits(model, None, 2, depths=["encoder.layer2"], image_size=32).train()
    held = {network.blocks.owner(name) for name, p in network.named_parameters() if not p.requires_grad}
    assert held == {"encoder.stem", "encoder.layer1"}
    assert not network.network.get_submodule("encoder.layer1").training
    assert network.network.get_submodule("encoder.layer2").training


def test_heads_are_drawn_by_the_seed_and_alike() -> None:
    one, again, other = (mask_exits(unet(), None, 2, image_size=32, seed=seed).heads.state_dict() for seed in (1, 1, 2))
    torch.testing.assert_close(dict(one), dict(again), rtol=0, atol=0)
    assert not torch.equal(one["0.first.weight"], other["0.first.weight"])
    shallow = {name.partition(".")[2]: tensor for name, tensor in one.items() if name.startswith("1.")}
    for name, tensor in shallow.items():
        assert torch.equal(tensor, one[f"3.{name}"]), name


def test_heads_of_volumes() -> None:
    from transfuse.models.mask_exits import MaskHead

    head = MaskHead((4, 8), 3, 3, seed=1).eval()
    coarse = torch.zeros(1, 8, 5, 4, 3)
    fine = torch.rand(1, 4, 9, 8, 7, generator=torch.Generator().manual_seed(0))
    assert head([fine, coarse], (9, 16, 14)).shape == (1, 3, 9, 16, 14)
    torch.testing.assert_close(head([fine, coarse], (9, 8, 7)), head([fine], (9, 8, 7)), rtol=0, atol=0)


def test_mistakes() -> None:
    model = unet()
    with pytest.raises(BlocksError, match=r"Unknown trunk 'jont': did you mean 'joint'"):
        mask_exits(model, None, 2, trunk="jont")
    with pytest.raises(BlocksError, match=r"depths is empty: expected one exit or more"):
        mask_exits(model, None, 2, depths=[])
    with pytest.raises(BlocksError, match=r"no stage of the encoder ends|cut points: encoder.stem"):
        mask_exits(model, blocks_of(model, "block"), 2, depths=[2])
    with pytest.raises(BlocksError, match=r"This Unet has one encoder stage, so there is no cut to choose"):
        mask_exits(truncate_unet(model, None, "encoder.stem", 2), None, 2)
    with pytest.raises(BlocksError, match=r"This ResNet is no U-Net that is known here"):
        mask_exits(create_model("resnet18", 2, device="meta"), None, 2)
