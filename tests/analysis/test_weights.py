"""Distances of weights block by block, histograms, first filters and their pictures; every message."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from transfuse.analysis.filters import filter_grid, first_layer, first_layer_filters
from transfuse.analysis.weights import l2_distance, weight_histogram
from transfuse.errors import AnalysisError
from transfuse.models import Block, Blocks, blocks_of, create_model
from transfuse.models.matching import first_convolution

NETWORKS = ("cbr_demo", "test_resnet", "test_vit", "test_convnext")


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def shifted(model: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("reduce", ["concatenated", "tensor_mean"])
def test_distance_of_every_block_by_hand(name: str, reduce: str) -> None:
    model = create_model(name, classes=2)
    blocks, before = blocks_of(model, "layer"), state(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    found = l2_distance(before, model, blocks, reduce=reduce)
    norms = {path for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)}
    norms |= {path for path, m in model.named_modules() if "Norm" in type(m).__name__}
    assert norms
    wanted: dict[str, list[Tensor]] = {}
    for key, parameter in model.named_parameters():
        if key.rpartition(".")[0] not in norms:
            wanted.setdefault(blocks.owner(key), []).append(
                (parameter.detach().double() - before[key].double()).flatten()
            )
    assert list(found) == [block for block in (*blocks.names, "head") if block in wanted]
    for block, moves in wanted.items():
        every = torch.cat(moves)
        values = {
            "concatenated": every.norm() / len(every),
            "tensor_mean": torch.stack([move.norm() / len(move) for move in moves]).mean(),
        }
        assert found[block].weights == len(every)
        assert found[block].distance == pytest.approx(values[reduce].item(), rel=1e-9)


def test_only_the_block_that_moved_has_moved() -> None:
    model = create_model("test_resnet", classes=2)
    blocks, before = blocks_of(model, "layer"), state(model)
    assert {moved.distance for moved in l2_distance(before, model, blocks).values()} == {0.0}
    name = blocks.names[2]
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if blocks[2].owns(key) and parameter.ndim == 4:
                parameter.add_(0.5)
    found = l2_distance(before, model, blocks)
    assert [block for block, moved in found.items() if moved.distance] == [name]
    assert found[name].distance == pytest.approx(0.5 / math.sqrt(found[name].weights), rel=1e-4)
    assert l2_distance(model, before, blocks) == found  # symmetric


def test_norm_layers_and_statistics_do_not_count() -> None:
    model = create_model("test_resnet", classes=2)
    blocks, before = blocks_of(model), state(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.add_(3.0)
                module.num_batches_tracked.add_(7)
    assert {moved.distance for moved in l2_distance(before, model, blocks).values()} == {0.0}


@pytest.mark.parametrize("name", NETWORKS)
def test_two_state_dicts_tell_the_same(name: str) -> None:
    model = create_model(name, classes=2)
    blocks, before = blocks_of(model, "layer"), state(model)
    shifted(model, 0.25)
    by_module = l2_distance(before, model, blocks)
    assert l2_distance(before, state(model), blocks) == by_module
    assert l2_distance(copy.deepcopy(model), before, blocks) == by_module


def test_a_block_of_a_norm_alone_has_no_entry() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    blocks = Blocks("layer", (Block("conv", ("0",), "0"), Block("norm", ("1",), "1")), ("3",))
    before = state(model)
    assert list(l2_distance(before, shifted(model, 1.0), blocks)) == ["conv", "head"]


def test_half_precision_and_other_types_are_compared_as_float64() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 2, bias=False)).half()
    before = state(model)
    with torch.no_grad():
        model[0].weight.copy_(before["0.weight"] + 300)  # its square overflows float16
    moved = l2_distance(before, model, blocks_of(model))["0"]
    assert moved.distance == pytest.approx(300 / 100, rel=1e-3)


def test_distance_messages() -> None:
    model = create_model("cbr_demo", classes=2)
    blocks, before = blocks_of(model), state(model)
    with pytest.raises(AnalysisError, match=r"unknown reduce 'mean': .*Choices: concatenated, tensor_mean"):
        l2_distance(before, model, blocks, reduce="mean")
    with pytest.raises(AnalysisError, match=r"before and after share the memory of \d+ tensors .*deepcopy"):
        l2_distance(model.state_dict(), model, blocks)
    with pytest.raises(AnalysisError, match=r"a str is no network"):
        l2_distance("cbr_demo", model, blocks)
    other = create_model("cbr_demo", classes=3)
    with pytest.raises(AnalysisError, match=r"2 of other shape in before and after: head.weight \(3, .*\) and \(2, "):
        l2_distance(other, model, blocks)
    lacks = {name: tensor for name, tensor in before.items() if "head" not in name}
    with pytest.raises(AnalysisError, match=r"not states of one network: 2 missing in before: head.weight, head.bias"):
        l2_distance(lacks, model, blocks)
    before["head.bias"][0] = torch.nan
    with pytest.raises(AnalysisError, match=r"'head.bias' holds NaN or infinite weights"):
        l2_distance(before, model, blocks)


def test_histogram_of_weights() -> None:
    model = create_model("cbr_demo", classes=2)
    weight = model.get_submodule(first_convolution(model)).weight
    found = weight_histogram(model, bins=20)
    values = weight.detach().double().numpy().ravel()
    counts, edges = np.histogram(values, 20)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.edges, edges)
    assert (found.outside, found.counts.sum()) == (0, weight.numel())
    assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert (found.density * np.diff(found.edges)).sum() == pytest.approx(1)
    for same in (weight, weight.detach().numpy(), model.state_dict()):
        np.testing.assert_array_equal(weight_histogram(same, bins=20).counts, counts)
    named = weight_histogram(model, "head.weight", bins=[-10, 0, 10])
    assert named.counts.tolist() == [(model.head.weight < 0).sum(), (model.head.weight >= 0).sum()]
    narrow = weight_histogram(torch.tensor([-2.0, 0.0, 0.5, 2.0]), bins=[-1.0, 0.0, 1.0])
    assert (narrow.counts.tolist(), narrow.outside) == ([0, 2], 2)
    assert (narrow.density * np.diff(narrow.edges)).sum() == pytest.approx(0.5)
    assert weight_histogram(torch.ones(7, dtype=torch.bfloat16), bins=4).counts.sum() == 7
    assert weight_histogram(nn.Conv2d(1, 2, 3)).counts.sum() == 18


def test_histogram_messages() -> None:
    model = create_model("cbr_demo", classes=2)
    with pytest.raises(AnalysisError, match=r"there is no entry 'head.weigth': did you mean 'head.weight'"):
        weight_histogram(model, "head.weigth")
    with pytest.raises(AnalysisError, match=r"2 weights, 1 of them NaN"):
        weight_histogram([1.0, np.nan])
    with pytest.raises(AnalysisError, match=r"0 weights"):
        weight_histogram(torch.empty(0))
    with pytest.raises(AnalysisError, match=r"bins is 0; expected 1 or more"):
        weight_histogram([1.0], bins=0)
    with pytest.raises(AnalysisError, match=r"bins has 3 edges, not ascending"):
        weight_histogram([1.0], bins=[0.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("name", "path"),
    [("cbr_demo", ""), ("test_resnet", "conv1.0"), ("test_vit", "patch_embed.proj"), ("test_convnext", "stem.0")],
)
def test_the_first_filters_are_those_that_see_the_image(name: str, path: str) -> None:
    model = create_model(name, classes=2)
    weight = model.get_submodule(path or first_convolution(model)).weight
    assert weight.shape[1] == 3
    np.testing.assert_array_equal(first_layer_filters(model), weight.detach().double().numpy())
    np.testing.assert_array_equal(first_layer_filters(state(model)), weight.detach().double().numpy())


def test_initial_trained_and_difference() -> None:
    model = create_model("cbr_demo", classes=2)
    before = state(model)
    found = first_layer(before, shifted(model, 0.5))
    np.testing.assert_array_equal(found.initial, first_layer_filters(before))
    np.testing.assert_array_equal(found.trained, first_layer_filters(model))
    np.testing.assert_allclose(found.difference, 0.5, atol=1e-6)
    volumes = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    assert first_layer_filters(volumes).shape == (4, 1, 3, 3, 3)
    assert first_layer_filters(volumes.state_dict()).shape == (4, 1, 3, 3, 3)


def test_filter_messages() -> None:
    with pytest.raises(AnalysisError, match=r"no convolution, so no first filters; name the entry to take: .*0.weight"):
        first_layer_filters(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(AnalysisError, match=r"no convolution"):
        first_layer_filters({"weight": torch.ones(2, 2)})
    with pytest.raises(AnalysisError, match=r"'0.bias' has shape \(4,\); expected a convolution's weight"):
        first_layer_filters(nn.Sequential(nn.Conv2d(3, 4, 3)), "0.bias")
    with pytest.raises(AnalysisError, match=r"the first filters hold NaN"):
        first_layer_filters({"weight": torch.full((1, 1, 2, 2), torch.nan)})
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(AnalysisError, match=r"before and after share the memory"):
        first_layer(model.state_dict(), model)
    with pytest.raises(AnalysisError, match=r"shape \(4, 1, 3, 3\) before and \(4, 3, 3, 3\) after"):
        first_layer(nn.Sequential(nn.Conv2d(1, 4, 3)), model)


def test_the_grid_shows_zero_as_grey_and_keeps_order_and_strength() -> None:
    filters = np.zeros((3, 1, 2, 2))
    filters[0], filters[1, 0, 0, 0] = 2.0, -1.0
    shared = filter_grid(filters, columns=3)
    assert shared.dtype == np.uint8
    assert shared.tolist() == [[255, 255, 255, 64, 128, 255, 128, 128], [255, 255, 255, 128, 128, 255, 128, 128]]
    own = filter_grid(filters, scale="filter", columns=3)
    assert own[0].tolist() == [255, 255, 255, 0, 128, 255, 128, 128]
    assert filter_grid(filters, limit=4.0, columns=3)[0, :2].tolist() == [191, 191]
    assert filter_grid(filters, limit=1.0, columns=3)[0, 3] == 0
    assert set(filter_grid(np.zeros((1, 3, 4, 4))).ravel()) == {128}
    large = filter_grid(filters, columns=3, magnify=3)
    np.testing.assert_array_equal(large[:6:3, :6:3], shared[:2, :2])
    assert large.shape == (6, 20)


def test_the_grid_of_colours_of_other_channels_and_of_volumes() -> None:
    rng = np.random.default_rng(0)
    colours = rng.normal(size=(5, 3, 4, 4))
    grid = filter_grid(colours)
    assert grid.shape == (2 * 5 - 1, 3 * 5 - 1, 3)
    scaled = np.rint(127.5 * (1 + colours[1] / np.abs(colours).max())).astype(np.uint8)
    np.testing.assert_array_equal(grid[:4, 5:9], scaled.transpose(1, 2, 0))
    assert filter_grid(torch.tensor(colours[:, :2]), columns=2).shape == (5 * 5 - 1, 2 * 5 - 1)
    volumes = rng.normal(size=(4, 1, 3, 5, 5))
    np.testing.assert_array_equal(filter_grid(volumes, limit=9.0), filter_grid(volumes[:, :, 1], limit=9.0))


@pytest.mark.parametrize(
    ("filters", "options", "message"),
    [
        (np.ones((2, 1, 3, 3)), {"scale": "own"}, r"unknown scale 'own': .*shared, filter"),
        (np.ones((2, 3)), {}, r"filters have shape \(2, 3\), 0 of 6 NaN or infinite; expected finite"),
        (np.full((2, 1, 3, 3), np.inf), {}, r"18 of 18 NaN or infinite"),
        (np.ones((2, 1, 3, 3)), {"limit": 0.0}, r"limit is 0.0 with scale 'shared'; expected a number above 0"),
        (np.ones((2, 1, 3, 3)), {"limit": 1.0, "scale": "filter"}, r"limit is 1.0 with scale 'filter'"),
        (np.ones((2, 1, 3, 3)), {"magnify": 0}, r"magnify is 0; expected 1 or more"),
        (np.ones((2, 1, 3, 3)), {"columns": 0}, r"columns=0"),
    ],
)
def test_grid_messages(filters: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        filter_grid(filters, **options)
