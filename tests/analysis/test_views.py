"""Views of activations: means, places and tokens, whatever the order of a network's axes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.views import VIEWS, arranged, channels_of, features, finite
from transfuse.errors import AnalysisError


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_views_of_a_map() -> None:
    x = randn(2, 3, 4, 5)
    torch.testing.assert_close(features(x), x.mean((2, 3)))
    assert torch.equal(features(x, "flat").sort(1).values, x.reshape(2, -1).sort(1).values)
    positions = features(x, "positions")
    assert positions.shape == (40, 3)
    assert torch.equal(positions[7], x[0, :, 1, 2])
    assert channels_of(x) == 3


def test_a_volume_is_a_map_too() -> None:
    x = randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(features(x), x.mean((2, 3, 4)))
    assert features(x, "positions").shape == (240, 3)


def test_views_of_tokens() -> None:
    x = randn(2, 7, 3)
    torch.testing.assert_close(features(x, "pooled", prefix_tokens=2), x[:, 2:].mean(1))
    torch.testing.assert_close(features(x, "patches", prefix_tokens=2), x[:, 2:].mean(1))
    assert torch.equal(features(x, "cls", prefix_tokens=2), x[:, 0])
    torch.testing.assert_close(features(x, "both", prefix_tokens=2), torch.cat([x[:, 0], x[:, 2:].mean(1)], 1))
    assert features(x, "positions").shape == (14, 3)


@pytest.mark.parametrize("view", ["pooled", "positions", "flat"])
def test_vectors_are_themselves(view: str) -> None:
    x = randn(4, 3)
    assert features(x, view) is x


def test_flat_is_the_same_for_both_orders_of_memory_but_for_the_order_of_features() -> None:
    x = randn(3, 4, 5, 6)
    last = x.contiguous(memory_format=torch.channels_last)
    assert features(last, "flat").data_ptr() == last.data_ptr()  # no copy
    torch.testing.assert_close(features(last, "flat") @ features(last, "flat").T, x.reshape(3, -1) @ x.reshape(3, -1).T)


def test_messages() -> None:
    with pytest.raises(AnalysisError, match=r"unknown view 'pool': did you mean 'pooled'\? Choices: pooled, positions"):
        features(randn(2, 3), "pool")
    with pytest.raises(
        AnalysisError, match=r"view 'cls' needs a class token, and block 'stem' of shape \(2, 3, 4, 4\)"
    ):
        features(randn(2, 3, 4, 4), "cls", name="stem")
    with pytest.raises(AnalysisError, match=r"view 'both' needs a class token"):
        features(randn(2, 3, 4), "both")
    with pytest.raises(AnalysisError, match=r"view 'patches' needs tokens \(N, T, C\), and this output has shape"):
        features(randn(2, 3, 4, 4), "patches")
    assert len(VIEWS) == 6


def test_axes_are_put_in_order_by_the_layers_inside() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
    assert arranged(conv, randn(2, 6, 5, 4)).shape == (2, 6, 5, 4)
    swin = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))
    assert arranged(swin, randn(2, 5, 4, 6)).shape == (2, 6, 5, 4)
    tokens = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))
    assert arranged(tokens, randn(2, 5, 6)).shape == (2, 5, 6)
    assert arranged(nn.Conv1d(3, 6, 3), randn(2, 6, 5)).shape == (2, 5, 6)  # a sequence of 5 places
    assert arranged(nn.ReLU(), randn(2, 6, 5, 4)).shape == (2, 6, 5, 4)


def test_a_map_as_wide_as_it_has_channels_is_told_by_its_layers() -> None:
    x = randn(2, 6, 6, 6)
    convnext = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.LayerNorm(6), nn.Linear(6, 6))
    assert arranged(convnext, x) is x
    swin_stem = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.LayerNorm(6))
    assert torch.equal(arranged(swin_stem, x), x.movedim(-1, 1))


def test_activations_that_are_not_finite_are_named_and_counted() -> None:
    x = randn(3, 4)
    assert finite("layer1", x) is x
    x[0, 1], x[2, 2] = torch.nan, torch.inf
    with pytest.raises(AnalysisError, match=r"'layer1' has 2 of 12 activations that are NaN or infinite"):
        finite("layer1", x)
    large = torch.full((70000,), 1.0, dtype=torch.float16)  # their sum overflows in float16
    assert finite("layer1", large) is large
