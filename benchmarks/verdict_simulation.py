"""Does the verdict hold its error rate? Simulated studies in which the truth is known.

    python benchmarks/verdict_simulation.py [--studies 2000] [--seed 0] [--processes 2]

Two arms, P patients with k images each, S seeds an arm; 30 % of the patients are positive. The score of an image is

    label x (effect + seed effect) + patient + patient x arm + patient x arm x seed + image + image x arm x seed,

all normal, so an arm's true AUROC is `Phi(effect / sqrt(2 var + seed var))`: the mean over new patients *and* new
seeds. Of each design: the share of studies without a true difference whose 95 % interval excludes 0; the coverage of
that interval at no difference and at a difference of exactly the margin; wrong EQUIVALENT at a difference of exactly
the margin; and, with the number of patients that the planner names for the design's true variances, the share of
studies without a difference that end in EQUIVALENT (80 % is asked for). There are 2,000 studies in each row; the
Monte-Carlo error is in the table.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import NormalDist

import numpy as np
from machine import write_rows

from transfuse.statistics.comparison import Comparison, compare
from transfuse.statistics.planning import Components, needed_patients

NORMAL = NormalDist()
AUROC = 0.85
# Variances: patient, patient x arm, patient x arm x seed, image, image x arm x seed.
SPREADS = (0.36, 0.10, 0.10, 0.24, 0.20)


@dataclass(frozen=True)
class Design:
    """The margins are such that the seeds of the design can decide at all, given enough patients."""

    patients: int
    images: int
    seeds: int
    seed_sd: float
    margin: float


DESIGNS = (
    Design(120, 4, 3, 0.25, 0.15),
    Design(120, 4, 5, 0.25, 0.10),
    Design(120, 4, 5, 0.05, 0.05),
    Design(400, 1, 5, 0.25, 0.10),
)


def effect_of(auroc: float, seed_sd: float) -> float:
    """The effect at which the mean AUROC over patients and seeds is `auroc`."""
    return NORMAL.inv_cdf(auroc) * math.sqrt(2 * sum(SPREADS) + seed_sd**2)


def simulate(design: Design, difference: float, generator: np.random.Generator) -> Comparison:
    """One study, in which arm A's true AUROC exceeds arm B's by `difference`."""
    normal = generator.normal
    patients, images, seeds = design.patients, design.images, design.seeds
    of_patient, of_arm, of_run, of_image, noise = (math.sqrt(v) for v in SPREADS)
    positive = generator.random(patients) < 0.3
    positive[:2], positive[-2:] = True, False
    label = np.repeat(positive, images).astype(np.int64)
    who = np.repeat(np.arange(patients), images)
    shared = of_patient * normal(size=patients)[who] + of_image * normal(size=len(who))
    arms = []
    for auroc in (AUROC + difference / 2, AUROC - difference / 2):
        effect = effect_of(auroc, design.seed_sd) + design.seed_sd * normal(size=(seeds, 1))
        own = of_arm * normal(size=patients)[who] + of_run * normal(size=(seeds, patients))[:, who]
        arms.append(label * effect + shared + own + noise * normal(size=(seeds, len(who))))
    seed = int(generator.integers(2**31))
    return compare(label, arms[0], arms[1], who, design.margin, seed=seed)


def mean_components(results: list[Comparison]) -> Components:
    """The design's variances, averaged over its studies."""
    names = ("patients", "interaction_a", "interaction_b", "seeds_a", "seeds_b", "alone_a", "alone_b")
    mean = {name: float(np.mean([getattr(r.components, name) for r in results])) for name in names}
    level_a, level_b = np.mean([r.components.levels for r in results], axis=0)
    return replace(results[0].components, **mean, levels=(float(level_a), float(level_b)))


def run_design(design: Design, studies: int, seed: int) -> dict[str, object]:
    """One row of the table."""
    started = time.perf_counter()
    generator = np.random.default_rng([seed, DESIGNS.index(design)])
    null = [simulate(design, 0.0, generator) for _ in range(studies)]
    edge = [simulate(design, design.margin, generator) for _ in range(studies)]
    false = np.mean([r.low > 0 or r.high < 0 for r in null])
    spread = np.std([r.difference for r in null], ddof=1)
    planned = needed_patients(mean_components(null), design.margin, design.patients, design.seeds, design.seeds)
    row: dict[str, object] = {
        "patients": design.patients,
        "images_per_patient": design.images,
        "seeds": design.seeds,
        "seed_sd": design.seed_sd,
        "margin_auroc": design.margin,
        "studies": studies,
        "false_difference_rate": round(float(false), 4),
        "false_verdict_rate": round(float(np.mean([r.verdict in ("helps", "hurts") for r in null])), 4),
        "coverage_no_difference": round(float(1 - false), 4),
        "coverage_at_margin": round(float(np.mean([r.low <= design.margin <= r.high for r in edge])), 4),
        "wrong_equivalent_rate": round(float(np.mean([r.verdict == "equivalent" for r in edge])), 4),
        "equivalent_rate_no_difference": round(float(np.mean([r.verdict == "equivalent" for r in null])), 4),
        "mean_standard_error": round(float(np.sqrt(np.mean([r.standard_error**2 for r in null]))), 5),
        "true_standard_error": round(float(spread), 5),
        "mean_df": round(float(np.mean([r.df for r in null])), 1),
        "planned_patients": planned,
        "equivalent_rate_at_planned": "",
    }
    if planned is not None and planned * design.images <= 20_000:
        larger = replace(design, patients=planned)
        runs = [simulate(larger, 0.0, generator) for _ in range(studies)]
        row["equivalent_rate_at_planned"] = round(float(np.mean([r.verdict == "equivalent" for r in runs])), 4)
    row["monte_carlo_error_at_5_percent"] = round(math.sqrt(0.05 * 0.95 / studies), 4)
    row["seconds"] = round(time.perf_counter() - started, 1)
    row["machine"] = f"{platform.machine()}, numpy {np.__version__}, one thread"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "verdict_simulation.csv")
    options = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(options.processes) as pool:
        for row in pool.map(run_design, DESIGNS, repeat(options.studies), repeat(options.seed)):
            print(row, flush=True)
            rows.append(row)
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
