"""Random fills that wait: nothing that is read is ever without its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from transfuse.models import create_model
from transfuse.models.create import import_timm
from transfuse.models.deferred import DeferredDraws

OURS = ["resnet18_cifar", "resnet50_tfslim_v1"]
TIMM = [
    *("test_resnet", "mobilenetv2_050", "densenet121", "repvgg_a0", "inception_v3", "test_convnext", "mixer_s32_224"),
    *("test_vit", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"),
    *("swin_tiny_patch4_window7_224", "coat_lite_tiny"),
]


@pytest.fixture
def nan_in_fresh_memory() -> Iterator[None]:
    """torch.empty returns NaN, so a tensor that nobody filled shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def refill(weight: nn.Parameter) -> None:
    nn.init.uniform_(weight)
    nn.init.normal_(weight, 100.0)


def scale(weight: nn.Parameter) -> None:
    nn.init.normal_(weight, 50.0)
    with torch.no_grad():
        weight.mul_(2)


def fill_views(weight: nn.Parameter) -> None:
    with torch.no_grad():
        views = weight[:2], weight[2:]
        views[0].normal_(100.0)
        views[1].normal_(200.0)
        views[1].sub_(100.0)


def fill_and_then_a_view(weight: nn.Parameter) -> None:
    nn.init.normal_(weight, 100.0)
    with torch.no_grad():
        weight[0].uniform_(100, 101)


def fill_through_data(weight: nn.Parameter) -> None:
    nn.init.kaiming_uniform_(weight)
    weight.data.normal_(100.0)


def move(weight: nn.Parameter) -> None:
    source = torch.empty_like(weight)
    source.normal_(100.0)
    weight.data = source


def read_in_a_list(weight: nn.Parameter) -> None:
    source = torch.empty(weight.shape)
    source.normal_(100.0)
    with torch.no_grad():
        weight.copy_(torch.cat([source[:2], source[2:]]))


@pytest.mark.parametrize(
    "fill", [refill, scale, fill_views, fill_and_then_a_view, fill_through_data, move, read_in_a_list]
)
@pytest.mark.usefixtures("nan_in_fresh_memory")
def test_whatever_happens_to_a_tensor_its_values_are_those_of_the_last_fill(
    fill: Callable[[nn.Parameter], None],
) -> None:
    with DeferredDraws():
        weight = nn.Parameter(torch.empty(4, 5))
        fill(weight)
    assert ((weight > 90) & (weight < 110)).all()
    assert len(weight.unique()) == weight.numel()


def test_a_fill_that_is_overwritten_is_not_made() -> None:
    torch.manual_seed(0)
    with DeferredDraws():
        layer = nn.Linear(50, 40, bias=False)
        nn.init.normal_(layer.weight)
    torch.manual_seed(0)
    assert torch.equal(layer.weight, torch.empty(40, 50).normal_())


def test_an_error_ends_the_mode() -> None:
    with pytest.raises(RuntimeError), DeferredDraws():
        nn.Linear(2, -2)
    assert nn.Linear(2, 2).weight.isfinite().all()


@pytest.mark.parametrize(
    "name",
    TIMM + OURS,
)
@pytest.mark.usefixtures("nan_in_fresh_memory")
def test_a_created_network_has_all_its_values_and_timm_s_spread(name: str) -> None:
    state = create_model(name, 10).state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())
    if name in OURS:
        return
    timm = import_timm()
    torch.manual_seed(1)
    for key, tensor in timm.create_model(name, num_classes=10).state_dict().items():
        values, mine = tensor.double(), state[key].double()
        if values.numel() < 2 or values.std() == 0 or not tensor.is_floating_point():
            assert torch.equal(values, mine), key
        else:
            error = 8 * float(values.std()) / values.numel() ** 0.5
            assert abs(float(values.mean() - mine.mean())) < error + 1e-12, key
            assert float(mine.std()) == pytest.approx(float(values.std()), rel=8 / values.numel() ** 0.5), key
