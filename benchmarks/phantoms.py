"""Images a second of the phantoms on one core. Median and range of 5 repeats, one thread, no cache.

    OMP_NUM_THREADS=1 python benchmarks/phantoms.py

Processor time of this process (what one core does when it is not shared) and, for comparison, wall time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pandas as pd
from machine import machine

from transfuse.data.phantoms import PHANTOMS, phantom_labels, phantoms

RESULTS = Path(__file__).parent / "results" / "phantoms.csv"
REPEATS = 5
COUNTS = {32: 200, 64: 200, 224: 40, 587: 8}


def main() -> None:
    rows = []
    for name in PHANTOMS:
        for size, count in COUNTS.items():
            phantoms(name, range(4), size=size)  # warm-up: numpy's first calls, the grids of this size
            processor, wall = [], []
            for repeat in range(REPEATS):
                indices = range(repeat * count, (repeat + 1) * count)
                began = time.process_time(), time.perf_counter()
                phantoms(name, indices, size=size)
                processor.append(count / (time.process_time() - began[0]))
                wall.append(count / (time.perf_counter() - began[1]))
            began_labels = time.process_time()
            phantom_labels(name, range(500))
            rows.append(
                {
                    "phantom": name,
                    "size_px": size,
                    "images_per_s": round(statistics.median(processor), 1),
                    "images_per_s_low": round(min(processor), 1),
                    "images_per_s_high": round(max(processor), 1),
                    "images_per_s_wall": round(statistics.median(wall), 1),
                    "labels_per_s": round(500 / (time.process_time() - began_labels)),
                    "images_per_repeat": count,
                    "repeats": REPEATS,
                    **machine(),
                }
            )
            print({key: value for key, value in rows[-1].items() if key not in machine()})
    pd.DataFrame(rows).to_csv(RESULTS, index=False)


if __name__ == "__main__":
    main()
