from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from transfuse.data import Part, dataset_names, open_dataset
from transfuse.data.dataset import permuted
from transfuse.errors import DataError, SpecError


def test_a_sample_is_normalised(write_npz: Callable[..., Path]) -> None:
    path = write_npz()
    dataset = open_dataset(str(path), size=12)
    image, target, sample_id, patient_id = dataset[3]
    raw = np.load(path)["train_images"][3] / 255
    np.testing.assert_allclose(image[0], (raw - 0.449) / 0.226, atol=1e-5)
    assert image.dtype == torch.float32
    assert (target, sample_id, patient_id) == (1, "train-000003", "train-000003")
    assert torch.equal(dataset[-1].image, dataset[len(dataset) - 1].image)
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert repr(dataset) == "Dataset('tiny', 36 images 1x12x12, binary)"


@pytest.mark.parametrize(
    ("normalise", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (([0.1, 0.2, 0.3], [1, 2, 3]), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
    ],
)
def test_normalisations(write_npz: Callable[..., Path], normalise: object, mean: tuple, std: tuple) -> None:
    dataset = open_dataset(str(write_npz(shape=(12, 12, 3))), size=12, normalise=normalise)  # type: ignore[arg-type]
    assert (dataset.mean, dataset.std) == (mean, std)
    part = Part(dataset, np.arange(4))
    images = part.tensors(np.arange(4))
    expected = (images.permute(0, 2, 3, 1) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(part.normalise(images).permute(0, 2, 3, 1), expected)


def test_wrong_arguments_are_listed_at_once(write_npz: Callable[..., Path]) -> None:
    with pytest.raises(SpecError) as caught:
        open_dataset("x", size=4, channels=2, count=0, bad_images="exlude", normalise="imagnet", fit="corp")
    text = str(caught.value)
    assert "open_dataset: 6 problems" in text
    for piece in (
        "size=4",
        "channels=2",
        "count=0",
        "did you mean 'exclude'",
        "did you mean 'imagenet'",
        "did you mean 'crop'",
    ):
        assert piece in text
    path = str(write_npz())
    with pytest.raises(SpecError, match=r"expected 1 mean\(s\) and 1 positive standard deviation\(s\)"):
        open_dataset(path, normalise=((0.5, 0.5), (0.5, 0.5)))
    with pytest.raises(SpecError, match=r"count=10 is for phantoms .*cure: train_fraction"):
        open_dataset(path, count=10)
    with pytest.raises(SpecError, match=r"is an \.npz file and has no columns \(age\)\. Cure: a \.csv table"):
        open_dataset(path, patient_column="age")
    with pytest.raises(SpecError, match="is a phantom and has no columns"):
        open_dataset("fundus-phantom", label_columns=["grade"])


def test_unknown_names_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_npz: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz("mine.npz")
    with pytest.raises(
        DataError, match=r"'pnuemoniamnist' is neither a known data set nor a path .*did you mean 'pneumoniamnist'"
    ):
        open_dataset("pnuemoniamnist")
    with pytest.raises(DataError, match="did you mean 'fundus-phantom'"):
        open_dataset("fundusphantom")
    with pytest.raises(DataError, match=r"There is no data set at 'mien\.npz' .*did you mean 'mine\.npz'"):
        open_dataset("mien.npz")
    with pytest.raises(DataError, match=r"There is no data set at 'nowhere/set\.csv'"):
        open_dataset("nowhere/set.csv")
    (tmp_path / "slides.svs").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"slides\.svs is of a kind that cannot be read; expected a folder, \.npz, \.csv"
    ):
        open_dataset("slides.svs")


def test_only_what_may_be_data_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "photos").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.delenv("TRANSFUSE_DATA", raising=False)
    for name in ("CHANGELOG.md", "scan.npz", "README.md", "grades.csv"):
        (here / name).write_text("")
    with pytest.raises(DataError, match=r"Choices: grades\.csv, photos, scan\.npz$"):
        open_dataset("nothing.like")
    with pytest.raises(DataError, match=r"ImageNet is not shipped: .*FOLDER/train/n01440764/\*\.JPEG") as caught:
        open_dataset("imagenet")
    assert "CHANGELOG" not in str(caught.value)


def test_where_paths_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_npz: Callable[..., Path]
) -> None:
    content = {"root": 2, "shared": 3, "here": 4}
    for folder, classes in content.items():
        write_npz(f"{folder}/set.npz", classes=classes)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("TRANSFUSE_DATA", raising=False)
    assert len(open_dataset("set.npz").info.classes) == 4
    monkeypatch.setenv("TRANSFUSE_DATA", str(tmp_path / "shared"))
    assert len(open_dataset("set.npz").info.classes) == 3
    assert len(open_dataset("set.npz", root=tmp_path / "root").info.classes) == 2
    assert len(open_dataset(str(tmp_path / "here" / "set.npz"), root=tmp_path / "root").info.classes) == 4


def test_grey_to_colour_and_back(write_npz: Callable[..., Path]) -> None:
    grey = open_dataset(str(write_npz()), size=12, channels=3).pixels()
    np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
    colour = open_dataset(str(write_npz("c.npz", shape=(12, 12, 3))), size=12, channels=1)
    assert colour.pixels().shape == (36, 1, 12, 12)
    assert len(colour.mean) == 1


def test_other_labels_share_pixels_but_not_the_fingerprint(write_npz: Callable[..., Path], cache: Path) -> None:
    path = str(write_npz())
    plain, control = open_dataset(path), open_dataset(path, permute_labels=True)
    plain.pixels(), control.pixels()
    assert len(list(cache.glob("pixels-*.npy"))) == 1
    assert plain.info.fingerprint != control.info.fingerprint
    assert "NEGATIVE CONTROL" in control.notes[0]
    assert "seed 0" in control.notes[0]


def test_permuted_labels_keep_counts_in_each_part_and_lose_their_meaning() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 2000)
    parts = np.array(["train", "val"])[(np.arange(2000) >= 1500).astype(int)]
    ids = [str(i) for i in range(2000)]
    shuffled = permuted(targets, ids, parts, np.random.default_rng(1))
    for part in ("train", "val"):
        np.testing.assert_array_equal(np.bincount(shuffled[parts == part]), np.bincount(targets[parts == part]))
    assert 0.2 < (shuffled == targets).mean() < 0.3  # chance for four classes
    np.testing.assert_array_equal(shuffled, permuted(targets, ids, parts, np.random.default_rng(1)))


def test_permuting_moves_labels_of_patients_as_wholes() -> None:
    targets = np.repeat(np.arange(50), 2)
    ids = [f"patient {i // 2}" for i in range(100)]
    shuffled = permuted(targets, ids, None, np.random.default_rng(0)).reshape(50, 2)
    np.testing.assert_array_equal(shuffled[:, 0], shuffled[:, 1])
    assert sorted(shuffled[:, 0]) == list(range(50))
    assert (shuffled[:, 0] != np.arange(50)).mean() > 0.8


def test_permuting_with_unequal_patients_keeps_counts() -> None:
    rng = np.random.default_rng(0)
    ids = [str(i) for i in rng.integers(0, 30, 200)]
    targets = rng.random((200, 3)).round().astype(np.float32)
    shuffled = permuted(targets, ids, None, rng)
    assert sorted(map(tuple, shuffled.tolist())) == sorted(map(tuple, targets.tolist()))
    assert (shuffled != targets).any()


def test_phantoms_are_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_dataset("fundus-phantom", size=32, count=20, seed=3)
    assert first.info.synthetic
    assert "is synthetic" in first.notes[0]
    assert any("smaller than a pixel" in note for note in first.notes)
    assert len(set(first.patient_ids)) == 10
    import transfuse.data.rendered as rendered

    def drawn_again(*args: object, **kwargs: object) -> None:
        raise AssertionError("drawn again")

    with monkeypatch.context() as patch:
        patch.setattr(rendered, "phantoms", drawn_again)
        second = open_dataset("fundus-phantom", size=32, count=20, seed=3)
        np.testing.assert_array_equal(first.pixels(), second.pixels())
    assert open_dataset("fundus-phantom", size=32, count=20, seed=4).info.fingerprint != first.info.fingerprint
    next(cache.glob("pixels-*.npy")).unlink()
    for path in cache.glob("pixels-*.npy"):
        path.unlink()
    again = open_dataset("fundus-phantom", size=32, count=20, seed=3)  # the images are gone, the facts are not
    np.testing.assert_array_equal(first.pixels(), again.pixels())


def test_phantoms_are_drawn_again_only_if_what_draws_them_changes(tmp_path: Path) -> None:
    import transfuse.data.rendered as rendered

    source = Path(rendered.__file__).parent
    needed, todo = {"rendered"}, ["phantoms"]
    while todo:  # all that phantoms.py imports of its neighbours
        needed.add(module := todo.pop())
        text = (source / f"{module}.py").read_text()
        todo += [name for name in re.findall(r"^from transfuse\.data\.(\w+) import", text, re.M) if name not in needed]
    assert set(rendered._DRAWING) == needed
    folder = tmp_path / "data"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = rendered._recipe(folder)
    assert before == rendered._recipe()
    (folder / "table.py").write_text("changed")
    assert rendered._recipe(folder) == before
    (folder / "lesions.py").write_text("changed")
    assert rendered._recipe(folder) != before


@pytest.mark.parametrize(
    ("shape", "fit", "side"), [((28, 28), "crop", 28), ((40, 28), "crop", 28), ((28, 40), "pad", 40)]
)
def test_enlarging_is_said(
    shape: tuple[int, int], fit: str, side: int, write_npz: Callable[..., Path], write_table: Callable[..., Path],
    write_image: Callable[..., Path], tmp_path: Path,
) -> None:  # fmt: skip
    for number in range(6):
        write_image(tmp_path / "table" / f"{number}.png", shape=shape)
        write_image(tmp_path / "folders" / "ab"[number % 2] / f"{number}.png", shape=shape)
    table = write_table(("image", "label"), [(f"{number}.png", number % 2) for number in range(6)])
    for path in (write_npz(shape=shape), table, tmp_path / "folders"):
        notes = open_dataset(str(path), size=224, fit=fit).notes
        assert f"Images of {side} px were enlarged to 224 px: no detail is gained." in notes
        assert not any("enlarged" in note for note in open_dataset(str(path), size=side, fit=fit).notes)


def test_the_task_of_class_labels_can_be_said(
    write_npz: Callable[..., Path], write_table: Callable[..., Path], class_folders: Callable[..., Path]
) -> None:
    table = write_table(("image", "label"), [(f"{number}.png", (0, 1, 2, 3, 10)[number % 5]) for number in range(20)])
    npz, folders = write_npz(classes=5), class_folders(("0_none", "1_mild", "2_severe"))
    for path in (table, npz, folders):
        assert open_dataset(str(path)).info.task == "multiclass"
        graded = open_dataset(str(path), task="ordinal")
        assert graded.info.task == "ordinal"
        assert open_dataset(str(path), task="multiclass").info.task == "multiclass"
    graded = open_dataset(str(table), task="ordinal")
    assert graded.info.classes == ("0", "1", "2", "3", "10")
    assert graded.targets[graded.sample_ids.index("4.png")] == 4
    assert "Of the grades only 0, 1, 2, 3, 10 occur: they count as neighbours of each other." in graded.notes
    two = write_npz("two.npz")
    assert open_dataset(str(two), task="multiclass").info.task == "multiclass"
    assert open_dataset(str(two), task="binary").info.task == "binary"


def test_impossible_tasks(write_npz: Callable[..., Path], class_folders: Callable[..., Path]) -> None:
    five, two, names = write_npz(classes=5), write_npz("two.npz"), class_folders(("mild", "none", "severe"))
    many = write_npz(
        "many.npz", **{f"{part}_labels": np.eye(n, 3) for part, n in (("train", 24), ("val", 6), ("test", 6))}
    )
    for path, task, message in (
        (five, "multilabel", r"one label a sample, of 5 classes; .*Choices: multiclass, ordinal"),
        (five, "ordnal", r"task='ordnal': .* of 5 classes; did you mean 'ordinal'\?"),
        (five, "binary", "of 5 classes"),
        (five, "segmentation", "of 5 classes"),
        (two, "ordinal", "of 2 classes; .*Choices: binary, multiclass"),
        (many, "multiclass", "several label columns of 0 and 1; .*Choices: multilabel"),
        (names, "ordinal", r"mild, none, severe\) have names that do not say .*'0_none'"),
    ):
        with pytest.raises(SpecError, match=message):
            open_dataset(str(path), task=task)
    assert open_dataset(str(many), task="multilabel").info.task == "multilabel"


def test_phantom_pixels_are_what_was_drawn() -> None:
    from transfuse.data.phantoms import phantoms

    dataset = open_dataset("natural-phantom", size=32, count=70, seed=1)
    batch = phantoms("natural-phantom", range(70), size=32, seed=1)
    np.testing.assert_array_equal(dataset.pixels(), batch.images)
    np.testing.assert_array_equal(dataset.targets, batch.targets)


def test_names() -> None:
    names = dataset_names()
    assert {"fundus-phantom", "natural-phantom", "pneumoniamnist", "chestmnist"} <= set(names)
    assert sum(name.endswith("mnist3d") for name in names) == 6
