"""The memory of a forward pass: by hand, against torch's own profiler, and a network that is left alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transfuse.errors import SpecError
from transfuse.models import blocks_of, create_model, truncate
from transfuse.models.peak_memory import PeakMemory, peak_memory

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
