"""Parameters, MACs and latency: against published and derived numbers, and a network that is left alone."""

from __future__ import annotations

import copy
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, SpecError
from transfuse.models import Block, Blocks, blocks_of, create_model, freeze_, slim, truncate
from transfuse.models.complexity import FEWEST_REPEATS, Latency, complexity, latency, latency_by_block, shape_of


def gmacs(name: str, classes: int, size: int = 224, cut: str = "") -> float:
    model = create_model(name, classes=classes, device="meta")
    if cut:
        model = truncate(model, blocks_of(model, "block"), cut, classes)
    return complexity(model, size, 3).macs / 1e9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # fvcore, ptflops and thop agree within 3 % on the convolutional ones; most miss the attention of the others.
        ("resnet50", 4.089),
        ("densenet201", 4.291),
        ("deit_small_patch16_224", 4.599),
        ("swin_tiny_patch4_window7_224", 4.491),
    ],
)
def test_gmacs_of_four_families(name: str, expected: float) -> None:
    assert gmacs(name, 1000) == pytest.approx(expected, abs=0.0005)


@pytest.mark.parametrize(
    ("name", "cut", "published", "parameters"),
    [
        # TTL, supplementary table 3: full networks and those cut where their method cut them, two classes.
        ("resnet50", "", 4.12, 23.5e6),
        ("resnet50", "layer3.5", 3.31, 8.55e6),
        ("efficientnet_b0", "", 0.378, None),  # printed with 3.63 M parameters, which it has with another head only
    ],
)
def test_published_gmacs(name: str, cut: str, published: float, parameters: float | None) -> None:
    """Theirs count norms and activations too, about 1 %, or leave something out."""
    assert gmacs(name, 2, cut=cut) == pytest.approx(published, rel=0.02)
    if parameters:
        model = create_model(name, classes=2, device="meta")
        if cut:
            model = truncate(model, blocks_of(model, "block"), cut, 2)
        assert complexity(model, 224).parameters == pytest.approx(parameters, rel=0.005)


@pytest.mark.parametrize(
    ("cut", "convolutions"), [("stem", 0.118), ("layer1.2", 0.786), ("layer3.0", 2.1861), ("layer4.2", 4.0871)]
)
def test_derived_gmacs_of_a_cut_resnet(cut: str, convolutions: float) -> None:
    model = create_model("resnet50", classes=2, device="meta")
    short = truncate(model, blocks_of(model, "block"), cut, 2)
    head = short.get_submodule(blocks_of(short, "block").head[0])
    macs = complexity(short, 224, 3).macs - head.weight.numel()  # type: ignore[union-attr]
    assert macs / 1e9 == pytest.approx(convolutions, abs=0.00006)


def test_a_slim_network_costs_what_was_published() -> None:
    model = create_model("resnet50", classes=5, device="meta")
    found = complexity(slim(model, blocks_of(model), "layer2"), 224)
    assert found.parameters == 7_140_421
    assert found.macs / 1e9 == pytest.approx(2.43, abs=0.005)


class Attention(nn.Module):
    """One head over L places of width D: two products of L x L x D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        places = self.embed(images).flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(places, places, places).mean(1)


def test_macs_by_hand() -> None:
    conv = nn.Conv2d(3, 8, 5, padding=2, stride=2, groups=1)
    assert complexity(conv, 32).macs == 16 * 16 * 8 * 3 * 25
    grouped = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    assert complexity(grouped, 10) == (54, 10 * 10 * 6 * 9, {})
    volume = nn.Conv3d(1, 4, 3, padding=1)
    assert complexity(volume, 8).macs == 8**3 * 4 * 27
    attention = Attention(16)
    places = (32 // 4) ** 2
    assert complexity(attention, 32).macs == places * 16 * 16 + 2 * places * places * 16
    assert complexity(nn.Sequential(nn.Linear(30, 7), nn.ReLU())) == (217, 210, {})


def test_macs_of_convolutions_grow_with_the_area_and_parameters_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    small, large = complexity(model, 32), complexity(model, 64)
    assert large.macs == 4 * small.macs
    assert large.parameters == small.parameters


def test_the_network_stays_as_it_is() -> None:
    model = create_model("resnet18", classes=3)
    freeze_(model, blocks_of(model), 2)
    model.train()
    model.layer1.eval()  # type: ignore[union-attr]
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    random = torch.get_rng_state()
    complexity(model, 64)
    latency(model, 32, repeats=FEWEST_REPEATS)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.device.type == "cpu"


def test_images_that_do_not_fit_are_named() -> None:
    model = create_model("resnet18", classes=3, device="meta")
    with pytest.raises(BlocksError, match="images of 64 x 64 pixels and 1 channels"):
        complexity(model, 64, 1)


class Counting(nn.Module):
    """Counts its passes, and refuses to be run in training mode or with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.seen: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: object) -> Counting:
        fresh = Counting()
        fresh.seen = self.seen  # shared, so that the passes of the copy are seen
        return fresh

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen.append(tuple(images.shape))
        return self.conv(images)


def test_networks_of_one_shape_are_those_that_differ_in_weights_alone() -> None:
    one, other = (create_model("resnet18", classes=3) for _ in range(2))
    other.layer1.requires_grad_(requires_grad=False)
    assert shape_of(one) == shape_of(other)
    assert shape_of(one) != shape_of(create_model("resnet18", classes=4))
    assert shape_of(one) != shape_of(truncate(one, blocks_of(one, "stage"), "layer2", 3))
    strided = (nn.Conv2d(1, 2, 3, stride=stride) for stride in (1, 2))
    assert len({shape_of(model) for model in strided}) == 2  # of the same tensors

    class Shown(nn.Module):
        def extra_repr(self) -> str:
            return f"act={(lambda value: value)}"

    assert shape_of(Shown()) == shape_of(Shown())


def test_a_latency_is_a_median_with_its_interval_after_a_warm_up() -> None:
    model = Counting()
    found = latency(model, 12, batch_size=4, repeats=9)
    assert isinstance(found, Latency)
    assert all(math.isfinite(one) for one in found)
    assert 0 < found.low <= found.seconds <= found.high
    assert len(model.seen) > 9
    assert set(model.seen) == {(4, 1, 12, 12)}


def test_the_interval_is_that_of_order_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nine times the second and the eighth: fewer than two of nine lie below the median in 2 % of samples."""
    spent = [5.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 60.0]
    readings = [reading for start, one in enumerate(spent) for reading in (100.0 * start, 100.0 * start + one)]
    clock = SimpleNamespace(perf_counter=iter(readings).__next__)
    monkeypatch.setattr("transfuse.models.complexity.time", clock)
    assert latency(nn.Conv2d(1, 1, 1), 4, repeats=9) == (5.0, 2.0, 9.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 5}, "repeats is 5; expected at least 6"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_timed_is_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        latency(nn.Conv2d(1, 1, 1), 8, **change)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_latency_on_a_gpu_leaves_the_network_where_it_is() -> None:
    model = create_model("resnet18", classes=3)
    found = latency(model, 64, repeats=FEWEST_REPEATS, device="cuda")
    assert 0 < found.low <= found.seconds <= found.high
    assert next(model.parameters()).device.type == "cpu"


def test_sides_of_images_and_volumes() -> None:
    conv = nn.Conv2d(1, 2, 1)
    assert complexity(conv, (12, 30)).macs == 2 * 12 * 30
    assert complexity(nn.Conv3d(1, 2, 1), (4, 12, 30)).macs == 2 * 4 * 12 * 30
    assert complexity(conv.double(), 8).macs == 2 * 64
    for size in ((12, 30, 4), (12, 0), (12.0, 12), -3, True):
        with pytest.raises(BlocksError, match=r"Images of size .* for this Conv2d: expected one side or \(H, W\)"):
            complexity(conv, size)  # type: ignore[arg-type]


def test_volumes_smaller_than_a_network_takes_are_named_with_the_smallest_that_pass() -> None:
    pytest.importorskip("monai")
    from monai.networks.nets.densenet import DenseNet

    with torch.device("meta"):
        model = DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1))
    message = r"kernel size .*\)\. They are too small: the smallest volumes that pass are 29 x 29 x 29\.$"
    with pytest.raises(BlocksError, match=message):
        complexity(model, 28)
    with pytest.raises(BlocksError, match=message):
        truncate(model, blocks_of(model), 2, 2, image_size=28)
    with pytest.raises(BlocksError, match=r"fails for images of 64 x 16 x 64 .*volumes that pass are 29 x 29 x 29\."):
        complexity(model, (64, 16, 64))
    assert complexity(model, 29).macs > 0
    with pytest.raises(BlocksError) as wrong_channels:
        complexity(model, 28, 2)
    assert "too small" not in str(wrong_channels.value)


class Tied(nn.Module):
    """Two blocks with one weight, and a product of its own between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.two.weight = self.one.weight

    def transfuse_blocks(self, level: str) -> Blocks:
        return Blocks(level, (Block("one", ("one",), "one"), Block("two", ("two",), "two")), ("fc",))

    def forward(self, images: Tensor) -> Tensor:
        between = self.one(images)
        between = between @ between.transpose(2, 3)
        return self.fc(self.two(between).mean((2, 3)))


def test_what_lies_between_blocks_is_of_the_block_before_and_nothing_counts_twice() -> None:
    found = complexity(Tied(), (4, 5))
    assert found.per_block == {"one": (9, 9 * 20 + 3 * 4 * 5 * 4), "two": (3, 9 * 16), "head": (8, 6)}
    assert (found.parameters, found.macs) == (20, 9 * 20 + 240 + 9 * 16 + 6)


def test_blocks_of_another_level_and_by_hand() -> None:
    model = create_model("resnet10t", 2, device="meta")
    fine = complexity(model, 64, blocks="block")
    assert list(fine.per_block) == [*blocks_of(model, "block").names, "head"]
    assert complexity(model, 64, blocks=blocks_of(model, "layer")).macs == fine.macs
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(BlocksError, match="Unknown level 'blocks'"):
        complexity(model, 64, blocks="blocks")


def test_latency_by_block_is_that_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by one at each reading: between two borders of blocks it moves by one, at every repeat."""
    ticks = iter(float(tick) for tick in range(10**6))
    clock = SimpleNamespace(perf_counter=ticks.__next__)
    monkeypatch.setattr(sys.modules["transfuse.models.complexity"], "time", clock)
    found = latency_by_block(create_model("cbr_tiny", 2), 32, repeats=7)
    assert found == {**{f"layer{number}": (2, 2, 2) for number in (2, 3, 4)}, "layer1": (3, 3, 3), "head": (2, 2, 2)}


def test_latency_by_block_of_a_network_without_blocks_is_an_error() -> None:
    with pytest.raises(BlocksError, match="cannot be cut into blocks"):
        latency_by_block(nn.Conv2d(1, 1, 1), 8)
    with pytest.raises(SpecError, match="repeats is 5"):
        latency_by_block(create_model("cbr_tiny", 2), 32, repeats=5)
