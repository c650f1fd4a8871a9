from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfuse.data import open_dataset, split_by_patient
from transfuse.data.catalogue import MEDMNIST, find_medmnist
from transfuse.errors import DataError, ExtraNotInstalled

Write = Callable[..., Path]


def test_order_ids_parts_and_pixels(write_npz: Write) -> None:
    path = write_npz()
    dataset = open_dataset(str(path), size=12)
    content = np.load(path)
    assert dataset.sample_ids[0] == "train-000000"
    assert dataset.sample_ids[24] == "val-000000"
    assert dataset.parts is not None
    assert dataset.parts.tolist() == ["train"] * 24 + ["val"] * 6 + ["test"] * 6
    expected = np.concatenate([content[f"{part}_images"] for part in ("train", "val", "test")])
    np.testing.assert_array_equal(dataset.pixels()[:, 0], expected)
    (note,) = [note for note in dataset.notes if "Without patient ids each image counts as a patient" in note]
    assert "Cure: arrays train_patients, val_patients and test_patients (or one, patients, for all images" in note


def patients(each: int = 2, **arrays: object) -> dict[str, object]:
    """An array of patients for each part, `each` images a patient, numbered on from part to part."""
    found, first = {}, 0
    for part, count in (("train", 24), ("val", 6), ("test", 6)):
        found[f"{part}_patients"] = first + np.arange(count) // each
        first += count
    return {**found, **arrays}


def test_patients_of_the_parts_are_read(write_npz: Write) -> None:
    dataset = open_dataset(str(write_npz(**patients())))
    assert dataset.patients_known
    assert dataset.patient_ids[:4] == ("0", "0", "1", "1")
    assert len(set(dataset.patient_ids)) == 18
    assert not any("Without patient ids" in note for note in dataset.notes)
    split = split_by_patient(dataset)
    assert [len(set(part.patient_ids)) for part in (split.train, split.val, split.test)] == [12, 3, 3]
    own = split_by_patient(dataset, official=False)
    assert not set(own.train.patient_ids) & set(own.test.patient_ids)
    nobody = open_dataset(str(write_npz("other.npz")))
    assert not nobody.patients_known
    assert nobody.info.fingerprint != dataset.info.fingerprint


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(36) // 2,
        (np.arange(36) // 2)[:, None].astype(np.float64),
        np.array([f" {i // 2} " for i in range(36)]),
        np.array([str(i // 2).encode() for i in range(36)]),
    ],
    ids=["numbers", "column of floats", "texts", "bytes"],
)
def test_one_array_names_the_patients_of_all_parts_in_their_order(write_npz: Write, ids: np.ndarray) -> None:
    dataset = open_dataset(str(write_npz(patients=ids)))
    assert dataset.patient_ids == tuple(str(i // 2) for i in range(36))


def test_a_patient_in_two_parts_of_an_npz_is_refused(write_npz: Write) -> None:
    dataset = open_dataset(str(write_npz(**patients(test_patients=np.arange(6)))))
    with pytest.raises(DataError, match=r"6 patient\(s\) are in both train and test: 0, 1, 2"):
        split_by_patient(dataset)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train_patients": np.arange(24)},
            r"holds train_patients and no val_patients, test_patients, so it cannot be",
        ),
        (patients(patients=np.arange(36)), r"say the same twice\. Cure: leave out patients"),
        (patients(val_images=None, val_labels=None), r"val_patients, .* and images of train, test only"),
        (
            {"patients": np.arange(35)},
            r"patients has the shape \(35,\); expected one value for each of the 36 of all im",
        ),
        (patients(val_patients=np.zeros((6, 2))), r"val_patients has the shape \(6, 2\); .* 6 of val_images"),
        (
            patients(val_patients=np.array(["a", "", "b", " ", "c", "d"])),
            r"val_patients is empty for 2 .*row\(s\) 1, 3",
        ),
        (
            patients(val_patients=np.linspace(0, 1, 6)),
            r"values of the type float64 such as 0\.0; expected whole numbers",
        ),
        ({"patients": np.array([*range(35), np.nan])}, "values of the type float64"),
        ({"patients": np.array(["a"] * 36, dtype=object)}, r"patients holds Python objects; .*dtype=str"),
    ],
)
def test_patients_that_are_none(write_npz: Write, arrays: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(str(write_npz(**arrays)))


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (np.arange(24)[:, None] % 2, "binary", ("0", "1")),
        (np.arange(24) % 2, "binary", ("0", "1")),
        (np.arange(24)[:, None] % 4, "multiclass", ("0", "1", "2", "3")),
        (np.eye(3)[np.arange(24) % 3], "multilabel", ("label 0", "label 1", "label 2")),
        (
            np.where(np.arange(48).reshape(24, 2) % 5, np.arange(48).reshape(24, 2) % 2, np.nan),
            "multilabel",
            ("label 0", "label 1"),
        ),
    ],
)
def test_tasks_are_guessed_from_labels(write_npz: Write, labels: np.ndarray, task: str, classes: tuple) -> None:
    other = {f"{part}_{what}": None for part in ("val", "test") for what in ("images", "labels")}
    dataset = open_dataset(str(write_npz(train_labels=labels, **other)))
    assert (dataset.info.task, dataset.info.classes) == (task, classes)
    assert dataset.parts is None
    np.testing.assert_array_equal(dataset.targets, labels if task == "multilabel" else labels.ravel())


def test_sixteen_bits(write_npz: Write) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (24, 12, 12)).astype(np.uint16)
    deep[0, 0, 0] = 4095
    other = {f"{part}_{what}": None for part in ("val", "test") for what in ("images", "labels")}
    dataset = open_dataset(str(write_npz(train_images=deep, **other)), size=12)
    assert dataset.pixels().dtype == np.uint16
    np.testing.assert_array_equal(dataset.pixels()[:, 0], deep)
    assert float(dataset[0].image[0, 0, 0]) == pytest.approx((1 - 0.449) / 0.226)
    assert any(
        "16 bits, with values up to 4095: depth is kept, and 4095 counts as white" in note for note in dataset.notes
    )


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": np.zeros((24, 3, 9, 9), np.uint8)}, r"Cure: images\.transpose\(0, 2, 3, 1\)"),
        ({"train_images": np.zeros((24, 9, 9, 4), np.uint8)}, r"expected \(N, H, W\) or \(N, H, W, 3\)"),
        ({"train_images": np.zeros((24, 9), np.uint8)}, r"expected \(N, H, W\)"),
        ({"train_images": np.zeros((24, 9, 9), np.float32)}, "has the type float32; expected uint8 or uint16"),
        ({"train_images": np.zeros((23, 12, 12), np.uint8)}, "23 train_images and 24 train_labels"),
        ({"train_images": np.zeros((24, 9, 9), np.uint8)}, "different shapes or types"),
        ({"train_images": None}, r"holds test_images.*; expected train_images and train_labels"),
        ({"train_labels": np.linspace(0, 1, 24)}, r"labels hold the values .*; expected class indices 0, 1, 2"),
        ({"train_labels": np.full((24, 1), -1)}, r"labels hold the values .*; expected class indices"),
        (
            {f"{part}_labels": np.array(["a", "b"] * (n // 2)) for part, n in (("train", 24), ("val", 6), ("test", 6))},
            "expected whole numbers",
        ),
        (
            {f"{part}_labels": np.zeros((n, 1), int) for part, n in (("train", 24), ("val", 6), ("test", 6))},
            "all labels are 0",
        ),
        (
            {f"{part}_labels": np.full((n, 2), 2) for part, n in (("train", 24), ("val", 6), ("test", 6))},
            r"expected 0 and 1 \(one column",
        ),
        ({"train_labels": np.array([{}] * 24, dtype=object)}, "train_labels holds Python objects"),
        ({"train_labels": np.zeros((24, 2), int)}, r"different numbers of columns \(train 2, val 1, test 1\)"),
    ],
)
def test_bad_arrays(write_npz: Write, arrays: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(str(write_npz(**arrays)))


def test_damaged_files(write_npz: Write) -> None:
    path = write_npz()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"tiny\.npz is not a readable \.npz file .*Cure: fetch or write it again"):
        open_dataset(str(path))
    middle = len(data) // 3
    path.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    with pytest.raises(DataError, match=r"_images cannot be read .*Cure: fetch or write the file again"):
        open_dataset(str(path))


def test_a_bright_outlier_among_sixteen_bits_is_said(write_npz: Write, rng: np.random.Generator) -> None:
    images = rng.integers(0, 3000, (24, 12, 12)).astype(np.uint16)
    images[:, 0, 0] = 3000
    small = {f"{part}_images": images[:6] for part in ("val", "test")}
    assert not any("black" in note for note in open_dataset(str(write_npz(train_images=images, **small))).notes)
    outlier = images.copy()
    outlier[5, 3, 3] = 65535
    dataset = open_dataset(str(write_npz("outlier.npz", train_images=outlier, **small)))
    assert dataset.white == 65535  # nothing is clipped
    note = next(note for note in dataset.notes if "nearly black" in note)
    assert "largest values is 3000, less than a quarter of 65535" in note
    assert "because 1 of 36 images have values above 4095 (train-000005: 65535). Cure:" in note


def test_known_names_find_their_files(
    write_npz: Write, tmp_path: Path, no_data_folder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz("a/pneumoniamnist.npz", shape=(28, 28))
    write_npz("a/pneumoniamnist_64.npz", shape=(64, 64))
    write_npz("b/pneumoniamnist/pneumoniamnist_rebuilt.npz", shape=(28, 28))
    write_npz("home/.medmnist/breastmnist_128.npz", shape=(128, 128))
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("pneumoniamnist", root=tmp_path / "a", size=28)
    assert dataset.info.classes == ("normal", "pneumonia")
    assert (dataset.info.name, dataset.info.licence) == ("pneumoniamnist", "CC BY 4.0")
    assert dataset.info.source == "pneumoniamnist.npz, 28 x 28 pixels (MedMNIST v2)"
    assert "64 x 64" in open_dataset("pneumoniamnist", root=tmp_path / "a", size=32).info.source
    assert "64 x 64" in open_dataset("pneumoniamnist", root=tmp_path / "a", size=224).info.source
    assert "rebuilt" in open_dataset("pneumoniamnist", root=tmp_path / "b").info.source
    assert find_medmnist("breastmnist", None, 28) == tmp_path / "home" / ".medmnist" / "breastmnist_128.npz"
    # the best size of all folders, though the first one has the set too; of equal sizes the first folder's
    write_npz("a/breastmnist.npz", shape=(28, 28))
    home = tmp_path / "home" / ".medmnist"
    assert find_medmnist("breastmnist", tmp_path / "a", 224) == home / "breastmnist_128.npz"
    assert find_medmnist("breastmnist", tmp_path / "a", 28) == tmp_path / "a" / "breastmnist.npz"
    write_npz("home/.medmnist/pneumoniamnist.npz", shape=(28, 28))
    assert find_medmnist("pneumoniamnist", tmp_path / "b", 28).name == "pneumoniamnist_rebuilt.npz"
    write_npz("c/pneumoniamnist.npz", classes=9)
    with pytest.raises(DataError, match="labels for 9 classes, where pneumoniamnist has 2"):
        open_dataset("pneumoniamnist", root=tmp_path / "c")


def test_a_known_set_that_is_nowhere(tmp_path: Path, no_data_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "medmnist.info", None)
    with pytest.raises(ExtraNotInstalled, match=r"fetching pneumoniamnist .*pip install 'transfuse\[medmnist\]'"):
        open_dataset("pneumoniamnist")


def _info(url: str, md5: str) -> object:
    return type("info", (), {"INFO": {"pneumoniamnist": {"url": url, "MD5": md5, "url_64": url, "MD5_64": md5}}})


def test_fetching(write_npz: Write, tmp_path: Path, no_data_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    source = write_npz("server/file.npz", shape=(64, 64))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    url, md5 = source.as_uri(), hashlib.md5(source.read_bytes()).hexdigest()
    for wrong_url, wrong_md5, message in [
        (
            url + "x",
            md5,
            r"'pneumoniamnist' was not found .* not be fetched .*Cure: download file:.*put it into one of",
        ),
        (url, "0" * 32, "instead of 0000"),
    ]:
        monkeypatch.setitem(sys.modules, "medmnist.info", _info(wrong_url, wrong_md5))
        with pytest.raises(DataError, match=message):
            open_dataset("pneumoniamnist", size=64)
        assert list((tmp_path / "home" / ".medmnist").iterdir()) == []
    monkeypatch.setitem(sys.modules, "medmnist.info", _info(url, md5))
    assert len(open_dataset("pneumoniamnist", size=64)) == 36
    assert (tmp_path / "home" / ".medmnist" / "pneumoniamnist_64.npz").read_bytes() == source.read_bytes()


def test_the_catalogue_says_what_the_medmnist_package_says() -> None:
    info = pytest.importorskip("medmnist.info", reason="the medmnist extra is not installed").INFO
    tasks = {
        "multi-class": "multiclass",
        "binary-class": "binary",
        "multi-label, binary-class": "multilabel",
        "ordinal-regression": "ordinal",
    }
    flat = {name: entry for name, entry in info.items() if not name.endswith("3d")}
    assert set(flat) == set(MEDMNIST)
    for name, entry in flat.items():
        known = MEDMNIST[name]
        assert known.task == tasks[entry["task"]]
        assert known.licence == entry["license"]
        for short, full in zip(known.classes, entry["label"].values(), strict=True):
            assert full.lower().startswith(short.lower())
