"""Exact k-NN in cosine similarity: `knn_scores` against faiss-cpu's IndexFlatIP and scikit-learn.

    pip install --target PEERS --no-deps faiss-cpu
    PYTHONPATH=PEERS python benchmarks/knn.py

A bank of 50,000 x 384 and 2,000 queries in float32, k = 200, two threads. Each is timed from features to class scores
or, where it has no scores of its own (faiss), to neighbours with their weighted vote in numpy, which is also given
without. All normalise the features themselves. Every round times each of them once, one after the other, so that a
ratio compares neighbours in time; the table has the median over the rounds and its quartiles, in wall time and in CPU
time of all threads (which other programs disturb less). Without faiss its rows hold the reason.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import machine

RESULTS = Path(__file__).parent / "results" / "knn.csv"
BANK, QUERIES, WIDTH, CLASSES, K, TEMPERATURE = 50_000, 2_000, 384, 10, 200, 0.1
ROUNDS = 5
OURS = "transfuse knn_scores"


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH))
    labels = rng.integers(0, CLASSES, BANK)
    bank = (0.3 * centres[labels] + rng.normal(size=(BANK, WIDTH))).astype(np.float32)
    queries = (0.3 * centres[rng.integers(0, CLASSES, QUERIES)] + rng.normal(size=(QUERIES, WIDTH))).astype(np.float32)
    return bank, labels, queries


def vote(similar: np.ndarray, near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    weights = np.exp(similar.astype(np.float64) / TEMPERATURE)
    weights /= weights.sum(1, keepdims=True)
    cells = labels[near] + CLASSES * np.arange(len(near))[:, None]
    return np.bincount(cells.ravel(), weights.ravel(), CLASSES * len(near)).reshape(-1, CLASSES)


def contestants(threads: int) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    import torch
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    from transfuse.analysis.knn import knn_scores

    torch.set_num_threads(threads)
    bank, labels, queries = data()

    def ours() -> np.ndarray:
        return knn_scores(queries, bank, labels, K, TEMPERATURE)

    def scikit_learn() -> np.ndarray:
        with threadpool_limits(threads):
            weigh = lambda distance: np.exp((1 - distance) / TEMPERATURE)  # noqa: E731
            nearest = KNeighborsClassifier(K, weights=weigh, metric="cosine", algorithm="brute", n_jobs=threads)
            return nearest.fit(bank, labels).predict_proba(queries)

    runs: dict[str, Callable[[], Any]] = {OURS: ours, "scikit-learn KNeighborsClassifier": scikit_learn}
    missing = {}
    try:
        import faiss
    except ImportError as reason:
        missing["faiss IndexFlatIP, search and vote"] = missing["faiss IndexFlatIP, search alone"] = str(reason)
        return runs, missing
    faiss.omp_set_num_threads(threads)

    def search() -> tuple[np.ndarray, np.ndarray]:
        points, asked = bank.copy(), queries.copy()
        faiss.normalize_L2(points)
        faiss.normalize_L2(asked)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(points)
        return index.search(asked, K)

    runs["faiss IndexFlatIP, search and vote"] = lambda: vote(*search(), labels)
    runs["faiss IndexFlatIP, search alone"] = search
    return runs, missing


def measure(threads: int) -> list[dict[str, object]]:
    runs, missing = contestants(threads)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    answers = {}
    for turn in range(ROUNDS + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            answers[name] = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if turn:  # the first warms up
                times[name].append((wall, cpu))
    rows: list[dict[str, object]] = []
    for name, measured in times.items():
        row: dict[str, object] = {"method": name}
        for clock, place in (("wall", 0), ("cpu", 1)):
            ratios = [ours[place] / theirs[place] for ours, theirs in zip(times[OURS], measured, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            row[f"{clock}_seconds"] = round(statistics.median(value[place] for value in measured), 2)
            row[f"{clock}_ours_over_this"] = round(middle, 2)
            row[f"{clock}_quartiles"] = f"{low:.2f} to {high:.2f}"
        if isinstance(answers[name], np.ndarray):
            row["largest_difference_of_scores"] = f"{np.abs(answers[name] - answers[OURS]).max():.1e}"
        rows.append(row)
    return rows + [{"method": name, "not_measured": reason} for name, reason in missing.items()]


def main() -> None:
    threads = 2
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, str(threads)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    shared = {
        "bank": f"{BANK} x {WIDTH}",
        "queries": QUERIES,
        "k": K,
        "threads": threads,
        "rounds": ROUNDS,
        "date": date.today().isoformat(),
        "load_average": round(os.getloadavg()[0], 1),
        **machine(),
    }
    frame = pd.DataFrame([{**row, **shared} for row in json.loads(answer.stdout)])
    frame.to_csv(RESULTS, index=False)
    print(frame.drop(columns=["machine", "versions"]).to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
