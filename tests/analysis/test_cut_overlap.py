"""Overlap with random features: planted depths, the criterion by hand, what is chosen, messages."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis import OverlapSearch, overlap_cut, svcca
from transfuse.analysis.cut_overlap import histogram_overlap
from transfuse.errors import AnalysisError, AnalysisWarning, BlocksError
from transfuse.models import Block, Blocks

WIDTH = 16


class Planted(nn.Module):
    """Every layer reads the images: the first half of their channels, from `lost` on the second."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost
        self.layers = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in range(5)])
        with torch.no_grad():
            for number, layer in enumerate(self.layers):
                generator = torch.Generator().manual_seed(number)
                layer.weight.copy_(torch.randn(WIDTH, WIDTH, 1, 1, generator=generator))

    def forward(self, images: Tensor) -> list[Tensor]:
        halves = images.split(WIDTH, 1)
        return [layer(halves[number >= self.lost]) for number, layer in enumerate(self.layers)]


LAYERS = Blocks("block", tuple(Block(f"l{i}", (f"layers.{i}",), f"layers.{i}") for i in range(5)), ())
IMAGES = torch.randn(60, 2 * WIDTH, 6, 6, generator=torch.Generator().manual_seed(7))


def found(lost: int, **options: Any) -> OverlapSearch:
    return overlap_cut(Planted(9), Planted(lost), [IMAGES[:40], IMAGES[40:]], LAYERS, **options)


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_the_depth_at_which_features_are_lost_is_detected(lost: int) -> None:
    result = found(lost)
    assert result.detected == f"l{lost}"
    assert (result.chosen, result.depth) == (f"l{lost - 1}", lost)
    at = found(lost, pick="at")
    assert (at.chosen, at.depth) == (f"l{lost}", lost + 1)
    for place, cut in enumerate(result.cuts):
        assert cut.overlapped == (place >= lost)
        assert cut.median == pytest.approx(1, abs=1e-6) if place < lost else cut.median < cut.edge


def test_nothing_lost_is_the_whole_network() -> None:
    for pick in ("before", "at"):
        result = found(9, pick=pick)
        assert result.detected is None
        assert (result.chosen, result.depth) == ("l4", 5)


def test_lost_from_the_first_cut_on() -> None:
    with pytest.warns(AnalysisWarning, match="first cut, 'l0', are like random ones already"):
        result = found(0)
    assert (result.detected, result.chosen) == ("l0", "l0")


def test_the_numbers_are_those_of_svcca_and_the_criterion_is_as_written() -> None:
    before, after = Planted(9), Planted(2)
    with torch.no_grad():
        rows = [[one.movedim(1, -1).reshape(-1, WIDTH) for one in model(IMAGES)] for model in (before, after)]
    result = found(2)
    for place, cut in enumerate(result.cuts):
        expected = svcca(rows[0][place], rows[1][place], variance=1.0)
        np.testing.assert_allclose(cut.coefficients, expected.coefficients, atol=1e-5)
        assert cut.samples == 60 * 36
        assert cut.random.max() < 1.1 * cut.edge
        assert cut.median == np.median(cut.coefficients)
        assert cut.random_quantile == np.quantile(cut.random, 0.9)
        bins = np.linspace(0, 1, 21)
        parts = [np.histogram(values, bins)[0] / WIDTH for values in (cut.coefficients, cut.random)]
        assert cut.overlap == pytest.approx(np.minimum(*parts).sum())
        assert cut.overlapped == (cut.median <= cut.random_quantile or cut.overlap >= 0.5)


def test_thresholds_move_the_cut() -> None:
    before, after = Planted(9), Planted(9)
    with torch.no_grad():  # five of eight channels of the third layer read something else
        stray = torch.randn(WIDTH, WIDTH, 1, 1, generator=torch.Generator().manual_seed(9))
        after.layers[2].weight.copy_(before.layers[2].weight + 3 * stray)
    plain = overlap_cut(before, after, [IMAGES], LAYERS)
    assert plain.detected is None  # an invertible map of the same images
    halved = copy.deepcopy(before)
    halved.forward = (
        lambda images: [  # type: ignore[method-assign]
            layer(torch.cat([images[:, :4], images[:, WIDTH : 2 * WIDTH - 4]], 1) if number == 2 else images[:, :WIDTH])
            for number, layer in enumerate(halved.layers)
        ]
    )
    mixed = overlap_cut(before, halved, [IMAGES], LAYERS)
    assert mixed.detected == "l2"  # 4 of 16 directions are kept: the median is that of random ones
    share = mixed.cuts[2].overlap
    assert 0.5 < share < 1
    strict = overlap_cut(before, halved, [IMAGES], LAYERS, least_overlap=1.0, quantile=1e-9)
    assert strict.detected is None


def test_too_few_samples_are_never_an_overlap() -> None:
    few = IMAGES[:6, :, :2, :2]
    with pytest.warns(AnalysisWarning) as warned:
        result = overlap_cut(Planted(9), Planted(2), [few], LAYERS)
    assert any(
        "too few samples to tell features from random ones at l0, l1, l2, l3, l4" in str(one.message) for one in warned
    )
    assert result.detected is None
    assert not any(cut.enough for cut in result.cuts)


def test_tables() -> None:
    result = found(3)
    frame = result.frame()
    assert frame.loc[frame["chosen"], "block"].tolist() == ["l2"]
    assert frame["depth"].tolist() == [1, 2, 3, 4, 5]
    assert {"median", "random_quantile", "edge", "overlap", "samples", "enough", "overlapped"} <= set(frame)
    boxes = result.coefficients()
    assert len(boxes) == 5 * 2 * WIDTH
    assert boxes["kind"].nunique() == 2
    again = overlap_cut(Planted(9), Planted(3), [IMAGES], LAYERS, generator=np.random.default_rng(1))
    assert again.cuts[0].random[0] != result.cuts[0].random[0]
    assert again.chosen == result.chosen


def test_the_report_draws_them() -> None:
    from transfuse.report.coefficient_boxes import RANDOM, coefficients_box

    boxes = found(3).coefficients()
    assert RANDOM in set(boxes["kind"])
    assert coefficients_box(boxes).to_dict()["layer"]


def test_histograms() -> None:
    assert histogram_overlap(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == 1
    assert histogram_overlap(np.array([0.01]), np.array([0.99])) == 0
    assert histogram_overlap(np.array([0.01, 0.99, 0.98]), np.array([0.99])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pick": "after"}, "unknown pick 'after'"),
        ({"quantile": 1.0}, "quantile is 1.0"),
        ({"least_overlap": 0.0}, "least_overlap is 0.0"),
        ({"variance": 0.0}, "variance is 0.0"),
    ],
)
def test_messages(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        found(2, **options)


def test_blocks_of_another_network() -> None:
    with pytest.raises(BlocksError, match="no module"):
        overlap_cut(Planted(9), nn.Linear(2, 2), [IMAGES], LAYERS)
