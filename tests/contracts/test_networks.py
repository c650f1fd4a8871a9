"""What every shipped network keeps, at every level that it defines."""

from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import LEVELS, Blocks, blocks_of, create_model, list_models
from transfuse.models.blocks import family_of
from transfuse.models.published import PUBLISHED_NETWORKS
from transfuse.models.resnet_cifar import RESIDUALS
from transfuse.models.torchvision_operators import declare_operators

CBR = ["cbr_large_t", "cbr_large_w", "cbr_small", "cbr_tiny", "cbr_tiny_table1", "cbr_demo"]
RESNETS = ["resnet18", "resnet50", "resnet10t", "test_resnet", "resnet50_cifar", "torchvision/resnet18"]
MOBILE = ["mobilenetv2_100", "efficientnet_b0"]
INCEPTION = ["inception_v3", "torchvision/inception_v3"]
DENSE = ["densenet121", "torchvision/densenet121"]
VGG = ["vgg11_bn", "torchvision/vgg13"]
TRANSFORMERS = [
    *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"),
    *("vit_small_patch16_dinov3", "test_vit2", "swin_tiny_patch4_window7_224"),
]
OTHERS = ["convnext_atto", "resnetv2_18"]
GENERIC = ["regnety_002", "ghostnet_100"]  # in no table: cut by a forward pass
SLOW = [
    *("resnet34", "resnet101", "resnet152", "resnet18_cifar", "torchvision/resnet50", "densenet169", "densenet201"),
    *("densenet264d", "vgg19", "vgg16_bn", "torchvision/vgg19_bn", "deit_small_patch16_224", "deit_base_patch16_224"),
    *("deit_small_distilled_patch16_224", "deit_base_distilled_patch16_224", "vit_base_patch16_224"),
    "vit_small_patch16_224",
    *("vit_small_patch14_dinov2", "vit_base_patch16_siglip_224", "vit_medium_patch16_reg4_gap_256"),
    *(
        "vit_base_patch16_clip_224",
        "vit_pe_core_tiny_patch16_384",
        "eva02_tiny_patch14_336",
        "swin_small_patch4_window7_224",
    ),
    *(
        "swinv2_tiny_window8_256",
        "convnext_tiny",
        "convnext_tiny_hnf",
        "edgenext_small",
        "resnetv2_50",
        "resnetv2_50x1_bit",
    ),
]
WITHOUT_WT_ST = (
    "cbr",
    "mobilenet",
    "efficientnet",
    "densenet",
    "vgg",
    "convnext",
    "edgenext",
    "resnetv2",
    "regnet",
    "ghost",
)


def levels_of(name: str) -> tuple[str, ...]:
    return LEVELS[:3] if name.removeprefix("torchvision/").startswith(WITHOUT_WT_ST) else LEVELS


# Here a network comes under the contract: a name and a level; `slow` for the full product.
CASES = [
    pytest.param(name, level, marks=[pytest.mark.exhaustive] if name in SLOW else [])
    for name in (*CBR, *RESNETS, *MOBILE, *INCEPTION, *DENSE, *VGG, *TRANSFORMERS, *OTHERS, *GENERIC, *SLOW)
    for level in levels_of(name)
]

IN_A_FAMILY = [*CBR, *RESNETS, *MOBILE, *INCEPTION, *DENSE, *VGG, *TRANSFORMERS, *OTHERS, *SLOW]

# METHODS 1.5: modules of `wt-st` and feature layers of M; the norm on top stays at a cut and is no feature layer.
PUBLISHED_COUNTS = {
    ("resnet18", "wt-st"): 6, ("resnet50", "wt-st"): 6, ("resnet152", "wt-st"): 6, ("inception_v3", "wt-st"): 7,
    ("deit_tiny_patch16_224", "wt-st"): 14, ("deit_small_patch16_224", "wt-st"): 14,
    ("deit_base_patch16_224", "wt-st"): 14, ("swin_tiny_patch4_window7_224", "wt-st"): 14,
    ("resnet50", "layer"): 17, ("resnet18", "layer"): 9, ("resnet152", "layer"): 51, ("inception_v3", "layer"): 16,
    ("deit_small_patch16_224", "layer"): 25, ("swin_tiny_patch4_window7_224", "layer"): 25,
}  # fmt: skip


@cache
def network(name: str) -> nn.Module:
    if not name.startswith("torchvision/"):
        return create_model(name, classes=5, device="meta")
    declare_operators()
    from torchvision import models

    arguments = {"aux_logits": False, "init_weights": False} if "inception" in name else {}
    with torch.device("meta"):
        return models.get_model(name.removeprefix("torchvision/"), num_classes=5, **arguments)


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
    size = model.pretrained_cfg["input_size"][1:] if hasattr(model, "pretrained_cfg") else (96, 96)
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
    for path in blocks.head:
        head = model.get_submodule(path)
        assert head.weight.shape[0] == 5 == len(head.bias)
        assert isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.kernel_size == (1, 1))


def running(path: str, position: dict[str, int]) -> str:
    """The module that runs with the weights of `path`: itself, or one round it that reads them, as in Swin v2."""
    while path not in position:
        assert path, "these weights are never used"
        path = path.rpartition(".")[0]
    return path


SHIPPED = {name for networks in PUBLISHED_NETWORKS if networks.spatial_dims == 2 for name in networks.names}
ELSEWHERE = {  # in test_networks_blocks.py
    *("resnet50_tfslim_v1", "resnet50_tfslim_v2", *RESIDUALS, "unet_resnet18", "unet_resnet34", "unet_resnet50")
}


def test_every_network_that_is_shipped_is_under_test() -> None:
    assert {*CBR, *RESNETS, *MOBILE, *INCEPTION, *DENSE, *VGG, *TRANSFORMERS, *SLOW, *ELSEWHERE} >= SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED.intersection(SLOW)))
def test_the_larger_networks_that_are_shipped_are_a_partition_at_every_level(name: str) -> None:
    """Their forward passes and cuts are in the exhaustive suite."""
    model = network(name)
    keys = list(model.state_dict())
    assert levels_of(name) == next(n.levels for n in PUBLISHED_NETWORKS if name in n.names)
    for level in levels_of(name):
        blocks = cut(name, level)
        assert {blocks.owner(key) for key in keys} == {*blocks.names, "head"}
        assert (name, level) not in PUBLISHED_COUNTS or PUBLISHED_COUNTS[name, level] == sum(
            level == "wt-st" or not block.stays for block in blocks
        )
        assert len(set(blocks.names)) == len(blocks) > 1
        assert list(dict.fromkeys(blocks.depth(block) for block in blocks.names)) == list(range(1, len(blocks) + 1))


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
        own = [position[running(path, position)] for path in with_weights if block.owns(path)]
        assert min(own) > previous, f"{block.name} starts before the block under it has ended"
        if block.cut:
            assert max(own) <= position[block.output], f"{block.name} has weights after its output"
        previous = position[block.output]


@pytest.mark.parametrize(("name", "level"), CASES)
def test_the_network_is_cut_after_blocks_and_never_inside_of_a_branch(name: str, level: str) -> None:
    blocks = cut(name, level)
    assert [block.stays for block in blocks] == sorted(block.stays for block in blocks), "what stays is on top"
    if level != "layer":
        assert all(block.cut for block in blocks)
    for block in blocks:
        if block.name.endswith((".attn", ".mlp")) or ".denselayer" in block.name:
            assert not block.cut


@pytest.mark.parametrize(
    ("name", "level", "count"),
    [
        pytest.param(name, level, count, marks=[pytest.mark.exhaustive] if name in SLOW else [])
        for (name, level), count in PUBLISHED_COUNTS.items()
    ],
)
def test_published_numbers_of_modules_and_feature_layers(name: str, level: str, count: int) -> None:
    blocks = cut(name, level)
    assert sum(level == "wt-st" or not block.stays for block in blocks) == count


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] if name in SLOW else []) for name in IN_A_FAMILY]
)
def test_a_network_cut_short_has_the_blocks_that_are_left(name: str) -> None:
    family = family_of(network(name))
    assert family is not None
    for level in ("stage", "block"):
        blocks = cut(name, level)
        for depth in sorted({1, blocks.depth("middle"), len(blocks) - 1}):
            model = copy.deepcopy(network(name))
            modules = dict(model.named_modules())
            for path in [path for block in blocks[depth:] if not block.stays for path in block.paths]:
                if path in modules:
                    model.set_submodule(path, nn.Identity())
            assert family_of(model) == family
            left = blocks_of(model, level)
            assert left.items == tuple(b for number, b in enumerate(blocks) if number < depth or b.stays)
            for other in levels_of(name):
                names = blocks_of(model, other).names
                assert names == tuple(whole for whole in cut(name, other).names if whole in names)


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
