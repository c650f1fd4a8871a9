"""What is saved by computing the features of frozen blocks once: whole runs of a study, with and without.

    python benchmarks/shared_features.py [--seeds 5] [--epochs 20]

An arm of a study on 400 images of 64 px (256 to train on), 20 epochs, a validation an epoch, no augmentation, a run a
seed, one after the other in one process: with features that the first run computes and the others read, and with the
whole network in every step and validation. Times are processor times of one thread, and everything that a run does is
in them: opening the data, building the network, its checkpoints and its record. `probe` freezes all blocks, `upper
half` all but the upper ones. The ratio to be reached for fixed features is 5. `equivalents` is what the records of
the runs say was done, in training-equivalents.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, write_rows
from safetensors.torch import save_file

from transfuse.models import create_model
from transfuse.results.store import Store
from transfuse.specs import study_from
from transfuse.study import run as run_module
from transfuse.study.events import Event, Failed
from transfuse.study.plan import plan
from transfuse.study.run import do_run
from transfuse.study.shared_features import Frozen

ARMS = {"probe": "all", "upper half": "middle"}
NETWORKS = ("mobilenetv2_100", "resnet18")
SIZE, IMAGES = 64, 400
OUT = Path(__file__).parent / "results" / "shared_features.csv"


def make_data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 256), ("val", 64), ("test", 80)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count)[:, None] % 2
    np.savez(folder / "noise.npz", **arrays)
    return folder / "noise.npz"


@contextmanager
def nothing_shared(network: Any, split: Any, *_: Any) -> Iterator[Frozen]:
    """The whole network sees every image each time."""
    yield Frozen(split)


def seconds_of(study: Any, root: Path) -> tuple[float, float]:
    """Time for all runs of the arm, and the training-equivalents that they did."""
    runs = [run for run in plan(study) if run.arm == "frozen"]
    events: list[Event] = []
    began = time.process_time()
    for run in runs:
        do_run(run, events.append, root=root, device="cpu")
    took = time.process_time() - began
    if failed := [event.message for event in events if isinstance(event, Failed)]:
        raise SystemExit(failed[0])
    records = [Store(root).record(run.run_id) for run in runs]
    return took, sum(record.facts["training_equivalents"] for record in records if record is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, shared = [], run_module.frozen_features
    for arm, freeze in ARMS.items():
        for name in NETWORKS:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                model = create_model(name, classes=2, image_size=SIZE)
                for module in model.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.running_mean.fill_(0.1)  # statistics that no untrained network has
                save_file(model.state_dict(), folder / "weights.safetensors")
                study = study_from(
                    {
                        "name": "frozen",
                        "data": {"name": str(make_data(folder)), "size": SIZE},
                        "models": {"net": {"name": name, "weights": str(folder / "weights.safetensors")}},
                        "arms": {"random": {}, "frozen": {"depth": "all", "freeze": freeze}},
                        "train": {"epochs": asked.epochs, "batch_size": 32, "validate_every": 1.0},
                        "seeds": asked.seeds,
                    }
                )
                plan(study)  # opens the data for the first time, whoever comes first
                run_module.frozen_features = nothing_shared
                whole, _ = seconds_of(study, folder / "whole")
                run_module.frozen_features = shared
                once, equivalents = seconds_of(study, folder / "once")
            row = {"network": name, "arm": arm, "runs": asked.seeds, "epochs": asked.epochs, "image_px": SIZE}
            row |= {"whole_cpu_s": round(whole, 1), "shared_cpu_s": round(once, 1), "ratio": round(whole / once, 2)}
            rows.append(row | {"equivalents": round(equivalents, 3)} | machine())
            print(row, flush=True)
            write_rows(OUT, rows)


if __name__ == "__main__":
    main()
