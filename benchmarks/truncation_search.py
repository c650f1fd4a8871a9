"""Do the cheap searches choose a cut as good as the exhaustive one's, and what do they cost?

    python benchmarks/truncation_search.py [pneumonia | cxr | adrenal | chasedb1 | hippocampus | ... ] [--out FOLDER]

On each set every cut of a network is trained with every seed (exhaustive), and then each other strategy chooses among
the same cuts; runs that two of them share are done once. A row for each set and strategy: the cut, its test metric
(mean over seeds) and that of the exhaustive choice, whether the first is at most the margin below the second, and the
multiply-accumulate operations of the search as a share of training every cut with as many seeds (one; the exhaustive
search itself has two), the final training left out of both.
`random` is the share of all cuts that would have done, with the mean of their test metrics: what a blind choice gives.

- pneumonia: PneumoniaMNIST (500 images of the training part, 32 px), MobileNetV2 with ImageNet weights, 19 cuts.
- cxr: 243 chest X-rays of 71 patients, ap or pa (64 px), ResNet-20 with CIFAR-10 weights, 10 cuts.
- adrenal: AdrenalMNIST3D (1,188 volumes of 28 x 28 x 28 voxels), ResNet-10 in 3D with weights of the embolism phantom,
  5 cuts.
- chasedb1: masks of vessels on 28 photographs of 14 children (96 px), U-Net whose encoder, ResNet-18, is trained on
  drawn pictures, 5 cuts of encoder and decoder together. The metric is Dice.
- hippocampus: masks of two parts of the hippocampus in 80 volumes of MRI (32 x 32 x 32 voxels), 3D U-Net without
  pretrained weights. The metric is Dice.
- vessels: the same as chasedb1 on 300 drawn retinas at 64 px.
- fundus: the fundus phantom (600 images, 48 px), ResNet-20 with CIFAR-10 weights, 10 cuts.
- planted: the same images at 32 px and MobileNetV2, whose weights are set to 0 in block 4.0 and above: only cuts below
  it can learn (no skip leads around that block), so a blind choice fails where the planted depth is seen.

The real sets are looked for under TRANSFUSE_DATA.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, write_rows
from safetensors.torch import load_file, save_file

from transfuse.results.cut_search import Search
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from
from transfuse.study.plan import Plan
from transfuse.study.truncation import search_truncation

RESULTS = Path(__file__).parent / "results" / "truncation_search.csv"
MOBILENET = "weights/mobilenetv2_100/mobilenetv2_100_imagenet1k.safetensors"
NATURAL: dict[str, Any] = {
    "model": {"name": "resnet18"},
    "data": {"name": "natural-phantom", "size": 64, "count": 4000, "normalise": "half"},
    "train": {"steps": 300, "batch_size": 32, "validate_every": 100, "monitor": "accuracy",
              "optimizer": {"learning_rate": 1e-3}},
}  # fmt: skip
EMBOLI: dict[str, Any] = {
    "data": {"name": "embolism-phantom", "size": 28, "normalise": "half"},
    "train": {"steps": 200, "batch_size": 16, "validate_every": 50, "augment": "volume",
              "optimizer": {"learning_rate": 1e-3}},
}  # fmt: skip
STRATEGIES: dict[str, dict[str, Any]] = {
    "two_stage": {},
    "halving": {},
    "screen": {},
    "rank": {},
    "rank by k-NN": {"strategy": "rank", "score": "knn"},
    "rank by LogME": {"strategy": "rank", "score": "logme"},
    "overlap": {},
}
OF_MASKS = ("two_stage", "halving", "screen")
"""The strategies for networks that draw masks."""

MARGIN = {"auroc": 0.01, "dice": 0.02}
"""By which a choice may fall behind the exhaustive one."""


def study(name: str, folder: Path) -> StudySpec:
    """The study of one set, which searches exhaustively."""
    sets: dict[str, dict[str, Any]] = {
        "pneumonia": {
            "data": {
                "name": "pneumoniamnist", "size": 32, "channels": 1, "normalise": "half", "duplicates": "drop",
                "train_fraction": 0.1062,
            },
            "models": {"mobilenet": {"name": "mobilenetv2_100", "padding": "same", "weights": MOBILENET}},
            "train": {"steps": 120, "batch_size": 32, "validate_every": 10, "optimizer": {"learning_rate": 1e-3}},
        },
        "cxr": {
            "data": {
                "name": "cxr_hannover_256/data.csv", "size": 64, "channels": 3, "label_columns": ["projection"],
                "patient_column": "patient_id", "image_column": "image_id",
            },
            "models": {"resnet20": {"name": "resnet20", "weights": "weights/resnet_cifar10/resnet20-12fca82f.th"}},
            "train": {"steps": 90, "batch_size": 16, "validate_every": 5, "optimizer": {"learning_rate": 1e-3}},
        },
        "fundus": {
            "data": {"name": "fundus-phantom", "size": 48, "count": 600, "channels": 3},
            "models": {"resnet20": {"name": "resnet20", "weights": "weights/resnet_cifar10/resnet20-12fca82f.th"}},
            "train": {"steps": 120, "batch_size": 16, "validate_every": 10, "optimizer": {"learning_rate": 1e-3}},
        },
        "adrenal": {
            "data": {"name": "adrenalmnist3d", "size": 28, "normalise": "half"},
            "models": {"resnet10": {"name": "resnet10", "weights": "run:emboli"}},
            "train": {
                "steps": 150, "batch_size": 16, "validate_every": 15, "class_weights": "balanced", "augment": "volume",
                "optimizer": {"learning_rate": 1e-3},
            },
            "sources": {"emboli": EMBOLI},
        },
        "chasedb1": {
            "data": {"name": "chasedb1", "size": 96, "normalise": "half", "fractions": [0.5, 0.25, 0.25]},
            "models": {"unet": {"name": "unet_resnet18", "weights": "run:natural"}},
            "train": {
                "steps": 180, "batch_size": 6, "validate_every": 10, "augment": "fundus",
                "optimizer": {"learning_rate": 1e-3},
                "schedule": {
                    "name": "step", "milestones": [120, 150], "milestone_unit": "steps", "factor": 0.3,
                },
            },
            "sources": {"natural": NATURAL},
            "metric": "dice",
        },
        "hippocampus": {
            "data": {"name": "hippocampus_msd", "size": 32, "fit": "pad", "normalise": "half"},
            "models": {"unet3d": {"name": "unet3d"}},
            "train": {"steps": 90, "batch_size": 4, "validate_every": 10, "optimizer": {"learning_rate": 3e-3}},
            "metric": "dice",
        },
    }  # fmt: skip
    sets["vessels"] = {
        **sets["chasedb1"],
        "data": {"name": "fundus-vessels", "size": 64, "count": 300, "channels": 3, "normalise": "half"},
    }
    if name == "planted":
        content = {**sets["fundus"], "data": {**sets["fundus"]["data"], "size": 32}}
        content["models"] = {"mobilenet": {"name": "mobilenetv2_100", "padding": "same", "weights": planted(folder)}}
    else:
        content = sets[name]
    # of a U-Net the encoder's weights; and its cuts are at the ends of the stages
    depth = {"chasedb1": {"depth": "encoder.layer4"}, "vessels": {"depth": "encoder.layer4"}, "hippocampus": {}}.get(
        name, {"depth": "all", "level": "block"}
    )
    metric = content.pop("metric", "auroc")
    return study_from(
        {
            "name": name,
            **content,
            "arms": {"whole": {"truncate": "all", **depth}, "cut": {"truncate": "every", **depth}},
            "baseline": "whole",
            "search": {"arm": "cut", "strategy": "exhaustive"},
            "metric": metric,
            "margin": MARGIN[metric],
            "seeds": 2,
        }
    )


def planted(folder: Path) -> str:
    """ImageNet's MobileNetV2 with zeros from block 4.0 on; the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(Path(os.environ["TRANSFUSE_DATA"]) / MOBILENET)
    dead = ("blocks.4.0.", "blocks.4.1", "blocks.4.2", "blocks.5.", "blocks.6.", "conv_head", "bn2")
    for key, value in state.items():
        if key.startswith(dead) and key.endswith(("weight", "bias")):
            state[key] = torch.zeros_like(value)
    path = folder / "planted.safetensors"
    save_file(state, path)
    return str(path.resolve())


def test_values(store: Store, plan: Plan) -> dict[str, float]:
    """The test metric of each cut, the mean over seeds."""
    values: dict[str, list[float]] = {}
    for row in plan.rows:
        record = store.record(row["run_id"]) if row["role"] == "arm" else None
        if record is not None and record.status == "finished" and record.metrics[plan.study.metric] is not None:
            values.setdefault(row["arm"], []).append(float(record.metrics[plan.study.metric]))
    return {arm: float(np.mean(found)) for arm, found in values.items()}


def rows_of(name: str, out: Path) -> list[dict[str, Any]]:
    asked = study(name, out)
    (every,) = search_truncation(asked, out=out, workers=1, device="cpu")
    values, best = test_values(Store(out), every.plan), every.search.best
    assert best is not None
    metric, exhaustive = asked.metric, values[best]
    rows = [_row(name, "exhaustive", every.search, values, metric, exhaustive)]
    for label, settings in STRATEGIES.items():
        if metric == "dice" and label not in OF_MASKS:
            continue
        search = replace(asked.search, **{"strategy": label, **settings})  # type: ignore[type-var]
        (found,) = search_truncation(
            replace(asked, name=f"{name}-{label.replace(' ', '-')}", search=search), out=out, device="cpu"
        )
        rows.append(_row(name, label, found.search, values, metric, exhaustive))
    cuts = [values[arm] for arm in every.search.cuts if arm in values]
    rows.append(
        {
            "set": name,
            "strategy": "random",
            "cut": "",
            "parameters": "",
            "metric": metric,
            "test": round(float(np.mean(cuts)), 4),
            "exhaustive": round(exhaustive, 4),
            "within_margin": round(float(np.mean([value >= exhaustive - MARGIN[metric] for value in cuts])), 3),
            "share_of_macs": 0.0,
        }
    )
    return rows


def _row(
    name: str, label: str, found: Search, values: dict[str, float], metric: str, exhaustive: float
) -> dict[str, Any]:
    best = found.best
    of_all = {"metric": metric, "exhaustive": round(exhaustive, 4)}
    if best is None:  # its analysis failed: `overlap` compares no features that are constant
        nothing = {"cut": "none", "parameters": "", "test": "", "within_margin": 0, "share_of_macs": ""}
        return {"set": name, "strategy": label, **of_all, **nothing}
    return {
        "set": name,
        "strategy": label,
        "cut": best.partition("@")[2] or best,
        "parameters": found.parameters[best],
        **of_all,
        "test": round(values[best], 4),
        "within_margin": int(values[best] >= exhaustive - MARGIN[metric]),
        "share_of_macs": round(found.share_of_exhaustive, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["pneumonia", "cxr", "fundus", "planted"])
    parser.add_argument("--out", type=Path, default=Path("truncation-search"), help="runs are kept here")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        with RESULTS.open(encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["set"] not in asked.sets]
    for name in asked.sets:
        for row in rows_of(name, asked.out):
            rows.append({**row, **machine()})
            print(row, flush=True)
        write_rows(RESULTS, rows)


if __name__ == "__main__":
    main()
