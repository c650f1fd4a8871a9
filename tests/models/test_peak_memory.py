"""The memory of a forward pass: by hand, against torch's own profiler, and a network that is left alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import BlocksError, SpecError
from transfuse.models import Block, Blocks, blocks_of, create_model, truncate
from transfuse.models.peak_memory import PeakMemory, peak_memory, peak_memory_by_block

MAP = 4 * 16 * 16  # bytes of a map of one channel


class Skip(nn.Module):
    """Holds its input until its end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        kept = self.first(images)
        return self.second(self.second(kept).relu_()) + kept


def test_by_hand() -> None:
    conv = nn.Conv2d(1, 4, 1, bias=False)
    assert peak_memory(conv, 16) == PeakMemory(16, 4 * MAP)
    assert peak_memory(conv, 16, batch_size=3) == PeakMemory(16, 12 * MAP)
    assert peak_memory(copy.deepcopy(conv).double(), 16) == PeakMemory(32, 8 * MAP)
    assert peak_memory(nn.Sequential(conv, nn.Flatten(), nn.Identity()), 16).activations == 4 * MAP  # views
    # the map that is kept, the input of the second convolution, and its output; then the sum instead of the input
    assert peak_memory(Skip(), (16, 16)).activations == 12 * MAP
    longer = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(9)))
    assert peak_memory(longer, 16).activations == 2 * MAP  # what no one needs any more is gone


def test_a_weight_with_two_names_counts_once() -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    assert peak_memory(nn.Sequential(shared, shared), 16).weights == 36


def test_a_network_cut_lower_needs_no_more_and_its_weights_are_its_parameters_and_buffers() -> None:
    model = create_model("resnet10t", 2)
    blocks = blocks_of(model)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    whole = peak_memory(model, 64)
    assert whole.weights == sum(tensor.nbytes for tensor in model.state_dict().values())
    short = peak_memory(truncate(model, blocks, "layer1", 2), 64)
    assert short.weights < whole.weights
    assert 0 < short.activations <= whole.activations
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_torch_s_profiler_sees_the_same_where_operations_need_no_room_to_work(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64)) for width in (9, 400)))
    images, held = torch.zeros(32, 64), []
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        model(images)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]:
        if event["name"] == "[memory]" and event["args"]["Device Type"] == 0:
            held.append((event["ts"], event["args"]["Bytes"]))
    alive = [sum(size for _, size in sorted(held)[: number + 1]) for number in range(len(held))]
    # around the ReLU, beside what the outer sequence still holds
    assert peak_memory(model, batch_size=32).activations == max(alive) == 32 * (2 * 400 + 64) * 4


class Parts(nn.Module):
    """A skip from the first block to the head, and a second block that widens and narrows inside."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Conv2d(1, 4, 1, bias=False)
        self.inner = nn.Sequential(nn.Conv2d(4, 10, 1, bias=False), nn.Conv2d(10, 2, 1, bias=False))
        self.head = nn.Conv2d(6, 3, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        kept = self.low(images)
        both = torch.cat([self.inner(kept), kept], 1)
        del kept
        return self.head(both)

    def transfuse_blocks(self, level: str) -> Blocks:
        return Blocks(level, (Block("low", ("low",), "low"), Block("inner", ("inner",), "inner")), ("head",))


def test_by_block_by_hand() -> None:
    assert peak_memory_by_block(Parts(), 16) == {
        "low": PeakMemory(4 * 4, 4 * MAP),
        "inner": PeakMemory(4 * 60, (4 + 10 + 2) * MAP),  # the skip, the wide map and the narrow one
        "head": PeakMemory(4 * 18, (6 + 3) * MAP),  # both together, and the output
    }
    twice = peak_memory_by_block(copy.deepcopy(Parts()).double(), 16)
    assert twice["inner"] == PeakMemory(8 * 60, 2 * 16 * MAP)


@pytest.mark.parametrize(
    ("name", "size", "level"),
    [
        ("cbr_tiny", 32, "layer"),
        ("resnet10t", 64, "block"),
        ("vit_tiny_patch16_224", 224, "block"),
        ("densenet121", 64, "stage"),
        ("unet_resnet18", 64, "block"),
        ("swin_tiny_patch4_window7_224", 224, "stage"),  # with buffers that no state dict holds
    ],
)
def test_the_largest_block_is_the_whole_and_weights_sum_to_it(name: str, size: int, level: str) -> None:
    model = create_model(name, 2, image_size=size)
    names, before = blocks_of(model, level).names, copy.deepcopy(model.state_dict())
    found, whole = peak_memory_by_block(model, size, blocks=level), peak_memory(model, size)
    assert tuple(found) == (*names, "head")
    assert max(each.activations for each in found.values()) == whole.activations
    assert sum(each.weights for each in found.values()) == whole.weights
    assert all(each.activations > 0 for each in found.values())
    by_hand = peak_memory_by_block(model, size, blocks=blocks_of(model, level))
    assert by_hand == found
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_of_more_images_each_block_holds_as_much_more_and_finer_blocks_no_more() -> None:
    model = create_model("cbr_tiny", 2)
    one, three = (peak_memory_by_block(model, 32, batch_size=count) for count in (1, 3))
    for name, each in one.items():
        assert three[name] == PeakMemory(each.weights, 3 * each.activations)
    model = create_model("resnet10t", 2)
    stages, blocks = (peak_memory_by_block(model, 64, blocks=level) for level in ("stage", "block"))
    for name, stage in stages.items():
        inside = [each for block, each in blocks.items() if block == name or block.startswith(f"{name}.")]
        assert stage.activations == max(each.activations for each in inside)
        assert stage.weights == sum(each.weights for each in inside)


def test_a_u_net_holds_its_skips_while_it_is_at_its_bottom() -> None:
    """At least the maps that the decoder will join: bytes from the shapes that the encoder gives."""
    model = create_model("unet_resnet18", 2, 1).eval()
    found = peak_memory_by_block(model, 64)
    with torch.no_grad():
        skips = model.get_submodule("encoder")(torch.zeros(1, 1, 64, 64))[1:-1]  # but the image and the deepest
    assert found["encoder.layer4"].activations > sum(skip.nbytes for skip in skips)
    assert found["decoder.blocks.4"].activations > found["encoder.layer4"].activations


def test_errors_by_block() -> None:
    with pytest.raises(BlocksError, match="cannot be cut into blocks by itself"):
        peak_memory_by_block(nn.Conv2d(1, 1, 1), 8)
    with pytest.raises(SpecError, match="batch_size is 0; expected a whole number"):
        peak_memory_by_block(Parts(), 8, batch_size=0)
    with pytest.raises(SpecError, match="device is 'meta'; expected 'cpu' or 'cuda'"):
        peak_memory_by_block(Parts(), 8, device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_by_block_on_a_gpu_the_largest_is_the_whole() -> None:
    model = create_model("resnet10t", 2)
    found, whole = (measure(model, 128, device="cuda") for measure in (peak_memory_by_block, peak_memory))
    assert max(each.activations for each in found.values()) == whole.activations
    assert sum(each.weights for each in found.values()) == whole.weights


def test_errors() -> None:
    with pytest.raises(SpecError, match="batch_size is 0; expected a whole number"):
        peak_memory(nn.Conv2d(1, 1, 1), 8, batch_size=0)
    with pytest.raises(SpecError, match="device is 'meta'; expected 'cpu' or 'cuda'"):
        peak_memory(nn.Conv2d(1, 1, 1), 8, device="meta")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_allocator_tells() -> None:
    found = peak_memory(nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU()), 512, device="cuda")
    assert found.activations >= 2 * 4 * 4 * 512 * 512
    assert found.weights == 32
