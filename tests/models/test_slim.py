from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfuse.errors import BlocksError
from transfuse.inits import initialise_
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.models.channels import channels_of
from transfuse.models.create import import_timm
from transfuse.models.slim import slim


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def gmacs(model: nn.Module) -> float:
    with FlopCounterMode(display=False) as flops:
        model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    return sum(n for kind, n in flops.get_flop_counts()["Global"].items() if "convolution" in str(kind)) / 2e9


@pytest.mark.parametrize(
    ("classes", "depth", "size", "macs"),
    [(5, "layer2", 7140421, 2.43), (2, "layer3", 12947522, 3.53)],  # T, figure 20; TF of P with k = 3
)
def test_published_slim_resnets(classes: int, depth: str, size: int, macs: float) -> None:
    model = create_model("resnet50", classes=classes, device="meta")
    small = slim(model, blocks_of(model), depth)
    assert count(small) == size
    assert gmacs(small) == pytest.approx(macs, abs=0.005)
    assert count(small) - count(small.fc) == {5: 7135296, 2: 12945472}[classes]  # TTL says 12.945M without a head


def test_inside_of_a_stage_only_the_inner_width_is_halved() -> None:
    model = create_model("resnet50", classes=2, device="meta")
    small = slim(model, blocks_of(model, "block"), "layer3.1")
    for unit in range(6):
        widths = [getattr(small.layer3[unit], f"conv{n}").out_channels for n in (1, 2, 3)]
        assert widths == ([256, 256, 1024] if unit < 2 else [128, 128, 1024])
    assert small.layer4[0].conv1.in_channels == 1024
    assert small.layer4[2].conv3.out_channels == 1024
    assert small.fc.in_features == small.num_features == 1024
    whole = slim(model, blocks_of(model, "block"), "layer3.5")
    assert shapes(whole) == shapes(slim(model, blocks_of(model), "layer3"))


def vgg(width: int) -> nn.Module:
    from timm.models.vgg import VGG

    widths: Any = [width, "M", 2 * width, "M", 2 * width, 3 * width, "M"]
    return VGG(cfg=widths, num_classes=3)


def densenet(growth: int) -> nn.Module:
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=growth, block_config=(2, 3, 2, 2), bn_size=2, num_classes=3)


def everything(model: nn.Module) -> Blocks:
    """All of a network but its last linear layer as one block."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    paths = tuple(dict.fromkeys(key.rpartition(".")[0] for key in model.state_dict()))
    body = tuple(path for path in paths if path != head)
    return Blocks("stage", (Block("all", body, body[-1]),), (head,))


def test_halved_from_the_image_is_the_network_built_with_half_the_channels() -> None:
    whole, half = (create_model(name, classes=3, device="meta") for name in ("cbr_tiny", "cbr_tiny_table1"))
    assert shapes(slim(whole, blocks_of(whole), 0)) == shapes(half)
    import_timm()
    with torch.device("meta"):
        wide, narrow = vgg(8), vgg(4)
    slimmed = shapes(slim(wide, everything(wide), 0))
    fixed = ("pre_logits.", "head.")  # timm's constructor leaves the 4096 features of these alone
    for key, shape in shapes(narrow).items():
        assert slimmed[key] == shape or key.startswith(fixed)
    assert slimmed["pre_logits.fc1.weight"] == (2048, 12, 7, 7)
    assert slimmed["head.fc.weight"] == (3, 2048)


def test_halved_from_the_image_densenet_is_the_one_of_half_the_growth() -> None:
    import_timm()
    with torch.device("meta"):
        wide, narrow = densenet(8), densenet(4)
    assert shapes(slim(wide, everything(wide), 0)) == shapes(narrow)


NETWORKS = {
    "test_resnet": "block",
    "cbr_demo": "block",
    "mobilenetv2_050": "stage",
    "efficientnet_b0": "stage",
    "densenet": "block",
    "regnety_002": "stage",
}


def build(name: str) -> nn.Module:
    if name != "densenet":
        return create_model(name, classes=3)
    import_timm()
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), bn_size=2, num_classes=3)


@pytest.mark.parametrize("depth", [0, 1, "middle", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_below_is_kept_bit_for_bit_and_above_is_what_initialise_draws(name: str, depth: int | str) -> None:
    model = build(name)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model(images)  # in training mode: statistics that are not those of a fresh norm
    blocks = blocks_of(model, NETWORKS[name])
    before = copy.deepcopy(model.state_dict())
    small = slim(model, blocks, depth, seed=5)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert list(small.state_dict()) == list(before)
    assert blocks_of(small, NETWORKS[name]) == blocks
    kept = {key for key in before if blocks.owner(key) in blocks.names[: blocks.depth(depth)]}
    random = copy.deepcopy(small)
    initialise_(random, blocks, seed=5)
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[key] if key in kept else random.state_dict()[key]), key
    assert count(small) < count(model) or depth == "all"
    assert shapes(small) == shapes(model) or depth != "all"
    nn.functional.cross_entropy(small.train()(images), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_depthwise_convolutions_and_squeezes_follow_their_block() -> None:
    model = create_model("efficientnet_b0", classes=3, device="meta")
    small = slim(model, blocks_of(model), "blocks.4")
    block, old = small.blocks[5][1], model.blocks[5][1]
    assert block.conv_dw.groups == block.conv_dw.in_channels == block.conv_dw.out_channels == old.conv_dw.groups // 2
    assert block.se.conv_reduce.out_channels == old.se.conv_reduce.out_channels // 2
    assert block.conv_pwl.out_channels == old.conv_pwl.out_channels // 2
    assert small.conv_head.out_channels == small.classifier.in_features == 640
    assert shapes(small.blocks[4]) == shapes(model.blocks[4])


def test_concatenated_channels_are_counted_run_by_run() -> None:
    model = create_model("densenet121", classes=3, device="meta")
    small = slim(model, blocks_of(model, "block"), "features.transition1")
    layers = small.features.denseblock2
    assert layers.denselayer1.norm1.num_features == 128  # all of it comes from below
    assert [layers.denselayer2.norm1.num_features, layers.denselayer3.conv1.in_channels] == [144, 160]
    assert small.features.transition2.conv.in_channels == 128 + 12 * 16
    assert small.features.transition2.conv.out_channels == 128


def test_other_factors_and_sizes_that_they_do_not_divide() -> None:
    model = create_model("cbr_demo", classes=3, device="meta")
    assert [
        conv.out_channels for conv in slim(model, blocks_of(model), 1, 4).modules() if isinstance(conv, nn.Conv2d)
    ] == [
        16,
        8,
        16,
        32,
    ]
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 1, 3), nn.Flatten(), nn.Linear(220 * 220, 2))
    small = slim(net, blocks_of(net), 0, 3)
    assert [small[0].out_channels, small[2].in_channels, small[2].out_channels] == [1, 1, 1]
    assert small[4].in_features == 220 * 220


def test_flattened_maps_before_linear_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 2))
    small = slim(net, blocks_of(net), 0)
    assert [small[0].out_channels, small[3].in_features, small[3].out_features, small[4].in_features] == [2, 8, 3, 3]


def test_volumes_and_grouped_convolutions() -> None:
    net = nn.Sequential(
        *(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 16, 3, groups=4, bias=False)),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    small = slim(net, blocks_of(net), 0)
    assert shapes(small)["2.weight"] == (8, 1, 3, 3, 3)
    with pytest.raises(BlocksError, match=r"'2' has 4 groups, which do not divide its 2 and 4 slimmed channels"):
        slim(net, blocks_of(net), 0, 4)


def test_the_channels_of_a_residual_stage_are_one_group() -> None:
    model = create_model("resnet18", classes=3, device="meta")
    channels = channels_of(model, torch.zeros(2, 3, 64, 64, device="meta"))

    def made_with(name: str) -> set[str]:
        return channels.producers[channels.root(channels.dims[name, 0][0].group)]

    assert made_with("layer1.0.conv2.weight") == {"conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv2.weight"}
    assert made_with("layer1.0.conv1.weight") == {"layer1.0.conv1.weight"}
    assert made_with("layer2.1.bn2.running_var") == {
        f"layer2.{part}.weight" for part in ("0.conv2", "0.downsample.0", "1.conv2")
    }


class Shuffled(nn.Module):
    def __init__(self, twist: Any) -> None:
        super().__init__()
        self.conv, self.fc, self.twist = nn.Conv2d(3, 8, 3), nn.Linear(8, 2), twist

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.twist(self.conv(x)).mean((2, 3)))


def scaled(x: Tensor) -> Tensor:
    return x * torch.ones(1, 8, 1, 1, device=x.device)


def one_of(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).expand(-1, 8, -1, -1)


@pytest.mark.parametrize(
    ("twist", "name"),
    [
        (partial(torch.flip, dims=(1,)), "flip"),
        (scaled, "mul"),
        (one_of, "mean"),
        (partial(torch.roll, shifts=1, dims=1), "roll"),
    ],
)
def test_what_is_not_followed_is_refused(twist: Any, name: str) -> None:
    model = Shuffled(twist)
    blocks = Blocks("stage", (Block("conv", ("conv",), "conv"),), ("fc",))
    with pytest.raises(BlocksError, match=rf"This Shuffled cannot be slimmed: .*{name}.*truncate it"):
        slim(model, blocks, 0)


def test_errors() -> None:
    for name in ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"):
        model = create_model(name, classes=3, device="meta")
        with pytest.raises(BlocksError, match=r"cannot be slimmed: .*The papers slim convolutional networks only"):
            slim(model, blocks_of(model), 2)
    resnet = create_model("resnet18", classes=3, device="meta")
    for factor in (1, 1.5, True):
        with pytest.raises(BlocksError, match=r"factor=.* of slim: expected a whole number of at least 2"):
            slim(resnet, blocks_of(resnet), 2, factor)  # type: ignore[arg-type]
    with pytest.raises(BlocksError, match=r"Unknown depth 'layer5'"):
        slim(resnet, blocks_of(resnet), "layer5")
    distilled = create_model("deit_tiny_distilled_patch16_224", classes=3, device="meta")
    with pytest.raises(
        BlocksError, match=r"slim replaces one linear head; .* has head, head_dist .*the last linear layer"
    ):
        slim(distilled, blocks_of(distilled), 2)
