from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import expit, logit

from transfuse.errors import DataError, SpecError
from transfuse.metrics import evaluate
from transfuse.statistics import bootstrap
from transfuse.statistics.comparison import Comparison, compare, estimate
from transfuse.statistics.convergence import steps_to
from transfuse.statistics.planning import (
    Components,
    Term,
    equivalence_power,
    needed_patients,
    needed_seeds,
    t_quantile,
)


def study(
    generator: np.random.Generator,
    effects: tuple[float, float] = (1.5, 1.5),
    seeds: tuple[int, int] = (4, 3),
    patients: int = 80,
    images: int = 2,
    seed_sd: float = 0.2,
    own: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Target, scores of two arms and patient ids: patients shared, seeds and part of the noise their own."""
    positive = generator.random(patients) < 0.4
    positive[:3], positive[-3:] = True, False
    target = np.repeat(positive, images).astype(int)
    who = np.repeat(np.arange(patients), images)
    shared = 0.7 * generator.normal(size=patients)[who] + 0.4 * generator.normal(size=len(who))
    arms = [
        target * (effect + seed_sd * generator.normal(size=(count, 1)))
        + shared
        + own * generator.normal(size=(count, patients))[:, who]
        for effect, count in zip(effects, seeds, strict=True)
    ]
    return target, arms[0], arms[1], who


def same(one: Comparison, other: Comparison, sign: int = 1, tolerance: float = 1e-12) -> None:
    assert one.difference == pytest.approx(sign * other.difference, abs=tolerance)
    assert one.standard_error == pytest.approx(other.standard_error, abs=tolerance)
    ends = (other.low, other.high) if sign > 0 else (-other.high, -other.low)
    assert (one.low, one.high) == pytest.approx(ends, abs=tolerance)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)


def test_against_a_bootstrap_and_a_formula_written_out(generator, monkeypatch):
    """Everything again from the definition: rows copied per drawn patient, loops, scipy's t."""
    target, a, b, who = study(generator)
    runs = [*a, *b]
    points = np.array([evaluate("auroc", target, run).value for run in runs])
    draw = np.random.default_rng(0)
    count = 80
    table = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(who == p) for p in draw.integers(count, size=count)])
        table.append([evaluate("auroc", target[rows], run[rows]).value for run in runs])
    values = np.array(table)  # (B, runs)
    of_a, of_b = values[:, :4], values[:, 4:]
    few = min(len(np.unique(who[target == 1])), len(np.unique(who[target == 0])))
    scale = few / (few - 1)
    given_seeds = scale * np.var(of_a.mean(1) - of_b.mean(1), ddof=1)
    inter_a = scale * np.var(of_a - of_a.mean(1, keepdims=True), axis=0, ddof=1).sum() / 3
    inter_b = scale * np.var(of_b - of_b.mean(1, keepdims=True), axis=0, ddof=1).sum() / 2
    given_seeds = max(given_seeds, inter_a / 4 + inter_b / 3)  # the interaction is part of it
    s2_a, s2_b = points[:4].var(ddof=1), points[4:].var(ddof=1)
    pure_a, pure_b = max(0, s2_a - inter_a), max(0, s2_b - inter_b)
    variance = given_seeds + pure_a / 4 + pure_b / 3
    parts = given_seeds**2 / (few - 1)
    parts += (s2_a / 4) ** 2 / 3 if pure_a else 0
    parts += (s2_b / 3) ** 2 / 2 if pure_b else 0
    df = variance**2 / parts

    monkeypatch.setattr(bootstrap.resample, "__defaults__", (0, 400))
    result = compare(target, a, b, who, margin=0.05)
    assert result.difference == pytest.approx(points[:4].mean() - points[4:].mean(), abs=1e-12)
    assert result.values_a == pytest.approx(points[:4], abs=1e-12)
    assert result.standard_error == pytest.approx(math.sqrt(variance), abs=1e-12)
    assert result.df == pytest.approx(df, rel=1e-9)
    own_a = scale * of_a.mean(1).var(ddof=1) + pure_a / 4  # of each arm by itself, on these patients and seeds
    own_b = scale * of_b.mean(1).var(ddof=1) + pure_b / 3
    level_a, level_b = points[:4].mean(), points[4:].mean()

    def error_at(true: float) -> float:
        """Both arms moved by the same step of the logit, to where they differ by `true`."""
        middle = (logit(level_a) + logit(level_b)) / 2
        step = optimize.brentq(lambda d: expit(middle + d) - expit(middle - d) - true, -20, 20, xtol=1e-14)
        to_a, to_b = expit(middle + step), expit(middle - step)
        sd_a = math.sqrt(own_a) * to_a * (1 - to_a) / (level_a * (1 - level_a))
        sd_b = math.sqrt(own_b) * to_b * (1 - to_b) / (level_b * (1 - level_b))
        shared = (own_a + own_b - variance) / (2 * math.sqrt(own_a * own_b))
        return max(math.sqrt(variance), math.sqrt(sd_a**2 + sd_b**2 - 2 * shared * sd_a * sd_b))

    for probability, ends in ((0.975, (result.low, result.high)), (0.95, result.equivalence)):
        for end in ends:
            times = abs(result.difference - end) / error_at(end)
            assert times == pytest.approx(stats.t.ppf(probability, df), rel=1e-6)
    p_values = [2 * stats.t.sf(abs(result.difference) / error_at(0.0), df)]
    p_values.append(stats.t.sf((result.difference + 0.05) / error_at(-0.05), df))
    p_values.append(max(p_values[1], stats.t.sf((0.05 - result.difference) / error_at(0.05), df)))
    found = (result.p_difference, result.p_not_worse, result.p_equivalence)
    assert found == pytest.approx(tuple(p_values), rel=1e-6)
    assert (result.patients, result.seeds_a, result.seeds_b) == (80, 4, 3)


def test_accuracy_with_one_image_a_patient_is_the_textbook_variance(generator):
    """Equal seeds: no seed variance, and the variance over patients is that of a paired mean, s^2 / n."""
    target = generator.integers(0, 2, 300)
    a, b = generator.random(300), generator.random(300)
    result = compare(target, [a, a], [b, b], range(300), 0.05, metric="accuracy")
    paired = ((a > 0.5) == target).astype(float) - ((b > 0.5) == target)
    assert result.standard_error == pytest.approx(paired.std(ddof=1) / math.sqrt(300), rel=0.05)
    assert result.df == pytest.approx(299)
    assert result.components.seeds_a == result.components.interaction_a == 0
    assert result.per_class == {}


def test_the_resamples_are_exact_for_every_metric(generator, monkeypatch):
    """The replicates of `resample` are the metric on rows copied per drawn patient."""
    target = np.repeat(generator.integers(0, 3, 30), 2)
    target[::7] = (target[::7] + 1) % 3  # patients with mixed labels
    runs = [generator.dirichlet(np.ones(3), 60) for _ in range(2)]
    groups = np.repeat(np.arange(30), 2)
    monkeypatch.setattr(bootstrap, "_BLOCK", 60 * 20)  # several blocks
    draw = np.random.default_rng(3)
    drawn = np.concatenate([draw.integers(30, size=(20, 30)) for _ in range(3)])[:50]
    for metric in ("auroc", "auprc", "accuracy", "macro_recall", "kappa", "ece", "brier", "referable_auroc"):
        measure = bootstrap.of_scores(metric, target, runs)
        replicates = bootstrap.resample(measure, np.arange(60), groups, seed=3, replicates=50)
        for index in (0, 19, 20, 49):
            rows = np.concatenate([np.flatnonzero(groups == p) for p in drawn[index]])
            for run in (0, 1):
                value = evaluate(metric, target[rows], runs[run][rows])
                assert replicates.values[run, 0, index] == pytest.approx(value.value, abs=1e-12), metric
                for column, label in enumerate(replicates.classes, start=1):
                    expected = value.per_class[label]
                    assert replicates.values[run, column, index] == pytest.approx(expected, abs=1e-12), metric


def test_resamples_do_not_depend_on_what_is_kept(generator, monkeypatch):
    target, a, _, who = study(generator)
    measure = bootstrap.of_scores("auroc", target, list(a))
    kept = bootstrap.resample(measure, np.arange(len(who)), who, replicates=64)
    monkeypatch.setattr(bootstrap, "_KEPT", 0)
    monkeypatch.setattr(bootstrap, "_BLOCK", 160 * 16)
    again = bootstrap.resample(measure, np.arange(len(who)), who, replicates=64)
    np.testing.assert_allclose(again.values, kept.values, atol=1e-12)


def test_swapping_the_arms_flips_everything(generator):
    target, a, b, who = study(generator, effects=(2.5, 0.8))
    one, other = compare(target, a, b, who, 0.02), compare(target, b, a, who, 0.02)
    same(one, other, sign=-1)
    assert (one.verdict, other.verdict) == ("helps", "hurts")
    assert (one.needed_patients, one.needed_seeds) == (other.needed_patients, other.needed_seeds)


def test_what_must_not_matter(generator):
    target, a, b, who = study(generator)
    first = compare(target, a, b, who, 0.05)
    same(compare(target, np.exp(a), np.exp(b), who, 0.05), first)  # any increasing map of the scores
    same(compare(target, a[::-1], b[[2, 0, 1]], who, 0.05), first)  # the order of seeds
    order = generator.permutation(len(target))
    same(compare(target[order], a[:, order], b[:, order], who[order], 0.05), first)  # the order of samples
    names = [f"patient {p:03d}" for p in who]  # other names in the same order
    same(compare(target, a, b, names, 0.05), first)
    shuffled = generator.permutation(1000)[who]  # other names: another draw of the same resamples
    same(compare(target, a, b, shuffled, 0.05), first, tolerance=0.005)
    same(compare(target, a, b, who, 0.05, seed=1), first, tolerance=0.005)
    assert compare(target, a, b, who, 0.05) == first


def test_lower_is_better_turns_the_sign(generator):
    target = generator.integers(0, 2, 200)
    good = np.clip(0.25 + 0.5 * target + 0.1 * generator.normal(size=(3, 200)), 0, 1)
    poor = np.clip(0.45 + 0.1 * target + 0.1 * generator.normal(size=(3, 200)), 0, 1)
    result = compare(target, good, poor, range(200), 0.01, metric="brier")
    assert np.mean(result.values_a) < np.mean(result.values_b)
    assert result.difference > 0
    assert result.verdict == "helps"


def test_equivalent_takes_precedence_over_a_significant_trifle(generator):
    target, a, b, who = study(generator, effects=(2.4, 2.2), patients=600, seed_sd=0.0, own=0.05)
    result = compare(target, a, b, who, margin=0.1)
    assert result.low > 0
    assert result.verdict == "equivalent"
    assert any("smaller than the margin" in caveat for caveat in result.caveats)
    assert compare(target, a, b, who, margin=0.001).verdict == "helps"


def test_the_verdict_follows_the_intervals(generator):
    for margin in (0.01, 0.05, 0.3):
        for effects in ((1.5, 1.5), (2.5, 1.0), (1.0, 2.5)):
            r = compare(*study(generator, effects=effects), margin)
            inside = -margin < r.equivalence[0] and r.equivalence[1] < margin
            expected = "equivalent" if inside else "helps" if r.low > 0 else "hurts" if r.high < 0 else "undecided"
            assert r.verdict == expected


def test_seeds_and_patients_both_widen_the_interval(generator):
    target, a, b, who = study(generator, seeds=(6, 6), seed_sd=0.6)
    full = compare(target, a, b, who, 0.05)
    assert full.components.seeds_a > 0
    # The same scores, read as one patient an image: the interval is too narrow, and it says so.
    alone = compare(target, a, b, None, 0.05)
    assert alone.standard_error < full.standard_error
    assert any("No patient ids" in caveat for caveat in alone.caveats)
    # The mean over seeds as if it were one deterministic run: the variance over seeds is gone.
    means = compare(target, [a.mean(0)] * 2, [b.mean(0)] * 2, who, 0.05)
    assert means.standard_error < full.standard_error


def test_the_interaction_is_counted_once(generator):
    """No spread between seeds beyond what these patients show: the seeds' variance is the interaction, not twice it."""
    ratios = []
    for _ in range(20):
        target, a, b, who = study(generator, seeds=(8, 8), seed_sd=0.0, own=0.8)
        parts = compare(target, a, b, who, 0.05).components
        ratios.append((parts.seeds_a + parts.seeds_b) / (parts.interaction_a + parts.interaction_b))
    assert np.mean(ratios) < 0.4  # 1 if it were not subtracted


def test_one_seed_gives_no_verdict(generator):
    target, a, b, who = study(generator, effects=(4.0, 0.5))
    for pair, named in (((a[:1], b), "One of the arms has one seed"), ((a[:1], b[:1]), "Both arms have one seed")):
        result = compare(target, *pair, who, 0.02)
        assert result.verdict == "undecided"
        assert result.low > 0  # over patients alone it is clear
        assert any(named in caveat for caveat in result.caveats)
        assert (result.needed_patients, result.needed_seeds) == (None, None)
        assert math.isnan(result.components.seeds_a)


def test_identical_arms_are_equivalent_only_within_their_precision(generator):
    target, a, _, who = study(generator, seeds=(5, 5), seed_sd=0.3)
    result = compare(target, a, a, who, 0.5)
    assert result.difference == pytest.approx(0, abs=1e-15)
    assert result.verdict == "equivalent"
    assert compare(target, a, a, who, 0.001).verdict == "undecided"
    copies = compare(target, a[[0, 0]], a[[0, 0]], who, 0.5)  # no sample of trainings, so no variance between them
    assert (copies.difference, copies.low, copies.high, copies.verdict) == (0.0, -math.inf, math.inf, "undecided")
    assert any("copies of each other" in caveat for caveat in copies.caveats)


@pytest.mark.parametrize("metric", ["auroc", "accuracy", "macro_recall", "kappa", "ece", "brier"])
def test_collapsed_networks_are_undecided(generator, metric):
    """All runs predict the same for everybody: a standard error of 0 is no certainty."""
    target = generator.choice(3, 120, p=(0.6, 0.3, 0.1))
    constant = np.tile([0.61, 0.29, 0.1], (3, 120, 1))
    jitter = constant + 1e-13 * generator.normal(size=(3, 1, 3))  # rounding between seeds
    for a, b in ((constant, constant[:2]), (constant, jitter)):
        result = compare(target, a, b, range(120), 0.02, metric=metric)
        assert (result.verdict, result.low, result.high) == ("undecided", -math.inf, math.inf)
        assert any("the arms give the same value on every resample" in caveat for caveat in result.caveats)
        assert any("the networks predict the same for everybody" in caveat for caveat in result.caveats)
        assert not any("significant" in caveat for caveat in result.caveats)
        assert all(one.verdict == "undecided" for one in result.per_class.values())
    folds = compare(target, constant, jitter, range(120), 0.02, metric=metric, folds=np.arange(120) % 3)
    assert folds.verdict == "undecided"


def test_the_majority_class_for_everybody_is_undecided(generator):
    """Different probabilities, one predicted class: accuracy varies over patients, but not between the arms."""
    target = (generator.random(150) < 0.2).astype(int)
    a, b = 0.1 * generator.random((3, 150)), 0.3 * generator.random((4, 150))
    result = compare(target, a, b, range(150), 0.02, metric="accuracy")
    assert result.verdict == "undecided"
    assert any("the same value on every resample (" in caveat for caveat in result.caveats)
    assert compare(target, a, b, range(150), 0.5).standard_error > 0


def test_constant_scores_are_chance_without_variance(generator):
    target, a, _, who = study(generator, effects=(3.0, 0.0))
    chance = np.full((3, len(target)), 0.5)
    result = compare(target, a, chance, who, 0.02)
    assert result.values_b == (0.5, 0.5, 0.5)
    assert result.components.seeds_b == result.components.interaction_b == 0
    assert result.verdict == "helps"


def test_perfect_scores_on_few_patients_are_no_evidence():
    target = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([[0.1, 0.2, 0.3, 0.7, 0.8, 0.9]] * 3)
    result = compare(target, scores, scores, range(6), 0.02)
    assert (result.verdict, result.low, result.high) == ("undecided", -math.inf, math.inf)
    assert any("every run reaches 1" in caveat for caveat in result.caveats)
    assert "every run reaches 1" in estimate(target, scores, range(6)).method


def test_one_patient_gives_no_interval(generator):
    target, a, b, _ = study(generator)
    result = compare(target, a, b, ["one"] * len(target), 0.05)
    assert (result.verdict, result.low, result.high) == ("undecided", -math.inf, math.inf)
    assert result.patients == 1
    assert any("No interval: a class has positives or negatives of 1 of the patients" in c for c in result.caveats)
    assert estimate(target, a, ["one"] * len(target)).method.startswith("no interval")


def test_patients_with_mixed_labels(generator):
    """Both eyes of a patient may differ: the interval is that of patients, wider than that of images."""
    eyes, patients = 2, 150
    target = generator.integers(0, 2, patients * eyes)
    who = np.repeat(np.arange(patients), eyes)
    shared = np.repeat(generator.normal(size=patients), eyes)
    a, b = (target + d * shared + 0.3 * generator.normal(size=(3, len(who))) for d in (0.2, 1.5))
    result = compare(target, a, b, who, 0.02)
    assert result.verdict == "helps"
    assert np.isfinite(result.standard_error)


def multilabel_study(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = (generator.random((150, 3)) < 0.3).astype(float)
    target[generator.random((150, 3)) < 0.1] = np.nan
    truth = np.nan_to_num(target)
    a, b = (truth * d + generator.normal(size=(3, 150, 3)) for d in (2.0, 0.5))
    return target, a, b


def test_per_class_is_the_comparison_of_that_class_alone(generator):
    target, a, b = multilabel_study(generator)
    target[:, 2] = np.where(np.isnan(target[:, 2]), np.nan, 0.0)  # an absent class
    result = compare(target, a, b, range(150), 0.02)
    assert sorted(result.per_class) == [0, 1]
    assert any(caveat.startswith("Class 2 is left out of the mean: 0 positives") for caveat in result.caveats)
    assert result.difference == pytest.approx(np.mean([c.difference for c in result.per_class.values()]), abs=1e-12)
    alone = compare(target[:, [1]], a[:, :, [1]], b[:, :, [1]], range(150), 0.02)
    same(result.per_class[1], replace(alone, per_class={}))


def test_a_class_of_one_patient_withholds_the_verdict_on_the_mean(generator):
    target, a, b = multilabel_study(generator)
    target[:, 2] = 0
    target[0, 2] = 1
    result = compare(target, a, b, range(150), 0.02)
    assert result.verdict == "undecided"
    assert any("No verdict on the mean: class 2" in caveat for caveat in result.caveats)
    assert result.per_class[0].verdict == "helps"
    assert result.per_class[2].low == -math.inf


def test_few_patients_of_a_class_lose_resamples_and_say_so(generator):
    target = np.zeros(60, dtype=int)
    target[:3] = 1
    a, b = generator.normal(size=(2, 3, 60))
    result = compare(target, a, b, range(60), 0.05)
    assert any("of the resamples of patients lacked a class" in caveat for caveat in result.caveats)
    assert result.df < 6


def test_folds_average_within_folds_and_add_their_variance(generator):
    target, a, b, who = study(generator, patients=200, effects=(1.6, 1.2))
    folds = who % 5
    plain, crossed = compare(target, a, b, who, 0.05), compare(target, a, b, who, 0.05, folds=folds)
    by_fold = [
        np.mean([evaluate("auroc", target[folds == k], run[folds == k]).value for run in a])
        - np.mean([evaluate("auroc", target[folds == k], run[folds == k]).value for run in b])
        for k in range(5)
    ]
    assert crossed.difference == pytest.approx(np.mean(by_fold), abs=1e-12)
    assert crossed.standard_error == pytest.approx(plain.standard_error, rel=0.4)
    # Scores of each fold's model on a scale of its own: pooling would mix them, the mean within folds does not.
    shifted = a + 10 * folds
    same(compare(target, shifted, b, who, 0.05, folds=folds), crossed)
    # Training sets that differ a lot add a variance of their own, with 4 degrees of freedom.
    uneven = a + 2.0 * target * (folds - 2)
    loud = compare(target, uneven, b, who, 0.05, folds=folds)
    assert loud.components.folds > 0
    assert loud.standard_error > 1.5 * crossed.standard_error
    assert loud.df < 10
    # Nadeau and Bengio: (1/K + 1/(K-1)) of the variance between folds, less what patients explain.
    within = [
        np.mean([evaluate("auroc", target[folds == k], run[folds == k]).value for run in uneven])
        - np.mean([evaluate("auroc", target[folds == k], run[folds == k]).value for run in b])
        for k in range(5)
    ]
    assert 0.5 < loud.components.folds / (np.var(within, ddof=1) * (1 / 5 + 1 / 4)) <= 1


def test_components_add_up_to_the_standard_error(generator):
    result = compare(*study(generator), 0.05)
    p = result.components
    total = p.patients + (p.interaction_a + p.seeds_a) / 4 + (p.interaction_b + p.seeds_b) / 3 + p.folds
    assert result.standard_error == pytest.approx(math.sqrt(total), abs=1e-15)


# -- planning ------------------------------------------------------------


def test_power_equals_a_simulation(generator):
    for ratio, df in ((2.0, 4), (3.0, 9), (3.5, 60), (2.9265, 1e7)):
        estimates = generator.normal(size=40_000)
        spread = np.sqrt(generator.chisquare(min(df, 1e5), 40_000) / min(df, 1e5))
        simulated = np.mean(np.abs(estimates) < ratio - stats.t.ppf(0.95, df) * spread)
        assert equivalence_power(ratio, 1.0, [Term(1.0, df)]) == pytest.approx(simulated, abs=0.012)


def test_power_with_terms_of_their_own_equals_a_simulation(generator):
    """Variances of seeds on 2 degrees of freedom each, and of patients on 60; the interaction is in both."""
    terms = [Term(4.0, 2, 1.0), Term(2.0, 2, 1.0), Term(3.0, 60)]
    error = math.sqrt(7.0)
    squares = np.stack([term.mean_square * generator.chisquare(term.df, 60_000) / term.df for term in terms])
    parts = np.maximum(squares - [[1.0], [1.0], [0.0]], 0)
    variance = parts.sum(0)
    df = variance**2 / np.where(parts > 0, squares**2 / [[2], [2], [60]], 0).sum(0)
    for margin in (7.0, 9.0):
        half = stats.t.ppf(0.95, df) * np.sqrt(variance)
        simulated = np.mean(np.abs(error * generator.normal(size=60_000)) < margin - half)
        assert equivalence_power(margin, error, terms) == pytest.approx(simulated, abs=0.02)


def test_many_degrees_of_freedom_give_the_textbook_number():
    """Patients alone: SE^2 = v P0 / P, so P = P0 v (z.95 + z.9)^2 / m^2."""
    parts = Components(0.03**2, 0, 0, 0, 0, patients_df=2000)
    expected = 2000 * 0.03**2 * (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) ** 2 / 0.02**2
    assert needed_patients(parts, 0.02, 2000, 3, 3) == pytest.approx(expected, rel=0.002)
    assert needed_seeds(parts, 0.02) is None  # more seeds do not help
    assert needed_seeds(parts, 0.1) == 2


def test_the_planned_numbers_are_the_smallest_that_do():
    parts = Components(2e-4, 3e-4, 3e-4, 4e-4, 4e-4, patients_df=60)
    patients, seeds = needed_patients(parts, 0.06, 100, 6, 6), needed_seeds(parts, 0.06)
    assert patients is not None
    assert seeds is not None

    def by_patients(number: int) -> float:
        return equivalence_power(0.06, parts.precision(6, 6, number / 100)[0], parts.terms(6, 6, number / 100))

    def by_seeds(number: int) -> float:
        return equivalence_power(0.06, parts.precision(number, number)[0], parts.terms(number, number))

    assert by_patients(patients) >= 0.8 > by_patients(patients - 1)
    assert by_seeds(seeds) >= 0.8 > by_seeds(seeds - 1)


def test_seeds_alone_may_be_too_few_for_any_number_of_patients():
    parts = Components(1e-6, 0, 0, 0.05**2, 0.05**2, patients_df=100)
    assert needed_patients(parts, 0.02, 100, 3, 3) is None
    assert needed_seeds(parts, 0.02) > 50


def test_t_quantiles():
    for df in (1, 3.7, 40, 1e9):
        assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-6)


# -- one arm ------------------------------------------------------------


def test_estimate_covers_patients_and_seeds(generator):
    target, a, _, who = study(generator, seeds=(5, 2), seed_sd=0.5)
    full = estimate(target, a, who)
    assert full.value == pytest.approx(np.mean([evaluate("auroc", target, run).value for run in a]), abs=1e-12)
    assert full.low < full.value < full.high <= 1
    assert (full.confidence, full.n) == (0.95, 80)
    assert full.method.startswith("patients and seeds, Satterthwaite t with")
    one = estimate(target, a[:1], who)
    assert "one seed" in one.method
    narrow = estimate(target, a, who, confidence=0.8)
    assert full.low < narrow.low < narrow.high < full.high
    assert "each sample taken as a patient" in estimate(target, a, None).method


def test_estimate_of_accuracy_is_the_textbook_interval(generator):
    target = generator.integers(0, 2, 400)
    score = np.where(generator.random(400) < 0.8, target, 1 - target).astype(float)
    result = estimate(target, [score, score], range(400), metric="accuracy")
    p = result.value
    assert result.high - result.low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 399), rel=0.06)


def test_estimate_stays_in_bounds(generator):
    target = np.repeat([0, 1], 20)
    scores = target + 0.33 * generator.normal(size=(3, 40))
    result = estimate(target, scores, range(40))
    assert result.high == 1.0
    assert result.low < 1


# -- convergence ------------------------------------------------------------


def test_steps_to_a_threshold():
    steps = [100, 200, 300, 400]
    history = [(steps, [0.6, 0.8, 0.7, 0.9]), (steps, [0.5, np.nan, 0.8, 0.8]), (steps[:2], [0.5, 0.6])]
    result = steps_to(history, 0.8)
    assert result.steps == (200.0, 300.0, None)
    assert (result.last, result.reached, result.median) == ((400.0, 400.0, 200.0), 2, 300.0)
    assert steps_to(history[1:], 0.8).median is None  # half of the runs never did
    assert steps_to(history[:2], 0.8).median == 250.0
    assert steps_to([(steps, [0.9, 0.5, 0.2, 0.1])], 0.2, higher_is_better=False).steps == (300.0,)


def test_steps_to_names_bad_histories():
    with pytest.raises(DataError, match="no run in the history"):
        steps_to([], 0.5)
    with pytest.raises(DataError, match=r"run number 1: steps have shape \(2,\) and values \(3,\)"):
        steps_to([([1, 2], [0, 1]), ([1, 2], [0, 1, 2])], 0.5)
    with pytest.raises(DataError, match="ascending"):
        steps_to([([2, 1], [0, 1])], 0.5)
    with pytest.raises(SpecError, match="threshold is nan"):
        steps_to([([1], [1])], math.nan)


# -- bad input ------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, -0.1, math.nan, math.inf, "0.02"])
def test_margin_must_be_positive(generator, margin):
    with pytest.raises(SpecError, match=r"margin is .*; expected a number > 0 in units of auroc"):
        compare(*study(generator), margin)


def test_bad_input_is_named(generator):
    target, a, b, who = study(generator)
    broken = a.copy()
    broken[1, :5] = np.nan
    with pytest.raises(SpecError, match=r"unknown metric 'auc_roc'.*Choices: auroc"):
        compare(target, a, b, who, 0.02, metric="auc_roc")
    with pytest.raises(
        DataError, match=r"scores_b: 5 of 640 scores are NaN or infinite \(seed number 1\).*leave the run"
    ):
        compare(target, b, broken, who, 0.02)
    with pytest.raises(DataError, match=r"scores_a has shape \(160,\).*pass scores_a\[None\]"):
        compare(target, a[0], b, who, 0.02)
    with pytest.raises(DataError, match=r"scores_b has shape \(3, 159\) and target \(160,\)"):
        compare(target, a, b[:, 1:], who, 0.02)
    with pytest.raises(DataError, match="scores_a is no array of numbers"):
        compare(target, [[0.1], [0.2, 0.3]], b, who, 0.02)
    with pytest.raises(DataError, match="both arms need the same classes"):
        compare(target, a, np.stack([b, b], axis=2), who, 0.02)
    with pytest.raises(DataError, match="159 patient ids for 160 samples"):
        compare(target, a, b, who[1:], 0.02)
    with pytest.raises(DataError, match="2 of 160 patient ids are missing"):
        compare(target, a, b, [None, math.nan, *who[2:]], 0.02)
    with pytest.raises(DataError, match="auroc is undefined for every class"):
        compare(np.zeros(160, dtype=int), a, b, who, 0.02)
    with pytest.raises(DataError, match="at least 2 folds"):
        compare(target, a, b, who, 0.02, folds=np.zeros(160))
    with pytest.raises(DataError, match=r"80 patient\(s\) are in more than one fold"):
        compare(target, a, b, who, 0.02, folds=np.arange(160) % 2)
    with pytest.raises(SpecError, match=r"confidence is 95; expected a number between 0 and 1"):
        estimate(target, a, who, confidence=95)


# -- the error rate ------------------------------------------------------------


@pytest.mark.parametrize(("patients", "images", "seeds", "seed_sd"), [(60, 3, 3, 0.25), (60, 3, 4, 0.05)])
def test_the_interval_holds_its_error_rate(monkeypatch, patients, images, seeds, seed_sd):
    """No true difference. The bounds are 5 % with the Monte-Carlo error of 200 studies (99.9 %), lower still on the low
    side, because few patients make the method somewhat conservative. Holding the seeds fixed claims far more."""
    monkeypatch.setattr(bootstrap.resample, "__defaults__", (0, 400))
    draw = np.random.default_rng(2024)
    studies = 200
    false = fixed = 0
    for _ in range(studies):
        target, a, b, who = study(draw, seeds=(seeds, seeds), patients=patients, images=images, seed_sd=seed_sd)
        result = compare(target, a, b, who, 0.05)
        false += result.low > 0 or result.high < 0
        p = result.components
        over_patients = math.sqrt(p.patients + (p.interaction_a + p.interaction_b) / seeds)
        fixed += abs(result.difference) > 1.96 * over_patients
    assert 0.005 * studies <= false <= 0.105 * studies
    if seed_sd > 0.2:
        assert fixed > 0.12 * studies


@pytest.mark.exhaustive
def test_equivalent_is_wrong_in_one_study_in_twenty_at_a_wide_margin(monkeypatch):
    """A true difference of exactly the margin, 0.10 AUROC, most of the variance from few seeds, where the interval that
    is symmetric about the estimate is too short. The bound is 5 % and the Monte-Carlo error of 250 studies (99.9 %)."""
    monkeypatch.setattr(bootstrap.resample, "__defaults__", (0, 400))
    draw = np.random.default_rng(7)
    spread = math.sqrt(2 * (0.7**2 + 0.4**2 + 0.5**2) + 0.35**2)  # of the difference of a positive and a negative
    effects = tuple(stats.norm.ppf(auroc) * spread for auroc in (0.90, 0.80))
    results = [compare(*study(draw, effects, (3, 3), 90, 2, 0.35, 0.5), 0.1) for _ in range(250)]
    assert sum(result.verdict == "equivalent" for result in results) <= 24
    symmetric = sum(
        abs(result.difference) + stats.t.ppf(0.95, result.df) * result.standard_error < 0.1 for result in results
    )
    assert symmetric > sum(result.verdict == "equivalent" for result in results)
    covered = np.mean([result.low <= 0.1 <= result.high for result in results])
    assert 0.905 <= covered <= 0.995
