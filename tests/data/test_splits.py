from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.utils.class_weight import compute_class_weight

from transfuse.data import Dataset, Part, Split, class_weights, open_dataset, split_by_patient
from transfuse.data.stratify import stratified_assignment
from transfuse.errors import DataError, SpecError

Write = Callable[..., Path]
NO_OTHERS = {f"{part}_{what}": None for part in ("val", "test") for what in ("images", "labels")}


@pytest.fixture
def patients(patients_table: Path) -> Dataset:
    return open_dataset(str(patients_table), patient_column="patient", size=16)


def indices(split: Split) -> list[np.ndarray]:
    return [split.train.indices, split.val.indices, split.test.indices]


def test_parts_are_disjoint_complete_and_stratified(patients: Dataset) -> None:
    split = split_by_patient(patients, fractions=(0.6, 0.2, 0.2))
    assert sorted(np.concatenate(indices(split))) == list(range(60))
    for part, each in zip((split.train, split.val, split.test), (12, 4, 4), strict=True):
        assert np.bincount(part.targets).tolist() == [each] * 3
    assert not set(split.train.patient_ids) & set(split.val.patient_ids)
    assert split.notes == patients.notes


def test_the_seed_decides(patients: Dataset) -> None:
    one, same, other = (split_by_patient(patients, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(indices(one), indices(same), strict=True))
    assert not np.array_equal(one.test.indices, other.test.indices)


def test_sub_samples_are_nested_and_stratified(patients: Dataset) -> None:
    full = split_by_patient(patients, seed=5)
    inner: set[str] = set()
    for fraction in (0.05, 0.2, 0.5, 0.8, 1.0):
        split = split_by_patient(patients, seed=5, train_fraction=fraction)
        np.testing.assert_array_equal(split.test.indices, full.test.indices)
        assert inner <= set(split.train.patient_ids)
        inner = set(split.train.patient_ids)
        counts = np.bincount(split.train.targets, minlength=3)
        assert counts.max() - counts.min() <= 2
        assert len(split.train) == pytest.approx(max(6, fraction * len(full.train)), abs=3.1)
    half = split_by_patient(patients, seed=5, train_fraction=0.5)
    assert any("50 % of the training patients are used" in note for note in half.notes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(20, 120))
def test_every_label_with_enough_groups_is_in_every_part(seed: int, labels: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.full(labels, 0.3))
    of_group = np.concatenate([np.repeat(np.arange(labels), 3), rng.choice(labels, groups, p=probability)])
    counts = np.zeros((len(of_group), labels + 1), int)
    counts[np.arange(len(of_group)), of_group] = counts[:, -1] = rng.integers(1, 8, len(of_group))
    fractions = np.array([0.64, 0.16, 0.2])
    parts = stratified_assignment(counts, fractions, rng)
    for label in range(labels):
        assert set(parts[of_group == label]) == {0, 1, 2}
    share = np.array([counts[parts == part, -1].sum() for part in range(3)]) / counts[:, -1].sum()
    assert np.abs(share - fractions).max() < 0.1


def test_at_least_as_even_as_scikit_learn() -> None:
    """Mean distance of a fold's class shares from the whole's, on unevenly sized groups of mixed labels."""
    ours, theirs = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 60, 400)
        labels = np.where(rng.random(400) < 0.5, groups % 4, rng.choice(4, 400, p=[0.6, 0.25, 0.1, 0.05]))
        counts = np.zeros((60, 5), int)
        np.add.at(counts, (groups, labels), 1)
        counts[:, -1] = counts[:, :-1].sum(axis=1)
        parts = stratified_assignment(counts, np.array([0.8, 0.2]), rng)[groups]
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        test = np.zeros(400, bool)
        test[next(folds.split(np.zeros(400), labels, groups))[1]] = True
        wanted = 0.2 * np.bincount(labels, minlength=4)
        ours.append(np.abs(np.bincount(labels[parts == 1], minlength=4) - wanted).sum())
        theirs.append(np.abs(np.bincount(labels[test], minlength=4) - wanted).sum())
    assert np.mean(ours) <= np.mean(theirs)


def test_multilabel_parts_have_positives_and_negatives(write_npz: Write) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 5)) < [0.5, 0.3, 0.1, 0.05, 0.95]).astype(float)
    labels[:4, 0] = np.nan
    images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    dataset = open_dataset(str(write_npz(train_images=images, train_labels=labels, **NO_OTHERS)), size=8)
    split = split_by_patient(dataset)
    for part, fraction in zip((split.train, split.val, split.test), (0.64, 0.16, 0.2), strict=True):
        assert len(part) == pytest.approx(200 * fraction, abs=4)
        np.testing.assert_allclose((part.targets == 1).sum(0), (labels == 1).sum(0) * fraction, atol=2.5)
        assert (part.targets == 0).any(0).all()


def test_official_parts_are_kept_and_missing_ones_cut_from_train(write_npz: Write) -> None:
    full = open_dataset(str(write_npz()))
    split = split_by_patient(full, seed=3)
    assert [len(part) for part in indices(split)] == [24, 6, 6]
    np.testing.assert_array_equal(split.train.indices, np.arange(24))
    own = split_by_patient(full, seed=3, official=False)
    assert [len(part) for part in indices(own)] == [23, 6, 7]
    no_val = open_dataset(str(write_npz("b.npz", val_images=None, val_labels=None)))
    split = split_by_patient(no_val, fractions=(0.6, 0.2, 0.2))
    assert [len(part) for part in indices(split)] == [18, 6, 6]
    np.testing.assert_array_equal(split.test.indices, np.arange(24, 30))
    no_test = open_dataset(str(write_npz("c.npz", test_images=None, test_labels=None)))
    cut = split_by_patient(no_test)
    assert [len(part) for part in indices(cut)] == [18, 6, 6]
    assert "The source ships no test part: images were taken from train, 6 for test." in cut.notes
    assert not any("ships no" in note for note in split_by_patient(full).notes)


def test_a_patient_in_two_official_parts(write_table: Write) -> None:
    rows = [
        (f"{i:02d}.png", i % 2, f"p{i // 2}" if i != 8 else "p0", ("train", "val", "test")[i // 8]) for i in range(24)
    ]
    path = write_table(("image", "label", "patient", "part"), rows)
    dataset = open_dataset(str(path), part_column="part")
    with pytest.raises(
        DataError,
        match=r"1 patient\(s\) are in both train and val: p0\. .*Cure: official_split: false \(.*official=False\)",
    ):
        split_by_patient(dataset)
    assert len(split_by_patient(dataset, official=False).train) > 0


def test_a_class_that_a_part_lacks(write_npz: Write, write_table: Write) -> None:
    lacking = open_dataset(str(write_npz(val_labels=np.zeros((6, 1), np.uint8))))
    with pytest.raises(
        DataError,
        match=r"val part \(6 images\) has no sample of the class '1'; in all parts: '0' 21, '1' 15.*official=False",
    ):
        split_by_patient(lacking)
    rows = [(f"{i:02d}.png", "rare" if i == 0 else "ab"[i % 2]) for i in range(30)]
    single = open_dataset(str(write_table(("image", "label"), rows)))
    with pytest.raises(
        DataError,
        match=r"no sample of the class 'rare'; .*'rare' 1\. 'rare' has 1 image, and a split into train, val, test "
        r"takes one for each, so no seed and no fraction helps\. Cure: merge such a class with another",
    ):
        split_by_patient(single)
    labels = np.zeros((36, 2))
    labels[::2, 0] = 1
    labels[0, 1] = 1
    images = np.random.default_rng(0).integers(0, 256, (36, 8, 8), dtype=np.uint8)
    multilabel = open_dataset(str(write_npz("m.npz", train_images=images, train_labels=labels, **NO_OTHERS)))
    with pytest.raises(DataError, match=r"has no positive of 'label 1'"):
        split_by_patient(multilabel)


def rare(write_table: Write, patients: Sequence[str], **columns: Sequence[str]) -> Dataset:
    """Ten patients each of `a` and `b` and an image of `rare` for each of `patients`."""
    rows = [[f"{i:02d}.png", "ab"[i % 2], f"p{i}"] for i in range(20)]
    rows += [[f"r{i}.png", "rare", patient] for i, patient in enumerate(patients)]
    for column in columns.values():
        rows = [[*row, value] for row, value in zip(rows, column, strict=True)]
    path = write_table(("image", "label", "patient", *columns), rows)
    return open_dataset(str(path), part_column=next(iter(columns), None))


def test_a_class_of_too_few_patients_gets_a_cure_that_works(write_table: Write) -> None:
    message = r"'rare' has {} patient.*, and a split into {} takes one for each, so no seed and no fraction helps"
    with pytest.raises(DataError, match=message.format(1, "train, val, test")) as caught:
        split_by_patient(rare(write_table, ["x"] * 5))  # 5 images of one patient
    assert str(caught.value).endswith(
        "Cure: merge such a class with another, leave its images out, or add patients of it."
    )
    assert "another split seed" not in str(caught.value)
    with pytest.raises(DataError, match=message.format(2, "train, val, test")):
        split_by_patient(rare(write_table, ["x", "x", "y"]))
    split = split_by_patient(rare(write_table, ["x", "y", "z"]))  # three are enough, as the message says
    assert all((part.targets == 2).any() for part in (split.train, split.val, split.test))


def test_official_parts_without_a_class_are_not_cured_by_a_split_that_cannot_do(write_table: Write) -> None:
    parts = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    with pytest.raises(DataError, match=r"'rare' has 2 patients, and a split into train, val, test takes"):
        split_by_patient(rare(write_table, ["x", "y"], part=[*parts, "train", "train"]))
    with pytest.raises(DataError, match=r"Cure: official_split: false .* for a split of your own"):
        split_by_patient(rare(write_table, ["x", "y", "z"], part=[*parts, "train", "train", "train"]))
    # Of parts that are cut from the official training part, only that part's patients count.
    shipped = [part.replace("val", "train") for part in parts]
    with pytest.raises(DataError, match=r"'rare' has 1 patient, and a split into train, val takes one for each"):
        split_by_patient(rare(write_table, ["x", "y", "z"], part=[*shipped, "train", "test", "test"]))


def test_too_few_patients(write_table: Write) -> None:
    path = write_table(("image", "label", "patient"), [(f"{i}.png", "ab"[i % 2], f"p{i % 2}") for i in range(6)])
    with pytest.raises(
        DataError, match=r"The (val|test) part has no samples\. Cure: other fractions, or more patients"
    ):
        split_by_patient(open_dataset(str(path)))


def test_duplicates_across_parts(write_npz: Write) -> None:
    rng = np.random.default_rng(0)
    train, val = rng.integers(0, 256, (24, 12, 12), dtype=np.uint8), rng.integers(0, 256, (6, 12, 12), dtype=np.uint8)
    train[3] = train[5] = val[2]
    dataset = open_dataset(str(write_npz(train_images=train, val_images=val)))
    found = (
        r"2 image\(s\) of train are exact copies of 1 of val \(train-000003 = val-000002, train-000005 = val-000002\)"
    )
    noted = split_by_patient(dataset)
    assert len(noted.train) == 24
    assert "a leak. Cure: duplicates: drop" in noted.notes[-1]
    with pytest.raises(DataError, match=rf"tiny: {found}\. Cure: duplicates: drop"):
        split_by_patient(dataset, duplicates="raise")
    dropped = split_by_patient(dataset, duplicates="drop")
    assert set(range(24)) - set(dropped.train.indices.tolist()) == {3, 5}
    assert "they were dropped from train" in dropped.notes[-1]
    assert len(dropped.val) == 6


def test_impossible_arguments(patients: Dataset) -> None:
    with pytest.raises(SpecError) as caught:
        split_by_patient(patients, fractions=(0.5, 0.5, 0.5), train_fraction=0, duplicates="dorp")
    for piece in ("3 problems", "fractions=(0.5, 0.5, 0.5)", "train_fraction=0", "did you mean 'drop'"):
        assert piece in str(caught.value)


def test_a_split_made_by_hand_is_proved_too(patients: Dataset) -> None:
    with pytest.raises(DataError, match=r"train and val"):
        Split(Part(patients, np.arange(0, 21)), Part(patients, np.arange(21, 40)), Part(patients, np.arange(40, 60)))
    fine = Split(Part(patients, np.arange(0, 20)), Part(patients, np.arange(20, 40)), Part(patients, np.arange(40, 60)))
    assert fine.notes == ()


def test_views(patients: Dataset) -> None:
    part = Part(patients, np.array([7, 3, 11]))
    assert part.indices.tolist() == [3, 7, 11]
    assert part.sample_ids == tuple(patients.sample_ids[i] for i in (3, 7, 11))
    images = part.tensors(np.array([2, 0, 2]))
    np.testing.assert_allclose(images.numpy() * 255, patients.pixels()[[11, 3, 11]], atol=1e-4)
    assert images.dtype == torch.float32
    assert len(pickle.dumps(part)) < 40_000
    with pytest.raises(SpecError, match="batch_size=0"):
        next(part.batches(0))


def test_class_weights_are_scikit_learns() -> None:
    targets = np.repeat([0, 1, 2], [50, 30, 4])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    np.testing.assert_allclose(class_weights(targets, "multiclass", "abc"), expected, rtol=1e-6)
    multilabel = np.array([[1, np.nan], [0, 1], [0, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(class_weights(multilabel, "multilabel", "ab"), [3, 0.5])
    with pytest.raises(DataError, match="no positives of c, so no weight can balance them"):
        class_weights(np.array([0, 1]), "multiclass", "abc")
