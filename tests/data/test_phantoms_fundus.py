from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from transfuse.data.lesions import KINDS, QUADRANTS, Findings, Lesions, dr_grade
from transfuse.data.phantoms import fundus_grade, fundus_phantom, subpixel_lesions
from transfuse.errors import DataError

# The scale as a table, written independently of dr_grade: (findings, grade).
SCALE = [
    ({}, 1),
    ({"microaneurysms": (1, 0, 0, 0)}, 2),
    ({"microaneurysms": (40, 40, 40, 40)}, 2),
    ({"haemorrhages": (0, 1, 0, 0)}, 3),  # more than microaneurysms only, even without any
    ({"microaneurysms": (2, 0, 0, 0), "hard_exudates": (0, 0, 1, 0)}, 3),
    ({"cotton_wool_spots": (0, 0, 0, 1)}, 3),
    ({"irma": (1, 1, 0, 0)}, 3),  # present but not prominent
    ({"venous_beading": (1, 0, 0, 0)}, 3),  # one quadrant is not two
    ({"haemorrhages": (20, 20, 20, 20)}, 3),  # "more than 20"
    ({"haemorrhages": (21, 21, 21, 20)}, 3),  # "in each of 4 quadrants"
    ({"haemorrhages": (200, 200, 200, 0)}, 3),
    ({"haemorrhages": (21, 21, 21, 21)}, 4),
    ({"venous_beading": (1, 0, 0, 1)}, 4),
    ({"irma": (1, 0, 0, 0), "prominent_irma": (1, 0, 0, 0)}, 4),
    ({"neovascularisation": (0, 0, 1, 0)}, 5),
    ({"preretinal_haemorrhages": (0, 0, 1, 0)}, 5),
    ({"haemorrhages": (30, 30, 30, 30), "venous_beading": (1, 1, 1, 1), "neovascularisation": (0, 1, 0, 0)}, 5),
]


@pytest.mark.parametrize(("found", "grade"), SCALE)
def test_grade_follows_the_international_scale(found, grade):
    assert dr_grade(Findings(**found)) == grade


def test_a_quadrant_is_as_good_as_another():
    rng = np.random.default_rng(0)
    for _ in range(300):
        irma = rng.integers(0, 2, 4)
        counts = {
            "haemorrhages": rng.integers(19, 24, 4),
            "venous_beading": rng.integers(0, 2, 4) * rng.integers(0, 2),
            "irma": irma,
            "prominent_irma": irma * rng.integers(0, 2) * rng.integers(0, 2),
        }
        order = rng.permutation(4)
        grades = {
            dr_grade(Findings(**{name: tuple(value[o].tolist()) for name, value in counts.items()}))
            for o in (np.arange(4), order)
        }
        severe = (
            (counts["haemorrhages"] > 20).all() or counts["venous_beading"].sum() >= 2 or counts["prominent_irma"].any()
        )
        assert grades == {4 if severe else 3}


def test_impossible_findings_are_refused():
    with pytest.raises(DataError, match=r"Findings.haemorrhages is \(1, 2\).*four whole numbers"):
        Findings(haemorrhages=(1, 2))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Findings.microaneurysms is \(0, -1, 0, 0\)"):
        Findings(microaneurysms=(0, -1, 0, 0))
    with pytest.raises(DataError, match=r"prominent_irma.*more than irma"):
        Findings(prominent_irma=(1, 0, 0, 0))


def test_lesions_are_counted_by_kind_and_quadrant():
    kinds = [KINDS.index(name) for name in ("haemorrhages", "haemorrhages", "irma", "irma")]
    x, y = np.array([-0.5, 0.5, 0.5, -0.5]), np.array([-0.5, -0.5, 0.5, 0.5])
    ones = np.ones(4)
    findings = Lesions(np.array(kinds), x, y, ones, ones, np.array([False, False, True, False])).findings()
    assert dict(zip(QUADRANTS, findings.haemorrhages, strict=True)) == {
        "superior-temporal": 1, "superior-nasal": 1, "inferior-temporal": 0, "inferior-nasal": 0
    }  # fmt: skip
    assert findings.irma == (0, 0, 1, 1)
    assert findings.prominent_irma == (0, 0, 0, 1)


def islands(mask: np.ndarray) -> list[tuple[float, float]]:
    """Centres of the connected parts (8 neighbours) of a binary mask, by flood fill."""
    left, found = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        front, part = [left.pop()], []
        while front:
            row, column = front.pop()
            part.append((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            front.extend(around)
        found.append(tuple(np.mean(part, axis=0)))
    return found


def test_the_masks_show_the_lesions_that_were_counted():
    """At 587 px cotton-wool spots and large bleedings are separate islands in the right quadrants."""
    seen = 0
    for index in range(60):
        if fundus_grade(index) < 3:
            continue
        phantom = fundus_phantom(index, size=587)
        for name in ("cotton_wool_spots", "preretinal_haemorrhages"):
            counted = getattr(phantom.findings, name)
            parts = islands(phantom.masks[name] > 20)
            assert len(parts) <= sum(counted)  # neighbours may touch
            assert (len(parts) > 0) == (sum(counted) > 0)
            recount = [0, 0, 0, 0]
            for row, column in parts:
                temporal = (column < 293) == (phantom.eye == "right")
                recount[2 * (row > 293) + (not temporal)] += 1
            if len(parts) == sum(counted) and name == "cotton_wool_spots":
                assert tuple(recount) == counted
                seen += len(parts)
        if seen > 25:
            break
    assert seen > 25


@pytest.mark.parametrize("size", [32, 64, 224])
def test_masks_and_lesions_agree_on_what_is_there(size):
    for index in range(24):
        phantom = fundus_phantom(index, size=size)
        assert set(phantom.masks) == {"vessels", "disc", *KINDS}
        for name, count in phantom.lesions.items():
            mask = phantom.masks[name]
            assert mask.shape == (size, size)
            assert mask.dtype == np.uint8
            assert mask.any() == (count > 0) or name in ("microaneurysms", "hard_exudates")
            assert count > 0 or not mask.any()
        assert phantom.grade == dr_grade(phantom.findings) == fundus_grade(index)


def test_every_grade_is_at_least_a_tenth():
    grades = np.bincount([fundus_grade(index) for index in range(1500)], minlength=6)[1:] / 1500
    assert grades.min() >= 0.10, grades
    assert grades.max() <= 0.45, grades


def test_two_eyes_of_a_patient_are_alike_and_not_the_same():
    pairs = 250
    grades = np.array([[fundus_grade(2 * p), fundus_grade(2 * p + 1)] for p in range(pairs)])
    within = np.corrcoef(grades.T)[0, 1]
    between = np.corrcoef(grades[:, 0], np.roll(grades[:, 1], 1))[0, 1]
    assert within > 0.6 > 0.25 > abs(between)
    assert (grades[:, 0] != grades[:, 1]).mean() > 0.15

    eyes = [[fundus_phantom(2 * p + side, size=32) for side in (0, 1)] for p in range(40)]
    assert all(right.patient == left.patient for right, left in eyes)
    assert {(right.eye, left.eye) for right, left in eyes} == {("right", "left")}
    colours = np.array([[eye.image.mean(axis=(1, 2)) for eye in pair] for pair in eyes])
    own = np.abs(colours[:, 0] - colours[:, 1]).mean()
    other = np.abs(colours[:, 0] - np.roll(colours[:, 1], 1, axis=0)).mean()
    assert own < 0.6 * other


def test_the_disc_is_on_the_nasal_side():
    """Of a right eye seen from the front the nose is on the right of the picture."""
    for index in range(6):
        phantom = fundus_phantom(index, size=64)
        centre = (phantom.masks["disc"].astype(float).sum(axis=0) * np.arange(64)).sum() / phantom.masks["disc"].sum()
        assert (centre > 32) == (phantom.eye == "right")


@pytest.mark.parametrize("size", [32, 73, 293])
def test_an_eye_is_the_same_at_every_size(size):
    def shrunk(picture: np.ndarray) -> np.ndarray:
        """Area average of the last two axes from 587 px to `size`."""
        edges = np.linspace(0, 587, size + 1)
        weights = np.clip(np.minimum(edges[1:, None], np.arange(1, 588)) - np.maximum(edges[:-1, None], np.arange(587)),
                          0, None) * size / 587  # fmt: skip
        return weights @ picture.astype(float) @ weights.T

    for index in (5, 14):
        large, small = fundus_phantom(index, size=587), fundus_phantom(index, size=size)
        assert dataclasses.astuple(large.findings) == dataclasses.astuple(small.findings)
        inside = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2)) < 0.43 * size
        grey = shrunk(large.image.mean(axis=0)), small.image.mean(axis=0)
        assert np.corrcoef(*(picture[inside] for picture in grey))[0, 1] > 0.93
        for name, mask in small.masks.items():
            if name == "venous_beading" and size < 64:
                continue  # a bead is then half a pixel
            area, expected = float(mask.sum()), float(large.masks[name].sum()) * (size / 587) ** 2
            assert abs(area - expected) <= 0.2 * expected + 600, name  # 600 of 255: two or three pixels


def test_a_small_lesion_is_faint_and_not_enlarged():
    """One microaneurysm far below a pixel: its whole area arrives, and never more than its share of a pixel."""
    for index in range(400):
        phantom = fundus_phantom(index, size=32)
        if phantom.grade == 2:
            break
    large = fundus_phantom(index, size=587)
    expected = large.masks["microaneurysms"].sum() / 255.0 * (32 / 587) ** 2
    assert phantom.masks["microaneurysms"].max() < 100
    assert phantom.masks["microaneurysms"].sum() / 255.0 == pytest.approx(expected, rel=0.5)
    assert phantom.subpixel == sum(phantom.lesions.values())


def test_subpixel_lesions_are_counted_per_grade():
    rows = {size: subpixel_lesions(size, 0, 120) for size in (32, 64, 587)}
    for table in rows.values():
        assert [row["grade"] for row in table] == [1, 2, 3, 4, 5]
        assert sum(row["images"] for row in table) == 120
    assert rows[64][0]["lesions"] == 0
    assert rows[64][1]["subpixel"] == rows[64][1]["lesions"] > 0  # microaneurysms never fill a pixel at 64 px
    assert rows[64][1]["invisible"] == rows[64][1]["images"]
    for grade in range(1, 5):
        assert rows[32][grade]["subpixel"] >= rows[64][grade]["subpixel"] > rows[587][grade]["subpixel"]
        assert rows[32][grade]["lesions"] == rows[587][grade]["lesions"]
    total = sum(fundus_phantom(index, size=64).subpixel for index in range(120))
    assert total == sum(row["subpixel"] for row in rows[64])
