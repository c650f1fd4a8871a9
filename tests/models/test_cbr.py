from __future__ import annotations

import pytest
import torch
from torch import nn

from transfuse.errors import SpecError
from transfuse.models import create_model
from transfuse.models.cbr import CBR_NETWORKS, PADDINGS, smallest_image

# METHODS MOD-2 to MOD-5 and 2.1 item 1: convolution kernels; the counts of T's Table 1 (kernels without the first, with
# the kernel of a head of 5); everything.
PUBLISHED = {
    "cbr_large_t": (8_534_624, 8_532_480, 8_539_173),
    "cbr_large_w": (8_438_976, 8_432_128, 8_443_461),
    "cbr_small": (2_112_096, 2_108_672, 2_114_341),
    "cbr_tiny_table1": (1_077_600, 1_076_480, 1_079_845),
    "cbr_tiny": (4_305_600, 4_303_360, 4_310_085),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    model = create_model(name, classes=5, device="meta")
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    head = next(module.weight for module in model.modules() if isinstance(module, nn.Linear))
    counts = (
        sum(kernel.numel() for kernel in kernels),
        sum(kernel.numel() for kernel in kernels[1:]) + head.numel(),
        sum(parameter.numel() for parameter in model.parameters()),
    )
    assert counts == PUBLISHED[name]


def test_large_t_pools_after_four_of_its_five_layers_and_the_others_after_all() -> None:
    for name, shape in CBR_NETWORKS.items():
        model = create_model(name, classes=2, device="meta")
        pooled = [index for index in range(len(shape.widths)) if "pool" in dict(model[index].named_children())]
        assert pooled == [0, 1, 2, 3]
        assert len(shape.widths) == (5 if name == "cbr_large_t" else 4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", CBR_NETWORKS)
def test_the_smallest_image_passes_and_one_pixel_less_does_not(name: str, padding: str) -> None:
    model = create_model(name, classes=2, padding=padding, device="meta").eval()
    smallest = smallest_image(name, padding)
    assert model(torch.zeros(1, 3, smallest, smallest, device="meta")).shape == (1, 2)
    if smallest > 1:
        with pytest.raises(RuntimeError):
            model(torch.zeros(1, 3, smallest - 1, smallest - 1, device="meta"))


def test_same_padding_sizes_at_64_pixels() -> None:
    def sides(padding: str) -> list[int]:
        images = torch.zeros(1, 3, 64, 64, device="meta")
        model = create_model("cbr_small", classes=2, padding=padding, device="meta").eval()
        return [model[: index + 1](images).shape[-1] for index in range(4)]

    assert sides("same") == [31, 15, 7, 3]
    assert sides("same_pool") == [32, 16, 8, 4]
    with pytest.raises(
        SpecError, match=r"image_size=64 is too small for 'cbr_large_t' with padding='valid'.*217 pixels"
    ):
        create_model("cbr_large_t", classes=2, padding="valid", image_size=64)
    with pytest.raises(SpecError, match=r"needs 31 pixels. Use larger images or padding='same_pool'"):
        create_model("cbr_small", classes=2, image_size=28)


def test_batch_norm_precedes_relu_and_convolutions_start_as_he_fan_out() -> None:
    model = create_model("cbr_large_w", classes=2)
    assert [type(part).__name__ for part in model[0]] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    weight = model[2].conv.weight.detach()
    expected = (2 / (49 * 256)) ** 0.5
    assert float(weight.std()) == pytest.approx(expected, rel=0.01)


def test_unknown_padding() -> None:
    with pytest.raises(SpecError, match=r"Unknown padding 'sam' of 'cbr_small': did you mean 'same'"):
        create_model("cbr_small", classes=2, padding="sam")
