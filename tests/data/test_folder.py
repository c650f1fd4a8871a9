from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfuse.data import open_dataset
from transfuse.errors import DataError

Write = Callable[..., Path]


def test_classes_ids_and_pixels(class_folders: Write) -> None:
    root = class_folders(("sick", "normal"))
    dataset = open_dataset(str(root), size=16)
    assert dataset.info.classes == ("normal", "sick")
    assert dataset.info.task == "binary"
    assert any("'sick' counts as positive" in note for note in dataset.notes)
    assert dataset.sample_ids[0] == "normal/00.png"
    assert dataset.targets.tolist() == [0] * 10 + [1] * 10
    np.testing.assert_array_equal(dataset.pixels()[12, 0], np.asarray(Image.open(root / "sick" / "02.png")))
    assert any("Cure: a table (.csv) of these images with a column for the patient" in note for note in dataset.notes)
    assert open_dataset(str(class_folders(("a", "b", "c"), root="three"))).info.task == "multiclass"


def test_official_parts_under_their_usual_names(class_folders: Write, tmp_path: Path) -> None:
    for part in ("Train", "valid", "test"):
        class_folders(("a", "b"), count=3, root=f"set/{part}")
    dataset = open_dataset(str(tmp_path / "set"))
    assert dataset.parts is not None
    assert dict(zip(*np.unique(dataset.parts, return_counts=True), strict=True)) == {"train": 6, "val": 6, "test": 6}
    assert dataset.info.classes == ("a", "b")


def test_folders_beside_the_parts_are_no_classes(class_folders: Write, tmp_path: Path) -> None:
    for place in ("set/train", "set/test", "set/set/train"):  # the usual archive of the Kaggle pneumonia set
        class_folders(("a", "b"), count=3, root=place)
    with pytest.raises(DataError, match=r"holds the parts test, train and beside them set, .*Cure: move the other"):
        open_dataset(str(tmp_path / "set"))


def test_a_file_that_could_not_be_read_is_tried_again(class_folders: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = class_folders(), Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == "03.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        assert len(open_dataset(str(root), bad_images="exclude")) == 18
    assert len(open_dataset(str(root), bad_images="exclude")) == 20  # chmod does not change a file's time


def test_few_images_are_in_memory_at_once(class_folders: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from transfuse.data import files

    read, decode = [], files.decode
    monkeypatch.setattr(files.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(files, "decode", lambda data: read.append(1) or decode(data))
    dataset = open_dataset(str(class_folders(count=40)))
    for taken, _ in enumerate(dataset._images.arrays(), start=1):
        assert len(read) <= taken + 8  # 4 a thread; at 256 images of 20 MB a machine's memory is full
    assert len(read) == taken == 80


def test_hidden_files_and_other_files_are_passed_over(class_folders: Write) -> None:
    root = class_folders()
    (root / "normal" / "._00.png").write_bytes(b"mac")
    (root / "normal" / "notes.txt").write_text("")
    (root / ".cache").mkdir()
    assert len(open_dataset(str(root))) == 20


def test_folders_that_are_none(tmp_path: Path, class_folders: Write, write_image: Write) -> None:
    write_image(tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match=r"has no class folders with images\. Expected <folder>/<class>"):
        open_dataset(str(tmp_path / "flat"))
    (tmp_path / "flat" / "labels.csv").write_text("")
    with pytest.raises(DataError, match=r"It holds labels\.csv: give the path of that file instead"):
        open_dataset(str(tmp_path / "flat"))
    with pytest.raises(DataError, match="has a single class folder with images, 'only'; two are needed"):
        open_dataset(str(class_folders(("only",), root="one")))
    (class_folders() / "rare").mkdir()
    with pytest.raises(
        DataError, match=r"the class folder\(s\) rare hold no images .*Cure: convert the images, or remove"
    ):
        open_dataset(str(class_folders()))


def test_unreadable_images_are_listed_ten_at_a_time(class_folders: Write) -> None:
    root = class_folders()
    for number in range(9):
        (root / "normal" / f"{number:02d}.png").write_bytes(b"broken")
    for number in range(3):
        (root / "sick" / f"{number:02d}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_dataset(str(root))
    lines = str(caught.value).splitlines()
    assert lines[0] == "12 images cannot be used:"
    assert lines[1].endswith("normal/00.png: is not an image that Pillow can read")
    assert len(lines) == 13
    assert lines[11] == "  ... and 2 more"
    assert "bad_images: exclude" in lines[12]


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_truncated_images(class_folders: Write, write_image: Write, ending: str) -> None:
    root = class_folders()
    cut = [write_image(root / "sick" / f"cut{number}{ending}", (64, 64)) for number in range(2)]
    for path in cut:
        _cut(path)
    opened = open_dataset(str(root))  # headers are fine
    with pytest.raises(
        DataError, match=r"(?s)2 images cannot be used:.*cut0.*cannot be decoded .*cut1.*bad_images: exclude"
    ):
        opened.pixels()
    dataset = open_dataset(str(root), bad_images="exclude")
    assert len(dataset) == 20
    assert [item.sample_id for item in dataset.exclusions] == [f"sick/cut0{ending}", f"sick/cut1{ending}"]
    assert "cannot be decoded" in dataset.exclusions[0].reason
    assert any(note.startswith("2 of 22 samples were left out (sick/cut0") for note in dataset.notes)
    assert dataset.pixels().shape == (20, 1, 64, 64)


def test_nothing_left(class_folders: Write) -> None:
    root = class_folders(count=1)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="2 images cannot be used"):
        open_dataset(str(root), bad_images="exclude")


def test_images_that_change_after_opening(class_folders: Write, write_image: Write) -> None:
    root = class_folders()
    dataset = open_dataset(str(root))
    write_image(root / "sick" / "03.png")
    (root / "sick" / "04.png").unlink()
    with pytest.raises(DataError, match=r"(?s)03\.png: has changed since .*04\.png: does not exist"):
        dataset.pixels()
    dataset = open_dataset(str(root))
    assert len(dataset) == 19
    assert dataset.pixels().shape[0] == 19


def test_mixed_depth_colour_alpha_and_shape(class_folders: Write) -> None:
    root = class_folders()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / "sick" / "colour.png")
    Image.fromarray(rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)).save(root / "sick" / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (16, 32), dtype=np.uint8)).save(root / "sick" / "wide.png")
    deep = rng.integers(0, 4096, (16, 16)).astype(np.uint16)
    deep[0, 0] = 4095
    Image.fromarray(deep).save(root / "sick" / "deep.png")
    dataset = open_dataset(str(root), size=16)
    assert dataset.info.channels == 3
    assert dataset.white == 4095
    pixels = dataset.pixels()
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[dataset.sample_ids.index("sick/deep.png"), 1], deep)
    eight = np.asarray(Image.open(root / "normal" / "00.png"))
    np.testing.assert_allclose(pixels[0, 0] / 4095, eight / 255, atol=1 / 4095)
    for sentence in (
        "2 of 24 images are in colour, the others grey; grey ones were repeated over three channels.",
        "1 of 24 images have 16 bits, with values up to 4095: depth is kept, and 4095 counts as white.",
        "1 of 24 images have an alpha channel: they were put on black.",
        "1 of 24 images are not square: the central square was kept (50 % of the area was dropped, on average).",
    ):
        assert sentence in dataset.notes
    assert any("black was added" in note for note in open_dataset(str(root), fit="pad").notes)


def test_a_bright_outlier_is_said_by_name(class_folders: Write) -> None:
    root = class_folders(count=2)
    for number in range(5):
        Image.fromarray(np.full((16, 16), 3000, np.uint16)).save(root / "sick" / f"deep{number}.png")
    assert not any("black" in note for note in open_dataset(str(root)).notes)
    burnt = np.full((16, 16), 3000, np.uint16)
    burnt[0, 0] = 65535
    Image.fromarray(burnt).save(root / "sick" / "burnt.png")
    dataset = open_dataset(str(root), size=16)
    assert dataset.white == dataset.pixels().max() == 65535
    assert any("1 of 6 images have values above 4095 (sick/burnt.png: 65535)" in note for note in dataset.notes)


def test_listing_order_and_place_do_not_matter(tmp_path: Path, class_folders: Write) -> None:
    import shutil

    root = class_folders()
    copy = tmp_path / "elsewhere" / "copy"
    copy.mkdir(parents=True)
    for path in sorted(root.rglob("*.png"), reverse=True):  # created in the opposite order
        target = copy / path.relative_to(root)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    assert open_dataset(str(copy)).info.fingerprint == open_dataset(str(root)).info.fingerprint
    (copy / "sick" / "00.png").rename(copy / "normal" / "99.png")
    assert open_dataset(str(copy)).info.fingerprint != open_dataset(str(root)).info.fingerprint
