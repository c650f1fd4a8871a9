"""The cross-validated probe against scikit-learn, its folds of whole patients, and classes of too few."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from transfuse.analysis.probe import patient_folds, probe, standardised
from transfuse.errors import AnalysisError, AnalysisWarning
from transfuse.metrics import evaluate


def drawn(count: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = rng.normal(size=(count, width)) * rng.lognormal(size=width) + rng.normal(size=(classes, width))[labels] + 5
    return x, labels, rng.integers(0, count // 2, count)


@pytest.mark.parametrize("width", [5, 300])
@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_those_of_a_pipeline_of_scikit_learn(width: int, classes: int) -> None:
    x, labels, patients = drawn(120, width, classes)
    held = patient_folds(labels, patients)
    scores = probe(x, held, strength=5.0).scores
    z = StandardScaler().fit_transform(x)
    for fold in range(5):
        train, test = held.fold != fold, held.fold == fold
        fit = LogisticRegression(C=5.0 / width, max_iter=5000, tol=1e-8).fit(z[train], labels[train])
        np.testing.assert_allclose(scores[test], fit.predict_proba(z[test]), atol=2e-3)
    assert scores.sum(1) == pytest.approx(1)


def test_a_patient_is_in_one_fold_and_every_class_in_all() -> None:
    _, labels, patients = drawn(200, 2, 4)
    held = patient_folds(labels, patients, folds=4)
    for patient in np.unique(held.patients):
        assert len(np.unique(held.fold[held.patients == patient])) == 1
    for fold in range(4):
        assert len(np.unique(labels[held.fold == fold])) == 4
    np.testing.assert_array_equal(held.rows, np.arange(200))


def test_labels_that_say_nothing_are_at_chance_and_memory_of_patients_does_not_help() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 6)
    labels = rng.integers(0, 2, 60)[patients]  # the label is the patient's, the features know the patient only
    x = rng.normal(size=(60, 30))[patients] + 0.1 * rng.normal(size=(360, 30))
    value = evaluate("auroc", labels, probe(x, patient_folds(labels, patients)).scores).value
    image_by_image = evaluate("auroc", labels, probe(x, patient_folds(labels, None)).scores).value
    assert abs(value - 0.5) < 0.2
    assert image_by_image > value + 0.15


def test_each_label_is_fitted_on_the_images_that_have_it() -> None:
    x, labels, patients = drawn(150, 6, 2)
    many = np.column_stack([labels, 1 - labels]).astype(float)
    many[100:, 1] = np.nan
    held = patient_folds(many, patients)
    both = probe(x, held).scores
    alone = probe(x, held._replace(target=many[:, :1], classes=1)).scores
    np.testing.assert_array_equal(both[:, :1], alone)
    assert evaluate("auroc", held.target, both).value > 0.6


def test_a_class_of_one_patient_is_left_out() -> None:
    x, labels, patients = drawn(90, 4, 3)
    labels, patients = labels.copy(), patients.copy()
    labels[labels == 2] = 0
    labels[:4], patients[:4] = 2, 1000
    with pytest.warns(AnalysisWarning, match=r"class 2 \(1 patient\); left out"):
        held = patient_folds(labels, patients)
    np.testing.assert_array_equal(held.rows, np.arange(4, 90))
    scores = probe(x[held.rows], held).scores
    assert scores.shape == (86, 3)
    assert not scores[:, 2].any()
    assert evaluate("auroc", held.target, scores).undefined == (2,)


def test_a_label_of_one_patient_is_left_out() -> None:
    x, labels, patients = drawn(90, 4, 2)
    rare = np.zeros(90)
    rare[patients == patients[0]] = 1
    with pytest.warns(AnalysisWarning, match=r"class 1 \(1 patient\)"):
        held = patient_folds(np.column_stack([labels, rare]), patients)
    assert np.isnan(held.target[:, 1]).all()
    scores = probe(x, held).scores
    assert (scores[:, 1] == 0.5).all()
    assert evaluate("auroc", held.target, scores).undefined == (1,)


def test_fewer_patients_than_folds() -> None:
    patients = np.repeat(np.arange(3), 8)
    with pytest.warns(AnalysisWarning, match="folds is 5 and there are 3 patients: 3 folds"):
        held = patient_folds(np.arange(24) % 2, patients)
    assert set(held.fold) == {0, 1, 2}


def test_features_that_do_not_vary_are_left_out() -> None:
    x, labels, patients = drawn(60, 4, 2)
    held = patient_folds(labels, patients)
    wide = np.hstack([x, np.full((60, 3), 7.3), np.zeros((60, 1))]).astype(np.float32)
    assert standardised(wide).shape == (60, 4)
    np.testing.assert_allclose(probe(wide, held).scores, probe(x, held).scores, atol=1e-4)


def test_the_folds_depend_on_the_seed_alone() -> None:
    _, labels, patients = drawn(100, 2, 2)
    first, again, other = (patient_folds(labels, patients, seed=seed).fold for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    named = patient_folds(labels, [f"p{number:04d}" for number in patients]).fold
    np.testing.assert_array_equal(first, named)


@pytest.mark.parametrize(
    ("labels", "patients", "folds", "message"),
    [
        ([0, 0, 0, 0], None, 2, "no class can be held out by patient: expected at least two classes"),
        ([0, 1, 0, 1], list("aaaa"), 2, r"class 0 is of 1 patient; class 1 is of 1 patient"),
        ([0, 1, 0, 0], list("abcd"), 2, r"class 1 is of 1 patient"),
        ([0, 1, 0, 1], list("abc"), 2, r"patients have shape \(3,\) for 4 targets"),
        ([0, 1, 0, 1], None, 1, "folds is 1"),
        ([0, 1, 0, -1], None, 2, "targets hold -1"),
    ],
)
def test_messages_of_folds(labels: list, patients: list | None, folds: int, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        patient_folds(labels, patients, folds)


def test_messages_of_the_probe() -> None:
    x, labels, patients = drawn(40, 3, 2)
    held = patient_folds(labels, patients)
    with warnings.catch_warnings(), pytest.raises(AnalysisError, match="none of the 3 features varies over 40"):
        probe(np.ones((40, 3)), held)
    with pytest.raises(AnalysisError, match="strength is 0"):
        probe(x, held, strength=0)
    with pytest.raises(AnalysisError, match="39 features for 40 images"):
        probe(x[1:], held)
