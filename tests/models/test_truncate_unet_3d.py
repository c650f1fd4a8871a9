"""MONAI's U-Net cut short, against shallower U-Nets that are put together of MONAI's own parts."""

from __future__ import annotations

import copy
import io
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, SpecError
from transfuse.inits import initialise_
from transfuse.models import blocks_of, create_model, freeze_, truncate, truncate_unet
from transfuse.models.complexity import complexity
from transfuse.models.truncate_basic_unet import LEVELS
from transfuse.models.truncate_unet import cut_points, is_unet

pytestmark = pytest.mark.skipif(find_spec("monai") is None, reason="needs transfuse[3d]")

CUTS = [*LEVELS[:4], "all"]
POINTS = "conv_0, down_1, down_2, down_3, all"


class Shallow(nn.Module):
    """A U-Net of so many levels, as MONAI's BasicUNet would be if its depth could be chosen."""

    def __init__(self, levels: int, features: tuple[int, ...], channels: int, classes: int) -> None:
        from monai.networks.nets.basic_unet import Down, TwoConv, UpCat

        super().__init__()
        act, norm = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}), ("instance", {"affine": True})
        self.conv_0 = TwoConv(3, channels, features[0], act, norm, bias=True)
        for k in range(1, levels):
            self.add_module(f"down_{k}", Down(3, features[k - 1], features[k], act, norm, bias=True))
        for k in reversed(range(1, levels)):
            out, halves = (features[k - 1], True) if k > 1 else (features[5], False)
            self.add_module(f"upcat_{k}", UpCat(3, features[k], features[k - 1], out, act, norm, True, halves=halves))
        self.final_conv = nn.Conv3d(features[5] if levels > 1 else features[0], classes, 1)
        self.levels = levels

    def forward(self, volumes: Tensor) -> Tensor:
        skips = [self.conv_0(volumes)]
        for k in range(1, self.levels):
            skips.append(self.get_submodule(f"down_{k}")(skips[-1]))
        features = skips.pop()
        for k in reversed(range(1, self.levels)):
            features = self.get_submodule(f"upcat_{k}")(features, skips.pop())
        return self.final_conv(features)


def levels_of(depth: str) -> int:
    return 5 if depth == "all" else LEVELS.index(depth) + 1


@cache
def whole() -> nn.Module:
    """A U-Net with norms that are no identity."""
    model = create_model("unet3d", 2, 1, 3)
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.3, generator=generator)
    return model.eval()


def volumes(*sides: int) -> Tensor:
    return torch.randn(1, 1, *(sides or (32, 32, 32)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", CUTS)
@pytest.mark.parametrize(
    ("name", "features"), [("unet3d", (16, 16, 32, 64, 128, 16)), ("unet3d_wide", (32, 32, 64, 128, 256, 32))]
)
def test_every_cut_is_the_shallower_u_net_of_monai_s_parts(name: str, features: tuple[int, ...], depth: str) -> None:
    small = name == "unet3d"
    model = whole() if small else create_model(name, 2, 1, 3, device="meta")
    short = truncate_unet(model, None, depth, 3)
    with torch.device("cpu" if small else "meta"):
        reference = Shallow(levels_of(depth), features, 1, 3).eval()
    given, wanted = short.state_dict(), reference.state_dict()
    assert {name: t.shape for name, t in given.items()} == {name: t.shape for name, t in wanted.items()}
    assert sum(p.numel() for p in short.parameters()) == sum(p.numel() for p in reference.parameters())
    if small:
        reference.load_state_dict(given)
        for batch in (volumes(), volumes(33, 40, 47)):
            with torch.no_grad():
                assert torch.equal(short(batch), reference(batch))


def test_the_whole_one_is_monai_s_own_network() -> None:
    from monai.networks.nets.basic_unet import BasicUNet

    short = truncate_unet(whole(), None, "all", 3)
    reference = BasicUNet(3, 1, 3, features=(16, 16, 32, 64, 128, 16)).eval()
    reference.load_state_dict(short.state_dict())
    with torch.no_grad():
        assert torch.equal(short(volumes()), reference(volumes()))


@pytest.mark.parametrize("depth", CUTS)
def test_what_is_kept_is_kept_and_what_read_the_gone_is_drawn_as_initialise_draws_it(depth: str) -> None:
    model = whole()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text, random = repr(model), torch.get_rng_state()
    short = truncate_unet(model, None, depth, 2, seed=5)
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(model) == text
    state = short.state_dict()
    entry = () if depth in ("conv_0", "all") else (f"upcat_{levels_of(depth) - 1}.upsample.",)
    new = {name for name in state if name.startswith(("final_conv.", *entry))}
    assert len(new) == 2 + 2 * len(entry)
    drawn = copy.deepcopy(short)
    initialise_(drawn, blocks_of(drawn), rest="random", seed=5)
    for name, tensor in state.items():
        expected = drawn.state_dict()[name] if name in new else before[name]
        assert torch.equal(tensor, expected), name
    other = truncate_unet(model, None, depth, 2, seed=6).state_dict()
    weights = {name for name in new if name.endswith(".weight")}  # biases start at 0
    assert {name for name, tensor in state.items() if not torch.equal(tensor, other[name])} == weights
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def features(model: nn.Module, names: tuple[str, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *call: found.append(call[2].clone())) for name in names
    ]
    with torch.no_grad():
        model(volumes())
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("depth", CUTS)
def test_every_level_of_the_encoder_gives_what_it_gave(depth: str) -> None:
    kept = LEVELS[: levels_of(depth)]
    short = truncate_unet(whole(), None, depth, 2)
    assert all(torch.equal(a, b) for a, b in zip(features(short, kept), features(whole(), kept), strict=True))


@pytest.mark.parametrize("depth", CUTS[:4])
@pytest.mark.parametrize("level", ["stage", "block", "layer"])
def test_blocks_complexity_and_freezing_work_on_what_is_left(depth: str, level: str) -> None:
    model = create_model("unet3d", 2, 1, 3, device="meta")
    short = truncate_unet(model, blocks_of(model, level), depth, 2)
    blocks = blocks_of(short, level)
    kept = levels_of(depth)
    parts = {name.partition(".")[0] for name in blocks.names}
    assert parts == {*LEVELS[:kept], *(f"upcat_{k}" for k in range(1, kept))}
    assert {blocks.owner(key) for key in short.state_dict()} == {*blocks.names, "head"}
    found = complexity(short, 32, blocks=blocks)
    assert list(found.per_block) == [*blocks.names, "head"]
    assert sum(one.macs for one in found.per_block.values()) == found.macs
    assert all(one.macs > 0 and one.parameters > 0 for one in found.per_block.values())
    freeze_(short, blocks, blocks.names[0])
    assert not any(p.requires_grad for name, p in short.named_parameters() if blocks.owner(name) == blocks.names[0])


def test_a_smaller_cut_costs_less() -> None:
    model = create_model("unet3d", 2, 1, 3, device="meta")
    costs = [complexity(truncate_unet(model, None, depth, 2), 32)[:2] for depth in CUTS]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)


def test_cut_twice_is_cut_once() -> None:
    once = truncate_unet(whole(), None, "down_1", 2)
    half = truncate_unet(whole(), None, "down_3", 2)
    assert cut_points(half) == LEVELS[:3]
    twice = truncate_unet(half, blocks_of(half), "down_1", 2)
    assert list(twice.state_dict()) == list(once.state_dict())
    with torch.no_grad():
        assert torch.equal(twice(volumes()), once(volumes()))
        assert truncate_unet(twice, None, "all", 7)(volumes()).shape == (1, 7, 32, 32, 32)
        stump = truncate_unet(twice, None, "conv_0", 2)
        assert truncate_unet(stump, None, "all", 4)(volumes()).shape == (1, 4, 32, 32, 32)
    assert cut_points(stump) == ()
    assert is_unet(stump)


def test_a_cut_u_net_takes_weights_of_one_like_it_and_trains() -> None:
    source = truncate_unet(whole(), None, "down_1", 2)
    short = truncate_unet(create_model("unet3d", 2, 1, 3), None, "down_1", 2, seed=1).train()
    transfer = initialise_(short, blocks_of(short), source=source.state_dict(), depth="down_1")
    taken = {row.name for row in transfer.tensors if row.treatment == "transferred"}
    assert {name.partition(".")[0] for name in taken} == {"conv_0", "down_1"}
    nn.functional.cross_entropy(short(volumes()), torch.zeros(1, 32, 32, 32, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for parameter in short.parameters())


def test_what_is_gone_takes_no_memory_and_modes_types_and_freezing_stay() -> None:
    model = copy.deepcopy(whole()).double().train()
    freeze_(model, blocks_of(model), "all")
    short = truncate_unet(model, None, "down_2", 2)
    saved = io.BytesIO()
    torch.save(short, saved)
    assert saved.tell() < 1.1 * sum(8 * p.numel() for p in short.parameters()) + 200_000
    assert {p.dtype for p in short.parameters()} == {torch.float64}
    trained = {name for name, p in short.named_parameters() if p.requires_grad}
    assert trained == {
        f"{part}.{leaf}" for part in ("upcat_2.upsample.deconv", "final_conv") for leaf in ("weight", "bias")
    }
    assert short.get_submodule("final_conv").training


@pytest.mark.parametrize("upsample", ["nontrainable", "pixelshuffle"])
def test_other_ways_up_are_drawn_anew_too(upsample: str) -> None:
    from monai.networks.nets.basic_unet import BasicUNet

    model = BasicUNet(2, 1, 2, features=(4, 4, 8, 16, 32, 4), upsample=upsample).eval()
    short: Any = truncate_unet(model, None, "down_2", 2)
    assert short(torch.zeros(1, 1, 48, 64)).shape == (1, 2, 48, 64)
    old = model.state_dict()
    differing = {name for name, t in short.state_dict().items() if not torch.equal(t, old[name])}
    assert {name.rpartition(".")[0].split(".")[0] for name in differing} == {"upcat_2", "final_conv"}
    assert all(".upsample." in name for name in differing if name.startswith("upcat_2"))


@pytest.mark.parametrize(
    ("level", "depth", "count"),
    [
        ("stage", 2, 2),
        ("stage", "middle", 3),
        ("layer", 4, 2),
        ("layer", "down_1.convs.conv_1", 2),
        ("layer", "down_2", 3),
    ],
)
def test_depths_of_every_kind(level: str, depth: int | str, count: int) -> None:
    model = create_model("unet3d", 2, 1, 3, device="meta")
    short = truncate_unet(model, blocks_of(model, level), depth, 2)
    assert len(cut_points(short)) == count - 1


def test_errors() -> None:
    model = create_model("unet3d", 2, 1, 3, device="meta")
    layers = blocks_of(model, "layer")
    with pytest.raises(BlocksError, match=rf"After 'down_1.convs.conv_0' \(depth 3, level 'layer'\).*points: {POINTS}"):
        truncate_unet(model, layers, 3, 2)
    with pytest.raises(BlocksError, match=rf"After no block \(depth 0.*points: {POINTS}"):
        truncate_unet(model, None, 0, 2)
    with pytest.raises(BlocksError, match=rf"'upcat_2' is a block of the decoder.*points: {POINTS}"):
        truncate_unet(model, None, "upcat_2", 2)
    with pytest.raises(BlocksError, match=rf"'upcat_2.upsample' is a block of the decoder.*points: {POINTS}"):
        truncate_unet(model, layers, "upcat_2.upsample", 2)
    with pytest.raises(
        BlocksError, match=r"Unknown depth 'down_7'.*did you mean 'down_.*conv_0, down_1, down_2, down_3"
    ):
        truncate_unet(model, None, "down_7", 2)
    for depth in ("down_2", "all"):
        with pytest.raises(BlocksError, match=rf"This BasicUNet is a U-Net.*truncate_unet\(.*cut points: {POINTS}"):
            truncate(model, blocks_of(model), depth, 2, image_size=32)
    short = truncate_unet(model, None, "down_1", 2)
    with pytest.raises(BlocksError, match=r"Unknown depth 'down_3'"):
        truncate_unet(short, None, "down_3", 2)


def test_volumes_smaller_than_the_stride_name_the_smallest_that_pass() -> None:
    model = create_model("unet3d", 2, 1, 3, device="meta")
    for depth, smallest in (("down_1", 4), ("down_2", 8), ("down_3", 16), ("all", 32)):
        with pytest.raises(BlocksError, match=rf"They are too small: the smallest volumes that pass are {smallest} x"):
            truncate_unet(model, None, depth, 2, image_size=smallest - 1)
        truncate_unet(model, None, depth, 2, image_size=smallest)
    with pytest.raises(SpecError, match=r"Volumes of 16 voxels a side are too small for 'unet3d', whose total stride"):
        create_model("unet3d", 2, 1, 3, image_size=16)
