"""Blocks, forward passes and repeatability of the networks that are not timm's."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import Blocks, blocks_of, create_model
from transfuse.models.truncate import truncate

# (network, spatial dimensions): the number of blocks at each level that it defines
COUNTS = {
    ("resnet50_tfslim_v1", 2): {"stage": 5, "block": 17, "layer": 17, "wt-st": 6},
    ("resnet50_tfslim_v2", 2): {"stage": 5, "block": 17, "layer": 17},
    ("resnet20", 2): {"stage": 4, "block": 10, "layer": 10},
    ("resnet32", 2): {"stage": 4, "block": 16, "layer": 16},
    ("resnet44", 2): {"stage": 4, "block": 22, "layer": 22},
    ("resnet56", 2): {"stage": 4, "block": 28, "layer": 28},
    ("resnet110", 2): {"stage": 4, "block": 55, "layer": 55},
    ("unet_resnet18", 2): {"stage": 10, "block": 14, "layer": 14},
    ("unet_resnet34", 2): {"stage": 10, "block": 22, "layer": 22},
    ("unet_resnet50", 2): {"stage": 10, "block": 22, "layer": 22},
    ("resnet18", 3): {"stage": 5, "block": 9, "layer": 9, "wt-st": 6},
    ("resnet34", 3): {"stage": 5, "block": 17, "layer": 17, "wt-st": 6},
    ("resnet50", 3): {"stage": 5, "block": 17, "layer": 17, "wt-st": 6},
    ("resnext101", 3): {"stage": 5, "block": 34, "layer": 34, "wt-st": 6},
    ("densenet121", 3): {"stage": 5, "block": 9, "layer": 1 + 58 + 3 + 1},
}
CASES = [(name, dims, level) for (name, dims), levels in COUNTS.items() for level in levels]
SMALL = [("resnet20", 2), ("resnet50_tfslim_v1", 2), ("resnet50_tfslim_v2", 2), ("densenet121", 3), ("resnet18", 3)]


@cache
def network(name: str, dims: int) -> nn.Module:
    return create_model(name, 5, 1, dims, device="meta")


@cache
def cut(name: str, dims: int, level: str) -> Blocks:
    return blocks_of(network(name, dims), level)


@cache
def order_of_a_forward_pass(name: str, dims: int) -> list[str]:
    model, ran = network(name, dims), []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, path=path: ran.append(path))
        for path, module in model.named_modules()
        if path
    ]
    output = model(torch.zeros(2, 1, *[64] * dims, device="meta"))
    assert output.shape == ((2, 5, 64, 64) if name.startswith("unet") else (2, 5))
    for handle in handles:
        handle.remove()
    return ran


@pytest.mark.parametrize(("name", "dims", "level"), CASES)
def test_blocks_are_a_complete_partition(name: str, dims: int, level: str) -> None:
    model, blocks = network(name, dims), cut(name, dims, level)
    assert len(blocks) == COUNTS[name, dims][level]
    assert {blocks.owner(key) for key in model.state_dict()} == {*blocks.names, "head"}
    for key in model.state_dict():
        assert sum(block.owns(key) for block in blocks) == (blocks.owner(key) != "head")


@pytest.mark.parametrize(("name", "dims", "level"), CASES)
def test_outputs_run_once_each_in_order_and_after_their_own_parameters(name: str, dims: int, level: str) -> None:
    model, blocks = network(name, dims), cut(name, dims, level)
    ran = order_of_a_forward_pass(name, dims)
    outputs = {block.output for block in blocks}
    assert [path for path in ran if path in outputs] == [block.output for block in blocks]
    position = {path: index for index, path in enumerate(ran)}
    with_weights = {key.rpartition(".")[0] for key in model.state_dict()}
    previous = -1
    for block in blocks:
        own = [position[path] for path in with_weights if block.owns(path)]
        assert min(own) > previous
        if block.cut:
            assert max(own) <= position[block.output]
        previous = position[block.output]


@pytest.mark.parametrize(("name", "dims"), [("unet_resnet34", 2), ("unet_resnet50", 2)])
@pytest.mark.parametrize("level", ["stage", "block", "layer"])
def test_a_unet_has_no_cut_point(name: str, dims: int, level: str) -> None:
    assert not any(block.cut for block in cut(name, dims, level))


@pytest.mark.parametrize(("name", "dims"), [("resnet50_tfslim_v2", 2), ("resnet20", 2), ("densenet121", 3)])
def test_levels_that_the_papers_do_not_define_are_errors(name: str, dims: int) -> None:
    with pytest.raises(BlocksError, match=r"'wt-st' is not defined for .* Choices: stage, block, layer"):
        blocks_of(network(name, dims), "wt-st")


@pytest.mark.parametrize(("name", "dims"), SMALL)
def test_nothing_overwrites_the_output_of_a_block(name: str, dims: int) -> None:
    model, kept = create_model(name, 5, 1, dims).eval(), {}
    for block in blocks_of(model, "block"):
        model.get_submodule(block.output).register_forward_hook(
            lambda module, inputs, output, name=block.name: kept.update({name: (output, output.clone())})
        )
    with torch.no_grad():
        model(torch.randn(1, 1, *[48] * dims, generator=torch.Generator().manual_seed(0)))
    assert len(kept) == COUNTS[name, dims]["block"]
    assert all(torch.equal(output, copy) for output, copy in kept.values())


@pytest.mark.parametrize(("name", "dims"), SMALL)
def test_a_truncated_network_sees_the_pooled_activation(name: str, dims: int) -> None:
    model = create_model(name, 5, 1, dims).eval()
    images = torch.randn(2, 1, *[48 if dims == 2 else 32] * dims, generator=torch.Generator().manual_seed(0))
    blocks = blocks_of(model, "stage")
    for depth, block in enumerate(blocks, 1):
        short = truncate(model, blocks, depth, 3)
        whole, arrived = [], []
        handle = model.get_submodule(block.output).register_forward_hook(
            lambda m, i, output, to=whole: to.append(output)
        )
        head = short.get_submodule(blocks.head[0])
        head.register_forward_pre_hook(lambda m, inputs, to=arrived: to.append(inputs[0]))
        with torch.no_grad():
            model(images)
            assert short(images).shape == (2, 3)
        handle.remove()
        torch.testing.assert_close(arrived[0].flatten(1), whole[0].mean(dim=tuple(range(2, 2 + dims))))


@pytest.mark.parametrize(("name", "dims"), [*SMALL, ("unet_resnet18", 2)])
def test_two_calls_are_identical_and_leave_the_global_generator(name: str, dims: int) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = create_model(name, 3, 1, dims).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = create_model(name, 3, 1, dims).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    light = create_model(name, 3, 1, dims, device="meta").state_dict()
    assert {key: value.shape for key, value in light.items()} == {key: value.shape for key, value in first.items()}
    assert all(value.is_meta for value in light.values())
