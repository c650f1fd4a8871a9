"""What every data set keeps to, whatever it was read from: phantoms, every kind of file, real sets if there."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transfuse.data import TASKS, Dataset, Part, open_dataset, split_by_patient
from transfuse.data.phantoms import PHANTOMS

Opening = tuple[str, dict[str, Any]]


def _pictures(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8) // (1 + number % 2)).save(path)
    return paths


def npz(folder: Path) -> Opening:
    rng = np.random.default_rng(7)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 40), ("val", 12), ("test", 12)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3)[:, None]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "set.npz", allow_pickle=True, **arrays)
    return str(folder / "set.npz"), {}


def deep_npz(folder: Path) -> Opening:
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = rng.integers(0, 4096, (60, 20, 20)).astype(np.uint16), rng.integers(0, 2, (60, 3))
    np.savez(folder / "set.npz", train_images=images, train_labels=labels)
    return str(folder / "set.npz"), {}


def volumes(folder: Path) -> Opening:
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "set.npz",
        train_images=rng.integers(0, 256, (60, 12, 14, 12)).astype(np.uint8),
        train_labels=np.arange(60) % 3,
    )
    return str(folder / "set.npz"), {}


def adrenalmnist3d(folder: Path) -> Opening:
    shutil.copytree(_real("adrenalmnist3d"), folder / "adrenalmnist3d")
    return "adrenalmnist3d", {"root": folder}


def class_folders(folder: Path) -> Opening:
    for name in ("benign", "malignant"):
        _pictures(folder / name, 20)
    return str(folder), {}


def table(folder: Path) -> Opening:
    paths = _pictures(folder / "images", 40)
    rows = [(f"images/{path.name}", "xyz"[n // 2 % 3], f"p{n // 2}") for n, path in enumerate(paths)]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "finding", "who"), *rows])
    return str(folder / "table.csv"), {"label_columns": ["finding"], "patient_column": "who"}


def pneumoniamnist(folder: Path) -> Opening:
    shutil.copytree(_real("pneumoniamnist"), folder / "pneumoniamnist")
    return "pneumoniamnist", {"root": folder}


def cxr_hannover(folder: Path) -> Opening:
    shutil.copytree(_real("cxr_hannover_256"), folder / "cxr")
    columns = {"image_column": "image_id", "label_columns": ["projection"], "patient_column": "patient_id"}
    return str(folder / "cxr" / "data.csv"), columns


def _real(name: str) -> Path:
    root = os.environ.get("TRANSFUSE_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"the environment variable TRANSFUSE_DATA names no folder with {name}")
    return Path(root) / name


def _phantom(name: str) -> Callable[[Path], Opening]:
    return lambda folder: (name, {"count": 96, "seed": 1})


_READERS = (npz, deep_npz, volumes, class_folders, table, pneumoniamnist, cxr_hannover, adrenalmnist3d)
FILES = {reader.__name__: reader for reader in _READERS}
SOURCES: dict[str, Callable[[Path], Opening]] = {name: _phantom(name) for name in PHANTOMS} | FILES


@pytest.fixture(scope="module", params=SOURCES)
def opening(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opening:
    folder = tmp_path_factory.mktemp("source")
    name, arguments = SOURCES[request.param](folder / "files")
    return name, {"size": 32, "cache": folder / "cache"} | arguments


@pytest.fixture(scope="module")
def dataset(opening: Opening) -> Dataset:
    return open_dataset(opening[0], **opening[1])


def test_labels_and_ids_fit(dataset: Dataset) -> None:
    info, count = dataset.info, len(dataset)
    assert count == len(dataset.sample_ids) == len(dataset.patient_ids) == len(dataset.targets) > 0
    assert len(set(dataset.sample_ids)) == count
    assert all(isinstance(item, str) and item for item in (*dataset.sample_ids, *dataset.patient_ids))
    assert info.task in TASKS
    assert len(set(info.classes)) == len(info.classes) >= 2
    if info.task == "multilabel":
        assert dataset.targets.shape == (count, len(info.classes))
        assert dataset.targets.dtype == np.float32
        assert np.isin(dataset.targets[~np.isnan(dataset.targets)], (0, 1)).all()
    else:
        assert dataset.targets.shape == (count,)
        assert dataset.targets.dtype == np.int64
        assert set(dataset.targets.tolist()) == set(range(len(info.classes)))
    assert (info.task == "binary") == (len(info.classes) == 2)
    assert dataset.parts is None or set(dataset.parts) <= {"train", "val", "test"}
    assert len(dataset.mean) == len(dataset.std) == info.channels
    assert all(note.endswith((".", ")")) for note in dataset.notes)
    with pytest.raises(ValueError, match="read-only"):
        dataset.targets[0] = 0


def test_pixels(dataset: Dataset) -> None:
    pixels = dataset.pixels()
    assert isinstance(pixels, np.memmap)
    assert pixels.shape == (len(dataset), dataset.info.channels, *(32,) * dataset.info.spatial_dims)
    assert pixels.dtype == (np.uint8 if dataset.white == 255 else np.uint16)
    assert pixels.max() <= dataset.white
    assert pixels.max() > dataset.white / 2, "nearly black: the depth was not kept"
    assert pixels.reshape(len(dataset), -1).std(axis=1).min() > 0, "an image without content"
    assert not pixels.flags.writeable


def test_two_openings_are_equal(dataset: Dataset, opening: Opening, tmp_path: Path) -> None:
    name, arguments = opening
    for cache in (arguments["cache"], tmp_path):  # from the cache, and all over again
        again = open_dataset(name, **arguments | {"cache": cache})
        assert again.info == dataset.info
        assert again.sample_ids == dataset.sample_ids
        assert again.patient_ids == dataset.patient_ids
        assert again.notes == dataset.notes
        np.testing.assert_array_equal(again.targets, dataset.targets)
        np.testing.assert_array_equal(again.pixels(), dataset.pixels())


def test_batches_cover_each_sample_once_whatever_their_size(dataset: Dataset) -> None:
    part = Part(dataset, np.arange(0, len(dataset), max(1, len(dataset) // 50)))
    whole = next(part.batches(len(part)))
    for batch_size in (1, 7, 1000):
        batches = list(part.batches(batch_size))
        assert torch.equal(torch.cat([images for images, _ in batches]), whole[0])
        torch.testing.assert_close(torch.cat([t for _, t in batches]), whole[1], equal_nan=True, atol=0, rtol=0)
    assert whole[0].dtype == torch.float32
    assert torch.equal(dataset[int(part.indices[1])].image, whole[0][1])
    images = part.tensors(np.arange(len(part)))
    assert images.min() >= 0
    assert images.max() <= 1


def test_pickles_carry_no_pixels(dataset: Dataset) -> None:
    pixels = dataset.pixels()
    data = pickle.dumps(dataset)
    assert len(data) < 600 * len(dataset) + 10_000
    copy = pickle.loads(data)
    assert isinstance(copy.pixels(), np.memmap)
    np.testing.assert_array_equal(copy.pixels(), pixels)


def test_split_shares_no_patient(dataset: Dataset) -> None:
    split = split_by_patient(dataset, seed=2)
    patients = [set(part.patient_ids) for part in (split.train, split.val, split.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == len(set(dataset.patient_ids))
    samples = np.concatenate([split.train.indices, split.val.indices, split.test.indices])
    assert sorted(samples) == list(range(len(dataset)))
    assert split.notes[: len(dataset.notes)] == dataset.notes


@pytest.mark.parametrize("kind", FILES)
def test_the_fingerprint_is_of_content_not_of_place(kind: str, tmp_path: Path) -> None:
    name, arguments = FILES[kind](tmp_path / "here")
    arguments |= {"cache": tmp_path / "cache"}
    before = open_dataset(name, **arguments).info.fingerprint
    here, there = tmp_path / "here", tmp_path / "there"
    here.rename(there)
    moved = {key: there if value == here else value for key, value in arguments.items()}
    moved_name = name.replace(str(here), str(there))
    assert open_dataset(moved_name, **moved).info.fingerprint == before
    _change_one_image(next(path for path in sorted(there.rglob("*")) if path.suffix in (".png", ".npz")))
    assert open_dataset(moved_name, **moved).info.fingerprint != before


def _change_one_image(path: Path) -> None:
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file.items())
        arrays["train_images"][0, 0, 0] ^= 1
        np.savez(path, allow_pickle=True, **arrays)
    else:
        image = np.asarray(Image.open(path)).copy()
        image[0, 0] ^= 1
        Image.fromarray(image).save(path)


def test_real_duplicates_are_found(tmp_path: Path) -> None:
    name, arguments = pneumoniamnist(tmp_path / "files")
    dataset = open_dataset(name, size=28, cache=tmp_path / "cache", **arguments)
    split = split_by_patient(dataset)
    assert (len(split.train), len(split.val), len(split.test)) == (4708, 524, 624)
    note = next(note for note in split.notes if "exact copies" in note)
    assert "of train are exact copies of 8 of val" in note, note
    assert not any("exact copies" in note for note in split_by_patient(dataset, duplicates="drop").notes[:-1])


def test_real_patients(tmp_path: Path) -> None:
    name, arguments = cxr_hannover(tmp_path / "files")
    dataset = open_dataset(name, cache=tmp_path / "cache", **arguments)
    assert len(dataset) == 243
    assert len(set(dataset.patient_ids)) == 71
    assert dataset.info.classes == ("ap", "pa")
