"""U-Nets cut short, against the smaller U-Nets of the package that the whole one comes from."""

from __future__ import annotations

import copy
import io
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError
from transfuse.inits import initialise_
from transfuse.models import blocks_of, create_model, freeze_, truncate, truncate_unet
from transfuse.models.complexity import complexity
from transfuse.models.torchvision_operators import declare_operators
from transfuse.models.truncate_unet import STAGES, cut_points, is_unet

pytestmark = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="needs transfuse[segmentation]"
)

DECODER = (256, 128, 64, 32, 16)
CUTS = [*STAGES[:4], "all"]


@cache
def whole(name: str = "unet_resnet18", channels: int = 1) -> nn.Module:
    """A U-Net with the statistics of a pass and norms that are no identity."""
    model = create_model(name, 2, channels)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        with torch.no_grad():
            model.train()(images(channels))
    finally:
        torch.set_rng_state(state)
    return model.eval()


def images(channels: int = 1, height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def theirs(encoder: str, depth: int, classes: int, channels: int) -> Any:
    """The U-Net of segmentation-models-pytorch with so many encoder stages, without memory."""
    declare_operators()
    from segmentation_models_pytorch import Unet

    with torch.device("meta"):
        return Unet(
            encoder,
            encoder_depth=depth,
            encoder_weights=None,
            decoder_channels=DECODER[5 - depth :],
            in_channels=channels,
            classes=classes,
        ).eval()


def renumbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a cut U-Net under the names of one that was built small: decoder blocks count from 0."""
    numbers = sorted({int(name.split(".")[2]) for name in state if name.startswith("decoder.blocks.")})
    new = {f"decoder.blocks.{number}.": f"decoder.blocks.{place}." for place, number in enumerate(numbers)}
    found = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in new if name.startswith(prefix)), "")
        found[new.get(old, "") + name.removeprefix(old)] = tensor
    return found


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
@pytest.mark.parametrize("depth", CUTS)
def test_it_is_the_smaller_u_net_of_the_package(encoder: str, depth: str) -> None:
    model = whole(f"unet_{encoder}") if encoder == "resnet18" else create_model("unet_resnet50", 2, 3, device="meta")
    channels = 1 if encoder == "resnet18" else 3
    short: Any = truncate_unet(model, None, depth, 3)
    stages = 5 if depth == "all" else STAGES.index(depth) + 1
    smaller = theirs(encoder, stages, 3, channels)
    given = renumbered(short.state_dict())
    # torchvision's encoder of theirs holds the stages that it does not run
    unused = [f"encoder.layer{number}." for number in range(stages, 5)]
    wanted = {name: t for name, t in smaller.state_dict().items() if not name.startswith(tuple(unused))}
    assert {name: t.shape for name, t in given.items()} == {name: t.shape for name, t in wanted.items()}
    used = (p.numel() for name, p in smaller.named_parameters() if not name.startswith(tuple(unused)))
    assert sum(p.numel() for p in short.parameters()) == sum(used)
    assert short.encoder.output_stride == smaller.encoder.output_stride == 2**stages
    assert short.encoder.out_channels == smaller.encoder.out_channels
    assert short._hub_mixin_config == {**smaller._hub_mixin_config}
    if encoder == "resnet18":
        smaller = smaller.to_empty(device="cpu")
        nothing = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in smaller.state_dict().items()}
        nn.Module.load_state_dict(smaller, nothing | given)
        for batch in (images(), images(height=50, width=70)):
            with torch.no_grad():
                assert short(batch).shape == (2, 3, *batch.shape[2:])
                assert torch.equal(short(batch), smaller(batch))


def features(model: Any, batch: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(model.encoder(batch))


@pytest.mark.parametrize("depth", CUTS)
def test_every_stage_that_is_kept_gives_what_it_gave_and_keeps_its_names(depth: str) -> None:
    model = whole()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text, random = repr(model), torch.get_rng_state()
    short = truncate_unet(model, None, depth, 2)
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(model) == text
    expected = features(model, images())
    found = features(short, images())
    assert len(found) == (6 if depth == "all" else STAGES.index(depth) + 2)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=False))
    state = short.state_dict()
    bottom = next(name for name in state if name.startswith("decoder."))
    new = () if depth == "all" else tuple(f"{bottom.rpartition('.conv1')[0]}.conv1.{part}." for part in (0, 1))
    for name, tensor in state.items():
        if not name.startswith(("segmentation_head.", *new)):
            assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_new_is_drawn_as_initialise_draws_it_and_nothing_else_is() -> None:
    model = whole()
    short = truncate_unet(model, None, "encoder.layer2", 3, seed=5)
    entry, head = "decoder.blocks.2.conv1.0.weight", "segmentation_head.0.weight"
    drawn = copy.deepcopy(short)
    initialise_(drawn, blocks_of(drawn), rest="random", seed=5)
    for name in (entry, head, "segmentation_head.0.bias"):
        assert torch.equal(short.state_dict()[name], drawn.state_dict()[name])
    norm: Any = short.get_submodule("decoder.blocks.2.conv1.1")
    assert [float(tensor.sum()) for tensor in norm.state_dict().values()] == [64, 0, 0, 64, 0]
    again, other = (truncate_unet(model, None, "encoder.layer2", 3, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(tensor, again[name]) for name, tensor in short.state_dict().items())
    differing = {name for name, tensor in short.state_dict().items() if not torch.equal(tensor, other[name])}
    assert differing == {entry, head}  # biases start at 0


def test_cut_twice_is_cut_once() -> None:
    model = whole()
    once = truncate_unet(model, None, "encoder.layer1", 2)
    half = truncate_unet(model, None, "encoder.layer3", 2)
    assert cut_points(half) == STAGES[:3]
    twice = truncate_unet(half, blocks_of(half), "encoder.layer1", 2)
    assert list(twice.state_dict()) == list(once.state_dict())
    assert torch.equal(twice(images()), once(images()))
    assert truncate_unet(once, None, "all", 7)(images()).shape == (2, 7, 64, 96)


@pytest.mark.parametrize("depth", CUTS[:4])
@pytest.mark.parametrize("level", ["stage", "block", "layer"])
def test_blocks_complexity_and_freezing_work_on_what_is_left(depth: str, level: str) -> None:
    model = create_model("unet_resnet18", 2, 1, device="meta")
    short = truncate_unet(model, blocks_of(model, level), depth, 2)
    blocks = blocks_of(short, level)
    stages = STAGES.index(depth) + 1
    assert [name for name in blocks.names if name.startswith("decoder")] == [
        f"decoder.blocks.{number}" for number in range(5 - stages, 5)
    ]
    assert {blocks.owner(key) for key in short.state_dict()} == {*blocks.names, "head"}
    ran: list[str] = []
    for block in blocks:
        short.get_submodule(block.output).register_forward_hook(lambda *_, name=block.name: ran.append(name))
    found = complexity(short, (64, 96), blocks=blocks)
    assert tuple(ran) == blocks.names
    assert list(found.per_block) == [*blocks.names, "head"]
    assert sum(one.macs for one in found.per_block.values()) == found.macs
    assert sum(one.parameters for one in found.per_block.values()) == found.parameters
    assert all(one.macs > 0 and one.parameters > 0 for one in found.per_block.values())
    assert found.per_block["head"].macs == 64 * 96 * 16 * 2 * 9
    frozen = freeze_(short, blocks, depth if depth in blocks.names else 1)
    names = {name for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("decoder.") for name in names)
    assert not any(name.startswith("encoder.conv1") for name in names)


def test_a_cut_u_net_takes_weights_of_one_like_it_and_trains() -> None:
    source = truncate_unet(whole(), None, "encoder.layer1", 2)
    short = truncate_unet(create_model("unet_resnet18", 2, 1), None, "encoder.layer1", 2, seed=1).train()
    transfer = initialise_(short, blocks_of(short), source=source.state_dict(), depth="encoder.layer1")
    taken = {row.name for row in transfer.tensors if row.treatment == "transferred"}
    assert {name.split(".")[1] for name in taken} == {"conv1", "bn1", "layer1"}
    assert all(torch.equal(short.state_dict()[name], source.state_dict()[name]) for name in taken)
    nn.functional.cross_entropy(short(images()), torch.zeros(2, 64, 96, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for parameter in short.parameters())


def test_what_is_gone_takes_no_memory_and_modes_types_and_freezing_stay() -> None:
    model = copy.deepcopy(whole()).double().train()
    freeze_(model, blocks_of(model), "encoder.layer1")
    short: Any = truncate_unet(model, None, "encoder.layer2", 2)
    saved = io.BytesIO()
    torch.save(short, saved)
    assert saved.tell() < 1.1 * sum(8 * p.numel() for p in short.parameters()) + 200_000
    assert {p.dtype for p in short.parameters()} == {torch.float64}
    trained = {".".join(name.split(".")[:2]) for name, p in short.named_parameters() if p.requires_grad}
    assert trained == {"encoder.layer2", "decoder.blocks", "segmentation_head.0"}
    assert short.decoder.blocks[-1].training
    model.requires_grad_(requires_grad=False)
    fresh = {name for name, p in truncate_unet(model, None, "encoder.layer2", 2).named_parameters() if p.requires_grad}
    assert {".".join(name.split(".")[:-1]) for name in fresh} == {
        "decoder.blocks.2.conv1.0", "decoder.blocks.2.conv1.1", "segmentation_head.0"
    }  # fmt: skip
    assert not short.encoder.layer1.training


@pytest.mark.parametrize(
    ("level", "depth", "count"),
    [("stage", 2, 2), ("stage", "middle", 3), ("block", 3, 2), ("block", "encoder.layer1.1", 2), ("layer", 1, 1)],
)
def test_depths_of_every_kind(level: str, depth: int | str, count: int) -> None:
    model = create_model("unet_resnet18", 2, device="meta")
    short = truncate_unet(model, blocks_of(model, level), depth, 2)
    assert len(cut_points(short)) == count - 1


def test_errors() -> None:
    model = create_model("unet_resnet18", 2, device="meta")
    blocks = blocks_of(model, "block")
    points = "encoder.stem, encoder.layer1, encoder.layer2, encoder.layer3, all"
    with pytest.raises(BlocksError, match=rf"After 'encoder.layer2.0' \(depth 4, level 'block'\).*points: {points}"):
        truncate_unet(model, blocks, 4, 2)
    with pytest.raises(BlocksError, match=rf"After no block \(depth 0.*points: {points}"):
        truncate_unet(model, blocks, 0, 2)
    with pytest.raises(BlocksError, match=rf"'decoder.blocks.1' is a block of the decoder.*points: {points}"):
        truncate_unet(model, None, "decoder.blocks.1", 2)
    with pytest.raises(BlocksError, match=r"Unknown depth 'encoder.layer5'.*did you mean 'encoder.layer"):
        truncate_unet(model, None, "encoder.layer5", 2)
    with pytest.raises(BlocksError, match=r"classes=0 of truncate_unet: expected a whole number"):
        truncate_unet(model, None, "all", 0)
    resnet = create_model("resnet18", 2, device="meta")
    with pytest.raises(BlocksError, match=r"This ResNet is no U-Net .*cut by `truncate`"):
        truncate_unet(resnet, None, "layer2", 2)
    with pytest.raises(BlocksError, match=rf"This Unet is a U-Net.*truncate_unet\(model.*Its cut points: {points}"):
        truncate(model, blocks_of(model), "encoder.layer2", 2)
    short = truncate_unet(model, None, "encoder.layer1", 2)
    with pytest.raises(BlocksError, match=r"Unknown depth 'encoder.layer3'|cut points: encoder.stem, all"):
        truncate_unet(short, None, "encoder.layer3", 2)


def test_relatives_are_told_apart() -> None:
    declare_operators()
    from segmentation_models_pytorch import Unet, UnetPlusPlus

    with torch.device("meta"):
        plus = UnetPlusPlus("resnet18", encoder_weights=None)
        attentive = Unet("resnet18", encoder_weights=None, decoder_attention_type="scse", classes=2)
    assert not is_unet(plus)
    with pytest.raises(BlocksError, match=r"'decoder.blocks.1' weighs its input by an attention .*are not cut"):
        truncate_unet(attentive, None, "encoder.layer3", 2)
