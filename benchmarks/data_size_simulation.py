"""Do the intervals of the curve over training patients hold the truth? Simulated studies with known curves.

    python benchmarks/data_size_simulation.py [--studies 500] [--seed 0]

Two arms are trained on the same numbers of patients, S seeds each, and tested on the same P patients, half of them
positive. The score of a patient is `label x (effect + seed effect) + patient + patient x training`, all normal, so the
true AUROC at n training patients is the mean of `Phi((effect(n) + seed effect) / sqrt(2))` over seeds; it follows
`0.92 - 1.2 n^-0.55` and `0.93 - 0.5 n^-0.5`, and seeds vary as `n^-0.5`. Of each design: how often the 95 % interval
holds the true value at the largest size, what the largest size gains over the smallest, what 100 more patients are
worth, and the crossover within 0.02. Monte-Carlo error with 500 studies: 1.0 points.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from statistics import NormalDist

import numpy as np
from machine import write_rows

from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.crossover import crossover
from transfuse.statistics.data_size import data_size_curve, worth

LAWS = {"scratch": (0.92, 1.2, 0.55), "transfer": (0.93, 0.5, 0.5)}
MARGIN = 0.02
ALIKE = 0.6
"""The share of the variance of a patient's score that all trainings have in common."""
# Sizes, seeds, test patients, standard deviation of the seed effect at the smallest size.
DESIGNS = (
    ((48, 120, 240, 480), 3, 100, 0.15),
    ((48, 120, 240, 480), 5, 100, 0.15),
    ((48, 120, 240, 480), 3, 400, 0.30),
    ((120, 240, 480), 3, 200, 0.15),
    ((24, 48, 120, 240, 480), 3, 200, 0.15),
)
MEASURES = ("at_the_largest", "gain_over_smallest", "worth_of_100", "crossover")
OUT = Path(__file__).parent / "results" / "data_size_simulation.csv"


def level(name: str, patients: float) -> float:
    limit, scale, rate = LAWS[name]
    return limit - scale * patients**-rate


def true_crossover(smallest: float, largest: float) -> float:
    grid = np.geomspace(smallest, 10 * largest, 20_000)
    behind = np.array([level("transfer", n) - level("scratch", n) > MARGIN for n in grid])
    if not behind.any():
        return smallest
    return float("inf") if behind[-1] else float(grid[np.flatnonzero(behind)[-1] + 1])


def tested(
    name: str, sizes: tuple[int, ...], seeds: int, ease: np.ndarray, spread: float, rng: np.random.Generator
) -> list[Arm]:
    target = np.arange(len(ease)) % 2
    arms = []
    for n in sizes:
        sd = spread * (sizes[0] / n) ** 0.5
        # So that the mean over seeds is the law: Phi(effect / sqrt(2 + sd^2)).
        effect = NormalDist().inv_cdf(level(name, n)) * (2 + sd**2) ** 0.5
        own = effect + sd * rng.standard_normal((seeds, 1))
        noise = (1 - ALIKE) ** 0.5 * rng.standard_normal((seeds, len(ease)))
        arms.append(arm_of_scores(target, own * target + ALIKE**0.5 * ease + noise, range(len(ease))))
    return arms


def study(design: tuple, rng: np.random.Generator) -> list[bool]:
    sizes, seeds, patients, spread = design
    ease = rng.standard_normal(patients)
    curves = {name: data_size_curve(sizes, tested(name, sizes, seeds, ease, spread, rng)) for name in LAWS}
    one, first, last = curves["scratch"], sizes[0], sizes[-1]
    found = crossover(curves["scratch"], curves["transfer"], MARGIN)
    pairs = [
        (one.at(last), level("scratch", last)),
        (one.gain(first, last), level("scratch", last) - level("scratch", first)),
        (worth(one).gain, level("scratch", last + 100) - level("scratch", last)),
        (found, true_crossover(first, last)),
    ]
    return [bool(interval.low <= truth <= interval.high) for interval, truth in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    for place, design in enumerate(DESIGNS):
        rng, began = np.random.default_rng([asked.seed, place]), time.perf_counter()
        held = np.mean([study(design, rng) for _ in range(asked.studies)], axis=0)
        sizes, seeds, patients, spread = design
        row = {"sizes": " ".join(map(str, sizes)), "seeds": seeds, "test_patients": patients, "seed_sd": spread}
        row |= {f"coverage_{name}": round(float(share), 4) for name, share in zip(MEASURES, held, strict=True)}
        row |= {"studies": asked.studies, "seconds_a_study": round((time.perf_counter() - began) / asked.studies, 3)}
        rows.append(row | {"numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine()})
        print(row, flush=True)
    write_rows(OUT, rows)


if __name__ == "__main__":
    main()
