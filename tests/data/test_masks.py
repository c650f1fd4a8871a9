"""Masks: what a mask file may be, which ones are refused, and that a mask stays with its image."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfuse.data import Dataset, class_weights, open_dataset, split_by_patient
from transfuse.data.fundus import fundus_phantom
from transfuse.data.images import to_square
from transfuse.data.masks import decode_labels, square_labels
from transfuse.errors import DataError, SpecError

Write = Callable[..., Path]


@pytest.fixture
def masked(tmp_path: Path) -> Write:
    """Writes images of 20 x 24 pixels, masks (as they are given) and their table; two images a patient."""

    def write(masks: Sequence[np.ndarray | Image.Image | None], name: str = "set.csv", ending: str = "png") -> Path:
        rng = np.random.default_rng(0)
        rows = []
        for i, mask in enumerate(masks):
            image, truth = f"images/{i:02d}.png", f"masks/{i:02d}.{ending}"
            for folder in ("images", "masks"):
                (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8)).save(tmp_path / image)
            if mask is not None:
                (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(tmp_path / truth)
            rows.append((image, truth, f"p{i // 2}"))
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("image", "truth", "patient"), *rows])
        return tmp_path / name

    return write


def discs(count: int, white: int = 1) -> list[np.ndarray]:
    y, x = np.mgrid[:20, :24]
    return [(((y - 5 - i % 10) ** 2 + (x - 12) ** 2 < 20) * white).astype(np.uint8) for i in range(count)]


def opened(path: Path, **options: object) -> Dataset:
    return open_dataset(str(path), mask_column="truth", size=20, **options)  # type: ignore[arg-type]


def test_a_table_of_masks_is_a_segmentation_by_patients(masked: Write) -> None:
    data = opened(masked(discs(12)))
    assert data.info.task == "segmentation"
    assert data.info.classes == ("background", "foreground")
    assert data.targets.tolist() == [[1, 1]] * 12
    split = split_by_patient(data)
    assert not set(split.train.patient_ids) & set(split.test.patient_ids)
    assert data.info.source == "table set.csv, mask column truth"
    np.testing.assert_array_equal(data.masks()[3], discs(12)[3][:, 2:22])  # the central square, as of the image
    np.testing.assert_array_equal(data[3].target, data.masks()[3])
    images, truth = next(split.val.batches(2))
    assert images.shape[2:] == truth.shape[1:] == (20, 20)
    np.testing.assert_array_equal(truth.numpy(), data.masks()[split.val.indices[:2]])


def test_the_same_masks_in_every_kind_of_file(masked: Write) -> None:
    one = opened(masked(discs(8))).masks()
    grey = opened(masked(discs(8, 255), name="grey.csv")).masks()
    bits = opened(masked([Image.fromarray(mask > 0) for mask in discs(8)], name="bits.csv")).masks()
    palettes = []
    for mask in discs(8):
        image = Image.fromarray(mask).convert("P")
        image.putdata(mask.reshape(-1).tolist())
        image.putpalette([0, 0, 0, 200, 30, 90])
        palettes.append(image)
    named = opened(masked(palettes, name="palette.csv"), mask_classes=("background", "lung"))
    assert named.info.classes == ("background", "lung")
    for other in (grey, bits, named.masks()):
        np.testing.assert_array_equal(one, other)


def test_three_classes_and_an_image_without_one_of_them(masked: Write) -> None:
    masks = discs(10)
    for mask in masks[:8]:
        mask[0, 12] = 2
    masks[9][:] = 0
    data = opened(masked(masks))
    assert data.info.classes == ("background", "class 1", "class 2")
    assert data.targets[[0, 8, 9]].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    pixels = np.bincount(data.masks().reshape(-1))
    weights = class_weights(data.masks(), "segmentation", data.info.classes)
    np.testing.assert_allclose(weights, data.masks().size / (3 * pixels), rtol=1e-6)


def test_all_masks_that_cannot_be_used_are_listed_or_left_out(masked: Write) -> None:
    masks: list[np.ndarray | Image.Image | None] = [*discs(14)]
    masks[2] = np.zeros((20, 20), np.uint8)
    masks[5] = None
    masks[7] = np.full((20, 24), 3, np.uint8)
    masks[9] = Image.fromarray(np.zeros((20, 24, 3), np.uint8))
    path = masked(masks)
    (path.parent / "masks" / "11.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        opened(path)
    message = str(caught.value)
    assert "set.csv, column 'truth': 5 masks cannot be used" in message
    assert "02.png: has 20 x 20 pixels, and its image 24 x 20" in message
    assert "05.png: does not exist" in message
    assert "07.png: holds the label 3; expected 0 to 1, or 0 and 255" in message
    assert "09.png: is in colour (mode RGB)" in message
    assert "11.png: is not an image" in message
    assert "bad_images: exclude" in message
    left = opened(path, bad_images="exclude")
    assert [item.sample_id[7:9] for item in left.exclusions] == ["02", "05", "07", "09", "11"]
    assert left.exclusions[2].reason == "mask: holds the label 3; expected 0 to 1, or 0 and 255"
    assert len(left) == len(left.masks()) == 9


def test_a_mask_that_is_not_named_is_missing(masked: Write) -> None:
    path = masked(discs(6))
    path.write_text(path.read_text().replace("masks/04.png", ""))
    with pytest.raises(DataError, match=r"images/04.png: no mask is named for it"):
        opened(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 2, 255], r"holds the label 255; expected 0 to 2"),
        ([1, 2, 3], r"holds the labels 1, 2, 3; expected 0, 1, 2, \.\.\."),
        ([0, 1, 255], r"holds the label 255; expected 0 to 1, or 0 and 255"),
        ([0, 128], r"holds the label 128; expected 0 to 1, or 0 and 255\n(?s:.*)mask_classes with a name for each"),
        ([0], r"all 6 masks are empty \(label 0 alone\)"),
    ],
)
def test_labels_without_a_class(masked: Write, values: list[int], message: str) -> None:
    mask = np.resize(np.array(values, np.uint8), (20, 24))
    with pytest.raises(DataError, match=message):
        opened(masked([mask] * 6))


def test_a_jpeg_smears_labels(masked: Write) -> None:
    with pytest.raises(DataError, match="JPEG smears labels"):
        opened(masked(discs(6, 255), ending="jpg"))


def test_arguments_that_cannot_be_meant(masked: Write) -> None:
    path = masked(discs(6))
    with pytest.raises(SpecError, match="labels of images or masks; give one of the two"):
        opened(path, label_columns=("patient",))
    with pytest.raises(SpecError, match=r"mask_classes=\['a', 'a'\]: expected two or more different names"):
        opened(path, mask_classes=("a", "a"))
    with pytest.raises(SpecError, match="of which masks"):
        open_dataset(str(path), label_columns=("patient",), mask_classes=("a", "b"))
    with pytest.raises(DataError, match=r"no column 'thruth'.*'truth'"):
        open_dataset(str(path), mask_column="thruth")
    with pytest.raises(SpecError, match="task='binary': set has masks"):
        opened(path, task="binary")
    with pytest.raises(SpecError, match=r"observer='first': .*only 'chasedb1' has two observers"):
        opened(path, observer="first")
    with pytest.raises(SpecError, match="'fundus-vessels' is a phantom and has no columns"):
        open_dataset("fundus-vessels", count=10, mask_column="truth")


def test_labels_of_images_have_no_masks(tiny_npz: Path) -> None:
    with pytest.raises(DataError, match="spots has no masks: its task is 'binary'"):
        open_dataset(str(tiny_npz), size=16).masks()


def test_a_class_that_a_part_lacks_is_an_error(masked: Write) -> None:
    masks = discs(12)
    masks[0][0, 12] = 2  # of one patient alone
    with pytest.raises(DataError, match=r"has no positive of 'class 2'.*'class 2' \(positives\) has 1 patient, "):
        split_by_patient(opened(masked(masks)))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [20, 31, 64])
def test_a_mask_lies_where_its_image_lies(fit: str, size: int) -> None:
    """An image painted from its mask stays so: wherever no edge is near, the label is the nearest image's value."""
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 40:100] = 1
    image = to_square(mask * 255, size, fit)
    label = square_labels(mask, size, fit)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1}
    clear = (image < 5) | (image > 250)
    np.testing.assert_array_equal(label[clear], image[clear] > 127)
    assert (label == (image > 127)).mean() > 0.96


def test_masks_count_in_the_fingerprint_and_the_cache_is_shared(masked: Write) -> None:
    masks = discs(8)
    path = masked(masks)
    one, other = opened(path), opened(path, fit="pad")
    assert one.info.fingerprint == other.info.fingerprint
    copy = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(copy.masks(), one.masks())
    assert isinstance(one.masks(), np.memmap)
    assert not one.masks().flags.writeable
    masks[3][10, 10] = 1 - masks[3][10, 10]
    assert opened(masked(masks)).info.fingerprint != one.info.fingerprint
    with pytest.raises(DataError, match="has changed since the data set was opened"):
        other.masks()


def test_a_negative_control_gives_images_the_masks_of_others(masked: Write) -> None:
    path = masked(discs(10))
    data, control = opened(path), opened(path, permute_labels=True)
    assert data.info.fingerprint != control.info.fingerprint
    np.testing.assert_array_equal(data.pixels(), control.pixels())
    assert not np.array_equal(data.masks(), control.masks())
    assert sorted(mask.tobytes() for mask in data.masks()) == sorted(mask.tobytes() for mask in control.masks())


def test_vessels_of_fundus_phantoms() -> None:
    data, plain = open_dataset("fundus-vessels", count=12), open_dataset("fundus-phantom", count=12)
    np.testing.assert_array_equal(data.pixels(), plain.pixels())
    assert data.patient_ids == plain.patient_ids
    np.testing.assert_array_equal(data.masks()[5], fundus_phantom(5, size=64).masks["vessels"] > 127)
    assert data.info.classes == ("background", "vessel")
    assert data.info.synthetic
    drawn = open_dataset("fundus-vessels", count=12, fit="pad").masks()  # another file: drawn again, from the recipe
    np.testing.assert_array_equal(drawn, data.masks())


def test_chasedb1(real_data: Path) -> None:
    data = open_dataset("chasedb1", root=real_data, size=64)
    assert len(data) == 28
    assert len(set(data.patient_ids)) == 14
    assert (data.sample_ids[0], data.patient_ids[0]) == ("Image_01L", "01")
    second = open_dataset("chasedb1", root=real_data, size=64, observer="second")
    assert data.info.fingerprint != second.info.fingerprint
    with Image.open(real_data / "chasedb1" / "Image_03R_2ndHO.png") as image:
        own = np.asarray(image)[:, 19:979]  # 999 x 960: the central square
    index = data.sample_ids.index("Image_03R")
    centres = ((np.arange(64) + 0.5) * 15).astype(int)
    np.testing.assert_array_equal(second.masks()[index], own[np.ix_(centres, centres)])
    both = 2 * (data.masks() & second.masks()).sum() / (data.masks().sum() + second.masks().sum())
    assert 0.7 < both < 0.85  # the Dice of one observer against the other
    with pytest.raises(SpecError, match=r"observer='third'.*first"):
        open_dataset("chasedb1", root=real_data, observer="third")


def test_chasedb1_without_its_files(tmp_path: Path) -> None:
    (tmp_path / "chasedb1").mkdir()
    with pytest.raises(DataError, match="holds no photographs of CHASE_DB1"):
        open_dataset("chasedb1", root=tmp_path)
    for eye in ("Image_01L", "Image_01R", "Image_02L"):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "chasedb1" / f"{eye}.jpg")
    Image.fromarray(np.ones((32, 32), bool)).save(tmp_path / "chasedb1" / "Image_01L_1stHO.png")
    with pytest.raises(DataError, match=r"chasedb1: 2 masks cannot be used:\n.*Image_01R_1stHO.png: does not exist"):
        open_dataset("chasedb1", root=tmp_path)


def test_labels_are_read_as_they_are_stored(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "deep.png")
    assert decode_labels((tmp_path / "deep.png").read_bytes()).tolist() == [[0, 300]]
