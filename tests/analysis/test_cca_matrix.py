from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from transfuse.analysis.cca import cca, pwcca, svcca
from transfuse.analysis.cca_matrix import cca_matrix
from transfuse.analysis.chance import independent_level
from transfuse.errors import AnalysisError, AnalysisWarning
from transfuse.models import blocks_of, create_model


def images_of(count: int = 96, size: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, width: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 4),
        )


def outputs(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: found.update({name: o.clone()}))
        for name in names
    ]
    model.eval()
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


def places(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


@pytest.mark.parametrize(("measure", "single"), [("cca", cca), ("svcca", svcca), ("pwcca", pwcca)])
def test_cells_are_those_of_all_activations_at_once(measure: str, single: object) -> None:
    a, b, images = network(0), network(1), images_of()
    names = ["0", "3", "6"]
    matrix = cca_matrix(a, b, images.split(32), names, measure=measure)
    x, y = outputs(a, images, names), outputs(b, images, names)
    mean = lambda z: z.mean((2, 3)) if z.ndim == 4 else z  # noqa: E731
    for p, q, left, right in (
        ("0", "0", places(x["0"]), places(y["0"])),
        ("3", "3", places(x["3"]), places(y["3"])),
        ("0", "3", places(functional.avg_pool2d(x["0"], 2)), places(y["3"])),
        ("3", "0", places(x["3"]), places(functional.avg_pool2d(y["0"], 2))),
        ("0", "6", mean(x["0"]), y["6"]),
        ("6", "3", x["6"], mean(y["3"])),
        ("6", "6", x["6"], y["6"]),
    ):
        expected = single(left.double(), right.double())
        assert matrix[p, q] == pytest.approx(expected.value, abs=1e-6)  # passes of 32 and of 96 round differently
        i, j = names.index(p), names.index(q)
        assert matrix.samples[i, j] == expected.samples
        assert matrix.independent[i, j] == pytest.approx(expected.independent)
    assert matrix.measure == measure


@pytest.mark.parametrize("sizes", [[96], [32] * 3, [50, 45, 1], [1, 95]])
def test_batches_of_any_length_give_the_same(sizes: list[int]) -> None:
    a, b, images = network(0), network(1), images_of()
    whole = cca_matrix(a, b, [images], ["0", "3"])
    np.testing.assert_allclose(cca_matrix(a, b, images.split(sizes), ["0", "3"]).values, whole.values, atol=1e-9)


def test_one_pass_over_a_shuffled_loader_sees_the_same_images_in_both() -> None:
    model = network()
    drawn: list[int] = []

    def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(96, generator=torch.Generator().manual_seed(len(drawn)))
        for part in order.split(32):
            drawn.append(len(part))
            yield images_of()[part], torch.zeros(len(part))

    copy = network()
    matrix = cca_matrix(model, copy, shuffled(), ["0", "3"])
    assert np.diag(matrix.values) == pytest.approx(1, abs=1e-7)
    assert drawn == [32, 32, 32]


def test_an_in_place_relu_later_does_not_reach_back() -> None:
    model, images = network(), images_of()
    found = cca_matrix(model, model, [images], ["1", "2"])
    before, after = outputs(model, images, ["1"])["1"], outputs(model, images, ["2"])["2"]
    expected = cca(places(before).double(), places(after).double()).value
    assert expected < 0.98
    assert found["1", "2"] == pytest.approx(expected, abs=1e-9)


def test_two_names_for_one_network_or_its_copy_give_the_same() -> None:
    model, images = network(), images_of()
    once = cca_matrix(model, model, [images], ["0", "3"], measure="pwcca")
    copy = cca_matrix(model, network(), [images], ["0", "3"], measure="pwcca")
    np.testing.assert_allclose(once.values, copy.values, atol=1e-9)
    other = cca_matrix(model, model, [images], ["0"], ["3", "0"])
    assert other["0", "0"] == pytest.approx(1, abs=1e-7)
    assert (other.rows, other.columns) == (("0",), ("3", "0"))


def test_each_layer_is_whitened_once_for_all_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = sys.modules["transfuse.analysis.cca_matrix"]
    original, done = module.whitened, []
    monkeypatch.setattr(module, "whitened", lambda m, name, t: (done.append(name), original(m, name, t))[1])
    cca_matrix(network(0), network(1), [images_of()], ["0", "1", "2"])
    assert sorted(done) == sorted(f"{n} of model_{side}" for n in "012" for side in "ab")


def test_same_pairs_leave_the_other_cells_open() -> None:
    matrix = cca_matrix(network(0), network(1), [images_of()], ["0", "3"], ["1", "3"], pairs="same")
    assert np.isnan(matrix.values).tolist() == [[False, True], [True, False]]
    assert matrix.frame()[["row", "column", "samples"]].values.tolist() == [["0", "1", 13824], ["3", "3", 3456]]
    with pytest.raises(AnalysisError, match=r"pairs='same' goes through both lists.*a has 2, b 1"):
        cca_matrix(network(0), network(1), [images_of()], ["0", "3"], ["1"], pairs="same")


@pytest.mark.parametrize("view", ["pooled", "positions"])
def test_dead_channels_and_ranks(view: str) -> None:
    a, b = network(0), network(1)
    with torch.no_grad():
        a[0].weight[[1, 4]], a[0].bias[[1, 4]] = 0, 0
    matrix = cca_matrix(a, b, images_of().split(40), ["0", "3"], view=view)
    assert (matrix.ranks_rows, matrix.ranks_columns) == ((6, 8), (8, 8))
    assert np.isfinite(matrix.values).all()
    with torch.no_grad():
        a[0].weight[:], a[0].bias[:] = 0, 0
    with pytest.raises(AnalysisError, match="0 of model_a is constant: none of its 8 columns"):
        cca_matrix(a, b, [images_of()], ["0"], view=view)


def test_few_images_are_told_once_with_the_worst_pair() -> None:
    images = images_of(40)
    with pytest.warns(AnalysisWarning, match="fewest for '0 of model_a'.*40 samples of 8 neurons") as seen:
        matrix = cca_matrix(network(0), network(1), [images], ["0", "3"], view="pooled")
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert matrix.samples == 40
    assert matrix.independent == pytest.approx(independent_level(40, 8, 8))


def test_random_features_of_the_same_shape() -> None:
    given = [network(0), network(1), [images_of()], ["0", "3"]]
    drawn = cca_matrix(*given, random=np.random.default_rng(0))
    theory = cca_matrix(*given)
    np.testing.assert_array_equal(drawn.values, theory.values)
    assert not np.array_equal(drawn.independent, theory.independent)
    np.testing.assert_allclose(drawn.independent, theory.independent, rtol=0.4)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.block(self.stem(x)))
        return self.pair(self.block(x))[0]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x * 2, "and something else"


def test_shared_layers_tuples_and_the_state_of_the_network() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Twice().train()
    state = torch.random.get_rng_state()
    matrix = cca_matrix(model, model, images_of(60).split(20), ["block", "relu", "pair"])
    assert matrix.rows == ("block", "block:2", "relu", "pair")
    assert matrix["block:2", "pair"] == pytest.approx(1, abs=1e-7)
    assert matrix["block", "block:2"] < 0.999
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_nan_is_told_with_the_block_and_leaves_no_hooks() -> None:
    model = network()
    with torch.no_grad():
        model[3].bias[2] = torch.nan
    with pytest.raises(AnalysisError, match="'3 of model_b' has 3456 of 27648 activations that are NaN"):
        cca_matrix(network(), model, [images_of()], ["0", "3"])
    assert not any(module._forward_hooks for module in model.modules())


def test_options_blocks_and_batches_that_cannot_be_meant() -> None:
    a, images = network(), images_of()
    for options, message in (
        ({"measure": "cka"}, "unknown measure 'cka' for CCA: did you mean 'cca'"),
        ({"view": "flat"}, "unknown view 'flat' for CCA"),
        ({"pairs": "every"}, "unknown pairs 'every' for CCA"),
    ):
        with pytest.raises(AnalysisError, match=re.escape(message)):
            cca_matrix(a, a, [images], ["0"], **options)
    with pytest.raises(AnalysisError, match="there are no batches"):
        cca_matrix(a, a, [], ["0"])
    with pytest.raises(AnalysisError, match="has no module '33'"):
        cca_matrix(a, a, [images], ["33"])
    with pytest.raises(AnalysisError, match="there is 1 sample in all"):
        cca_matrix(a, a, [images[:1]], ["0"], view="pooled")
    with pytest.raises(AnalysisError, match=re.escape("places (8, 8) in this batch and (12, 12) in the first")):
        cca_matrix(a, a, [images, images_of(size=8)], ["0"])
    cca_matrix(a, a, [images, images_of(size=8)], ["0"], view="pooled")


def test_half_precision_networks() -> None:
    images = images_of()
    half = cca_matrix(network(0).bfloat16(), network(1).bfloat16(), [images], ["0", "3"])
    np.testing.assert_allclose(half.values, cca_matrix(network(0), network(1), [images], ["0", "3"]).values, atol=0.02)


@pytest.mark.filterwarnings("ignore::transfuse.errors.AnalysisWarning")
def test_convolutions_beside_tokens_meet_on_the_patches() -> None:
    conv, vit = create_model("resnet18", classes=2), create_model("deit_tiny_patch16_224", classes=2, image_size=64)
    images = images_of(12, 64)
    rows = [b.name for b in blocks_of(conv)][2:4]
    columns = [b.name for b in blocks_of(vit)][1:3]
    matrix = cca_matrix(conv, vit, images.split(6), rows, columns, measure="svcca")
    assert np.isfinite(matrix.values).all()
    assert matrix.samples == 12 * 4 * 4  # 4 x 4 patches; finer maps are averaged over areas
    tokens = cca_matrix(vit, vit, [images], columns, measure="svcca")
    assert tokens.samples == 12 * 17  # beside each other the class token stays


def test_grids_that_cannot_be_matched() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(x.flatten(2).transpose(1, 2)[:, :10])

        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 5)

    images = images_of()
    with pytest.raises(AnalysisError, match="gives out 10 tokens, 0 of them no patches; 10 patches are no square"):
        cca_matrix(Tokens(), network(), [images], ["out"], ["0"])
    with pytest.raises(AnalysisError, match=re.escape("has places 12 x 12 and '1 of model_b' 2 x 6 x 12")):
        cca_matrix(
            network(),
            nn.Sequential(nn.Unflatten(2, (2, 6)), nn.Conv3d(3, 4, 1)),
            [images],
            ["0"],
            ["1"],
        )


def test_patches_of_images_that_are_not_square_are_no_square_grid() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.out = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.cut(x).flatten(2).transpose(1, 2))

    model, tall = Patches(), torch.randn(30, 3, 32, 8, generator=torch.Generator().manual_seed(0))  # 8 x 2 patches
    with pytest.raises(AnalysisError, match="16 patches of images that are not square are no square grid"):
        cca_matrix(model, model, [tall], ["out"], ["cut"])
    assert cca_matrix(model, model, [tall], ["out"]).samples == 480
    square = tall.reshape(30, 3, 16, 16)
    assert cca_matrix(model, model, [square], ["out"], ["cut"])["out", "cut"] == pytest.approx(1, abs=1e-6)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    import tracemalloc

    def peak(batches: int) -> int:
        tracemalloc.start()
        cca_matrix(network(0), network(1), (images_of(32, seed=k) for k in range(batches)), ["0", "3"])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(12) < 1.2 * peak(3) + 100_000
