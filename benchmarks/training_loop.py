"""What `fit` costs on top of a bare PyTorch loop: same network, data, order and steps.

    python benchmarks/training_loop.py [--repeats 9] [--out benchmarks/results/training_loop.csv]

Three loops take turns in one process on one thread, so that a busy machine slows all: `fit`; a bare loop in the memory
layout of `fit` (channels last), which must end with the same weights; and a bare loop in PyTorch's default layout. A
ratio is the median over the rounds of (seconds of `fit` / seconds of the bare loop). All validate once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import nn
from torch.nn import functional as F

from transfuse.data import Split, open_dataset, split_by_patient
from transfuse.models import create_model
from transfuse.training import Recipe, fit
from transfuse.training.batches import ORDER

NETWORKS = {"cbr_demo": 16, "resnet18": 8}  # name: steps
SIZE, BATCH, CLASSES = 64, 32, 3


def make_split(folder: Path) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (420, SIZE, SIZE, 3), dtype=np.uint8)
    np.savez(folder / "noise.npz", train_images=images, train_labels=np.arange(420)[:, None] % CLASSES)
    return split_by_patient(open_dataset(str(folder / "noise.npz"), size=SIZE, cache=folder), fractions=(0.7, 0.1, 0.2))


def with_fit(model: nn.Module, split: Split, steps: int) -> None:
    for _ in fit(model, split, Recipe(batch_size=BATCH, validate_every=steps), steps=steps, device="cpu"):
        pass


def bare(model: nn.Module, split: Split, steps: int) -> None:
    """The loop that everybody writes, in the memory layout that `fit` uses."""
    loop(model.to(memory_format=torch.channels_last), split, steps, torch.channels_last)


def plain(model: nn.Module, split: Split, steps: int) -> None:
    """The loop that everybody writes."""
    loop(model, split, steps, torch.contiguous_format)


def loop(model: nn.Module, split: Split, steps: int, layout: torch.memory_format) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    targets = torch.from_numpy(split.train.targets.copy())
    model.train()
    for positions in batches(len(split.train), steps):
        images = split.train.normalise(split.train.tensors(positions)).contiguous(memory_format=layout)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets[positions])
        loss.backward()
        optimizer.step()
        loss.item()
    model.eval()
    with torch.inference_mode():
        for images, labels in split.val.batches(4 * BATCH):
            F.cross_entropy(model(images.contiguous(memory_format=layout)), labels).item()


def batches(images: int, steps: int) -> Iterator[np.ndarray]:
    step = epoch = 0
    while True:
        order = np.random.default_rng((ORDER, 0, epoch, 0)).permutation(images)
        for start in range(0, images, BATCH):
            if step == steps:
                return
            yield order[start : start + BATCH]
            step += 1
        epoch += 1


def timed(
    loop: Callable[[nn.Module, Split, int], None], name: str, split: Split, steps: int
) -> tuple[float, float, nn.Module]:
    model = create_model(name, classes=CLASSES, image_size=SIZE)
    wall, cpu = time.perf_counter(), time.process_time()
    loop(model, split, steps)
    return time.perf_counter() - wall, time.process_time() - cpu, model


def measure(name: str, split: Split, steps: int, repeats: int) -> dict[str, object]:
    rounds = []
    for repeat in range(repeats + 1):  # the first round warms up
        order = (bare, plain, with_fit) if repeat % 2 else (with_fit, plain, bare)
        done = {one: timed(one, name, split, steps) for one in order}
        ours, theirs = done[with_fit][2].state_dict(), done[bare][2].state_dict()
        if not all(torch.equal(ours[key], theirs[key]) for key in ours):
            raise SystemExit(f"{name}: the two loops do not end with the same weights")
        rounds.append([done[one][kind] for one in (with_fit, bare, plain) for kind in (0, 1)])
    times = np.array(rounds[1:])
    row: dict[str, object] = {
        "network": name,
        "image_px": SIZE,
        "batch_images": BATCH,
        "steps": steps,
        "repeats": repeats,
    }
    for column, title in ((0, "fit"), (2, "bare_same_layout"), (4, "bare_default_layout")):
        row[f"{title}_wall_ms_per_step"] = round(float(np.median(times[:, column])) / steps * 1e3, 2)
    for column, title in ((2, "same_layout"), (4, "default_layout")):
        for offset, kind in ((0, "wall"), (1, "cpu")):
            ratios = times[:, offset] / times[:, column + offset]
            low, high = np.quantile(ratios, [0.25, 0.75])
            row[f"{kind}_ratio_to_{title}"] = round(float(np.median(ratios)), 4)
            row[f"{kind}_ratio_to_{title}_quartiles"] = f"{low:.4f} to {high:.4f}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_loop.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        split = make_split(Path(folder))
        for name, steps in NETWORKS.items():
            rows.append(measure(name, split, steps, arguments.repeats))
            print(rows[-1])
    facts = {"date": date.today().isoformat(), "load_average": f"{os.getloadavg()[0]:.1f}", "threads": 1, **machine()}
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | facts for row in rows)


if __name__ == "__main__":
    main()
