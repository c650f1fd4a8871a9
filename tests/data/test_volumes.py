"""Volumes become cubes: against Pillow in the plane, against a definition with loops, and by physical size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfuse.data import Part, open_dataset, split_by_patient
from transfuse.data.images import FITS, to_square
from transfuse.data.volumes import Volume, box_of, to_voxels
from transfuse.errors import DataError, SpecError

Write = Callable[..., Path]
NO_OTHERS = {f"{part}_{what}": None for part in ("val", "test") for what in ("images", "labels")}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("shape", "size"), [((20, 26), 12), ((11, 30), 24), ((30, 11), 30), ((16, 16), 9)])
def test_in_the_plane_it_is_pillow(rng: np.random.Generator, fit: str, shape: tuple[int, int], size: int) -> None:
    """A volume of equal slices; its depth is what makes the cube of the same side as the square."""
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    depth = {"crop": min(shape), "pad": max(shape), "squash": 5}[fit]
    cube = to_voxels(Volume(np.repeat(image[None], depth, 0)), size=size, channels=1, fit=fit, white=255)
    assert cube.shape == (1, size, size, size)
    assert cube.dtype == np.uint8
    expected = to_square(image, size, fit).astype(int)
    assert np.abs(cube[0].astype(int) - expected).max() <= 1


def test_each_axis_by_the_definition(rng: np.random.Generator) -> None:
    """Triangles about the new centres, as wide as a new voxel, with voxels of 1 x 2 x 3 mm."""
    voxels = rng.integers(0, 65536, (30, 18, 11)).astype(np.uint16)
    spacing, size = (1.0, 2.0, 3.0), 8
    found = to_voxels(Volume(voxels, spacing), size=size, channels=1, fit="crop", white=65535)[0]
    side = 30.0
    total = np.zeros((size,) * 3)
    weight = []
    for count, width in zip(voxels.shape, spacing, strict=True):
        rows = np.zeros((size, count))
        begin = (count * width - side) / 2
        for new in range(size):
            centre = begin + (new + 0.5) * side / size
            for old in range(count):
                inside = old + 1 > begin / width and old < (begin + side) / width
                rows[new, old] = inside * max(0, 1 - abs((old + 0.5) * width - centre) / max(side / size, width))
            rows[new] /= rows[new].sum()
        weight.append(rows)
    total = np.einsum("ai,bj,ck,ijk->abc", *weight, voxels.astype(float))
    assert np.abs(found - total).max() <= 1


def test_a_ball_in_millimetres_stays_a_ball() -> None:
    """Drawn in voxels of 1 x 1 x 4 mm, it is as wide in all three directions afterwards; squashed, it is not."""
    z, y, x = np.meshgrid(*(np.arange(n) + 0.5 - n / 2 for n in (48, 48, 12)), indexing="ij")
    ball = (255 * (z**2 + y**2 + (4 * x) ** 2 < 14**2)).astype(np.uint8)

    def widths(fit: str, spacing: tuple[float, float, float]) -> np.ndarray:
        cube = to_voxels(Volume(ball[:, :40], spacing), size=40, channels=1, fit=fit, white=255)[0].astype(float)
        place = np.arange(40) - 19.5
        sums = [cube.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
        return np.array(
            [np.sqrt((one * place**2).sum() / one.sum() - ((one * place).sum() / one.sum()) ** 2) for one in sums]
        )

    for fit in ("crop", "pad"):
        found = widths(fit, (1.0, 1.0, 4.0))
        np.testing.assert_allclose(found, found.mean(), rtol=0.06)
    stretched = widths("squash", (1.0, 1.0, 4.0))
    assert stretched[1] > 1.15 * stretched[0]


def test_what_already_fits_is_kept_to_the_bit(rng: np.random.Generator) -> None:
    voxels = rng.integers(0, 4096, (9, 9, 9)).astype(np.uint16)
    for fit in FITS:
        np.testing.assert_array_equal(to_voxels(Volume(voxels), size=9, channels=1, fit=fit, white=4095)[0], voxels)
    longer = np.pad(voxels, ((1, 2), (0, 0), (3, 2)))
    np.testing.assert_array_equal(
        to_voxels(Volume(longer), size=9, channels=1, fit="crop", white=4095)[0, :, :, 1:], longer[1:10, :, 3:11]
    )
    assert box_of((12, 9, 9), (1, 1, 1), "crop")[0] == (1, 10)
    padded = to_voxels(Volume(voxels[:6]), size=9, channels=2, fit="pad", white=4095)
    assert padded.shape == (2, 9, 9, 9)
    np.testing.assert_array_equal(padded[1, 1:7], voxels[:6])
    assert not padded[:, [0, 7, 8]].any()


def test_an_npz_of_volumes(write_npz: Write) -> None:
    path = write_npz(shape=(12, 12, 12))
    dataset = open_dataset(str(path), size=12, normalise="half")
    content = np.load(path)
    np.testing.assert_array_equal(dataset.pixels()[:24, 0], content["train_images"])
    assert (dataset.info.spatial_dims, dataset.info.channels, dataset.shape) == (3, 1, (1, 12, 12, 12))
    assert repr(dataset) == "Dataset('tiny', 36 volumes 1x12x12x12, binary)"
    assert dataset.info.source == "tiny.npz, 12 x 12 x 12 voxels"
    image = dataset[3].image
    assert image.shape == (1, 12, 12, 12)
    np.testing.assert_allclose(image[0], content["train_images"][3] / 127.5 - 1, atol=1e-5)
    part = Part(dataset, np.arange(5))
    assert part.tensors(np.array([4, 1])).shape == (2, 1, 12, 12, 12)
    assert next(part.batches(5))[0].shape == (5, 1, 12, 12, 12)
    assert any("does not say how large its voxels are" in note for note in dataset.notes)
    larger = open_dataset(str(path), size=16, channels=3)
    assert larger.pixels().shape == (36, 3, 16, 16, 16)
    assert any("Volumes of 12 px were enlarged to 16 px" in note for note in larger.notes)


@pytest.mark.parametrize("place", [1, 4])
def test_one_channel_may_be_said(write_npz: Write, place: int) -> None:
    volumes = np.random.default_rng(1).integers(0, 256, (24, 9, 9, 9), dtype=np.uint8)
    path = write_npz(train_images=np.expand_dims(volumes, place), **NO_OTHERS)
    np.testing.assert_array_equal(open_dataset(str(path), size=9).pixels()[:, 0], volumes)


def test_oblong_and_deep_volumes(write_npz: Write) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (24, 10, 12, 12)).astype(np.uint16)
    deep[0, 0, 0, 0] = 4095
    dataset = open_dataset(str(write_npz(train_images=deep, **NO_OTHERS)), size=10)
    np.testing.assert_array_equal(dataset.pixels()[:, 0], deep[:, :, 1:11, 1:11])
    assert "The volumes are 10 x 12 x 12 voxels, not cubes." in dataset.notes
    assert any(note.startswith("The volumes have 16 bits") for note in dataset.notes)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train_images": np.zeros((24, 5, 5, 5, 2), np.uint8)},
            r"volumes of several channels .* expected \(N, D, H, W\)",
        ),
        ({"train_images": np.zeros((24, 1, 5, 5, 1), np.uint8)}, r"two voxels or more along each axis"),
        ({"train_images": np.full((24, 5, 5, 5), np.nan)}, r"type float64; expected uint8 or uint16"),
        ({"train_images": np.zeros((24, 5, 5, 5), np.uint8)}, r"images of different shapes or types"),
    ],
)
def test_bad_volumes(write_npz: Write, arrays: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(str(write_npz(**arrays)))


def test_a_class_missing_in_a_part(write_npz: Write) -> None:
    path = write_npz(shape=(9, 9, 9), val_labels=np.zeros((6, 1), np.uint8))
    with pytest.raises(DataError, match=r"val part"):
        split_by_patient(open_dataset(str(path), size=9))


def test_images_and_volumes_of_equal_bytes_share_no_file(write_npz: Write) -> None:
    flat = open_dataset(str(write_npz("flat.npz", shape=(8, 64))), size=8)
    solid = open_dataset(str(write_npz("solid.npz", shape=(8, 8, 8))), size=8)
    assert flat.pixels().shape == (36, 1, 8, 8)
    assert solid.pixels().shape == (36, 1, 8, 8, 8)


def test_a_window_is_for_nifti(write_npz: Write) -> None:
    with pytest.raises(SpecError, match=r"window=\(0, 100\): .* holds no NIfTI files"):
        open_dataset(str(write_npz(shape=(9, 9, 9))), window=(0, 100))
    with pytest.raises(SpecError, match=r"window=\(5, 5\): expected two values, the lower first"):
        open_dataset("fundus-phantom", window=(5, 5))


def test_adrenalmnist3d(real_data: Path) -> None:
    dataset = open_dataset("adrenalmnist3d", root=real_data, size=28)
    assert (len(dataset), dataset.info.task, dataset.info.classes) == (1584, "binary", ("normal", "hyperplasia"))
    assert dataset.info.licence == "CC BY 4.0"
    with np.load(real_data / "adrenalmnist3d" / "adrenalmnist3d.npz") as content:
        np.testing.assert_array_equal(dataset.pixels()[:1188, 0], content["train_images"])
        np.testing.assert_array_equal(dataset.targets[-298:], content["test_labels"][:, 0])
    split = split_by_patient(dataset)
    assert [len(part) for part in (split.train, split.val, split.test)] == [1188, 98, 298]


def test_pillow_would_say_the_same_of_a_slice() -> None:
    """The comparison above can fail: another filter is further away."""
    image = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    cube = to_voxels(Volume(np.repeat(image[None], 20, 0)), size=12, channels=1, fit="crop", white=255)
    other = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(cube[0, 0].astype(int) - other).max() > 5
