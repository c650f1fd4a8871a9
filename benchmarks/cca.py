"""What CCA costs against a QR of the features in float32, and against the covariance route of the authors' own code.

Peers are written here from their published numerics: `qr` is the QR of both centred float32 matrices and the singular
values of the product of their bases. `covariance` is what the code of Raghu et al. computes: the joint covariance of
all neurons in float64, each block divided by its largest entry, symmetric inverse square roots by eigenvectors after a
pseudo-inverse, and a full singular value decomposition. `svcca` is that after a singular value decomposition of each
side in float64. Each round times all of them on the same inputs, one after the other, so that a ratio compares
neighbours in time; a ratio is that of a peer's time to ours, in wall time, and in CPU time of all threads, which other
programs disturb less. Errors are those of the mean coefficient against a QR in float64. Memory is the growth of the
process's peak above the inputs, in a process of its own. Two threads; OMP_NUM_THREADS=1 before the command takes one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from machine import machine

RESULTS = Path(__file__).parent / "results" / "cca.csv"
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
CASES = [
    # samples, neurons, condition in singular values (0: like after a ReLU), measure, rounds after the warm-up
    (50_000, 256, 0, "svcca", 1),
    (100_000, 256, 0, "cca", 1),
    (100_000, 256, 1e3, "cca", 1),
    (20_000, 1024, 0, "cca", 1),
    (20_000, 1024, 1e3, "cca", 1),
    (20_000, 2048, 0, "cca", 1),
    (20_000, 2048, 1e3, "cca", 1),
]
PEERS = {"cca": ("qr", "covariance"), "svcca": ("svcca",)}


class Seconds(NamedTuple):
    wall: float
    cpu: float


def features(samples: int, neurons: int, condition: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((samples, neurons // 2), dtype=np.float32)
    sides = []
    for _ in range(2):
        own = rng.standard_normal((samples, neurons), dtype=np.float32)
        own[:, : neurons // 2] += shared
        mixture = rng.standard_normal((neurons, neurons), dtype=np.float32) / np.float32(np.sqrt(neurons))
        if condition:
            mixture = np.linalg.qr(mixture)[0]
            own *= np.geomspace(1, 1 / condition, neurons, dtype=np.float32)
            sides.append(own @ mixture)
        else:
            sides.append(np.maximum(own @ mixture, 0))
    return sides[0], sides[1]


def qr(x: np.ndarray, y: np.ndarray) -> float:
    left, right = (np.linalg.qr(side - side.mean(0))[0] for side in (x, y))
    return float(np.linalg.svd(left.T @ right, compute_uv=False).mean())


def covariance(x: np.ndarray, y: np.ndarray) -> float:
    width = x.shape[1]
    joint = np.cov(x.T, y.T)
    blocks = joint[:width, :width], joint[:width, width:], joint[width:, width:]
    high_x, high_y = np.abs(blocks[0]).max(), np.abs(blocks[2]).max()
    own_x, cross, own_y = blocks[0] / high_x, blocks[1] / np.sqrt(high_x * high_y), blocks[2] / high_y
    own_x, own_y = (own + 1e-10 * np.eye(len(own)) for own in (own_x, own_y))
    halves = []
    for inverse in (np.linalg.pinv(own_x), np.linalg.pinv(own_y)):
        values, vectors = np.linalg.eigh(inverse)
        halves.append(vectors * np.sqrt(np.abs(values)) @ vectors.T)
    return float(np.linalg.svd(halves[0] @ cross @ halves[1])[1].mean())


def svcca_peer(x: np.ndarray, y: np.ndarray) -> float:
    sides = []
    for side in (x, y):
        u, s, _ = np.linalg.svd(side.astype(np.float64) - side.mean(0, dtype=np.float64), full_matrices=False)
        kept = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.99)) + 1
        sides.append(u[:, :kept] * s[:kept])
    return covariance(*sides)


def work_of(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    if name in ("ours: cca", "ours: svcca"):
        from transfuse.analysis.cca import cca, svcca

        chosen = cca if name == "ours: cca" else svcca
        return lambda x, y: chosen(x, y).value
    return {"qr": qr, "covariance": covariance, "svcca": svcca_peer}[name]


def timed(name: str, x: np.ndarray, y: np.ndarray) -> tuple[Seconds, float]:
    work = work_of(name)
    wall, cpu = time.perf_counter(), time.process_time()
    value = work(x, y)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), value


def speed(case: list[Any]) -> list[dict[str, Any]]:
    samples, neurons, condition, measure, rounds = case
    import torch

    torch.set_num_threads(THREADS)
    x, y = features(samples, neurons, condition)
    truth = qr(x.astype(np.float64), y.astype(np.float64)) if measure == "cca" else svcca_peer(x, y)
    names = (f"ours: {measure}", *PEERS[measure])
    small = features(600, 32, 0)
    for name in names:
        timed(name, *small)
    runs: dict[str, list[Seconds]] = {name: [] for name in names}
    values = {}
    for _ in range(rounds):
        for name in names:
            try:
                taken, values[name] = timed(name, x, y)
            except np.linalg.LinAlgError as error:
                values[name] = float("nan")
                taken = Seconds(float("nan"), float("nan"))
                print(name, error, file=sys.stderr)
            runs[name].append(taken)
    rows = []
    ours = runs[names[0]]
    for name in names:
        row: dict[str, Any] = {"samples": samples, "neurons": neurons, "condition": condition or "relu", "route": name}
        for clock in ("wall", "cpu"):
            row[f"{clock}_s"] = round(statistics.median(getattr(one, clock) for one in runs[name]), 3)
            ratios = [getattr(a, clock) / getattr(b, clock) for a, b in zip(runs[name], ours, strict=True)]
            row[f"{clock}_ratio_to_ours"] = round(statistics.median(ratios), 2)
        row |= {"value": values[name], "error": f"{abs(values[name] - truth):.1e}", "rounds": rounds}
        rows.append(row)
    return rows


def memory(case: list[Any]) -> float:
    """MiB by which the peak of the process grows."""
    samples, neurons, condition, name = case
    import torch

    torch.set_num_threads(THREADS)
    timed(name, *features(600, 32, 0))
    path = Path(f"/tmp/transfuse-cca-{os.getpid()}")
    x, y = features(samples, neurons, condition)
    for side, rows in zip("xy", (x, y), strict=True):
        np.save(f"{path}-{side}.npy", rows)
    del x, y
    answer = subprocess.run(
        [sys.executable, __file__, "peak", json.dumps([name, str(path)])], check=True, stdout=subprocess.PIPE, text=True
    )
    for side in "xy":
        Path(f"{path}-{side}.npy").unlink()
    return float(answer.stdout)


def peak(given: list[str]) -> float:
    import torch

    torch.set_num_threads(THREADS)
    name, path = given
    timed(name, *features(600, 32, 0))
    x, y = (np.load(f"{path}-{side}.npy") for side in "xy")
    before = _highest()
    timed(name, x, y)
    return _highest() - before


def _highest() -> float:
    """Most MiB of memory so far; `resource.getrusage` would count the parent's before the program was loaded."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def ask(kind: str, case: list[Any]) -> Any:
    command = [sys.executable, __file__, kind, json.dumps(case)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def main() -> None:
    rows = []
    for case in CASES:
        measured = ask("speed", list(case))
        samples, neurons, condition = case[:3]
        matrices = 3 * neurons**2 * 8 / 2**20
        grown = ask("memory", [samples, neurons, condition, measured[0]["route"]])
        measured[0] |= {"extra_mib": round(grown), "extra_over_second_moments": round(grown / matrices, 1)}
        load = round(os.getloadavg()[0], 1)
        rows += [
            {**row, "threads": THREADS, "date": date.today().isoformat(), "load_average": load} for row in measured
        ]
        pd.DataFrame([{**row, **machine()} for row in rows]).to_csv(RESULTS, index=False)
        print(pd.DataFrame(measured).to_string(index=False), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        answers = {"speed": speed, "memory": memory, "peak": peak}
        print(json.dumps(answers[sys.argv[1]](json.loads(sys.argv[2]))))
    else:
        main()
