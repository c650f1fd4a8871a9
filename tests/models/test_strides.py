"""The total stride of a network, and which sides of patches suit it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transfuse.errors import BlocksError
from transfuse.models import create_model
from transfuse.models.networks_3d import SMALLEST, TOTAL_STRIDE
from transfuse.models.strides import nearest_sides, strides_of


@pytest.mark.parametrize("name", ["unet3d", "resnet10", "densenet121"])
def test_strides_are_those_of_the_table(name: str) -> None:
    assert strides_of(create_model(name, 2, 1, 3)) == (TOTAL_STRIDE[name],) * 3


def test_each_axis_has_its_own_stride() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, stride=(1, 2, 2)), nn.ReLU(), nn.MaxPool3d((2, 2, 3)), nn.Flatten())
    assert strides_of(network) == (2, 4, 6)
    assert strides_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), image_size=40) == (1, 1)
    with pytest.raises(BlocksError, match="fails for images of 1 x 1 x 1 pixels"):
        strides_of(network, image_size=1)


@pytest.mark.parametrize(
    ("wanted", "most", "expected"),
    [
        ((32, 32, 32), 64, (32, 32, 32)),
        ((40, 40, 40), 64, (48, 48, 48)),
        ((40, 40, 40), 40, (32, 32, 32)),
        ((16, 16, 16), 64, (32, 32, 32)),  # the smallest map would be a voxel, of which an instance norm makes nothing
        ((33, 47, 20), 64, (32, 48, 16)),
        ((24, 24, 24), 30, None),
    ],
)
def test_the_nearest_sides_of_a_unet(wanted: tuple, most: int, expected: tuple | None) -> None:
    network = create_model("unet3d", 2, 1, 3)
    assert nearest_sides(network, wanted, (16, 16, 16), most) == expected
    if expected is not None and len(set(expected)) == 1:
        assert min(expected) >= SMALLEST["unet3d"]
    if expected is not None and max(expected) <= 32:
        with torch.no_grad():
            assert network.eval()(torch.zeros(1, 1, *expected)).shape[2:] == expected
