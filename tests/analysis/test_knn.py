"""k-NN scores against scikit-learn, their invariances, ties, missing labels, messages; layer-wise on networks."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import nn

from transfuse.analysis.knn import _largest, knn_scores
from transfuse.analysis.layerwise_knn import knn_by_block
from transfuse.errors import AnalysisError, AnalysisWarning, SpecError
from transfuse.models import blocks_of, create_model

RNG = np.random.default_rng(0)
BANK = RNG.normal(size=(300, 12))
QUERIES = RNG.normal(size=(40, 12))
LABELS = RNG.integers(0, 4, 300)
MANY = RNG.integers(0, 2, (300, 5))


def weights_of(distance: np.ndarray) -> np.ndarray:
    return np.exp((1 - distance) / 0.1)


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_scikit_learn_gives_the_same_class_scores(k: int, vote: str) -> None:
    how = weights_of if vote == "weighted" else "uniform"
    reference = KNeighborsClassifier(k, weights=how, metric="cosine", algorithm="brute").fit(BANK, LABELS)
    scores = knn_scores(QUERIES, BANK, LABELS, k, vote=vote)
    np.testing.assert_allclose(scores, reference.predict_proba(QUERIES), atol=1e-12)
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_scikit_learn_gives_the_same_mean_of_label_vectors(vote: str) -> None:
    how = weights_of if vote == "weighted" else "uniform"
    reference = KNeighborsRegressor(20, weights=how, metric="cosine", algorithm="brute").fit(BANK, MANY)
    np.testing.assert_allclose(knn_scores(QUERIES, BANK, MANY, 20, vote=vote), reference.predict(QUERIES), atol=1e-12)


@pytest.mark.parametrize("count", [1600, 1603, 1615])
def test_large_banks_are_searched_by_groups_with_the_same_result(count: int) -> None:
    bank, labels = RNG.normal(size=(count, 6)), RNG.integers(0, 3, count)
    reference = KNeighborsClassifier(20, weights=weights_of, metric="cosine", algorithm="brute").fit(bank, labels)
    np.testing.assert_allclose(knn_scores(QUERIES[:, :6], bank, labels, 20), reference.predict_proba(QUERIES[:, :6]))
    similar = torch.tensor(RNG.normal(size=(50, count)))
    values, places = _largest(similar, 21)
    torch.testing.assert_close(values, similar.topk(21).values, rtol=0, atol=0)
    torch.testing.assert_close(similar.gather(1, places), values, rtol=0, atol=0)
    assert all(len(row.unique()) == 21 for row in places)
    values, places = _largest(similar.round(), 21)  # all tied
    torch.testing.assert_close(values, similar.round().topk(21).values, rtol=0, atol=0)
    assert all(len(row.unique()) == 21 for row in places)


def test_by_hand() -> None:
    bank = [[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]
    scores = knn_scores([[3.0, 0.0]], bank, [0, 1, 2], k=2, temperature=0.5)
    a, b = np.exp(1 / 0.5), np.exp(0.0)
    np.testing.assert_allclose(scores, [[a / (a + b), b / (a + b), 0]], rtol=1e-6)
    assert scores.dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_array_or_tensor(dtype: torch.dtype) -> None:
    bank, queries = torch.tensor(BANK).to(dtype), torch.tensor(QUERIES).to(dtype)
    exact = knn_scores(queries.double(), bank.double(), LABELS, 10)
    found = knn_scores(queries.requires_grad_(), bank, torch.tensor(LABELS), 10)
    np.testing.assert_allclose(found, exact, atol=2e-5)
    if dtype != torch.bfloat16:
        np.testing.assert_allclose(knn_scores(queries.detach().numpy(), bank.numpy(), LABELS, 10), found)


def test_memory_that_must_not_be_written_and_views_are_read() -> None:
    bank = BANK[::-1].copy()
    bank.flags.writeable = False
    np.testing.assert_allclose(
        knn_scores(QUERIES, bank[::-1], LABELS, 9), knn_scores(QUERIES, BANK, LABELS, 9), atol=1e-12
    )
    assert knn_scores(QUERIES.astype(int) + 5, BANK, LABELS, 3).shape == (40, 4)


def test_scale_rotation_and_chunks_change_nothing() -> None:
    expected = knn_scores(QUERIES, BANK, LABELS, 15)
    rotation = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    scale = RNG.uniform(1e-3, 1e3, (300, 1))
    np.testing.assert_allclose(knn_scores(QUERIES @ rotation, scale * BANK @ rotation, LABELS, 15), expected, atol=1e-9)
    for chunk in (1, 7, 1000):
        np.testing.assert_allclose(knn_scores(QUERIES, BANK, LABELS, 15, chunk=chunk), expected, atol=1e-12)
    for factor in (1e-300, 1e300):
        np.testing.assert_allclose(knn_scores(QUERIES, factor * BANK, LABELS, 15), expected, atol=1e-9)


@pytest.mark.parametrize("labels", [LABELS, MANY], ids=["one class", "multi-label"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_do_not_depend_on_the_order_of_the_bank(labels: np.ndarray, dtype: type) -> None:
    grid = RNG.integers(-1, 2, (300, 3)).astype(dtype) + dtype(0.5)  # 27 directions: most neighbours are tied
    queries = grid[:20] + dtype(0.1)
    expected = knn_scores(queries, grid, labels, 40)
    for _ in range(3):
        order = RNG.permutation(300)
        np.testing.assert_allclose(knn_scores(queries, grid[order], labels[order], 40), expected, atol=2e-6)


def test_what_is_equally_near_shares_the_places_that_are_left() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, -1.0]])
    scores = knn_scores([[1.0, 0.5]], bank, [0, 1, 2, 2, 3], k=2, vote="majority")
    np.testing.assert_allclose(scores, [[1 / 2, 1 / 6, 2 / 6, 0]], atol=1e-12)
    alike = knn_scores(np.ones((2, 3)), np.ones((10, 3)), [0] * 4 + [1] * 6, k=3)
    np.testing.assert_allclose(alike, [[0.4, 0.6]] * 2, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e6])
def test_no_temperature_overflows(temperature: float) -> None:
    scores = knn_scores(QUERIES, BANK, LABELS, 30, temperature)
    np.testing.assert_allclose(scores.sum(1), 1)
    if temperature < 1e-5:
        np.testing.assert_allclose(scores, knn_scores(QUERIES, BANK, LABELS, 1), atol=1e-6)
    if temperature > 1:
        np.testing.assert_allclose(scores, knn_scores(QUERIES, BANK, LABELS, 30, vote="majority"), atol=1e-5)


def test_unlabelled_neighbours_are_left_out_of_their_class_only() -> None:
    labels = MANY.astype(float)
    labels[RNG.random(labels.shape) < 0.5] = np.nan
    scores = knn_scores(QUERIES, BANK, labels, 30)
    similar = (QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True)) @ (
        BANK / np.linalg.norm(BANK, axis=1, keepdims=True)
    ).T
    for query in range(len(QUERIES)):
        near = np.argsort(-similar[query])[:30]
        for c in range(5):
            used = near[~np.isnan(labels[near, c])]
            assert scores[query, c] == pytest.approx(
                np.average(labels[used, c], weights=np.exp(similar[query, used] / 0.1)), abs=1e-12
            )
    # Only the neighbour that is furthest away is labelled: its weight beside the others' is no number of its own.
    found = knn_scores([[1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.01]], [[np.nan], [1.0]], 2, temperature=1e-4)
    assert found.tolist() == [[1.0]]


def test_a_class_without_labelled_neighbours_is_an_error() -> None:
    labels = MANY.astype(float)
    labels[:, 3] = np.nan
    with pytest.raises(
        AnalysisError, match=r"40 of 40 queries have no neighbour that is labelled for class 3 among th"
    ):
        knn_scores(QUERIES, BANK, labels, 30)


def test_number_of_classes() -> None:
    scores = knn_scores(QUERIES, BANK, np.zeros(300, int))
    np.testing.assert_allclose(scores, np.ones((40, 1)), atol=1e-12)
    assert scores.max() <= 1
    assert knn_scores(QUERIES, BANK, LABELS, classes=6).shape == (40, 6)
    assert knn_scores(QUERIES, BANK, MANY, classes=5).shape == (40, 5)


def test_a_small_bank_is_used_whole_with_a_warning() -> None:
    with pytest.warns(AnalysisWarning, match=r"k is 500 and the bank has 300 samples: .* k = 300") as told:
        scores = knn_scores(QUERIES, BANK, LABELS, 500)
    assert told[0].filename == __file__
    np.testing.assert_allclose(scores, knn_scores(QUERIES, BANK, LABELS, 300))


def with_one(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[3] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vote": "weigthed"}, r"unknown vote 'weigthed': did you mean 'weighted'\?"),
        ({"temperature": 0.0}, r"temperature is 0.0; expected a number above 0"),
        ({"temperature": float("nan")}, r"temperature is nan"),
        ({"k": 0}, r"k is 0; expected a number of neighbours"),
        ({"k": 1.5}, r"k is 1.5; expected"),
        ({"chunk": 0}, r"chunk is 0; expected at least 1"),
        ({"queries": QUERIES[:, :5]}, r"queries have 5 features and the bank 12"),
        ({"queries": QUERIES[0]}, r"queries has shape \(12,\) and type torch.float64; expected features \(N, D\)"),
        ({"bank": BANK[:0]}, r"bank has shape \(0, 12\)"),
        ({"bank": BANK + 1j}, r"bank has type complex128"),
        ({"bank": torch.tensor(BANK + 1j)}, r"bank has shape .* type torch.complex128"),
        ({"bank": with_one(BANK, np.nan)}, r"1 of 300 vectors of the bank are NaN or infinite"),
        ({"queries": with_one(QUERIES, np.inf)}, r"1 of 40 vectors of the queries are NaN or infinite"),
        ({"queries": with_one(QUERIES, 0)}, r"1 of 40 vectors of the queries are zero \(the first: number 3\)"),
        ({"labels": LABELS[:10]}, r"labels have shape \(10,\) and type int64 for a bank of 300"),
        ({"labels": np.array(["a"] * 300)}, r"type <U1 for a bank of 300"),
        ({"labels": with_one(LABELS, -1)}, r"labels hold -1 \(1 of 300 such\); expected class indices from 0; leave"),
        ({"labels": LABELS, "classes": 3}, r"labels hold 3 \(\d+ of 300 such\); expected class indices from 0 to 2"),
        ({"labels": with_one(LABELS.astype(float), np.nan)}, r"labels hold nan \(1 of 300 such\)"),
        ({"labels": with_one(MANY, 2)}, r"multi-label labels hold 2 \(5 of 1500 such\)"),
        ({"labels": MANY, "classes": 4}, r"classes is 4, and the labels have 5 columns"),
    ],
)
def test_messages(change: dict, message: str) -> None:
    arguments = {"queries": QUERIES, "bank": BANK, "labels": LABELS, "k": 10} | change
    with pytest.raises(AnalysisError, match=message):
        knn_scores(**arguments)


def batches(count: int, size: int, seed: int, side: int = 32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randn(count, 3, side, side, generator=generator) + labels[:, None, None, None]
    return list(zip(images.split(size), labels.split(size), strict=True))


def test_blocks_are_scored_on_their_own_pooled_features() -> None:
    torch.manual_seed(0)
    model = create_model("cbr_demo", classes=2).train()
    blocks = blocks_of(model)
    bank, queries = batches(24, 8, 0), batches(9, 4, 1)  # a last batch of 1
    modes, rng = [m.training for m in model.modules()], torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = knn_by_block(model, bank, queries, blocks, k=5)
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert tuple(found.scores) == blocks.names
    assert (found.bank, found.k, found.view, found.labels.tolist()) == (24, 5, "pooled", [0, 1] * 4 + [0])
    kept = []
    model.eval()
    handle = model.get_submodule(blocks[1].output).register_forward_hook(
        lambda m, i, out: kept.append(out.mean((2, 3)))
    )
    with torch.no_grad():
        for part in (bank, queries):
            for images, _ in part:
                model(images)
    handle.remove()
    features = torch.cat(kept)
    expected = knn_scores(features[24:], features[:24], torch.cat([b[1] for b in bank]), 5)
    np.testing.assert_allclose(found.scores[blocks[1].name], expected, atol=1e-5)
    again = knn_by_block(model, batches(24, 5, 0), batches(9, 9, 1), blocks, k=5)
    for name in blocks.names:
        np.testing.assert_allclose(again.scores[name], found.scores[name], atol=1e-4)


def test_values_and_the_best_block() -> None:
    model = create_model("cbr_demo", classes=2)
    found = knn_by_block(model, batches(24, 8, 0), batches(16, 8, 1), blocks_of(model), k=5)
    values = found.values("auroc")
    assert values == found.values(lambda labels, scores: roc_auc_score(labels, scores[:, 1]))
    name, value = found.best("auroc")
    assert value == max(values.values()) == values[name]
    name, value = found.best("brier")
    assert value == min(found.values("brier").values())
    with pytest.raises(SpecError, match="did you mean 'auroc'"):
        found.values("aurok")


def test_views_of_tokens_are_different_features() -> None:
    class Tokens(nn.Module):
        num_prefix_tokens = 1

        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(3, 6)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.block(images.flatten(2).mT)

    model = Tokens()
    bank = [(images, torch.arange(5)) for images, _ in batches(5, 5, 0, 3)]
    queries = [(images, torch.zeros(3)) for images, _ in batches(3, 3, 1, 3)]
    scores = {
        view: knn_by_block(model, bank, queries, ["block"], view=view, k=5).scores["block"]
        for view in ("pooled", "cls", "patches", "both")
    }
    np.testing.assert_array_equal(scores["pooled"], scores["patches"])
    assert len({values.tobytes() for values in scores.values()}) == 3
    with pytest.raises(AnalysisError, match="unknown view 'positions' for k-NN"):
        knn_by_block(model, bank, queries, ["block"], view="positions")


def test_classes_come_from_both_sides_and_missing_labels_are_fine() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    images = torch.rand(6, 3, 8, 8)
    bank, queries = [(images, torch.tensor([0, 1, 0, 1, 0, 1]))], [(images, torch.tensor([0, 1, 2, 1, 0, 1]))]
    assert knn_by_block(model, bank, queries, ["1"], k=2).scores["1"].shape == (6, 3)
    labels = torch.tensor([[0.0, 1], [1, np.nan], [1, 1], [0, 0], [0, 1], [np.nan, 0]])
    found = knn_by_block(model, [(images, labels)], [(images, labels)], ["0", "1"], k=4)
    assert all(np.isfinite(scores).all() for scores in found.scores.values())


def test_half_precision_networks_and_shared_layers() -> None:
    layer = nn.Conv2d(3, 3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer).to(torch.bfloat16)
    found = knn_by_block(model, batches(8, 4, 0), batches(4, 4, 1), ["0"], k=3)
    assert tuple(found.scores) == ("0", "0:2")


def test_layerwise_messages() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    good = batches(8, 4, 0)
    images, labels = good[0]
    for bad in (images, {"image": images}, (images,)):
        with pytest.raises(AnalysisError, match=r"a batch of the bank is a \w+; expected \(images, labels\)"):
            knn_by_block(model, [bad], good, ["0"])
    with pytest.raises(AnalysisError, match=r"a batch of the queries has 4 images and labels of shape \(3,\)"):
        knn_by_block(model, good, [(images, labels[:3])], ["0"])
    with pytest.raises(AnalysisError, match=r"queries: there are no batches"):
        knn_by_block(model, good, iter(()), ["0"])
    with pytest.raises(AnalysisError, match=r"labels of the bank have shape \(8,\) and of the queries \(4, 2\)"):
        knn_by_block(model, good, [(images, torch.zeros(4, 2))], ["0"])
    with pytest.raises(AnalysisError, match=r"'0' has \d+ of \d+ activations that are NaN"):
        knn_by_block(model, [(images * torch.nan, labels)], good, ["0"])
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    with pytest.raises(AnalysisError, match=r"block '1': 8 of 8 vectors of the bank are zero"):
        knn_by_block(model, good, good, ["0", "1"], k=2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        knn_by_block(model, good, good, ["0"])
    assert [re.match(r"k is 200 and the bank has 8", str(w.message)) is not None for w in told] == [True]
    assert told[0].filename == __file__


def test_nobody_votes_on_the_own_patient() -> None:
    patients = RNG.integers(0, 60, 300)
    scores = knn_scores(BANK, BANK, LABELS, 9, patients=(patients, patients))
    for row in range(0, 300, 23):
        others = patients != patients[row]
        alone = knn_scores(BANK[row : row + 1], BANK[others], LABELS[others], 9, classes=4)
        np.testing.assert_allclose(scores[row], alone[0], atol=1e-12)
    many = knn_scores(BANK, BANK, MANY, 9, vote="majority", patients=(patients, patients), chunk=7)
    others = patients != patients[5]
    np.testing.assert_allclose(many[5], knn_scores(BANK[5:6], BANK[others], MANY[others], 9, vote="majority")[0])


def test_own_patients_need_others() -> None:
    own = np.zeros(300)
    with pytest.raises(AnalysisError, match="all 300 samples of the bank are of one patient"):
        knn_scores(BANK, BANK, LABELS, 9, patients=(own, own))
    with pytest.raises(AnalysisError, match=r"expected two arrays, \(40,\) of the queries and \(300,\) of the bank"):
        knn_scores(QUERIES, BANK, LABELS, 9, patients=(own, own))
    own[:100] = 1
    with pytest.warns(AnalysisWarning, match="k is 200"):
        knn_scores(BANK, BANK, LABELS, 200, patients=(own, own))
