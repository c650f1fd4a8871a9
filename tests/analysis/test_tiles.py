"""Tiles: where each image goes, and what its values become."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transfuse.analysis.tiles import tile
from transfuse.errors import AnalysisError


def test_images_stand_in_rows() -> None:
    images = np.arange(5.0)[:, None, None].repeat(2, 1).repeat(3, 2)  # five even images of 2 x 3
    picture = tile(images, columns=2, gap=2)
    assert picture.shape == (3 * 2 + 2 * 2, 2 * 3 + 2)
    assert picture.dtype == np.uint8
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]):
        block = picture[4 * row : 4 * row + 2, 5 * column : 5 * column + 3]
        assert (block == round(255 * place / 4)).all()
    assert (picture[2:4] == 255).all()
    assert (picture[8:, 5:] == 255).all()  # no sixth image
    assert tile(images).shape == (2 * 2 + 1, 3 * 3 + 2)
    assert tile(images[:1], gap=0).shape == (2, 3)


def test_scalings() -> None:
    images = torch.tensor([[[0.0, 1.0]], [[2.0, 4.0]]])
    assert tile(images, 1, gap=0).tolist() == [[0, 64], [128, 255]]
    assert tile(images, 1, gap=0, scaling="each").tolist() == [[0, 255], [0, 255]]
    assert tile(images / 4, 1, gap=0, scaling="unit").tolist() == [[0, 64], [128, 255]]
    assert tile(images / 8, 1, gap=0, scaling="unit").max() == 128
    assert tile(images - 1, 1, gap=0, symmetric=True).tolist() == [[85, 128], [170, 255]]
    assert tile(images - 1, 1, gap=0, symmetric=True, scaling="each").tolist() == [[0, 128], [170, 255]]


def test_nothing_to_scale_is_grey_and_colours_stay() -> None:
    assert (tile(torch.zeros(2, 3, 3), 2, gap=0) == 128).all()
    assert (tile(torch.stack([torch.zeros(2, 2), torch.eye(2)]), 2, gap=0, scaling="each")[:, :2] == 128).all()
    colours = torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)
    colours[:, 0] = 1
    assert (tile(colours) == [255, 0, 0]).all()
    assert tile(np.zeros((4, 1, 2, 2), dtype=np.uint8)).shape == (5, 5)


def test_errors() -> None:
    images = np.zeros((2, 4, 4))
    with pytest.raises(
        AnalysisError, match=r"Unknown scaling 'share': did you mean 'shared'\? Choices: shared, each, unit"
    ):
        tile(images, scaling="share")
    with pytest.raises(AnalysisError, match=r"shape \(2, 4, 4, 4\) cannot be tiled: .* 1 or 3 channels; of volumes"):
        tile(np.zeros((2, 4, 4, 4)))
    with pytest.raises(AnalysisError, match=r"shape \(0, 4, 4\)"):
        tile(images[:0])
    with pytest.raises(AnalysisError, match=r"NaN or infinite"):
        tile(images / np.float64("nan"))
    with pytest.raises(AnalysisError, match=r"columns=0, gap=1: expected at least 1 column"):
        tile(images, columns=0)
    with pytest.raises(AnalysisError, match=r"'unit' shows values in \[0, 1\], got 0 to 2: use 'shared'"):
        tile(images + np.eye(4) * 2, scaling="unit")
