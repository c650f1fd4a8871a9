"""Why the calibration error has no verdict: what estimators make of a difference that is known.

    python benchmarks/calibration_bias.py [--studies 300] [--seed 0]

Arm A is calibrated, arm B too sure (its logits are 1.6 times the true ones); p is beta(2, 2), and labels are drawn from
it. Of each number of test images the mean of B - A over the studies and its standard deviation, by: the plug-in
estimate in 15 equal bins (Guo et al. 2017); the same debiased by normal draws (Kumar et al. 2019); bins of equal
counts, as many as keep the accuracies in order (Roelofs et al. 2022); a jackknife; signs of the gaps from the other
half of the images.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import write_rows
from scipy.special import expit, logit

BINS = 15
IMAGES = (100, 200, 500, 2000)
Estimator = Callable[[np.ndarray, np.ndarray, np.random.Generator], float]


def gaps(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bin of each image, and its outcome less its confidence."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1), right - confidence


def plug_in(confidence: np.ndarray, right: np.ndarray, _: np.random.Generator | None = None) -> float:
    bins, gap = gaps(confidence, right)
    return float(np.abs(np.bincount(bins, gap)).sum() / len(bins))


def debiased(confidence: np.ndarray, right: np.ndarray, generator: np.random.Generator) -> float:
    bins, gap = gaps(confidence, right)
    count = np.bincount(bins, minlength=BINS)
    there = count > 0
    accuracy, gap = (np.bincount(bins, one, minlength=BINS)[there] / count[there] for one in (right, gap))
    noise = np.sqrt(accuracy * (1 - accuracy) / count[there]) * generator.normal(size=(300, there.sum()))
    return float(count[there] / len(bins) @ (2 * np.abs(gap) - np.abs(gap + noise).mean(axis=0)))


def sweep(confidence: np.ndarray, right: np.ndarray, _: np.random.Generator) -> float:
    order, best = np.argsort(confidence), 0.0
    for number in range(1, len(order) + 1):
        parts = np.array_split(order, number)
        if (np.diff([right[part].mean() for part in parts]) < 0).any():
            break
        best = sum(abs((right[part] - confidence[part]).sum()) for part in parts) / len(order)
    return float(best)


def jackknife(confidence: np.ndarray, right: np.ndarray, _: np.random.Generator) -> float:
    bins, gap = gaps(confidence, right)
    sums, size = np.bincount(bins, gap), len(bins)
    whole = np.abs(sums).sum()
    without = (whole - np.abs(sums[bins]) + np.abs(sums[bins] - gap)) / (size - 1)
    return float(whole - (size - 1) * without.mean())


def other_half(confidence: np.ndarray, right: np.ndarray, generator: np.random.Generator) -> float:
    bins, gap = gaps(confidence, right)
    found = []
    for _ in range(10):
        half = generator.random(len(bins)) < 0.5
        one, other = (np.bincount(bins[rows], gap[rows], minlength=BINS) for rows in (half, ~half))
        found.append(np.sign(other) @ one + np.sign(one) @ other)
    return float(np.mean(found) / len(bins))


ESTIMATORS: dict[str, Estimator] = {one.__name__: one for one in (plug_in, debiased, sweep, jackknife, other_half)}


def study(size: int, generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Confidence and whether the prediction is right, of arm A and of arm B."""
    truth = generator.beta(2, 2, size)
    label = generator.random(size) < truth
    arms = []
    for times in (1.0, 1.6):
        score = expit(times * logit(truth) + 0.1 * generator.normal(size=size))
        arms.append((np.maximum(score, 1 - score), ((score > 0.5) == label).astype(float)))
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "calibration_bias.csv")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    sure, right = (plug_in(*arm) for arm in reversed(study(2_000_000, generator)))
    rows = []
    for size in IMAGES:
        arms = [study(size, generator) for _ in range(options.studies)]
        for name, estimator in ESTIMATORS.items():
            found = [estimator(*b, generator) - estimator(*a, generator) for a, b in arms]
            mean, spread = np.mean(found), np.std(found, ddof=1)
            row = {"images": size, "estimator": name, "true_difference": round(sure - right, 4)}
            row |= {"mean_difference": round(float(mean), 4), "standard_deviation": round(float(spread), 4)}
            rows.append(row | {"studies": options.studies, "machine": f"{platform.machine()}, numpy {np.__version__}"})
            print(rows[-1], flush=True)
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
