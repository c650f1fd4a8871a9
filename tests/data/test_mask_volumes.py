"""Masks of volumes: that they stay on their volumes, whatever the orientation and the voxels, and which are refused."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transfuse.data import Dataset, class_weights, open_dataset, split_by_patient
from transfuse.data.mask_volumes import cube_labels
from transfuse.data.volumes import Volume, to_voxels
from transfuse.errors import DataError, SpecError

nib = pytest.importorskip("nibabel", reason="NIfTI files need nibabel: pip install 'transfuse[3d]'")
Write = Callable[..., Path]


def saved(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), axes: str = "RAS") -> None:
    """Writes values in RAS, with their axes turned to an orientation."""
    image = nib.Nifti1Image(values, np.diag([*spacing, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    path.parent.mkdir(exist_ok=True)
    nib.save(image.as_reoriented(turn), path)


def ball(i: int, shape: tuple[int, ...] = (12, 14, 16)) -> np.ndarray:
    """Label 1, and 2 where x is large; not in the middle, and not symmetric along any axis."""
    x, y, z = np.indices(shape)
    inside = (x - 5) ** 2 + (y - 6 - i % 3) ** 2 + (z - 6) ** 2 < 18
    return (inside * (1 + (x > 5))).astype(np.uint8)


@pytest.fixture
def masked(tmp_path: Path) -> Write:
    """A table of volumes that are bright where their masks are; `masks` replaces some by functions that write them."""

    def write(
        count: int = 10, masks: Mapping[int, Any] = {}, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), axes: str = "RAS"
    ) -> Path:
        rows = [("image", "truth", "patient")]
        for i in range(count):
            image, truth = f"scans/{i:02d}.nii.gz", f"masks/{i:02d}.nii.gz"
            saved(tmp_path / image, 100 * ball(i).astype(np.float32), spacing)
            if i not in masks:
                saved(tmp_path / truth, ball(i), spacing, axes)
            elif masks[i] is not None:
                masks[i](tmp_path / truth)
            rows.append((image, truth if i not in masks or masks[i] is not None else "", f"p{i // 2}"))
        with (tmp_path / "set.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        return tmp_path / "set.csv"

    return write


def opened(path: Path, **options: Any) -> Dataset:
    return open_dataset(str(path), **{"mask_column": "truth", "size": 12, **options})


def test_a_table_of_masked_volumes_is_a_segmentation_by_patients(masked: Write) -> None:
    data = opened(masked())
    assert (data.info.task, data.info.spatial_dims) == ("segmentation", 3)
    assert data.info.classes == ("background", "class 1", "class 2")
    assert data.masks().shape == (10, 12, 12, 12)
    assert data.masks().dtype == np.uint8
    split = split_by_patient(data)
    assert not set(split.train.patient_ids) & set(split.test.patient_ids)
    images, truth = next(split.val.batches(2))
    assert images.shape[2:] == truth.shape[1:] == (12, 12, 12)
    np.testing.assert_array_equal(data[3].target, data.masks()[3])
    # The central cube of 12 x 14 x 16 voxels, turned from RAS to (feet to head, front to back, right to left).
    by_hand = ball(3)[::-1, ::-1].transpose(2, 1, 0)[2:14, 1:13]
    np.testing.assert_array_equal(data.masks()[3], by_hand)
    np.testing.assert_array_equal(data.pixels()[3, 0] > 0, by_hand > 0)
    assert class_weights(data.masks(), "segmentation", data.info.classes).argmin() == 0


@pytest.mark.parametrize("axes", ["LPS", "SPL", "AIR", "IRP"])
def test_a_mask_in_another_orientation_lies_where_its_volume_lies(masked: Write, axes: str) -> None:
    one = opened(masked(), fit="pad").masks()
    np.testing.assert_array_equal(opened(masked(axes=axes), fit="pad").masks(), one)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.9, 3.0), (2.5, 0.7, 0.7)])
@pytest.mark.parametrize("size", [8, 15])
def test_each_voxel_has_the_nearest_label_of_its_place(fit: str, spacing: tuple[float, ...], size: int) -> None:
    """By hand, voxel by voxel, from millimetres (of squashed volumes: from shares of a side)."""
    labels = np.random.default_rng(0).integers(0, 5, (10, 12, 9)).astype(np.uint8)
    sides = [count * width for count, width in zip(labels.shape, spacing, strict=True)]
    side = {"crop": min(sides), "pad": max(sides)}.get(fit, 0.0)
    expected = np.zeros((size,) * 3, np.uint8)
    for place in product(range(size), repeat=3):
        old = []
        for number, width, extent in zip(place, spacing, sides, strict=True):
            share = (number + 0.5) / size
            mm = share * extent if fit == "squash" else (extent - side) / 2 + share * side
            if set(spacing) == {1.0} and fit != "squash":
                mm = int((extent - side) / 2) + share * side  # whole voxels, as of volumes
            old.append(int(np.floor(mm / width + 1e-6)))
        if all(0 <= at < count for at, count in zip(old, labels.shape, strict=True)):
            expected[place] = labels[tuple(old)]
    found = cube_labels(Volume(labels, spacing), size, fit)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.9, 2.0)])
def test_a_mask_covers_what_its_volume_shows(fit: str, spacing: tuple[float, float, float]) -> None:
    """A volume that is its own mask: where the resampled volume is above a half, the mask is set, but for edges."""
    x, y, z = np.indices((20, 24, 18))
    inside = (((x - 7) / 5) ** 2 + ((y - 13) / 6) ** 2 + ((z - 8) / 5) ** 2 < 1).astype(np.uint8)
    shown = to_voxels(Volume(inside * np.uint8(200), spacing), size=40, channels=1, fit=fit, white=255)[0] > 100
    mask = cube_labels(Volume(inside, spacing), 40, fit) > 0
    assert 2 * (shown & mask).sum() / (shown.sum() + mask.sum()) > 0.95


def test_all_masks_that_cannot_be_used_are_listed_or_left_out(masked: Write) -> None:
    def moved(path: Path) -> None:
        affine = np.eye(4)
        affine[0, 3] = 2.5
        nib.save(nib.Nifti1Image(ball(0), affine), path)

    bad = {
        1: lambda path: saved(path, ball(1)[:, 1:]),
        2: None,
        3: moved,
        5: lambda path: saved(path, ball(5) * 3),
        6: lambda path: saved(path, ball(6) * np.float32(0.5)),
        7: lambda path: path.write_bytes(b"no volume"),
        8: lambda path: None,
    }
    path = masked(17, masks=bad)
    with pytest.raises(DataError) as caught:
        opened(path, mask_classes=("background", "head", "body"))
    message = str(caught.value)
    for part in (
        "set.csv, column 'truth': 7 masks cannot be used",
        "01.nii.gz: has 12 x 13 x 16 voxels, and its volume 12 x 14 x 16",
        "02.nii.gz: no mask is named for it",
        "03.nii.gz: lies elsewhere than its volume: by their affine matrices, corners are 2.5 mm apart",
        "05.nii.gz: holds the labels 3, 6; expected 0 to 2",
        "06.nii.gz: holds the value 0.5; expected whole numbers",
        "07.nii.gz: cannot be read as NIfTI",
        "08.nii.gz: does not exist",
        "Cure: masks on the voxels of their volumes",
        "bad_images: exclude",
    ):
        assert part in message
    left = opened(path, bad_images="exclude", mask_classes=("background", "head", "body"))
    assert [item.sample_id[6:8] for item in left.exclusions] == ["01", "02", "03", "05", "06", "07", "08"]
    assert len(left) == len(left.masks()) == len(left.pixels()) == 10
    np.testing.assert_array_equal(left.masks()[1], opened(masked(17)).masks()[4])
    assert "7 of 17 samples were left out" in "\n".join(left.notes)


def test_what_is_of_another_kind_is_named(masked: Write, tmp_path: Path) -> None:
    path = masked()
    (tmp_path / "masks" / "flat.png").write_bytes(b"")
    path.write_text(path.read_text().replace("masks/04.nii.gz", "masks/flat.png"))
    with pytest.raises(DataError, match=r"flat\.png: is no NIfTI file, and its volume is one"):
        opened(path)
    with pytest.raises(SpecError, match="give one of the two"):
        opened(path, label_columns="patient")


def test_headers_that_are_rounded_are_no_mistake_and_float_labels_are_labels(masked: Write) -> None:
    def rounded(path: Path) -> None:
        affine = np.eye(4) * 1.0005
        nib.save(nib.Nifti1Image(ball(4).astype(np.float64), affine), path)

    np.testing.assert_array_equal(opened(masked(masks={4: rounded})).masks(), opened(masked()).masks())


def test_masks_of_0_and_255_are_of_two_classes(masked: Write) -> None:
    def white(i: int) -> Callable[[Path], None]:
        return lambda path: saved(path, (ball(i) > 0) * np.uint8(255))

    data = opened(masked(masks={i: white(i) for i in range(10)}))
    assert data.info.classes == ("background", "foreground")
    np.testing.assert_array_equal(data.masks(), opened(masked()).masks() > 0)


def test_a_changed_mask_is_found_and_a_remembered_one_is_scanned_again(masked: Write, tmp_path: Path) -> None:
    path = masked()
    data = opened(path)
    saved(tmp_path / "masks" / "03.nii.gz", np.flip(ball(3), 0).copy())
    with pytest.raises(DataError, match=r"03\.nii\.gz has changed since the data set was opened"):
        data.masks()
    again = opened(path)
    assert again.info.fingerprint != data.info.fingerprint
    assert len(again.masks()) == 10


def test_the_hippocampus(real_data: Path) -> None:
    """Counted by nibabel alone: a padded cube of the volume's own longest side loses no voxel of a class."""
    data = open_dataset("hippocampus_msd", root=real_data, size=32, fit="pad")
    assert len(data) == 80
    assert data.info.classes == ("background", "anterior", "posterior")
    assert (data.info.task, data.info.spatial_dims, data.info.licence) == ("segmentation", 3, "CC BY-SA 4.0")
    assert not data.patients_known
    assert data.targets.min() == 1
    assert data.masks().shape == (80, 32, 32, 32)
    for i in (0, 41, 79):
        labels = np.asarray(nib.load(real_data / "hippocampus_msd/labels" / f"{data.sample_ids[i]}.nii.gz").dataobj)
        scale = (max(labels.shape) / 32) ** 3  # voxels of the file in one of the cube
        for k in (1, 2):
            assert (data.masks()[i] == k).sum() * scale == pytest.approx((labels == k).sum(), rel=0.05)
    # The posterior part lies behind the anterior one: further along the second axis.
    _, _, rows, _ = np.nonzero(data.masks() == 1)
    _, _, behind, _ = np.nonzero(data.masks() == 2)
    assert behind.mean() > rows.mean() + 5


def test_a_folder_without_its_volumes_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "hippocampus_msd").mkdir()
    with pytest.raises(DataError, match=r"holds no volumes of the hippocampus\. Expected images/hippocampus_001"):
        open_dataset("hippocampus_msd", root=tmp_path)


def test_the_folders_as_they_are_distributed(tmp_path: Path) -> None:
    folder = tmp_path / "hippocampus_msd"
    folder.mkdir()
    for i in range(3):
        saved(folder / "imagesTr" / f"hippocampus_{i:03d}.nii.gz", 9 * ball(i).astype(np.float32))
        saved(folder / "labelsTr" / f"hippocampus_{i:03d}.nii.gz", ball(i))
    (folder / "imagesTr" / "._hippocampus_000.nii.gz").write_bytes(b"")  # as archives made on a Mac hold
    data = open_dataset("hippocampus_msd", root=tmp_path, size=12)
    assert data.sample_ids == ("hippocampus_000", "hippocampus_001", "hippocampus_002")
