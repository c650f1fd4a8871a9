"""An A/A test with real trainings: 20 seeds of one arm, split at random into two arms that differ in nothing.

    TRANSFUSE_DATA=FOLDER python benchmarks/aa_split.py [--splits 2000]

Twenty small networks are trained on 500 images of PneumoniaMNIST, seeds 0 to 19 of one arm, as `transfuse run` does it,
and tested on its test part. Random splits of the twenty into ten and ten, and of ten of them into five and five, are
compared; every HELPS or HURTS is wrong. The test patients are the same in all splits, so their chance cancels, and an
honest interval that allows for new patients as well is wrong less often than 5 %. Beside it Welch's t-test over the
seeds' values, which knows of no patients and should be wrong in 5 % of splits, and DeLong's test on the first seed of
each half: what is published most.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, write_rows
from scipy import stats

from transfuse.results.store import Store
from transfuse.specs import read_yaml, study_from
from transfuse.statistics.arm import Arm, arm_of_scores
from transfuse.statistics.comparison import compare_arms
from transfuse.study.executors import Queue, in_process
from transfuse.study.plan import check, write_plan
from transfuse.study.run import do_run

MARGIN = 0.02
SEEDS = 20
STUDY = f"""
name: aa
data: {{name: pneumoniamnist, size: 64, channels: 1, normalise: half, duplicates: drop, train_fraction: 0.1062}}
models: {{small: {{name: cbr_demo}}}}
arms: {{random: {{}}}}
seeds: {SEEDS}
train: {{steps: 128, batch_size: 32, validate_every: 32}}
"""


def trained(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target (N,), scores (20, N) and patients (N,) of the test part."""
    study, store = study_from(read_yaml(STUDY)), Store(root)
    runs = check(study, device="cpu").runs
    plan = write_plan(store, study, runs)
    in_process(Queue(runs, set()), partial(work, root=root), lambda event: None)
    tables = store.tables(plan.rows)
    test = tables.predictions[tables.predictions["part"] == "test"]
    each = [frame.sort_values("sample_id") for _, frame in test.groupby("run_id")]
    scores = np.stack([np.stack(list(frame["scores"]))[:, -1] for frame in each])
    return np.stack(list(each[0]["target"])).ravel().astype(int), scores, each[0]["patient_id"].to_numpy()


def work(run: Any, tell: Any, *, root: Path) -> None:
    do_run(run, tell, root=root, device="cpu")


def some_seeds(arm: Arm, chosen: np.ndarray) -> Arm:
    """The same arm with some of its seeds."""
    parts = [replace(part, points=part.points[chosen], values=part.values[chosen]) for part in arm.parts]
    return replace(arm, seeds=len(chosen), parts=tuple(parts))


def delong(target: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p-value of DeLong, DeLong and Clarke-Pearson 1988 for two AUROCs on the same samples."""
    components = []
    for score in (a, b):
        above, below = score[target == 1], score[target == 0]
        wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
        components.append((wins.mean(1), wins.mean(0)))
    of_positives, of_negatives = (np.subtract(*sides) for sides in zip(*components, strict=True))
    variance = of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives)
    return float(2 * stats.norm.sf(abs(of_positives.mean()) / math.sqrt(variance))) if variance else 1.0


def measure(target: np.ndarray, scores: np.ndarray, patients: np.ndarray, half: int, splits: int) -> dict[str, Any]:
    """One row: of `splits` splits into `half` and `half` seeds."""
    arm = arm_of_scores(target, scores, patients)
    values = arm.parts[0].points[:, 0]
    generator = np.random.default_rng(half)
    verdicts, excluded, welch, first = [], 0, 0, 0
    for _ in range(splits):
        order = generator.permutation(SEEDS)
        a, b = order[:half], order[half : 2 * half]
        found = compare_arms(some_seeds(arm, a), some_seeds(arm, b), MARGIN)
        verdicts.append(found.verdict)
        excluded += found.low > 0 or found.high < 0
        welch += float(stats.ttest_ind(values[a], values[b], equal_var=False).pvalue) < 0.05
        first += delong(target, scores[a[0]], scores[b[0]]) < 0.05
    return {
        "seeds_of_each_half": half,
        "splits": splits,
        "interval_excludes_0": round(excluded / splits, 4),
        "helps_or_hurts": round(float(np.mean([one in ("helps", "hurts") for one in verdicts])), 4),
        "equivalent": round(verdicts.count("equivalent") / splits, 4),
        "welch_over_seeds": round(welch / splits, 4),
        "delong_one_seed": round(first / splits, 4),
        "margin": MARGIN,
        "auroc_mean": round(float(values.mean()), 4),
        "auroc_sd_of_seeds": round(float(values.std(ddof=1)), 4),
        "test_images": len(target),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "aa_split.csv")
    options = parser.parse_args()
    if not os.environ.get("TRANSFUSE_DATA"):
        raise SystemExit("set TRANSFUSE_DATA to the folder of pneumoniamnist.npz")
    with tempfile.TemporaryDirectory() as folder:
        data = trained(Path(folder))
    tail = {"date": date.today().isoformat(), **machine()}
    rows = [{**measure(*data, half, options.splits), **tail} for half in (10, 5)]
    write_rows(options.output, rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
