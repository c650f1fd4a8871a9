from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from transfuse.data.phantoms import (
    PHANTOMS,
    fundus_phantom,
    natural_phantom,
    phantom_labels,
    phantoms,
    texture_phantom,
)
from transfuse.errors import DataError

NAMES = tuple(PHANTOMS)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_that_the_set_is_synthetic_and_what_it_holds(name):
    known = PHANTOMS[name]
    assert known.source.startswith("synthetic")
    assert known.licence == "Apache-2.0"
    assert known.task in ("binary", "multiclass", "ordinal")
    targets = phantom_labels(name, range(600)).targets
    assert set(targets.tolist()) == set(range(len(known.classes)))
    assert known.default_count >= 500


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 61])
def test_a_batch_has_the_promised_shape(name, size):
    batch = phantoms(name, range(4, 10), size=size)
    known = PHANTOMS[name]
    assert batch.images.shape == (6, known.channels, *(size,) * known.spatial_dims)
    assert batch.images.dtype == np.uint8
    assert batch.targets.dtype == np.int64
    assert batch.images.std() > 10
    assert len(set(batch.sample_ids)) == 6
    assert len(set(batch.patient_ids)) == (3 if name == "fundus-phantom" else 6)
    labels = phantom_labels(name, range(4, 10))
    assert labels.targets.tolist() == batch.targets.tolist()
    assert labels[1:] == batch[2:]


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_seed_and_index_only(name):
    forward = phantoms(name, [7, 3, 11], size=40, seed=5)
    phantoms(name, range(3), size=64, seed=6)
    backward = phantoms(name, [11, 3, 7], size=40, seed=5)
    np.testing.assert_array_equal(forward.images, backward.images[::-1])
    np.testing.assert_array_equal(forward.targets, backward.targets[::-1])
    assert np.abs(forward.images.astype(int) - phantoms(name, [7, 3, 11], size=40, seed=6).images).mean() > 3
    assert len({image.tobytes() for image in forward.images}) == 3


def test_another_process_draws_the_same():
    code = (
        "import hashlib; from transfuse.data.phantoms import *; "
        "print([hashlib.sha256(phantoms(n, [9, 2], size=48, seed=1).images.tobytes()).hexdigest() for n in PHANTOMS])"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    )
    assert first == second
    assert first.count("'") == 2 * len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_random_state_is_neither_read_nor_moved(name):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = phantoms(name, [1], size=32).images
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(before, after)
    np.random.seed(4)  # noqa: NPY002
    np.testing.assert_array_equal(first, phantoms(name, [1], size=32).images)


@pytest.mark.parametrize(
    ("name", "red", "spread"),
    [
        ("fundus-phantom", 130, 60),
        ("natural-phantom", 125, 55),
        ("texture-source", 125, 50),
        ("texture-target", 125, 60),
    ],
)
def test_the_pictures_are_about_as_bright_everywhere(name, red, spread):
    """A coarse statistic instead of a hash: another processor may round differently."""
    images = phantoms(name, range(48), size=64).images[:, 0]
    assert abs(images.mean() - red) < 25
    assert abs(images.std() - spread) < 25


@pytest.mark.parametrize("name", ["natural-phantom", "texture-source", "texture-target"])
def test_classes_are_balanced_in_every_block(name):
    classes = len(PHANTOMS[name].classes)
    block = 24
    targets = phantom_labels(name, range(10 * block), seed=2).targets.reshape(10, block)
    for row in targets:
        np.testing.assert_array_equal(np.bincount(row, minlength=classes), block // classes)
    assert len({tuple(row) for row in targets.tolist()}) == 10


def test_natural_classes_differ_by_shape_alone():
    """With pose averaged out, the masks of a class resemble each other; the colours do not tell the class."""
    drawn = [natural_phantom(index, size=32) for index in range(24 * 20)]
    labels = np.array([phantom.label for phantom in drawn])
    assert len(set(labels.tolist())) == 24
    masks = np.array([phantom.mask.reshape(-1).astype(float) for phantom in drawn])
    assert 0.03 < (masks / 255).mean() < 0.35
    cut_off = [(phantom.mask[[0, -1]].any() or phantom.mask[:, [0, -1]].any()) for phantom in drawn]
    assert np.mean(cut_off) < 0.4
    colours = np.array([phantom.image.mean(axis=(1, 2)) for phantom in drawn])
    between = np.array([colours[labels == label].mean(axis=0) for label in range(24)]).var(axis=0)
    assert (between < 3 * colours.var(axis=0) / 20).all()  # as among means of 20 random pictures


@pytest.mark.parametrize("size", [32, 224])
def test_scenes_are_the_same_at_every_size(size):
    def coarse(image: np.ndarray) -> np.ndarray:
        return image.reshape(3, 16, image.shape[1] // 16, 16, -1).mean(axis=(2, 4)).ravel()

    for draw in (
        lambda s: natural_phantom(3, size=s).image,
        lambda s: texture_phantom(3, role="source", size=s).image,
        lambda s: texture_phantom(3, role="target", size=s).image,
        lambda s: fundus_phantom(3, size=s).image,
    ):
        assert np.corrcoef(coarse(draw(size)), coarse(draw(64)))[0, 1] > 0.97


def test_texture_pair_shares_the_orientations():
    """The strongest wave of a target picture, away from its outline, has the orientation that is its class."""
    hits = {"source": 0, "target": 0}
    for role in hits:
        for index in range(60):
            phantom = texture_phantom(index, role=role, size=64)
            grey = phantom.image.astype(float).mean(axis=0)
            window = np.hanning(64)[:, None] * np.hanning(64)
            power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
            fy, fx = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij")
            radius = np.hypot(fx, fy) * 64
            power[(radius < 8) | (radius > 12)] = 0
            angle = np.arctan2(fy, fx) % np.pi
            away = np.abs((angle[..., None] - np.pi * np.arange(12) / 12 + np.pi / 2) % np.pi - np.pi / 2)
            guess = (power[..., None] * (away < np.pi / 24)).sum(axis=(0, 1)).argmax()
            hits[role] += int(guess == phantom.orientation)
    assert hits["source"] > 45
    assert hits["target"] > 30  # 5 by chance


@pytest.mark.parametrize(
    "draw", [fundus_phantom, natural_phantom, lambda i, **k: texture_phantom(i, role="source", **k)]
)
@pytest.mark.parametrize(
    ("index", "options", "message"),
    [
        (0, {"size": 16}, "drawn at 32 to 587 px, not at 16 px: ask for size=32 and resize"),
        (0, {"size": 1000}, "not at 1000 px: ask for size=587"),
        (0, {"size": 64.0}, r"size is a whole number, not 64\.0: pass an int"),
        (-1, {}, "index -1 is negative: phantoms are numbered from 0"),
        (1.5, {}, r"index is a whole number, not 1\.5"),
        (True, {}, "index is a whole number, not True"),
        (0, {"seed": -3}, "seed -3 is negative: use 0 or any larger"),
    ],
)
def test_impossible_requests_name_the_cure(draw, index, options, message):
    with pytest.raises(DataError, match=message):
        draw(index, **options)


def test_unknown_names_and_roles_are_refused_with_the_nearest():
    with pytest.raises(DataError, match="no phantom 'fundus-fantom'; did you mean 'fundus-phantom'"):
        phantoms("fundus-fantom", [0])
    with pytest.raises(DataError, match="no phantom 'x'; Choices: fundus-phantom"):
        phantom_labels("x", [0])
    with pytest.raises(DataError, match="no role 'sources'; did you mean 'source'"):
        texture_phantom(0, role="sources")
    with pytest.raises(DataError, match="not at 8 px"):
        phantoms("natural-phantom", [0], size=8)
