"""Every network's cost: its blocks sum to the whole, and a public counter that is right for it finds the same."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import accumulate

import pytest
import torch
from torch import nn

from transfuse.models import Blocks, blocks_of, create_model, truncate
from transfuse.models.blocks import family_of
from transfuse.models.complexity import Complexity, complexity

# Networks of images and volumes that are convolutional: torchinfo multiplies their weights by the places of a map. Of a
# transformer's linear layers it counts one place, so that DeiT has a fiftieth; their MACs stand in test_complexity.py.
CONVOLUTIONAL = [
    *(("cbr_large_t", 2, 224), ("resnet18", 2, 224), ("efficientnet_b0", 2, 224), ("mobilenetv2_100", 2, 224)),
    *(("resnet20", 2, 32), ("unet_resnet34", 2, 224), ("resnet18", 3, 64)),
    *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (
        ("mobilenetv3_small_050", 2, 224), ("resnetv2_18", 2, 224), ("regnety_002", 2, 224), ("ghostnet_100", 2, 224),
        ("resnext101", 3, 64), ("resnet50", 2, 224), ("densenet121", 2, 224), ("inception_v3", 2, 299),
        ("densenet121", 3, 64),
    )),
]  # fmt: skip
WITH_BIASES = [("vgg11_bn", 2, 224), ("resnet50_tfslim_v2", 2, 224)]  # in every convolution
TRANSFORMERS = [
    *(("deit_tiny_patch16_224", 2, 224), ("swin_tiny_patch4_window7_224", 2, 224)),
    *(pytest.param(name, 2, None, marks=pytest.mark.exhaustive) for name in (
        "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"
    )),
]  # fmt: skip
FAMILIES = [*CONVOLUTIONAL, *WITH_BIASES, ("convnext_atto", 2, 224), *TRANSFORMERS]
AT_CUTS = [
    *(("cbr_small", 2, 64), ("resnet10t", 2, 64), ("test_efficientnet", 2, 64), ("test_vit2", 2, None)),
    *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (
        ("convnext_atto", 2, 64), ("deit_tiny_patch16_224", 2, 224), ("swin_tiny_patch4_window7_224", 2, 224),
        ("densenet121", 2, 64), ("densenet121", 3, 32), ("resnext101", 3, 32),
    )),
]  # fmt: skip


@cache
def network(name: str, dims: int) -> nn.Module:
    return create_model(name, 5, 3, dims, device="meta").eval()


@cache
def cost(name: str, dims: int, size: int | None) -> Complexity:
    return complexity(network(name, dims), size)


@pytest.mark.parametrize(("name", "dims", "size"), CONVOLUTIONAL)
def test_a_public_counter_finds_the_same(name: str, dims: int, size: int) -> None:
    """It counts weights of norms and biases of convolutions, once for each image or place."""
    check_counter(name, dims, size, 2e-4)


@pytest.mark.parametrize(("name", "dims", "size"), WITH_BIASES)
def test_a_public_counter_finds_the_same_and_biases(name: str, dims: int, size: int) -> None:
    check_counter(name, dims, size, 2e-3)


def check_counter(name: str, dims: int, size: int, more: float) -> None:
    from torchinfo import summary

    found = cost(name, dims, size)
    images = torch.zeros(1, 3, *[size] * dims, device="meta")
    theirs = summary(network(name, dims), input_data=images, verbose=0, device="meta")
    assert found.parameters == theirs.total_params
    assert found.macs <= theirs.total_mult_adds <= (1 + more) * found.macs


@pytest.mark.parametrize(("name", "depth"), [("mobilenetv2_100", "blocks.3.0"), ("resnet18", "layer2.1")])
def test_a_public_counter_agrees_on_a_network_that_was_cut(name: str, depth: str) -> None:
    from torchinfo import summary

    model = create_model(name, 2, 1, image_size=32)
    short = truncate(model, blocks_of(model, "block"), depth, 2, image_size=32)
    found = complexity(short, 32, 1)
    theirs = summary(short, input_data=torch.zeros(1, 1, 32, 32), verbose=0)
    assert found.parameters == theirs.total_params < 0.3 * complexity(model, 32, 1).parameters
    assert found.macs <= theirs.total_mult_adds <= 1.001 * found.macs


@pytest.mark.parametrize(("name", "dims", "size"), FAMILIES)
def test_blocks_sum_to_the_whole(name: str, dims: int, size: int | None) -> None:
    model = network(name, dims)
    blocks, found = blocks_of(model), cost(name, dims, size)
    assert list(found.per_block) == [*blocks.names, "head"]
    assert sum(one.macs for one in found.per_block.values()) == found.macs
    assert sum(one.parameters for one in found.per_block.values()) == found.parameters
    for name_of, one in found.per_block.items():
        only_norms = name_of in ("norm", "head.norm", "bn1")
        assert one.parameters > 0
        assert (one.macs == 0) == only_norms, name_of


def cuts(blocks: Blocks) -> Iterator[int]:
    return (number for number, block in enumerate(blocks, 1) if block.cut and not block.stays)


@pytest.mark.parametrize(("name", "dims", "size"), AT_CUTS)
def test_the_first_blocks_cost_what_a_network_cut_there_costs(name: str, dims: int, size: int) -> None:
    model = network(name, dims)
    blocks = blocks_of(model, "block")
    assert family_of(model) is not None
    whole = complexity(model, size, blocks=blocks).per_block
    macs = list(accumulate(whole[block].macs for block in blocks.names))
    parameters = list(accumulate(whole[block].parameters for block in blocks.names))
    for number in [*list(cuts(blocks))[::3], max(cuts(blocks))]:
        short = complexity(truncate(model, blocks, number, 2, image_size=size), size, blocks="block").per_block
        own = [one for block, one in short.items() if block in blocks.names[:number]]
        assert sum(one.macs for one in own) == macs[number - 1]
        assert sum(one.parameters for one in own) == parameters[number - 1]
