"""The phantom of volumes: what it draws, and that its class is to be seen in no number but in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transfuse.data import open_dataset, split_by_patient
from transfuse.data.canvas import stream
from transfuse.data.embolism import embolism_label, embolism_phantom
from transfuse.data.phantoms import phantom_labels, phantoms
from transfuse.data.vessel_tree import grow_tree, smooth_volume
from transfuse.errors import DataError


def test_it_depends_on_seed_and_index_alone() -> None:
    batch = phantoms("embolism-phantom", range(6), size=24)
    assert batch.images.shape == (6, 1, 24, 24, 24)
    assert batch.images.dtype == np.uint8
    backwards = phantoms("embolism-phantom", range(5, -1, -1), size=24)
    np.testing.assert_array_equal(batch.images[::-1], backwards.images)
    other = phantoms("embolism-phantom", range(6), size=24, seed=1)
    assert all((one != two).mean() > 0.5 for one, two in zip(batch.images, other.images, strict=True))
    assert phantom_labels("embolism-phantom", range(6)).targets.tolist() == batch.targets.tolist()
    assert phantom_labels("embolism-phantom", range(400)).targets.sum() == 200


def test_emboli_are_grey_and_lie_inside_bright_vessels() -> None:
    for index in range(12):
        phantom = embolism_phantom(index, size=48)
        assert phantom.label == embolism_label(index) == (phantom.emboli > 0)
        assert phantom.mask.any() == bool(phantom.label)
        image, whole = phantom.image[0].astype(float), phantom.mask > 250
        if not whole.any():
            continue
        lung = np.median(image)
        blood = np.median(image[grow_tree(stream(0, 42, index)).coverage(48) * (phantom.mask == 0) > 0.99])
        assert lung + 25 < np.median(image[whole]) < blood - 25


def test_branches_obey_murray_s_law_and_meet() -> None:
    tree = grow_tree(np.random.default_rng(0))
    assert np.bincount(tree.generation).tolist() == [1, 2, 4, 8]
    for parent in np.flatnonzero(tree.generation < 3):
        children = np.flatnonzero((tree.start == tree.end[parent]).all(1))
        assert len(children) == 2
        assert (tree.radius[children] ** 3).sum() == pytest.approx(tree.radius[parent] ** 3)


def test_a_tree_is_rasterised_by_its_definition() -> None:
    """The distance of each voxel from each vessel, in loops; and sizes show the same volume."""
    tree, size = grow_tree(np.random.default_rng(3)), 24
    place = (np.arange(size) + 0.5) * 2 / size - 1
    points = np.stack(np.meshgrid(place, place, place, indexing="ij"), -1)
    expected = np.zeros((size,) * 3)
    for start, end, radius in zip(tree.start, tree.end, tree.radius, strict=True):
        share = ((points - start) @ (end - start) / ((end - start) @ (end - start))).clip(0, 1)
        away = np.linalg.norm(points - start - share[..., None] * (end - start), axis=-1)
        expected = np.maximum(expected, np.clip((radius - away) * size / 2 + 0.5, 0, 1) * min(1, (radius * size) ** 2))
    np.testing.assert_allclose(tree.coverage(size), expected, atol=1e-4)
    assert tree.coverage(64).mean() == pytest.approx(tree.coverage(128).mean(), rel=0.02)
    field = smooth_volume(np.random.default_rng(0), 4, 64)
    assert field.std() == pytest.approx(1, abs=0.5)
    np.testing.assert_allclose(smooth_volume(np.random.default_rng(0), 4, 128)[::2, ::2, ::2], field, atol=0.2)


def test_no_single_number_tells_the_class() -> None:
    """Ranks by the mean, spread and share of bright and of grey voxels tell little over 200 volumes.

    Not nothing: a clot takes the place of blood.
    """
    from sklearn.metrics import roc_auc_score

    batch = phantoms("embolism-phantom", range(200), size=24)
    flat = batch.images.reshape(200, -1).astype(float)
    numbers = [flat.mean(1), flat.std(1), (flat > 140).mean(1), ((flat > 80) & (flat < 120)).mean(1)]
    for number in numbers:
        assert 0.25 < roc_auc_score(batch.targets, number) < 0.75


def test_as_a_data_set() -> None:
    dataset = open_dataset("embolism-phantom", size=24, count=60)
    assert repr(dataset) == "Dataset('embolism-phantom', 60 volumes 1x24x24x24, binary)"
    assert dataset.info.synthetic
    np.testing.assert_array_equal(dataset.pixels()[7], embolism_phantom(7, size=24).image)
    again = open_dataset("embolism-phantom", size=24, count=60, channels=3)  # drawn anew, from the recipe
    np.testing.assert_array_equal(again.pixels()[:, 1:2], dataset.pixels())
    assert len(split_by_patient(dataset).train) == 38


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 23}, r"drawn at 24 to 128 voxels a side, not at 23: ask for size=24"),
        ({"size": 200}, r"ask for size=128"),
        ({"index": -1}, r"The index of a phantom is -1: expected a whole number from 0"),
        ({"seed": 0.5}, r"The seed of a phantom is 0\.5"),
    ],
)
def test_impossible_requests(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        embolism_phantom(**({"index": 0} | arguments))


def test_vessels_and_clots_are_masks_of_their_volumes(cache: Path) -> None:
    volumes = open_dataset("embolism-phantom", count=6, size=32)
    data = open_dataset("embolism-vessels", count=6, size=32)
    assert (data.info.task, data.info.classes) == ("segmentation", ("background", "blood", "clot"))
    np.testing.assert_array_equal(data.pixels(), volumes.pixels())
    assert data.image_hashes == volumes.image_hashes
    masks = data.masks()
    np.testing.assert_array_equal(data.targets[:, 2], volumes.targets)  # clots where there is an embolism
    np.testing.assert_array_equal(data.targets, np.stack([(masks == k).any((1, 2, 3)) for k in range(3)], 1))
    grey = data.pixels()[:, 0]
    assert grey[masks == 1].mean() > 1.3 * grey[masks == 2].mean() > 1.3 * grey[masks == 0].mean()
    for file in cache.glob("masks-*.npy"):
        file.unlink()
    again = open_dataset("embolism-vessels", count=6, size=32)  # drawn again from the recipe
    np.testing.assert_array_equal(again.masks(), masks)
