"""What people give the analyses: bare tensors for batches, names for blocks, other networks' states, data loaders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from transfuse.analysis import (
    activations,
    cca,
    cca_matrix,
    cca_patches,
    cka,
    cka_matrix,
    frechet_between,
    gradcam,
    knn_by_block,
    l2_distance,
    mean_attended_distance,
    put_back,
    reinitialise,
    reinitialise_score,
)
from transfuse.analysis.frechet import gaussian_of
from transfuse.analysis.maps import output_path
from transfuse.errors import AnalysisError, BlocksError
from transfuse.models import blocks_of, create_model


class Own(nn.Module):
    """A network that `blocks_of` cannot cut by itself."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv10, self.fc = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        return self.fc((x + self.conv10(x)).mean((2, 3)))


def own(seed: int = 0) -> Own:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Own()


def pictures(count: int = 12, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


NAMES = ["conv1", "conv10"]
TOKENS = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: activations(own(), x, NAMES), r"batches is a tensor of shape \(12, 3, 8, 8\), .*\[images\] or im"),
        (lambda x: cka_matrix(own(), own(1), x, NAMES), r"batches is a tensor .*images\.split\(64\)"),
        (
            lambda x: cka_matrix(own(), own(1), x.numpy(), NAMES),
            r"batches is an array .* expected batches: \[images\]$",
        ),
        (lambda x: cka_matrix(TOKENS, TOKENS, torch.zeros(9, 5, 16), ["layers.0"]), r"tensor of shape \(9, 5, 16\)"),
        (lambda x: cca_matrix(own(), own(1), x, NAMES), "batches is a tensor"),
        (lambda x: frechet_between(own(), x, [x], "conv1"), "batches_a is a tensor"),
        (lambda x: frechet_between(own(), [x], x, "conv1"), "batches_b is a tensor"),
        (lambda x: gaussian_of(x), r"batches is a tensor .*expected batches: \[features\]"),
        (lambda x: mean_attended_distance(own(), x), "batches is a tensor"),
        (lambda x: knn_by_block(own(), x, [x], NAMES), r"bank is a tensor .*expected batches: \[\(images, labels\)\]$"),
        (lambda x: cka_matrix(own(), own(1), 3, NAMES), r"batches is int; expected batches: \[images\], or a DataL"),
    ],
)
def test_a_tensor_is_not_gone_through_image_by_image(call: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        call(pictures())


def moved(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network after 1 was added to `conv1`, and its state before."""
    before = copy.deepcopy(dict(model.state_dict()))
    with torch.no_grad():
        model.conv1.weight += 1
    return model, before


@pytest.mark.parametrize("states", [False, True])
def test_names_of_modules_are_enough_for_the_weights(states: bool) -> None:
    model, before = moved(own())
    found = l2_distance(before, dict(model.state_dict()) if states else model, ["conv1", "bn1", "conv10"])
    assert list(found) == ["conv1", "conv10"]  # a norm has no entry; conv1 does not own conv10
    assert found["conv1"].weights == 4 * 27 + 4
    assert found["conv1"].distance == pytest.approx((4 * 27) ** 0.5 / (4 * 27 + 4), rel=1e-6)
    assert found["conv10"].distance == 0


def test_names_of_modules_are_enough_to_put_back() -> None:
    model, before = moved(own())

    def changed(net: nn.Module) -> float:
        return float((net.conv1.weight.detach() - before["conv1.weight"]).mean())

    found = reinitialise_score(model, before, ["conv10", "conv1", "bn1"], changed)
    assert [item.block for item in found.blocks] == ["conv10", "conv1", "bn1"]
    assert [item.value for item in found.blocks] == pytest.approx([1, 0, 1], abs=1e-6)
    by_metric = reinitialise(model, before, ("conv1",), lambda net: net(pictures(6))[:, 1], [0, 1] * 3, replicates=0)
    assert [item.block for item in by_metric.blocks] == ["conv1"]
    with put_back(model, before, ["conv1"], "conv1") as now:
        assert torch.equal(now.conv1.weight, before["conv1.weight"])
    assert changed(model) == pytest.approx(1, abs=1e-6)


def test_names_that_own_nothing_are_told() -> None:
    model, before = moved(own())
    for blocks, message in (
        (["conv2"], r"no weights under 'conv2': did you mean 'conv1'\? Choices: conv1, bn1, conv10, fc$"),
        (["act"], "no weights under 'act'"),
        ([], r"blocks is \[\]; expected blocks_of\(model\), or names"),
        ("conv1", r"blocks is 'conv1'; expected blocks_of\(model\), or names of modules: \['"),
    ):
        with pytest.raises(AnalysisError, match=message):
            l2_distance(before, model, blocks)
        with pytest.raises(AnalysisError, match=message):
            reinitialise_score(model, before, blocks, lambda net: 1.0)
    with pytest.raises(BlocksError, match=r"To look inside .* a list of module names is enough: \['conv1'"):
        blocks_of(model)


@pytest.mark.parametrize("level", ["stage", "block"])
def test_entries_that_only_the_other_network_has_are_refused(level: str) -> None:
    small = create_model("resnet10t", classes=2)
    state = copy.deepcopy(dict(small.state_dict()))
    extra = {"layer1.1.conv1.weight": torch.zeros(64, 64, 3, 3)}
    blocks = blocks_of(small, level)
    for before, after, side in (
        ({**state, **extra}, small, "after"),
        (small, {**state, **extra}, "before"),
        ({**state, **extra}, copy.deepcopy(state), "after"),
    ):
        with pytest.raises(AnalysisError, match=rf"not states of one network: 1 missing in {side}: layer1.1.conv1.we"):
            l2_distance(before, after, blocks)
    with pytest.raises(AnalysisError, match=r"1 missing in the network: layer1.1.conv1.weight"):
        reinitialise_score(small, {**state, **extra}, blocks, lambda net: 1.0)
    with pytest.raises(AnalysisError, match=r"missing in after: layer1.1"):
        l2_distance({**state, **extra}, small, ["layer1"])
    with pytest.raises(AnalysisError, match=r"missing in the network: layer1.1"):
        reinitialise_score(small, {**state, **extra}, ["layer1"], lambda net: 1.0)
    assert l2_distance({**state, **extra}, small, ["layer2"])["layer2"].distance == 0
    parameters = {name: tensor.detach().clone() for name, tensor in small.named_parameters()}
    assert l2_distance(parameters, small, blocks)["head"].distance == 0  # buffers are not compared, so may be left out


def test_sampled_patches_of_batches_are_those_of_the_whole() -> None:
    a, b, x = own(), own(1), pictures(40)
    options = {"p": 640, "d": 4, "repeats": 2}
    whole = cca_patches(a, b, x, NAMES, **options)
    data = TensorDataset(x, torch.arange(40))
    for batches in (
        x.split(7),
        [x.numpy()[:8], x.numpy()[8:]],
        DataLoader(data, batch_size=16),
        (p for p in x.split(9)),
    ):
        assert cca_patches(a, b, batches, NAMES, **options) == whole
    assert cca_patches(a, b, x.numpy(), NAMES, **options) == whole
    for given, message in (
        (data, r"images is TensorDataset; .* batches of them: DataLoader\(images, batch_size=64\)"),
        ({"x": x}, "images is dict; expected a tensor"),
        ([], "images: there are no batches"),
        ([x, pictures(4, 9)], r"batches of images of shapes \(3, 8, 8\), \(3, 9, 9\); expected images of one size"),
    ):
        with pytest.raises(AnalysisError, match=message):
            cca_patches(a, b, given, NAMES, **options)


@pytest.mark.parametrize(
    ("call", "choices"),
    [
        (lambda x, view: cka_matrix(own(), own(), [x], NAMES, view=view), "pooled, flat"),
        (lambda x, view: cca_matrix(own(), own(), [x], NAMES, view=view), "pooled, positions"),
        (lambda x, view: frechet_between(own(), [x], [x], "conv1", view=view), "pooled, positions"),
        (lambda x, view: knn_by_block(own(), [(x, [0] * 12)], [(x, [0] * 12)], NAMES, view=view), "pooled"),
    ],
)
@pytest.mark.parametrize("view", ["cls", "patches"])
def test_a_view_of_tokens_is_answered_with_views_that_the_analysis_takes(
    call: Callable[[Tensor, str], Any], choices: str, view: str
) -> None:
    with pytest.raises(AnalysisError, match=rf"Choices (without|for maps): {choices}\.$"):
        call(pictures(), view)


def test_messages_say_what_was_wrong() -> None:
    model, x = own(), pictures()
    with pytest.raises(TypeError) as raised:
        cka_matrix(model, model, [{"pixels": x}], NAMES)
    (note,) = raised.value.__notes__
    assert "with the arguments pixels" in note
    assert "Upsample" not in note
    with pytest.raises(AnalysisError, match=r"x has shape \(0, 5\); expected \(N, D\) with at least 4 samples"):
        cka(np.empty((0, 5)), np.empty((0, 5)))
    with pytest.raises(
        AnalysisError, match=r"no batch to compare: 1 of the batches had fewer than 4 .* larger batches"
    ):
        cka_matrix(model, model, [x[:3]], NAMES)
    spoiled = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32)
    spoiled[5000, 2] = np.nan
    for dtype in (np.float32, np.float64):
        with pytest.raises(AnalysisError, match=r"'x' has 1 of 40000 activations"):
            cca(spoiled.astype(dtype), spoiled.astype(dtype))
    with pytest.raises(AnalysisError, match=r"no block and no module '7': Choices: 0, 1$"):
        output_path(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "7")


def test_grad_cam_of_one_image_without_its_batch() -> None:
    pytest.importorskip("monai")
    with pytest.raises(
        AnalysisError, match=r"images are \(3, 8, 8\); expected 4 axes.*\(N, C, H, W\)\. .*images\[None\]"
    ):
        gradcam(own(), pictures()[0])


def test_activations_show_themselves() -> None:
    found = activations(own(), [pictures()], NAMES)
    assert repr(found) == (
        "Activations(Own, blocks: 'conv1', 'conv10'; iterate for each batch's, or take ['conv1'] for all images)"
    )
    x = pictures()
    x[0] = torch.nan
    assert torch.isnan(activations(own(), [x], NAMES)["conv1"][0]).all()  # as the documentation says
