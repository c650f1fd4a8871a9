from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfuse.errors import DataError, SpecError
from transfuse.metrics import METRICS, ClassCounts, evaluate, prepare, referable_score
from transfuse.metrics.cases import OneClass
from transfuse.metrics.ranking import Auroc, PrecisionRecall, kernel_of


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


# Each case: (samples, patients, decimals of the scores: few make many ties).
SIZES = [(40, 12, 1), (301, 90, 2), (500, 500, 1), (700, 30, 6)]


@pytest.mark.parametrize(("samples", "patients", "decimals"), SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_curves_equal_scikit_learn_with_ties_and_weights(generator, samples, patients, decimals, weighted):
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

    target = (generator.random(samples) < 0.3).astype(int)
    score = np.round(target + generator.normal(size=samples), decimals)
    weights = generator.integers(0, 4, samples) * generator.random(samples) if weighted else None
    recall_precision = precision_recall_curve(target, score, sample_weight=weights)
    expected = {
        "auroc": roc_auc_score(target, score, sample_weight=weights),
        "auprc": auc(recall_precision[1], recall_precision[0]),
        "average_precision": average_precision_score(target, score, sample_weight=weights),
    }
    for name, value in expected.items():
        assert evaluate(name, target, score, weights).value == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(("samples", "patients", "decimals"), SIZES)
def test_kernel_and_presorted_equal_brute_force_on_copied_rows(generator, samples, patients, decimals):
    """Mixed-label patients and ties; brute force copies the rows of every drawn patient."""
    from sklearn.metrics import roc_auc_score

    groups = generator.permutation(np.arange(samples) % patients)
    target = generator.random(samples) < 0.4
    score = np.round(target + generator.normal(size=samples), decimals)
    mixed = sum(0 < target[groups == p].mean() < 1 for p in range(patients))
    assert mixed > 0 or patients == samples
    weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=40).T.astype(float)
    one = OneClass(1, np.arange(samples), target, score)
    kernel, presorted = kernel_of(one, groups).auroc(weights), Auroc(one, groups).presorted(weights)
    for column in range(weights.shape[1]):
        rows = np.repeat(np.arange(samples), weights[groups, column].astype(int))
        brute = roc_auc_score(target[rows], score[rows])
        assert kernel[column] == pytest.approx(brute, abs=1e-12)
        assert presorted[column] == pytest.approx(brute, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_kernel_equals_presorted_for_any_small_problem(data):
    samples = data.draw(st.integers(2, 14))
    score = np.array(data.draw(st.lists(st.integers(0, 3), min_size=samples, max_size=samples)), dtype=float)
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=samples, max_size=samples)))
    groups = np.array(data.draw(st.lists(st.integers(0, 4), min_size=samples, max_size=samples)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=5, max_size=5)), dtype=float)[:, None]
    if positive.all() or not positive.any():
        return
    one = OneClass(1, np.arange(samples), positive, score)
    kernel, presorted = kernel_of(one, groups).auroc(weights), Auroc(one, groups).presorted(weights)
    np.testing.assert_allclose(kernel, presorted, atol=1e-12)  # NaN where a side has no weight, in both
    wins = lost = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            both = weights[groups[i], 0] * weights[groups[j], 0]
            wins += both * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
            lost += both
    assert kernel[0] == pytest.approx(wins / lost, abs=1e-12) if lost else np.isnan(kernel[0])


def test_all_weightings_at_once_equal_one_at_a_time(generator):
    target = np.repeat(generator.integers(0, 3, 40), 3)
    scores = softmax(generator.normal(size=(120, 6)) + np.eye(6)[target])  # top5 needs six classes
    groups = np.repeat(np.arange(40), 3)
    weights = generator.multinomial(40, np.full(40, 1 / 40), size=64).T.astype(float)
    for name in METRICS:
        together = prepare(name, target, scores, groups).values(weights)
        for column in (0, 17, 63):
            alone = evaluate(name, target, scores, weights[groups, column])
            expected = list(alone.per_class.values()) or [alone.value]
            np.testing.assert_allclose(together[:, column], expected, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_equal_scikit_learn(generator, weighted):
    from sklearn.metrics import accuracy_score, brier_score_loss, cohen_kappa_score, recall_score, roc_auc_score

    target = generator.integers(0, 5, 300)
    scores = softmax(generator.normal(size=(300, 5)) + 1.5 * np.eye(5)[target])
    weights = generator.random(300) if weighted else None
    predicted = scores.argmax(axis=1)
    expected = {
        "accuracy": accuracy_score(target, predicted, sample_weight=weights),
        "macro_recall": recall_score(target, predicted, average="macro", sample_weight=weights),
        "kappa": cohen_kappa_score(target, predicted, weights="quadratic", sample_weight=weights),
        "brier": brier_score_loss(target, scores, sample_weight=weights, labels=range(5)),
        "auroc": roc_auc_score(target, scores, multi_class="ovr", sample_weight=weights),
        "referable_auroc": roc_auc_score(target >= 2, scores[:, 2:].sum(axis=1), sample_weight=weights),
        "referable_auroc_max": roc_auc_score(target >= 2, scores[:, 2:].max(axis=1), sample_weight=weights),
    }
    for name, value in expected.items():
        assert evaluate(name, target, scores, weights).value == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("weighted", [False, True])
def test_top5_equals_scikit_learn_where_no_scores_are_tied(generator, weighted):
    from sklearn.metrics import top_k_accuracy_score

    target = generator.integers(0, 12, 400)
    scores = softmax(generator.normal(size=(400, 12)) + np.eye(12)[target])
    weights = generator.random(400) if weighted else None
    expected = top_k_accuracy_score(target, scores, k=5, sample_weight=weights, labels=range(12))
    assert 0.5 < expected < 0.9
    assert evaluate("top5", target, scores, weights).value == pytest.approx(expected, abs=1e-12)
    assert evaluate("top5", target, np.log(scores), weights).value == pytest.approx(expected, abs=1e-12)  # any score


def test_a_tie_in_top5_goes_to_the_lower_class_as_in_accuracy(generator):
    assert [evaluate("top5", [label], np.full((1, 8), 1 / 8)).value for label in range(8)] == [1] * 5 + [0] * 3
    scores = np.array([[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])  # class 0, then the first four of those that are equal
    assert [evaluate("top5", [label], scores).value for label in range(7)] == [1] * 5 + [0] * 2
    target, coarse = generator.integers(0, 6, 500), np.round(generator.random((500, 6)), 1)
    five = np.argsort(-coarse, axis=1, kind="stable")[:, :5]
    assert evaluate("top5", target, coarse).value == np.mean([t in row for t, row in zip(target, five, strict=True)])
    assert evaluate("top5", target, coarse).value >= evaluate("accuracy", target, coarse).value


def test_binary_brier_is_that_of_the_positive_class(generator):
    from sklearn.metrics import brier_score_loss

    target, score = generator.integers(0, 2, 50), generator.random(50)
    assert evaluate("brier", target, score).value == pytest.approx(brier_score_loss(target, score), abs=1e-12)
    pair = np.column_stack([1 - score, score])
    assert evaluate("brier", target, pair).value == pytest.approx(brier_score_loss(target, score), abs=1e-12)


def test_calibration_error_by_hand():
    # Bins of 1/15: two samples at 0.9 (one right), two at 0.6 (both right): 1/2 |0.5 - 0.9| + 1/2 |1 - 0.6| = 0.4.
    scores = [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]]
    assert evaluate("ece", [0, 0, 0, 1], scores).value == pytest.approx(0.4)
    # Multi-label: each class's probability against its outcome; NaN leaves a cell out.
    target = [[1.0, np.nan], [0.0, 1.0]]
    value = evaluate("ece", target, [[0.7, 0.3], [0.2, 0.9]])
    assert value.per_class == pytest.approx({0: (0.3 + 0.2) / 2, 1: 0.1})


def test_weights_are_copies(generator):
    target = generator.integers(0, 3, 60)
    scores = softmax(generator.normal(size=(60, 6)) + np.eye(6)[target])
    copies = generator.integers(1, 4, 60)
    for name in METRICS:
        copied = evaluate(name, np.repeat(target, copies), np.repeat(scores, copies, axis=0)).value
        assert evaluate(name, target, scores, copies).value == pytest.approx(copied, abs=1e-12), name


def test_multilabel_masks_leave_out_unlabelled_cells(generator):
    from sklearn.metrics import roc_auc_score

    target = (generator.random((200, 3)) < 0.3).astype(float)
    scores = np.clip(0.3 * target + 0.7 * generator.random((200, 3)), 0, 1)
    target[generator.random((200, 3)) < 0.25] = np.nan
    value = evaluate("auroc", target, scores)
    for column in range(3):
        rows = ~np.isnan(target[:, column])
        expected = roc_auc_score(target[rows, column], scores[rows, column])
        assert value.per_class[column] == pytest.approx(expected, abs=1e-12)
        assert sum(value.counts[column]) == rows.sum()
    right = [np.mean((scores[r, c] > 0.5) == target[r, c]) for c in range(3) if (r := ~np.isnan(target[:, c])).any()]
    assert evaluate("accuracy", target, scores).value == pytest.approx(np.mean(right), abs=1e-12)
    assert evaluate("macro_recall", target, scores).value == pytest.approx(
        np.mean([np.mean(scores[target[:, c] == 1, c] > 0.5) for c in range(3)]), abs=1e-12
    )


def test_absent_class_is_undefined_and_never_zero():
    """A perfect classifier of the two classes that are there scores 1, not 2/3."""
    target = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    value = evaluate("auroc", target, np.clip(target, 0.1, 0.9))
    assert value.value == 1.0
    assert value.per_class == {0: 1.0, 1: 1.0}
    assert value.undefined == (2,)
    assert value.counts[2] == ClassCounts(positives=0, negatives=4)
    exclusive = evaluate("macro_recall", [0, 1, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]])
    assert (exclusive.value, exclusive.undefined) == (0.75, (2,))


def test_binary_per_class_is_the_positive_class_in_every_form(generator):
    target, score = generator.integers(0, 2, 40), generator.random(40)
    forms = [score, score[:, None], np.column_stack([1 - score, score])]
    values = [evaluate("auroc", target, form) for form in forms]
    assert all(v.per_class == {1: values[0].value} and v.undefined == () for v in values)
    assert evaluate("auroc", target == 1, score).value == values[0].value


def test_constant_scores_are_chance():
    assert evaluate("auroc", [0, 1, 1, 0, 0], np.full(5, 0.3)).value == 0.5
    assert evaluate("auprc", [0, 1, 1, 0, 0], np.full(5, 0.3)).value == pytest.approx((1 + 2 / 5) / 2)
    assert evaluate("kappa", [0, 1, 2], np.eye(3)[[1, 1, 1]]).value == 0.0


@pytest.mark.parametrize("name", ["auroc", "auprc", "average_precision"])
def test_curves_ignore_monotone_maps_and_the_order_of_samples(generator, name):
    target, score = generator.integers(0, 2, 80), generator.integers(0, 20, 80) / 7
    value = evaluate(name, target, score).value
    assert evaluate(name, target, score**3 - 5).value == value
    order = generator.permutation(80)
    assert evaluate(name, target[order], score[order]).value == pytest.approx(value, abs=1e-15)


def test_average_precision_is_not_the_trapezoid(generator):
    target, score = generator.integers(0, 2, 30), generator.random(30)
    assert evaluate("auprc", target, score).value != pytest.approx(evaluate("average_precision", target, score).value)


def test_no_weight_before_the_first_positive_is_precision_one():
    one = OneClass(1, np.arange(3), np.array([False, True, False]), np.array([3.0, 2.0, 1.0]))
    curve = PrecisionRecall(one, np.arange(3), trapezoid=True)
    np.testing.assert_allclose(curve(np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])), [1.0, 0.25])


def test_referable_score_of_independent_sigmoids():
    scores = np.array([[0.9, 0.1, 0.5, 0.3, 0.2], [0.2, 0.2, 0.0, 0.0, 0.1]])
    np.testing.assert_allclose(referable_score(scores), [1.0 / 2.0, 0.1 / 0.5])
    np.testing.assert_allclose(referable_score(scores, "max"), [0.5, 0.1])


def test_the_table_says_what_it_holds():
    assert {"auroc", "auprc", "average_precision", "accuracy", "macro_recall", "kappa", "ece", "brier"} < set(METRICS)
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {n for n, m in METRICS.items() if not m.higher_is_better} == {"ece", "brier"}
    target = np.array([0, 1, 2, 2, 1, 0])
    for name, metric in METRICS.items():
        assert metric.bounds[0] <= evaluate(name, target, softmax(np.eye(6)[target])).value <= metric.bounds[1]


GOOD = (np.array([0, 1, 2, 1]), np.full((4, 3), 1 / 3))
BAD_INPUT = {
    "NaN scores": ("auroc", [0, 1], [np.nan, 0.5], r"1 of 2 scores are NaN"),
    "infinite scores": ("auroc", [0, 1], [np.inf, 0.5], r"1 of 2 scores are infinite"),
    "lengths": ("auroc", [0, 1, 1], [0.1, 0.5], r"target has shape \(3,\) and scores \(2,\)"),
    "empty": ("auroc", [], [], r"same N >= 1"),
    "one class": ("auroc", [1, 1], [0.1, 0.5], r"undefined for every class.*class 1: 2 positive, 0 negative"),
    "a class too many": ("accuracy", [0, 1, 3], GOOD[1][:3], r"target holds 3 \(1 of 3 such\).*indices 0 to 2"),
    "a class below 0": ("accuracy", [0, -1, 1], GOOD[1][:3], r"target holds -1"),
    "half a class": ("accuracy", [0, 0.5, 1], GOOD[1][:3], r"target holds 0.5"),
    "NaN target": ("accuracy", [0, np.nan, 1], GOOD[1][:3], r"1 of 3 targets are NaN.*leave these samples out"),
    "names": ("accuracy", ["a", "b"], [0.1, 0.2], r"turn class names into class indices"),
    "logits": ("brier", [0, 1], [-2.0, 3.0], r"2 of 2 scores lie outside \[0, 1\].*-2.*softmax or sigmoid"),
    "multi-label shape": ("auroc", np.zeros((4, 2)), GOOD[1], r"\(4, 2\) and scores \(4, 3\)"),
    "multi-label value": ("auroc", [[0, 2]], [[0.1, 0.2]], r"holds 2 \(1 of 2 such\); expected 0, 1 or NaN"),
    "multi-label kappa": ("kappa", [[0, 1]], [[0.1, 0.2]], r"kappa needs one grade a sample"),
    "top 5 of 5": ("top5", [0, 4], np.full((2, 5), 0.2), r"at least 6 classes, and there are 5.*use 'accuracy'"),
    "multi-label top 5": ("top5", [[0, 1]], [[0.1, 0.2]], r"top5 needs one class a sample.*use 'auroc'"),
    "multi-label grade": ("referable_auroc", [[0, 1]], [[0.1, 0.2]], r"needs one grade a sample"),
    "two grades": ("referable_auroc", [0, 1], [0.1, 0.2], r"at least 3 grades, got shape \(2, 2\)"),
    "grades of nothing": ("referable_auroc", [0, 2], np.zeros((2, 3)), r"2 samples sum to 0.*referable_auroc_max"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case):
    metric, target, scores, message = BAD_INPUT[case]
    with pytest.raises(DataError, match=message):
        evaluate(metric, target, scores)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, -1], [1, 1, 1, np.nan]])
def test_bad_weights_are_named(weights):
    with pytest.raises(DataError, match="weights must be 4 finite numbers >= 0"):
        evaluate("accuracy", *GOOD, weights=weights)


def test_weights_of_one_class_only_leave_nothing_defined():
    with pytest.raises(DataError, match="undefined for every class"):
        evaluate("auroc", [0, 1], [0.1, 0.9], weights=[0, 1])


@pytest.mark.parametrize(
    ("metric", "weights", "message"),
    [
        ("kappa", None, "true and the predicted grades are all one and the same grade"),
        ("kappa", [0, 0, 0], "all 3 weights are 0"),
        ("accuracy", [0, 0, 0], "all 3 weights are 0"),
        ("auroc", [0, 0, 0], "all 3 weights are 0"),
    ],
)
def test_why_nothing_is_defined(metric, weights, message):
    target = [1, 1, 1] if weights is None else [0, 1, 1]
    with pytest.raises(DataError, match=message) as caught:
        evaluate(metric, target, [0.7, 0.8, 0.9], weights=weights)
    assert "no class has both" not in str(caught.value)


def test_nothing_defined_names_what_is_missing():
    with pytest.raises(DataError, match=r"no class has positives here \(class 0: 0 positive, 2 negative"):
        evaluate("macro_recall", np.zeros((2, 2)), np.full((2, 2), 0.4))
    with pytest.raises(DataError, match="no class has labels here"):
        evaluate("brier", np.full((2, 2), np.nan), np.full((2, 2), 0.4))
    with pytest.raises(DataError, match="both positives and negatives here with a weight above 0, which 2 have"):
        evaluate("auroc", [0, 1, 1], [0.7, 0.8, 0.9], weights=[0, 1, 1])


def test_calibration_error_takes_little_memory(generator):
    """Bins are summed, not laid out for every sample (50,000 x 14 classes x 15 bins would be 170 MB an array)."""
    target = (generator.random((20_000, 14)) < 0.2).astype(float)
    target[::5] = np.nan
    scores = generator.random(target.shape)
    tracemalloc.start()
    value = evaluate("ece", target, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    for c in (0, 13):
        there = ~np.isnan(target[:, c])
        score, outcome = scores[there, c], target[there, c]
        bins = np.minimum(np.ceil(score * 15).astype(int) - 1, 14)
        gaps = [abs((outcome - score)[bins == b].sum()) for b in range(15)]
        assert value.per_class[c] == pytest.approx(sum(gaps) / there.sum(), abs=1e-12)


def test_unknown_names_get_the_nearest():
    with pytest.raises(SpecError, match=r"unknown metric 'aurocc': did you mean 'auroc'\?"):
        evaluate("aurocc", [0, 1], [0.1, 0.2])
    with pytest.raises(SpecError, match=r"unknown referable score 'maxx': did you mean 'max'\?"):
        referable_score(GOOD[1], "maxx")


def test_importing_metrics_and_statistics_loads_nothing_heavy():
    code = (
        "import sys, transfuse.metrics, transfuse.statistics.comparison;"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
