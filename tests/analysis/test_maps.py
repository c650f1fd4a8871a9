"""Activation maps: raw, in their places, from any arrangement of axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.maps import activation_maps, output_path, spatial_map
from transfuse.errors import AnalysisError
from transfuse.models import Block, Blocks, create_model


class Scaled(nn.Module):
    """Channel c is the image times c."""

    def __init__(self, channels: int = 20) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(float(channels)).view(-1, 1, 1, 1) - 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean((2, 3))


def test_maps_are_the_raw_activations() -> None:
    model, images = Scaled(), torch.randn(2, 1, 5, 7)
    maps = activation_maps(model, images, "conv")
    assert maps.values.shape == (2, 16, 5, 7)
    assert maps.values.dtype == np.float32
    assert maps.channels == tuple(range(16))
    assert (maps.block, maps.total) == ("conv", 20)
    np.testing.assert_allclose(maps.values[:, 1], -2 * images[:, 0], rtol=1e-6)  # not what the ReLU made of it in place
    np.testing.assert_allclose(activation_maps(model, images, "relu").values.min(), 0)
    chosen = activation_maps(model, images, "conv", channels=[19, 0])
    np.testing.assert_allclose(chosen.values[:, 0], 16 * images[:, 0], rtol=1e-6)
    np.testing.assert_allclose(chosen.values[:, 1], -3 * images[:, 0], rtol=1e-6)


def test_the_most_variable_channels_come_first() -> None:
    model, images = Scaled(8), torch.randn(3, 1, 6, 6)  # weights -3 to 4
    maps = activation_maps(model, images, "conv", channels=4, choose="variable")
    assert maps.channels == (7, 0, 6, 1)
    spread = activation_maps(model, images, "conv", channels=8).values.var((0, 2, 3))
    assert sorted(spread)[-4:] == pytest.approx(sorted(spread[list(maps.channels)]))


def test_tokens_stand_where_their_patches_are() -> None:
    model = create_model("test_vit", classes=2).eval()
    with torch.no_grad():
        model.pos_embed.zero_()  # type: ignore[union-attr,operator]
    images = torch.zeros(1, 3, 160, 160)
    images[:, :, 48:64, 128:144] = 1  # patch (3, 8)
    maps = activation_maps(model, images, "patch_embed", channels=64).values
    assert maps.shape == (1, 64, 10, 10)
    different = np.abs(maps - maps[:, :, :1, :1]).max((0, 1)) > 1e-5
    assert np.argwhere(different).tolist() == [[3, 8]]
    block = activation_maps(model, images, "blocks.0", channels=64).values
    assert block.shape == (1, 64, 10, 10)
    strongest = np.abs(block - np.median(block, (2, 3), keepdims=True)).sum((0, 1))
    assert np.unravel_index(strongest.argmax(), strongest.shape) == (3, 8)


@pytest.mark.parametrize(
    ("name", "block", "shape"),
    [("test_vit", "blocks.1", (4, 6)), ("test_resnet", "layer2.0", (8, 12)), ("test_convnext", "stages.1", (8, 12))],
)
def test_there_and_back_again(name: str, block: str, shape: tuple[int, int]) -> None:
    model, seen = create_model(name, classes=2).eval(), []
    module = model.get_submodule(block)
    module.register_forward_hook(lambda *call: seen.append(call[2]))
    size = (shape[0] * 16, shape[1] * 16) if name == "test_vit" else (64, 96)
    model(torch.randn(2, 3, *size))
    found = spatial_map(model, module, seen[0], size)
    assert found is not None
    assert found.values.shape[0] == 2
    assert found.values.shape[2:] == shape
    assert torch.equal(found.back(found.values), seen[0])


def test_channels_last_and_tokens_without_a_known_grid() -> None:
    size = (32, 32)
    last = torch.randn(2, 4, 5, 8)  # (N, H, W, C)
    found = spatial_map(nn.Identity(), nn.LayerNorm(8), last, size)
    assert found is not None
    assert torch.equal(found.values, last.movedim(-1, 1))
    assert torch.equal(found.back(found.values), last)
    tokens = torch.randn(2, 9, 8)
    square = spatial_map(nn.Identity(), nn.LayerNorm(8), tokens, size)
    assert square is not None
    assert torch.equal(square.values[:, :, 1, 0], tokens[:, 3])
    assert spatial_map(nn.Identity(), nn.LayerNorm(8), tokens[:, :8], size) is None
    assert spatial_map(nn.Identity(), nn.LayerNorm(8), tokens[:, 0], size) is None
    cube = spatial_map(nn.Identity(), nn.LayerNorm(8), torch.randn(2, 27, 8), (8, 8, 8))
    assert cube is not None
    assert cube.values.shape == (2, 8, 3, 3, 3)


def test_volumes_blocks_by_name_and_modules_that_run_twice() -> None:
    conv = nn.Conv3d(1, 2, 3, padding=1)
    model = nn.Sequential(conv, nn.Conv3d(2, 1, 1), conv, nn.ReLU())
    blocks = Blocks("stage", (Block("all of it", ("0", "1"), "1"),), ())
    images = torch.randn(1, 1, 4, 5, 6)
    assert activation_maps(model, images, "all of it", blocks=blocks).values.shape == (1, 1, 4, 5, 6)
    np.testing.assert_allclose(activation_maps(model, images, "0").values, conv(images).detach(), rtol=1e-4, atol=1e-6)


def test_paths_of_blocks() -> None:
    model = create_model("test_vit", classes=2)
    assert output_path(model, "blocks.2") == "blocks.2"
    with pytest.raises(
        AnalysisError, match=r"VisionTransformer has no block and no module 'blocs.2': did you mean 'block"
    ):
        output_path(model, "blocs.2")
    with pytest.raises(AnalysisError, match=r"has no block and no module ''"):
        output_path(model, "")
    named = Blocks("stage", (Block("stem", ("conv",), "conv"),), ())
    assert output_path(Scaled(), "stem", named) == "conv"


def test_errors() -> None:
    model, images = Scaled(), torch.randn(2, 1, 4, 4)
    with pytest.raises(AnalysisError, match=r"Unknown choose 'frist': did you mean 'first'\?"):
        activation_maps(model, images, "conv", choose="frist")
    with pytest.raises(AnalysisError, match=r"channels=0: expected at least 1"):
        activation_maps(model, images, "conv", channels=0)
    with pytest.raises(AnalysisError, match=r"channels=\(3, 20\) of block 'conv': expected numbers from 0 to 19"):
        activation_maps(model, images, "conv", channels=[3, 20])
    with pytest.raises(AnalysisError, match=r"'conv' has .* NaN or infinite"):
        activation_maps(model, images * torch.nan, "conv")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(AnalysisError, match=r"block '1' gives out shape \(2, 2\); expected maps"):
        activation_maps(flat, images, "1")
