"""The patient bootstrap of AUROC: patient kernel and presorted sums against resampling with scikit-learn.

    python benchmarks/bootstrap.py [--repeats 5]

2,000 resamples of patients of one run, one thread (set OMP_NUM_THREADS=1). scikit-learn is timed on the first 100
resamples and scaled; the three are compared on those. Median and range over repeats; the kernel's time includes
building it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
from machine import write_rows
from sklearn.metrics import roc_auc_score

from transfuse.metrics.cases import OneClass
from transfuse.metrics.ranking import Auroc, kernel_of

REPLICATES = 2000
SHOWN = 100
# Images, patients, whether a patient's images may differ in their label.
CASES = ((480, 120, False), (1000, 300, True), (1000, 1000, False), (5000, 500, True), (5000, 5000, False))


def median_and_range(run: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), min(seconds), max(seconds)


def measure(images: int, patients: int, mixed: bool, repeats: int) -> list[dict[str, object]]:
    generator = np.random.default_rng(0)
    groups = np.sort(np.arange(images) % patients)
    label = generator.random(images) < 0.3 if mixed else (generator.random(patients) < 0.3)[groups]
    score = np.round(label + generator.normal(size=images), 2)  # rounding makes ties
    drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=REPLICATES)
    weights = np.ascontiguousarray(drawn.T.astype(np.float64))
    one = OneClass(1, np.arange(images), label, score)
    width = max(16, (1 << 18) // images)
    blocks = [np.ascontiguousarray(weights[:, at : at + width]) for at in range(0, REPLICATES, width)]

    def by_kernel() -> np.ndarray:
        kernel = kernel_of(one, groups)
        return np.concatenate([kernel.auroc(block) for block in blocks])

    def by_sums() -> np.ndarray:
        curve = Auroc(one, groups)
        return np.concatenate([curve.presorted(block) for block in blocks])

    def by_scikit_learn() -> np.ndarray:
        rows = np.arange(images)
        copies = (np.repeat(rows, drawn[b][groups]) for b in range(SHOWN))
        return np.array([roc_auc_score(label[r], score[r]) for r in copies])

    brute, scale = by_scikit_learn(), REPLICATES / SHOWN
    reference = tuple(scale * t for t in median_and_range(by_scikit_learn, repeats))
    out: list[dict[str, object]] = []
    for name, times, values in (
        ("scikit-learn", reference, brute),
        ("patient kernel", median_and_range(by_kernel, repeats), by_kernel()),
        ("presorted", median_and_range(by_sums, repeats), by_sums()),
    ):
        out.append(
            {
                "images": images,
                "patients": patients,
                "mixed_labels": mixed,
                "replicates": REPLICATES,
                "method": name,
                "chosen": name == ("patient kernel" if Auroc(one, groups)._prefers_kernel else "presorted"),
                "median_seconds": f"{times[0]:.4f}",
                "fastest_seconds": f"{times[1]:.4f}",
                "slowest_seconds": f"{times[2]:.4f}",
                "times_faster_than_scikit_learn": f"{reference[0] / times[0]:.1f}",
                "largest_difference_from_scikit_learn": f"{np.abs(values[:SHOWN] - brute).max():.1e}",
                "machine": f"{platform.machine()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}",
            }
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "bootstrap.csv")
    options = parser.parse_args()
    rows = []
    for images, patients, mixed in CASES:
        rows += measure(images, patients, mixed, options.repeats)
        for row in rows[-3:]:
            print(row, flush=True)
    write_rows(options.output, rows)


if __name__ == "__main__":
    main()
