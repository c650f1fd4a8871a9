"""Dice and Jaccard of counted pixels: values against others' code, resamples against copied rows, messages."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from transfuse import compare_counts
from transfuse.errors import DataError, SpecError
from transfuse.statistics import bootstrap
from transfuse.statistics.counts import arm_of_counts, overlap


def counted(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """TP, FP, FN of boolean masks (..., H, W)."""
    return np.stack([(truth & found).sum((-2, -1)), (~truth & found).sum((-2, -1)), (truth & ~found).sum((-2, -1))], -1)


@pytest.fixture
def masks() -> tuple[np.ndarray, np.ndarray]:
    """True masks (N, C, H, W), a sixth of them empty, and those that 3 seeds find (3, N, C, H, W)."""
    generator = np.random.default_rng(0)
    truth = generator.random((24, 2, 8, 8)) < generator.random((24, 2, 1, 1)) * 0.8
    truth[::6] = False
    found = truth ^ (generator.random((3, 24, 2, 8, 8)) < 0.15)
    found[:, 0] = False  # an empty mask, found empty
    return truth, found


def test_values_are_those_of_scikit_learn_and_monai(masks: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = masks
    counts = counted(truth, found)
    for metric, reference in (("dice", f1_score), ("jaccard", jaccard_score)):
        expected = [
            [
                [reference(t.ravel(), f.ravel(), zero_division=1.0) for t, f in zip(image, seen, strict=True)]
                for image, seen in zip(truth, one, strict=True)
            ]
            for one in found
        ]
        np.testing.assert_allclose(overlap(counts, metric), expected, atol=1e-12)
        arm = arm_of_counts(counts, None, metric)
        np.testing.assert_allclose(arm.parts[0].points[:, 0], np.mean(expected, axis=(1, 2)), atol=1e-12)

    monai = pytest.importorskip("monai.metrics", reason="the gradcam extra (MONAI) is not installed")
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dice = monai.compute_dice(torch.tensor(found[0]).float(), torch.tensor(truth).float(), ignore_empty=True)
    left = arm_of_counts(counts[:1], None, empty="leave_out")
    np.testing.assert_allclose(left.parts[0].points[0, 1:], np.nanmean(dice.numpy(), axis=0), rtol=1e-6)
    empty = int((~truth.any((-2, -1))).sum())
    (note,) = left.notes
    assert note.startswith(f"{empty} of 48 pairs of an image and a class without a true mask are left out, whatever")


@pytest.mark.parametrize("average", ["image", "pooled"])
@pytest.mark.parametrize("empty", ["one", "leave_out"])
@pytest.mark.parametrize("metric", ["dice", "jaccard"])
def test_resamples_are_the_metric_on_copied_rows(
    masks: tuple[np.ndarray, np.ndarray], average: Any, empty: Any, metric: str
) -> None:
    counts = counted(*masks)
    patients = np.arange(24) // 2
    arm = arm_of_counts(counts, patients, metric, average, empty, seed=4)
    draw = np.random.default_rng(4)
    drawn = draw.integers(12, size=(bootstrap.REPLICATES, 12))
    for number in (0, 7, 1999):
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn[number]])
        again = arm_of_counts(counts[:, rows], None, metric, average, empty)
        np.testing.assert_allclose(arm.parts[0].values[:, :, number], again.parts[0].points, atol=1e-12)


def test_the_verdict_and_its_classes(masks: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = masks
    generator = np.random.default_rng(1)
    worse = truth ^ (generator.random((4, 24, 2, 8, 8)) < 0.45)
    result = compare_counts(counted(truth, found), counted(truth, worse), None, 0.02)
    assert (result.verdict, result.metric) == ("helps", "dice")
    assert (result.seeds_a, result.seeds_b, result.patients) == (3, 4, 24)
    assert sorted(result.per_class) == [0, 1]
    assert result.difference == pytest.approx(np.mean([one.difference for one in result.per_class.values()]))
    swapped = compare_counts(counted(truth, worse), counted(truth, found), None, 0.02)
    assert swapped.verdict == "hurts"
    assert (swapped.low, swapped.high) == pytest.approx((-result.high, -result.low), abs=1e-8)
    one_class = compare_counts(counted(truth, found)[:, :, 0], counted(truth, worse)[:, :, 0], range(24), 0.02)
    assert one_class.per_class == {}
    assert one_class.difference == pytest.approx(result.per_class[0].difference, abs=1e-12)


def test_folds_are_averaged(masks: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = masks
    counts = counted(truth, found)
    folds = np.arange(24) % 3
    result = compare_counts(counts, counts[:, :, :] * 1.0, None, 0.5, folds=folds)
    assert result.values_a == pytest.approx(overlap(counts).mean((1, 2)))  # folds of equal size


TRUE = np.array([[[8, 1, 2], [5, 0, 5], [3, 3, 3]]] * 2)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "dise"}, SpecError, "unknown metric 'dise' of counts: did you mean 'dice'"),
        ({"average": "images"}, SpecError, "unknown average 'images': did you mean 'image'"),
        ({"empty": "zero"}, SpecError, "unknown empty 'zero': "),
        ({"margin": 0}, SpecError, "margin is 0; expected a number > 0 in units of dice"),
        ({"counts_a": TRUE[0, 0]}, DataError, r"counts_a has shape \(3,\); expected \(seeds, N, 3\)"),
        ({"counts_a": -TRUE}, DataError, r"counts_a\[0, 0, 0\] is -8.0; expected numbers of pixels, finite and >= 0"),
        ({"counts_b": TRUE * np.nan}, DataError, r"counts_b\[0, 0, 0\] is nan"),
        ({"counts_b": "none"}, DataError, "counts_b is no array of counts"),
        ({"counts_b": TRUE[:, ::-1]}, DataError, r"true masks of different sizes \(TP \+ FN\)"),
        (
            {"counts_b": TRUE[:, :2]},
            DataError,
            r"counts_a has shape \(2, 3, 3\) and counts_b \(2, 2, 3\); both arms need the same images",
        ),
        (
            {"counts_a": np.stack([TRUE[0], TRUE[0] + [1, 0, 0]])},
            DataError,
            "the true mask of image 0 has 11 pixels .* in seed 1 and 10 in seed 0",
        ),
        ({"counts_a": TRUE * [0, 1, 0], "counts_b": TRUE * [0, 1, 0], "empty": "leave_out"}, DataError, "no image has"),
    ],
)
def test_bad_counts_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"counts_a": TRUE, "counts_b": TRUE, "patients": None, "margin": 0.02} | changes
    with pytest.raises(error, match=message):
        compare_counts(**given)


def test_pooled_over_no_true_pixel_is_undefined_and_said() -> None:
    """As `leave_out` has it: there is nothing to overlap with, in one class or in all."""
    nothing = TRUE * [0, 1, 0]
    with pytest.raises(DataError, match="dice is undefined, because no image has a true mask"):
        compare_counts(nothing, nothing * 0, None, 0.02, average="pooled")
    classes = np.stack([TRUE, nothing], axis=2)
    found = compare_counts(classes, classes, None, 0.02, average="pooled")
    assert sorted(found.per_class) == [0]
    assert any(note.startswith("Class 1 is left out of the mean: 0 positives") for note in found.notes)


def test_a_metric_without_classes_speaks_of_none() -> None:
    """Dice of one class has no positives and negatives, and what a resample lacks is no class."""
    (said,) = [note for note in compare_counts(TRUE, TRUE[:, ::1], [0, 0, 0], 0.02).notes if "No interval" in note]
    assert "there are samples of 1 of the patients only; it takes at least 2" in said
    few = np.array([[[8, 1, 2], [0, 0, 0]]] * 2) * [[[1], [1]]]
    sparse = np.concatenate([few, np.zeros((2, 30, 3), dtype=int)], axis=1)
    found = compare_counts(sparse, sparse + np.array([0, 1, 0]), None, 0.02, average="pooled")
    assert "class" not in " ".join(found.caveats)
    lost = compare_counts(sparse, sparse, None, 0.02, average="pooled")
    assert any("of the resamples of patients gave the metric no value" in note for note in lost.notes)
