"""A network cut anywhere is its own lower part, and goes on as its upper part, bit for bit; published parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfuse.models import Blocks, blocks_of, create_model, freeze_
from transfuse.models.blocks import family_of
from transfuse.models.create import import_timm
from transfuse.models.exits import exit_depths, exits
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.models.prefix import cut_of, features_at, going_on_from, why_not_from
from transfuse.models.truncate import truncate


def vgg() -> nn.Module:
    from timm.models.vgg import VGG

    widths: Any = [4, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"]
    return VGG(cfg=widths, norm_layer=nn.BatchNorm2d, num_classes=5)


def densenet() -> nn.Module:
    from timm.models.densenet import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2, 2, 2), bn_size=2, num_classes=5)


def convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 2, 2, 1), dims=(8, 12, 16, 20), num_classes=5)


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=64, window_size=4, embed_dim=8, depths=(1, 2, 2, 1), num_heads=(1, 2, 2, 4), num_classes=5
    )


def vit(**options: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=64, patch_size=16, embed_dim=24, depth=3, num_heads=2, num_classes=5, **options)


def distilled() -> nn.Module:
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(img_size=64, patch_size=16, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def eva() -> nn.Module:
    from timm.models.eva import Eva

    return Eva(img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=5, use_rot_pos_emb=True)


def resnetv2() -> nn.Module:
    from timm.layers import BatchNormAct2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        layers=[1, 2, 1, 1], channels=(32, 32, 64, 64), num_classes=5, stem_chs=32, norm_layer=BatchNormAct2d
    )


def resnet_3d() -> nn.Module:
    from monai.networks.nets.resnet import ResNet

    return ResNet("basic", [1, 2, 1, 1], [4, 8, 12, 16], n_input_channels=3, num_classes=5, bias_downsample=False)


def densenet_3d() -> nn.Module:
    from monai.networks.nets.densenet import DenseNet

    return DenseNet(
        spatial_dims=3, in_channels=3, out_channels=5, init_features=8, growth_rate=4, block_config=(1, 2, 1, 1)
    )


def resnext_3d() -> nn.Module:
    """ResNeXt3D-101 with a quarter of its channels: all of its 33 bottlenecks, 32 groups in each."""
    from monai.networks.nets.resnet import ResNet

    from transfuse.models.networks_3d import ResNeXtBottleneck

    kind: Any = ResNeXtBottleneck
    widths = [16, 32, 64, 128]
    return ResNet(kind, [3, 4, 23, 3], widths, n_input_channels=3, num_classes=5, bias_downsample=False)


def resnet_cifar() -> nn.Module:
    from transfuse.models.resnet_cifar import CifarResNet

    return CifarResNet(2, 5)


def named(name: str) -> nn.Module:
    return create_model(name, classes=5)


NARROW: dict[str, Callable[[], nn.Module]] = {
    "cbr_demo": partial(named, "cbr_demo"),
    "test_resnet": partial(named, "test_resnet"),
    "test_efficientnet": partial(named, "test_efficientnet"),
    "vgg": vgg,
    "densenet": densenet,
    "convnext": convnext,
    "swin": swin,
    "vit": vit,
    "vit_registers": partial(vit, reg_tokens=4, class_token=True, no_embed_class=True),
    "vit_average": partial(vit, global_pool="avg"),
    "distilled": distilled,
    "eva": eva,
    "resnetv2": resnetv2,
    "resnet_3d": resnet_3d,
    "densenet_3d": densenet_3d,
    "resnet_cifar": resnet_cifar,
    "regnety_002": partial(named, "regnety_002"),
}
BUILT = {**NARROW, "resnext_3d": resnext_3d}
ENTRIES = {"swin": "norm", "regnety_002": "head.global_pool"}  # what a map meets first above the blocks
TOKENS = {"vit", "vit_registers", "vit_average", "distilled", "eva"}


@cache
def network(name: str) -> nn.Module:
    """A narrow member of a family, in eval mode, with statistics that are not 0 and 1."""
    if name.endswith("_3d"):
        pytest.importorskip("monai")
    import_timm()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        model = BUILT[name]() if name in BUILT else named(name)
        with torch.no_grad():
            model.train()(images(name))
        for module in model.modules():
            if hasattr(module, "gamma") and isinstance(module.gamma, nn.Parameter):
                nn.init.uniform_(module.gamma)  # layer scale starts at 1e-6: no block would be seen
    finally:
        torch.set_rng_state(state)
    return model.eval()


def images(name: str) -> Tensor:
    shape = (
        (16,) * 3
        if name == "resnext_3d"
        else (32,) * 3
        if name.endswith("_3d")
        else (96,) * 2
        if name == "inception_v3"
        else (64,) * 2
    )
    return torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))


def cuts(blocks: Blocks) -> list[int]:
    return [number for number, block in enumerate(blocks, 1) if block.cut and not block.stays]


def activations(model: nn.Module, paths: list[str], batch: Tensor, *, inputs: bool = False) -> dict[str, Tensor]:
    """Outputs (or inputs) of modules, copied at once: the next in-place ReLU would overwrite them."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor, path: str) -> None:
        seen[path] = output.clone()

    def keep_input(module: nn.Module, given: tuple[Tensor, ...], path: str) -> None:
        seen[path] = given[0].clone()

    handles = [
        model.get_submodule(path).register_forward_pre_hook(partial(keep_input, path=path))
        if inputs
        else model.get_submodule(path).register_forward_hook(partial(keep, path=path))
        for path in paths
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    assert set(seen) == set(paths)
    return seen


def check_bits(name: str, level: str, every: int = 1) -> None:
    model, batch = network(name), images(name)
    blocks = blocks_of(model, level)
    head, points = blocks.head[0], cuts(blocks)[::-every]
    whole = activations(model, [blocks[number - 1].output for number in points], batch)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    family = family_of(model)
    for number in points:
        block = blocks[number - 1]
        expected = whole[block.output]
        short = truncate(model, blocks, number, 3)
        assert not short.training
        assert type(short) is type(model)
        stays = [path for other in blocks[number:] if other.stays for path in other.paths]
        arriving = activations(short, [head], batch, inputs=True)[head]
        if name in TOKENS:
            # The network's own last steps, on the block's output.
            tokens = short.norm(expected)
            pooled = short.pool(tokens) if name != "distilled" else tokens[:, 0]
            assert torch.equal(arriving, getattr(short, "fc_norm", nn.Identity())(pooled)), block.name
        elif expected.shape[2:].numel() == 1 and name == "mobilenetv3_small_050":
            assert number == len(blocks) or torch.equal(arriving.flatten(1), expected.flatten(1))
        else:
            entry = ENTRIES.get(name) or (family.pool if family else "global_pool")
            assert torch.equal(activations(short, [entry], batch, inputs=True)[entry], expected)
            if not stays:
                torch.testing.assert_close(
                    arriving.flatten(1), expected.mean(tuple(range(2, expected.ndim))), rtol=1e-5, atol=1e-6
                )
            if not stays and number < len(blocks):
                full = truncate(model, blocks, number, 3, pool="none", image_size=batch.shape[-1])
                assert torch.equal(activations(full, [head], batch, inputs=True)[head].flatten(1), expected.flatten(1))
        kept = {key for key in before if blocks.owner(key) in blocks.names[:number]}
        state = short.state_dict()
        assert kept == {key for key in state if blocks.owner(key) in blocks.names[:number]}
        assert all(torch.equal(state[key], before[key]) for key in kept)
        assert {blocks.owner(key) for key in state} - {*blocks.names[:number]} == {
            "head",
            *(b.name for b in blocks if b.stays and any(b.owns(key) for key in state)),
        }
        if family:
            wanted = tuple(b for index, b in enumerate(blocks) if index < number or b.stays)
            assert blocks_of(short, level).items == wanted
            assert family_of(short) is family
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", NARROW)
def test_what_the_head_sees_is_the_network_s_activation_at_every_cut(name: str) -> None:
    check_bits(name, "block")


@pytest.mark.parametrize("level", ["stage", "layer", "wt-st"])
@pytest.mark.parametrize("name", ["test_resnet", "swin", "vgg"])
def test_at_every_cut_of_other_levels(name: str, level: str) -> None:
    if (name, level) != ("vgg", "wt-st"):
        check_bits(name, level)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_the_33_bottlenecks_of_resnext3d_and_its_stem(every: int) -> None:
    """FT-8: 34 candidates."""
    assert len(cuts(blocks_of(network("resnext_3d"), "block"))) == 34
    check_bits("resnext_3d", "block", every)


@pytest.mark.parametrize("name", NARROW)
def test_a_network_goes_on_from_its_features_at_every_cut(name: str) -> None:
    model, batch = network(name), images(name)
    blocks = blocks_of(model, "block")
    points = {number: cut_of(model, blocks, number, batch.shape[-1]) for number in {*cuts(blocks), len(blocks)}}
    together = features_at(model, list(points.values()), batch, batch_size=2)
    order = channels_last if takes_channels_last(model, batch) else Tensor.contiguous
    with torch.no_grad():
        expected = model(order(batch))
    for (number, cut), features in zip(points.items(), together, strict=True):
        frozen = freeze_(copy.deepcopy(model), blocks, number)
        assert why_not_from(frozen, cut, batch) is None, blocks[number - 1].name
        assert torch.equal(features, features_at(model, [cut], batch, batch_size=2)[0])
        assert tuple(features.shape[1:]) == cut.features
        with torch.no_grad(), going_on_from(model, cut):
            assert torch.equal(model(order(features)), expected), blocks[number - 1].name
        with torch.no_grad():
            assert torch.equal(model(order(batch)), expected)  # images again


def check_exits(name: str, depths: list[int]) -> None:
    model, batch = network(name), images(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    blocks, side = blocks_of(model, "block"), batch.shape[-1]
    together = exits(model, blocks, 3, depths=depths, image_size=side, seed=4)
    assert [one.depth for one in together.exits] == depths
    assert not together.network.training
    shorts = [truncate(model, blocks, depth, 3, image_size=side, seed=4) for depth in depths]
    with torch.no_grad():
        expected = torch.stack([short(batch) for short in shorts], dim=1)
        assert torch.equal(together(batch), expected)
        assert torch.equal(copy.deepcopy(together)(batch), expected)
    learning = together(batch)
    assert torch.equal(learning.detach(), expected)  # with gradients the tails run later
    assert [one.parameters for one in together.exits] == [count(short) for short in shorts]
    # what belongs to one exit is its head and a norm that stays, and in the state dict nothing else
    stays = tuple(path for block in blocks if block.stays for path in block.paths)
    assert {key for key in together.state_dict() if key.startswith("tails.")} == {
        f"tails.{number}.network.{key}"
        for number, short in enumerate(shorts[:-1])
        for key in short.state_dict()
        if key.startswith((*blocks.head, *stays))
    }
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    # each block gets the mean of what the truncated networks that have it would give it, what is above a cut its own
    targets = torch.tensor([0, 2])
    sum(nn.functional.cross_entropy(logits, targets) for logits in learning.unbind(1)).backward()
    for short in shorts:
        nn.functional.cross_entropy(short(batch), targets).backward()
    found = dict(together.named_parameters())
    alone: dict[str, list[Tensor | None]] = {key: [] for key in found}
    for number, short in enumerate(shorts):
        for key, parameter in short.named_parameters():
            mine = f"tails.{number}.network.{key}"
            alone[mine if mine in found else f"network.{key}"].append(parameter.grad)
    for key, gradients in alone.items():
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:  # the bias below a norm that takes it away, and the like
            assert found[key].grad is None
            continue
        expected = torch.stack(given).mean(0)
        got = found[key].grad
        assert got is not None
        assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-6, key


@pytest.mark.parametrize(
    "name", ["cbr_demo", "test_resnet", "test_efficientnet", "vgg", "densenet", "swin", "vit", "distilled", "resnet_3d"]
)
def test_every_exit_is_the_truncated_network(name: str) -> None:
    depths = exit_depths(blocks_of(network(name), "block"))
    check_exits(name, [depths[len(depths) // 2], depths[-1]])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [*NARROW, "mobilenetv2_050"])
def test_exits_everywhere(name: str) -> None:
    check_exits(name, list(exit_depths(blocks_of(network(name), "block"))))


WHOLE = [
    *("resnet18", "resnet50", "densenet121", "efficientnet_b0", "mobilenetv2_050", "mobilenetv3_small_050"),
    *("inception_v3", "vgg11", "vgg11_bn"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("level", ["stage", "block", "layer"])
@pytest.mark.parametrize("name", WHOLE)
def test_the_real_networks_at_every_cut(name: str, level: str) -> None:
    check_bits(name, level)


STRUCTURE = [
    *("resnet50", "densenet121", "efficientnet_b0", "mobilenetv2_100", "inception_v3", "vgg19", "cbr_large_t"),
    *("deit_tiny_patch16_224", "deit_small_distilled_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny"),
    *("vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "resnet101", "resnet152", "densenet201"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("level", ["stage", "block", "layer"])
@pytest.mark.parametrize("name", STRUCTURE)
def test_structure_at_every_cut(name: str, level: str) -> None:
    model = create_model(name, classes=5, device="meta")
    blocks = blocks_of(model, level)
    assert family_of(model) is not None
    for number in {*cuts(blocks), len(blocks)}:
        short = truncate(model, blocks, number, 2)
        wanted = tuple(b for index, b in enumerate(blocks) if index < number or b.stays)
        assert blocks_of(short, level).items == wanted
        for other in ("stage", "block", "layer"):  # cut at one level, it can be read at every other one
            assert len(blocks_of(short, other)) > 0


# Published and derived: parameters without head, and with an unpooled 2-way head at 224 px; GMACs of convolutions.
RESNET50 = {
    "stem": (9536, 410946, 0.118),
    "layer1.0": (84544, 1690178, 0.3492),
    "layer1.1": (154944, 1760578, 0.5676),
    "layer1.2": (225344, 1830978, 0.786),
    "layer2.0": (604736, 1407554, 1.1585),
    "layer2.1": (884800, 1687618, 1.3768),
    "layer2.2": (1164864, 1967682, 1.5952),
    "layer2.3": (1444928, 2247746, 1.8136),
    "layer3.0": (2957376, 3358786, 2.1861),
    "layer3.1": (4074560, 4475970, 2.4044),
    "layer3.2": (5191744, 5593154, 2.6228),
    "layer3.3": (6308928, 6710338, 2.8412),
    "layer3.4": (7426112, 7827522, 3.0595),
    "layer3.5": (8543296, 8944706, 3.2779),
    "layer4.0": (14582848, 14783554, 3.6504),
    "layer4.1": (19045440, 19246146, 3.8688),
    "layer4.2": (23508032, 23708738, 4.0871),
}
DENSENET121 = {
    "stem": (9536, 410946, 0.118),
    "features.denseblock1": (344576, 1950210, 1.1585),
    "features.transition1": (377856, 578562, 1.2612),
    "features.denseblock2": (1297536, 2100354, 1.9741),
    "features.transition2": (1429632, 1529986, 2.0769),
    "features.denseblock3": (4267392, 4668802, 2.626),
    "features.transition3": (4793728, 4843906, 2.7288),
    "features.denseblock4": (6951808, 7052162, 2.8331),
    "features.norm5": (6953856, 7054210, 2.8331),
}
DENSENET201 = {
    "stem": (9536, 410946, 0.118),
    "features.denseblock1": (344576, 1950210, 1.1585),
    "features.transition1": (377856, 578562, 1.2612),
    "features.denseblock2": (1297536, 2100354, 1.9741),
    "features.transition2": (1429632, 1529986, 2.0769),
    "features.denseblock3": (9501312, 10203778, 3.6376),
    "features.transition3": (11110528, 11198338, 3.9523),
    "features.denseblock4": (18089088, 18277250, 4.2894),
    "features.norm5": (18092928, 18281090, 4.2894),
}
# ResNet-50 with a pooled 2-way head.
POOLED = {
    "stem": 9666,
    "layer1.0": 85058,
    "layer1.1": 155458,
    "layer1.2": 225858,
    "layer2.0": 605762,
    "layer2.1": 885826,
    "layer2.2": 1165890,
    "layer2.3": 1445954,
    "layer3.0": 2959426,
    "layer3.1": 4076610,
    "layer3.2": 5193794,
    "layer3.3": 6310978,
    "layer3.4": 7428162,
    "layer3.5": 8545346,
    "layer4.0": 14586946,
    "layer4.1": 19049538,
    "layer4.2": 23512130,
}
PUBLISHED = [
    *(("resnet50", cut, *numbers) for cut, numbers in RESNET50.items()),
    *(("densenet121", cut, *numbers) for cut, numbers in DENSENET121.items()),
    *(pytest.param("densenet201", cut, *n, marks=pytest.mark.exhaustive) for cut, n in DENSENET201.items()),
]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def light(name: str, spatial_dims: int = 2) -> tuple[nn.Module, Blocks]:
    model = create_model(name, 1000, 3, spatial_dims, device="meta")
    return model, blocks_of(model, "block")


@pytest.mark.parametrize(("name", "cut", "backbone", "unpooled", "gmacs"), PUBLISHED)
def test_published_sizes(name: str, cut: str, backbone: int, unpooled: int, gmacs: float) -> None:
    model, blocks = light(name)
    pooled, short = truncate(model, blocks, cut, 2), truncate(model, blocks, cut, 2, pool="none")
    head = short.get_submodule(blocks.head[0])
    assert count(short) == unpooled
    assert count(short) - count(head) == backbone
    assert count(pooled) - count(pooled.get_submodule(blocks.head[0])) == backbone
    if name == "resnet50":
        assert count(pooled) == POOLED[cut]
    with FlopCounterMode(display=False) as flops:
        short.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    convolutions = sum(n for kind, n in flops.get_flop_counts()["Global"].items() if "convolution" in str(kind))
    assert convolutions / 2e9 == pytest.approx(gmacs, abs=0.5001 * 10 ** -len(str(gmacs).partition(".")[2]))


@pytest.mark.parametrize(("cut", "unpooled"), [("blocks.4.2", 895714), ("blocks.6.0", 3626750)])
def test_published_sizes_of_efficientnet(cut: str, unpooled: int) -> None:
    """Stem and 11 or 16 MBConv blocks: published as 0.896M and 3.63M."""
    assert count(truncate(*light("efficientnet_b0"), cut, 2, pool="none")) == unpooled


def test_the_trimmed_deit() -> None:
    """DeiT-S-5b (M, appendix I): patches, 5 of 12 blocks and the final norm, all with their weights."""
    model = create_model("deit_small_patch16_224", classes=1000, device="meta")
    short = truncate(model, blocks_of(model), "blocks.4", 5)
    whole = {key: tensor.shape for key, tensor in model.state_dict().items()}
    kept = {key: tensor.shape for key, tensor in short.state_dict().items() if not key.startswith("head.")}
    dropped = tuple(f"blocks.{number}." for number in range(5, 12))
    assert kept == {key: shape for key, shape in whole.items() if not key.startswith(("head.", *dropped))}
    # patches 3*16*16*384 + 384, CLS and 197 positions, 5 blocks of 1 774 464, norm, head
    assert count(short) == 295296 + 198 * 384 + 5 * 1774464 + 768 + 5 * 385


def hara() -> Iterator[tuple[str, int, int]]:
    """ResNeXt3D-101 up to the end of each candidate by its definition: its name, parameters and channels."""
    count, into = 3 * 64 * 7**3 + 2 * 64, 64
    yield "stem", count, into
    for stage, (width, repeats) in enumerate(zip((128, 256, 512, 1024), (3, 4, 23, 3), strict=True), 1):
        for number in range(repeats):
            projection = into * 2 * width + 2 * 2 * width if number == 0 else 0
            grouped = 32 * (width // 32) ** 2 * 27
            count += projection + into * width + grouped + width * 2 * width + 2 * (width + width + 2 * width)
            into = 2 * width
            yield f"layer{stage}.{number}", count, into


HARA = [
    pytest.param(*row, marks=[] if row[0] in ("stem", "layer1.2", "layer3.17", "layer4.2") else pytest.mark.exhaustive)
    for row in hara()
]


@pytest.mark.parametrize(("cut", "backbone", "channels"), HARA)
def test_sizes_of_resnext3d_at_its_34_candidates(cut: str, backbone: int, channels: int) -> None:
    pytest.importorskip("monai")
    model, blocks = light("resnext101", 3)
    assert len(cuts(blocks)) == len(HARA) == 34
    size = (16, 112, 112)
    sides = {"stem": 8 * 28 * 28, "layer1": 8 * 28 * 28, "layer2": 4 * 14 * 14, "layer3": 2 * 7 * 7, "layer4": 4 * 4}
    pooled = truncate(model, blocks, cut, 2, image_size=size)
    assert count(pooled) == backbone + 2 * (channels + 1)
    unpooled = truncate(model, blocks, cut, 2, pool="none", image_size=size)
    assert count(unpooled) == backbone + 2 * (channels * sides[cut.partition(".")[0]] + 1)


@pytest.mark.parametrize(("cut", "width"), [("layers.0", 96), ("layers.2", 384), ("layers.3", 768)])
def test_the_trimmed_swin(cut: str, width: int) -> None:
    """The norm on top stays: with its weights where its width fits, else a fresh one."""
    model = create_model("swin_tiny_patch4_window7_224", classes=5)
    norm: Any = model.norm
    nn.init.uniform_(norm.weight)
    short: Any = truncate(model, blocks_of(model), cut, 2)
    assert short.norm.weight.shape == (width,)
    assert torch.equal(short.norm.weight, norm.weight if width == 768 else torch.ones(width))
    assert short.get_submodule("head.fc").in_features == width
