"""What every shipped network keeps, at every level that it defines."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import LEVELS, Blocks, blocks_of, create_model, list_models

CBR = ["cbr_large_t", "cbr_large_w", "cbr_small", "cbr_tiny", "cbr_tiny_table1", "cbr_demo"]
RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet10t", "test_resnet", "resnet50_cifar"]
MOBILE = ["mobilenetv2_100", "efficientnet_b0"]
GENERIC = ["densenet121", "vgg11_bn", "regnety_002", "convnext_atto"]
CASES = [
    (name, level)
    for names, levels in ((CBR + MOBILE + GENERIC, ("stage", "block", "layer")), (RESNETS, LEVELS))
    for name in names
    for level in levels
]


@cache
def network(name: str) -> nn.Module:
    return create_model(name, classes=5, device="meta")


@cache
def cut(name: str, level: str) -> Blocks:
    return blocks_of(network(name), level)


@cache
def order_of_a_forward_pass(name: str) -> list[str]:
    model, ran = network(name), []
    paths = [path for path, _ in model.named_modules() if path]
    handles = [
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output, path=path: ran.append(path))
        for path in paths
    ]
    size = model.pretrained_cfg["input_size"][1:] if hasattr(model, "pretrained_cfg") else (64, 64)
    assert model(torch.zeros(2, 3, *size, device="meta")).shape == (2, 5)
    for handle in handles:
        handle.remove()
    return ran


def test_every_member_of_our_own_families_is_under_test() -> None:
    assert set(list_models("cbr_*")) == set(CBR)


@pytest.mark.parametrize(("name", "level"), CASES)
def test_blocks_are_a_complete_ordered_partition(name: str, level: str) -> None:
    model, blocks = network(name), cut(name, level)
    owners = [blocks.owner(key) for key in model.state_dict()]
    assert set(owners) == {*blocks.names, "head"}
    assert len(set(blocks.names)) == len(blocks) > 1
    for key in model.state_dict():
        assert sum(block.owns(key) for block in blocks) == (blocks.owner(key) != "head")
    assert isinstance(model.get_submodule(blocks.head[0]), nn.Linear)
    assert model.get_submodule(blocks.head[0]).out_features == 5


@pytest.mark.parametrize(("name", "level"), CASES)
def test_outputs_run_once_each_in_order_and_after_their_own_parameters(name: str, level: str) -> None:
    model, blocks = network(name), cut(name, level)
    ran = order_of_a_forward_pass(name)
    outputs = {block.output for block in blocks}
    assert [path for path in ran if path in outputs] == [block.output for block in blocks]
    position = {path: index for index, path in enumerate(ran)}
    with_weights = {key.rpartition(".")[0] for key in model.state_dict()}
    previous = -1
    for block in blocks:
        own = [position[path] for path in with_weights if block.owns(path)]
        assert min(own) > previous, f"{block.name} starts before the block under it has ended"
        if block.cut:
            assert max(own) <= position[block.output], f"{block.name} has weights after its output"
        previous = position[block.output]


@pytest.mark.parametrize("name", ["cbr_large_t", "cbr_demo", "resnet18", "resnet10t", "test_resnet", *MOBILE])
def test_meta_and_cpu_agree_on_names_and_shapes(name: str) -> None:
    light, real = network(name), create_model(name, classes=5)
    shapes = [{key: tuple(tensor.shape) for key, tensor in m.state_dict().items()} for m in (light, real)]
    assert shapes[0] == shapes[1]
    assert cut(name, "block") == blocks_of(real, "block")
    assert all(parameter.is_meta for parameter in light.parameters())


@pytest.mark.parametrize(("name", "level"), CASES)
def test_depth_means_the_same_everywhere(name: str, level: str) -> None:
    blocks = cut(name, level)
    assert [blocks.depth(number) for number in range(len(blocks) + 1)] == list(range(len(blocks) + 1))
    assert [blocks.depth(block) for block in blocks.names] == list(range(1, len(blocks) + 1))
    assert blocks.depth("all") == len(blocks)
    assert blocks.depth("middle") == math.ceil(len(blocks) / 2)
    for wrong in (-1, len(blocks) + 1, True, "nowhere", 1.0):
        with pytest.raises(BlocksError, match=r"[Dd]epth"):
            blocks.depth(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cbr_demo", "test_resnet", "mobilenetv2_100"])
def test_creation_is_a_function_of_its_arguments_and_leaves_the_global_generator(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = create_model(name, classes=3, channels=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = create_model(name, classes=3, channels=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
