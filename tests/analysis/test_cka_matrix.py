from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from transfuse.analysis.cka import cka
from transfuse.analysis.cka_matrix import MinibatchCKA, cka_matrix
from transfuse.errors import AnalysisError, AnalysisWarning
from transfuse.models import blocks_of, create_model

BLOCKS = ["conv", "bn", "body.0", "body.2"]


class Small(nn.Module):
    """A batch norm followed by an in-place ReLU, a residual, and a head."""

    def __init__(self, seed: int = 0, width: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.bn = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.body = nn.Sequential(nn.Conv2d(width, 8, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten())
            self.fc = nn.Linear(8 * 16, 3)
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.1, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.relu(self.bn(self.conv(x)))))


def images(count: int = 24, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def outputs(model: nn.Module, x: Tensor, blocks: list[str]) -> dict[str, np.ndarray]:
    """Written apart from the package: each block's output, copied at once, float64."""
    kept: dict[str, np.ndarray] = {}
    model = copy.deepcopy(model).eval()
    for name in blocks:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: kept.__setitem__(name, y.detach().double().flatten(1).numpy().copy())
        )
    with torch.no_grad():
        model(x)
    return kept


def u_centred(x: np.ndarray) -> np.ndarray:
    """METHODS AN-16, line by line."""
    k = x @ x.T
    n = len(k)
    np.fill_diagonal(k, 0)
    m = k.sum(0) / (n - 2)
    m -= m.sum() / (2 * (n - 1))
    k -= m[:, None] + m[None]
    np.fill_diagonal(k, 0)
    return k


def expected(
    a: nn.Module, b: nn.Module, batches: list[Tensor], blocks_a: list[str], blocks_b: list[str], average: str
) -> np.ndarray:
    values = np.zeros((len(blocks_a), len(blocks_b)))
    for i, first in enumerate(blocks_a):
        for j, second in enumerate(blocks_b):
            sums = np.zeros((len(batches), 3))
            for n, batch in enumerate(batches):
                k = u_centred(outputs(a, batch, blocks_a)[first])
                m = u_centred(outputs(b, batch, blocks_b)[second])
                sums[n] = (k * m).sum(), (k * k).sum(), (m * m).sum()
            if average == "ratio_of_sums":
                values[i, j] = sums[:, 0].sum() / np.sqrt(sums[:, 1].sum() * sums[:, 2].sum())
            else:
                sizes = [len(batch) for batch in batches]
                values[i, j] = np.average(sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2]), weights=sizes)
    return values


@pytest.mark.parametrize("average", ["ratio_of_sums", "mean_of_ratios"])
def test_is_the_formula_over_batches_of_changing_size(average: str) -> None:
    a, b = Small(0), Small(1, width=9)
    batches = [images(8), images(5, 1), images(11, 2), images(4, 3)]
    matrix = cka_matrix(a, b, batches, BLOCKS, BLOCKS[:2], average=average)
    assert (matrix.rows, matrix.columns) == (tuple(BLOCKS), tuple(BLOCKS[:2]))
    assert (matrix.measure, matrix.samples, matrix.ranks_rows) == ("cka", 28, ())
    np.testing.assert_allclose(matrix.values, expected(a, b, batches, BLOCKS, BLOCKS[:2], average), atol=1e-6)
    assert not matrix.independent.any()


def test_one_batch_is_cka_of_its_samples() -> None:
    a, b, x = Small(0), Small(1), images()
    found = outputs(a, x, BLOCKS), outputs(b, x, BLOCKS)
    for arguments in ({}, {"debiased": False}, {"kernel": "rbf"}, {"kernel": "rbf", "bandwidth": 0.5}):
        for average in ("ratio_of_sums", "mean_of_ratios"):
            matrix = cka_matrix(a, b, [x], BLOCKS, average=average, **arguments)
            for row in BLOCKS:
                for column in BLOCKS:
                    one = cka(found[0][row], found[1][column], **arguments)
                    assert matrix[row, column] == pytest.approx(float(one), abs=1e-6)
                    place = BLOCKS.index(row), BLOCKS.index(column)
                    assert matrix.independent[place] == pytest.approx(one.independent, abs=1e-6)
            assert matrix.measure == one.measure


def test_every_batch_counts() -> None:
    a, b, batches = Small(0), Small(1), list(images(24).split(8))
    values = [cka_matrix(a, b, some, ["conv"]).values.item() for some in (batches, batches[-1:], batches[:1])]
    assert min(abs(values[0] - values[1]), abs(values[0] - values[2])) > 1e-3


def test_a_small_last_batch_does_not_weigh_like_a_full_one() -> None:
    a, b, full = Small(0), Small(1), images(20)
    alone, with_last, last = (
        cka_matrix(a, b, batches, ["conv"]).values.item() for batches in ([full], [full, images(4, 5)], [images(4, 5)])
    )
    assert abs(last - alone) > 0.05
    assert abs(with_last - alone) < 0.2 * abs(last - alone)


@pytest.mark.parametrize("average", ["ratio_of_sums", "mean_of_ratios"])
def test_a_model_and_its_copy_agree_with_a_shuffling_loader(average: str) -> None:
    model = Small()
    loader = DataLoader(TensorDataset(images(), torch.arange(24)), batch_size=8, shuffle=True)
    matrix = cka_matrix(model, copy.deepcopy(model), loader, BLOCKS, average=average)
    np.testing.assert_allclose(np.diag(matrix.values), 1, atol=1e-9)
    assert (np.abs(matrix.values - np.eye(4))[~np.eye(4, dtype=bool)] > 1e-3).sum() > 8


def test_an_in_place_relu_does_not_overwrite_what_is_compared() -> None:
    model, x = Small(), images()
    blocks = ["bn", "relu"]
    matrix = cka_matrix(model, copy.deepcopy(model), [x], blocks)
    kept = outputs(model, x, blocks)
    assert matrix["bn", "relu"] == pytest.approx(float(cka(kept["bn"], kept["relu"])), abs=1e-6)
    assert matrix["bn", "relu"] < 0.99


def test_the_same_network_runs_once() -> None:
    model = Small()
    passes = []
    model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    batches = list(images().split(8))
    square = cka_matrix(model, model, batches, BLOCKS)
    assert passes == [1, 8, 8, 8]  # one image tells which order of memory it takes
    np.testing.assert_allclose(square.values, cka_matrix(model, copy.deepcopy(model), batches, BLOCKS).values)
    passes.clear()
    wide = cka_matrix(model, model, batches, ["bn", "fc"], ["conv", "bn", "fc"])
    assert passes == [8, 8, 8]
    assert (wide.rows, wide.columns) == (("bn", "fc"), ("conv", "bn", "fc"))
    np.testing.assert_allclose(wide.values[:, 1], square.values[[1, 1], [1, 1]] * [1, wide["fc", "bn"]])
    assert wide["bn", "conv"] == pytest.approx(square["bn", "conv"])
    assert wide["bn", "conv"] < 0.999


def test_blocks_of_two_levels_of_the_same_network() -> None:
    model = create_model("cbr_demo", classes=2)
    batches = [images(6, size=32)]
    blocks = blocks_of(model)
    paths = [block.output for block in blocks]
    matrix = cka_matrix(model, model, batches, blocks, paths)
    assert (matrix.rows, matrix.columns) == (blocks.names, tuple(paths))
    np.testing.assert_allclose(np.diag(matrix.values), 1)
    np.testing.assert_allclose(matrix.values, cka_matrix(model, model, batches, blocks).values)
    assert np.abs(matrix.values[0, 1:]).max() < 1 - 1e-6


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x)).relu())


def test_a_shared_layer_has_a_name_for_each_call() -> None:
    model, x = Shared(), torch.randn(12, 12)
    matrix = cka_matrix(model, copy.deepcopy(model), [x], ["first", "again"])
    assert matrix.rows == matrix.columns == ("first", "again", "again:2")
    np.testing.assert_allclose(np.diag(matrix.values), 1)
    picked = cka_matrix(model, model, [x], ["again"], ["first", "again"])
    assert (picked.rows, picked.columns) == (("again", "again:2"), ("first", "again", "again:2"))
    np.testing.assert_allclose(picked.values, matrix.values[1:])


class Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.LSTM(12, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


def test_outputs_that_are_tuples() -> None:
    model, x = Tuple(), torch.randn(10, 7, 12)
    with torch.no_grad():
        kept = model(x).flatten(1).numpy()
    matrix = cka_matrix(model, Shared(), [x], ["both"], ["first"])
    assert matrix.values.shape == (1, 1)
    first = cka_matrix(model, model, [x], ["both"])
    assert first.values.item() == pytest.approx(1)
    sums = MinibatchCKA()
    sums.update([kept], [x])
    identity = cka_matrix(model, nn.Sequential(nn.Identity()), [x], ["both"], ["0"])
    assert identity.values.item() == pytest.approx(sums.matrix().values.item(), abs=1e-6)


@pytest.mark.parametrize("view", ["flat", "pooled"])
def test_a_resnet_and_a_transformer(view: str) -> None:
    a, b = create_model("test_resnet", classes=2), create_model("test_vit", classes=2)
    size = 160  # what test_vit takes
    batches = [images(4, size=size), images(5, 1, size=size)]
    matrix = cka_matrix(a, b, batches, blocks_of(a), blocks_of(b), view=view)
    assert matrix.values.shape == (len(blocks_of(a)), len(blocks_of(b)))
    assert np.isfinite(matrix.values).all()
    assert (np.abs(matrix.values) <= 1 + 1e-9).all()


def test_views_of_tokens() -> None:
    model, x = create_model("test_vit", classes=2).eval(), images(6, size=160)
    block = blocks_of(model)[1]
    kept: list[Tensor] = []
    handle = model.get_submodule(block.output).register_forward_hook(lambda _, __, y: kept.append(y.detach().clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    prefix = model.num_prefix_tokens
    views = {"cls": kept[0][:, 0], "patches": kept[0][:, prefix:].mean(1), "flat": kept[0].flatten(1)}
    views["both"] = torch.cat([views["cls"], views["patches"]], 1)
    for view, features in views.items():
        sums = MinibatchCKA()
        sums.update([features], [x])
        matrix = cka_matrix(model, nn.Sequential(nn.Identity()), [x], [block.output], ["0"], view="flat")
        assert (view == "flat") == (matrix.values.item() == pytest.approx(sums.matrix().values.item(), abs=1e-5))
        sums = MinibatchCKA()
        sums.update([features], [features])
        assert cka_matrix(model, model, [x], [block.output], view=view).values.item() == pytest.approx(1)
        other = cka_matrix(model, model, [x], [block.output, blocks_of(model)[2].output], view=view)
        assert other.values[0, 1] < 1 - 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_any_floating_type(dtype: torch.dtype) -> None:
    a, b, x = Small(0), Small(1), images()
    reference = cka_matrix(a, b, [x], BLOCKS)
    matrix = cka_matrix(a.to(dtype), b.to(dtype), [x.to(dtype)], BLOCKS)
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    np.testing.assert_allclose(matrix.values, reference.values, atol=tolerance)
    mixed = cka_matrix(a, Small(1), [x], BLOCKS)
    np.testing.assert_allclose(mixed.values, reference.values, atol=tolerance)


def test_dead_channels_change_nothing_and_dead_layers_are_named() -> None:
    model, x = Small(), images()
    other = Small(1)
    with torch.no_grad():
        model.conv.weight[2:4] = 0
        model.bn.weight[2:4] = 0
    kept = outputs(model, x, ["bn"])["bn"], outputs(other, x, ["bn"])["bn"]
    found = cka_matrix(model, other, [x], ["bn"]).values.item()
    assert found == pytest.approx(float(cka(*kept)), abs=1e-6)
    with torch.no_grad():
        model.bn.weight[:] = 0
    for average in ("ratio_of_sums", "mean_of_ratios"):
        with pytest.raises(AnalysisError, match=r"block 'bn' \(rows\) does not vary .* 0 / 0\. Leave it out"):
            cka_matrix(model, other, [x], BLOCKS, average=average)
        with pytest.raises(AnalysisError, match=r"block 'bn' \(columns\) does not vary"):
            cka_matrix(other, model, [x], BLOCKS, average=average)


def test_a_layer_of_which_one_sample_differs_has_no_debiased_cka() -> None:
    sums = MinibatchCKA()
    sums.update([torch.cat([torch.full((1, 3000), 5.3), torch.full((30, 3000), 0.1)]), torch.randn(31, 5)])
    with pytest.raises(AnalysisError, match="block '0'"):
        sums.matrix()


def test_large_means_lose_no_digits() -> None:
    x, shift = images(), nn.Identity()
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3))
    plain = cka_matrix(net, net, [x], ["0", "1"])
    with torch.no_grad():
        net[1].bias += 1e3
    shifted = cka_matrix(net, net, [x], ["0", "1"])
    np.testing.assert_allclose(shifted.values, plain.values, atol=1e-4)  # float32 activations of 1e3 hold 1e-4
    assert shift is not None


def test_activations_that_are_not_finite_are_named() -> None:
    model, x = Small(), images()
    x[3, 0, 2, 2] = float("nan")
    with pytest.raises(AnalysisError, match=r"'conv of model_a' has \d+ of \d+ activations that are NaN"):
        cka_matrix(model, Small(1), [x], BLOCKS)
    broken = Small(1)
    with torch.no_grad():
        broken.body[0].weight[0] = float("inf")
    with pytest.raises(AnalysisError, match=r"'body.0 of model_b'"):
        cka_matrix(Small(), broken, [images()], BLOCKS)
    with pytest.raises(AnalysisError, match=r"'wide' has activations so large that their products overflow"):
        MinibatchCKA().update({"wide": np.random.default_rng(0).standard_normal((5, 3)) * 1e200})


def test_short_batches_are_left_out_and_told() -> None:
    a, b = Small(0), Small(1)
    full = [images(8), images(9, 1)]
    with pytest.warns(
        AnalysisWarning, match=r"2 of the batches had fewer than 4 samples \(4 in all\).*drop_last"
    ) as told:
        matrix = cka_matrix(a, b, [images(3, 2), *full, images(1, 3)], BLOCKS)
    assert told[0].filename == __file__
    assert matrix.samples == 17
    np.testing.assert_array_equal(matrix.values, cka_matrix(a, b, full, BLOCKS).values)
    with pytest.raises(AnalysisError, match=r"no batch to compare: 1 of the batches had fewer than 4 samples"):
        cka_matrix(a, b, [images(3)], BLOCKS)


def test_generators_and_mappings_and_what_is_no_batch() -> None:
    a, b, x = Small(0), Small(1), images()
    reference = cka_matrix(a, b, x.split(8), BLOCKS).values

    def generated() -> Iterator[Any]:
        for part in x.split(8):
            yield {"x": part}

    batches = generated()
    np.testing.assert_allclose(cka_matrix(a, b, batches, BLOCKS).values, reference, atol=1e-6)
    with pytest.raises(AnalysisError, match=r"no batch to compare\. Expected at least one .* used before is empty"):
        cka_matrix(a, b, batches, BLOCKS)
    with pytest.raises(AnalysisError, match="a batch is str"):
        cka_matrix(a, b, ["images"], BLOCKS)


def test_what_is_asked_for_wrongly_is_told_before_any_pass() -> None:
    model = Small()
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    for arguments, message in (
        ((["conv", "body.9"],), "no module 'body.9': did you mean 'body"),
        ((BLOCKS, ["fcc"]), "no module 'fcc': did you mean 'fc'"),
        ((BLOCKS, "bn"), r"blocks is the text 'bn'"),
        (("bn",), r"blocks is the text 'bn'"),
        (([],), "blocks is empty"),
    ):
        for other in (model, Small()):
            with pytest.raises(AnalysisError, match=message):
                cka_matrix(model, other, [images()], *arguments)
    for keywords, message in (
        ({"average": "ratio"}, "unknown average 'ratio': .*ratio_of_sums"),
        ({"kernel": "rfb"}, "unknown kernel 'rfb'"),
        ({"bandwidth": -1.0}, "bandwidth is -1.0"),
        ({"view": "positions"}, "unknown view 'positions' for CKA"),
    ):
        with pytest.raises(AnalysisError, match=message):
            cka_matrix(model, model, [images()], BLOCKS, **keywords)
    assert not passes


def test_a_network_that_takes_another_size_says_which_and_how() -> None:
    a, b = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), Small()  # whose head is for images of 8 px
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        cka_matrix(a, b, [images(5, size=12)], ["0", "1"], BLOCKS)
    (note,) = raised.value.__notes__
    assert "gave model_b, Small, a batch of shape (5, 3, 12, 12); both networks get the same" in note
    resized = nn.Sequential(nn.Upsample(size=8), b)  # as the note says
    matrix = cka_matrix(a, resized, [images(5, size=12)], ["0", "1"], [f"1.{name}" for name in BLOCKS])
    assert np.isfinite(matrix.values).all()


class Fails(Small):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 5:
            raise ValueError("five")
        return super().forward(x) + nn.functional.dropout(torch.ones(3), 0.5, self.training)


def test_nothing_of_the_networks_is_changed() -> None:
    model, other = Fails(), Fails(1)
    model.train()
    other.body.train()
    other.bn.eval()
    other.fc.train()
    modes = [module.training for both in (model, other) for module in both.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    strides = [p.stride() for p in model.parameters()]
    cka_matrix(model, other, [images(8)], BLOCKS)
    with pytest.raises(ValueError, match="five") as raised:
        cka_matrix(model, other, [images(8), images(5)], BLOCKS)
    assert "model_a, Fails" in raised.value.__notes__[0]
    x = images(8)
    x[0] = float("nan")
    with pytest.raises(AnalysisError):
        cka_matrix(model, other, [x], BLOCKS)
    assert [module.training for both in (model, other) for module in both.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert [p.stride() for p in model.parameters()] == strides
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for both in (model, other):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in both.modules())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_averages_and_batch_sizes_agree_as_published(seed: int) -> None:
    """METHODS 4.2, 2048 samples with 50 shared factors: the averages are 0.006 apart at 8 and below 0.001 from 64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = normal(2048, 50)
    x, y = (shared @ normal(50, width) + 2 * normal(2048, width) for width in (100, 80))
    full = float(cka(x, y))

    def of(average: str, size: int) -> float:
        sums = MinibatchCKA(average=average)
        for part_x, part_y in zip(x.split(size), y.split(size), strict=True):
            sums.update([part_x], [part_y])
        return sums.matrix().values.item()

    for size, tolerance in ((8, 0.03), (64, 0.008), (128, 0.005)):  # what the draw of the batches allows
        assert of("ratio_of_sums", size) == pytest.approx(full, abs=tolerance)
    assert of("ratio_of_sums", 2048) == pytest.approx(full, abs=1e-9)
    assert of("mean_of_ratios", 2048) == pytest.approx(full, abs=1e-9)
    assert -0.02 < of("mean_of_ratios", 8) - of("ratio_of_sums", 8) < -0.0001
    assert abs(of("mean_of_ratios", 64) - of("ratio_of_sums", 64)) < 0.001


def test_independent_features_are_at_zero_in_small_batches_only_debiased() -> None:
    generator = torch.Generator().manual_seed(0)
    for debiased in (True, False):
        sums = MinibatchCKA(debiased=debiased)
        for _ in range(60):
            sums.update([torch.randn(8, 40, generator=generator)], [torch.randn(8, 30, generator=generator)])
        matrix = sums.matrix()
        if debiased:
            assert abs(matrix.values.item()) < 0.05
        else:
            assert matrix.values.item() > 0.7
        assert matrix.values.item() == pytest.approx(matrix.independent.item(), abs=0.05)


def test_accumulating_arrays_of_any_shape_by_name_or_by_place() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((20, 3, 4, 4)).astype(np.float32)
    y = generator.standard_normal((20, 6)) + x.reshape(20, -1)[:, :6]
    named, listed = MinibatchCKA(), MinibatchCKA()
    for part in np.split(np.arange(20), 2):
        named.update({"maps": x[part], "row": torch.from_numpy(y[part, 0])}, {"wide": y[part]})
        listed.update([x[part], y[part, 0]], [y[part]])
    assert (named.matrix().rows, named.matrix().columns) == (("maps", "row"), ("wide",))
    assert (listed.matrix().rows, listed.matrix().columns) == (("0", "1"), ("0",))
    np.testing.assert_array_equal(named.matrix().values, listed.matrix().values)
    assert named.samples == named.matrix().samples == 20
    assert named.matrix().frame()["value"].tolist() == named.matrix().values.ravel().tolist()
    with pytest.raises(AnalysisError, match=r"'row' is not as in the batches before|'deep' is not as"):
        named.update({"maps": x, "deep": y}, {"wide": y})
    with pytest.raises(AnalysisError, match="'the order of layers' is not as"):
        named.update({"row": y, "maps": x}, {"wide": y})


def test_accumulating_what_does_not_fit() -> None:
    sums = MinibatchCKA()
    with pytest.raises(AnalysisError, match="there is no batch to compare"):
        sums.matrix()
    with pytest.raises(AnalysisError, match="'a': 8, 'b': 7; expected layers with the same number of samples"):
        sums.update({"a": np.ones((8, 2)), "b": np.ones((7, 2))})
    with pytest.raises(AnalysisError, match="a batch has no layers"):
        sums.update({})
    with pytest.raises(AnalysisError, match="'a' has no features"):
        sums.update({"a": np.ones((8, 0))})
    with pytest.raises(AnalysisError, match=r"features are one array of shape \(8, 2\).*or a list of arrays: \[x\]"):
        sums.update(np.ones((8, 2)))
    with pytest.raises(AnalysisError, match="activations are complex"):
        sums.update([np.ones((8, 2)) * 1j])
    with pytest.raises(AnalysisError, match="'0': the median distance between the 8 samples is 0"):
        MinibatchCKA(kernel="rbf").update([np.ones((8, 2))])
    sums.update([np.ones((3, 2))])
    sums.update([np.random.default_rng(0).standard_normal((8, 2))])
    with pytest.warns(AnalysisWarning, match="1 of the batches had fewer than 4"):
        assert sums.matrix().samples == 8


def test_agrees_with_a_published_implementation() -> None:
    ckatorch = pytest.importorskip("ckatorch", reason="comes with the extra test")
    a, b, batches = Small(0), Small(1), list(images(32).split(8))
    theirs = np.zeros((3, 4, 4))
    for batch in batches:
        kept = [outputs(model, batch, BLOCKS) for model in (a, b)]
        x, y = ([torch.from_numpy(side[name] @ side[name].T)[None] for name in BLOCKS] for side in kept)
        for place, (left, right) in enumerate(((x, y), (x, x), (y, y))):
            theirs[place] += [[ckatorch.hsic1(k, m).item() for m in right] for k in left]
    ratio = theirs[0] / np.sqrt(np.outer(np.diag(theirs[1]), np.diag(theirs[2])))
    np.testing.assert_allclose(cka_matrix(a, b, batches, BLOCKS).values, ratio, atol=1e-6)


def test_no_warnings_where_nothing_is_left_out() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cka_matrix(Small(), Small(1), [images(4)], BLOCKS)
