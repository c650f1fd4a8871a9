"""What a run leaves for the tables: its history, its predictions, its test metrics and the facts about it."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Hashable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from transfuse.errors import BlocksError, DataError
from transfuse.metrics import COUNT_METRICS, evaluate, mean_overlap
from transfuse.specs import RunSpec, TrainSpec
from transfuse.study.network import kind_of
from transfuse.study.sources import images_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from transfuse.data import Dataset, Part, Split
    from transfuse.data.patches import Patches
    from transfuse.study.network import Network
    from transfuse.training import Epoch, Recipe

PACKAGES = ("transfuse", "torch", "torchvision", "timm", "accelerate", "numpy", "scipy", "scikit-learn", "pandas")

TEST_METRICS = {
    "binary": ("auroc", "auprc", "average_precision", "accuracy", "macro_recall", "brier", "ece"),
    "multiclass": ("auroc", "auprc", "average_precision", "accuracy", "macro_recall", "brier", "ece"),
    "ordinal": ("auroc", "auprc", "accuracy", "macro_recall", "kappa", "brier", "ece"),
    "multilabel": ("auroc", "auprc", "average_precision", "brier", "ece"),
    "segmentation": ("dice", "jaccard"),
}


def recipe_of(spec: RunSpec, split: Split) -> Recipe:
    """The training's settings from the study's; class weights come from the training part alone."""
    from transfuse.data import class_weights
    from transfuse.training import Optimizer, Recipe, Schedule, Stopping

    train, info = spec.train, split.train.dataset.info
    weights = None
    if train.class_weights == "balanced":
        weights = tuple(class_weights(labels_of(split.train), info.task, info.classes).tolist())
    return Recipe(
        optimizer=Optimizer(**vars(train.optimizer)),
        schedule=Schedule(**vars(train.schedule)),
        stopping=Stopping(**vars(train.stopping)),
        batch_size=train.batch_size,
        loss=train.loss,
        class_weights=weights,
        augment=train.augment,
        augmentation_bank=train.augmentation_bank,
        monitor=spec.monitor,
        validate_every=train.validate_every,
        precision=train.precision,
        patches=patches_of(train),
    )


def patches_of(train: TrainSpec) -> Patches | None:
    """The patches that a training sees; None for whole images and volumes."""
    from transfuse.data.patches import Patches

    return None if train.patch is None else Patches(train.patch, train.patch_foreground)


def labels_of(part: Part) -> np.ndarray:
    """What class weights are counted from: the labels of the images, or their masks `(n, H, W)`."""
    if part.dataset.info.task == "segmentation":
        return part.dataset.masks()[part.indices]
    return part.targets


def history_table(epochs: list[Epoch]) -> pd.DataFrame:
    """One row for each step and quantity: `step, epoch, split, quantity, value, seconds`."""
    import pandas as pd

    rows = []
    for epoch in epochs:
        place = {"step": epoch.step, "epoch": epoch.epoch, "seconds": epoch.seconds}
        rows.append({**place, "split": "train", "quantity": "loss", "value": epoch.train_loss})
        rows.append({**place, "split": "train", "quantity": "learning_rate", "value": epoch.learning_rate})
        rows += [
            {**place, "split": "val", "quantity": name, "value": value} for name, value in epoch.validation.items()
        ]
    return pd.DataFrame(rows, columns=["step", "epoch", "split", "quantity", "value", "seconds"])


def test(model: nn.Module, split: Split, spec: RunSpec, device: str) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """Predictions for the validation and test parts, and the metrics of the test part.

    Of masks a prediction is `counts`, (C x 3,): true positives, false positives and false negatives, class by class.
    """
    import pandas as pd

    from transfuse.training import predict

    tables = []
    metrics: dict[str, float | None] = {}
    for name, part in (("val", split.val), ("test", split.test)):
        how: dict[str, Any] = {"crops": spec.train.test_crops, "probabilities": spec.train.loss}
        scores = predict(model, part, **how, patches=patches_of(spec.train), device=device)
        info, target = part.dataset.info, np.asarray(part.targets, np.float64)
        found = {"target": list(target.reshape(len(target), -1)), "scores": list(scores)}
        if info.task == "segmentation":
            found = {"counts": list(scores.reshape(len(scores), -1))}
        names = {"part": name, "sample_id": part.sample_ids, "patient_id": part.patient_ids}
        tables.append(pd.DataFrame({**names, **found}))
        if name == "test":
            for metric in test_metrics(info.task, len(info.classes)):
                metrics[metric] = _metric(metric, np.asarray(part.targets), scores)
    return pd.concat(tables, ignore_index=True), metrics


def test_metrics(task: str, classes: int) -> tuple[str, ...]:
    """The metrics that make sense for a task; five grades are read as those of diabetic retinopathy (METHODS MET-1)."""
    more = {"ordinal": ("referable_auroc",) * (classes == 5), "multiclass": ("top5",) * (classes > 5)}
    return (*TEST_METRICS[task], *more.get(task, ()))


def _metric(name: str, target: np.ndarray, scores: np.ndarray) -> float | None:
    if name in COUNT_METRICS:
        return mean_overlap(scores, name).value
    try:
        value = evaluate(name, target, scores).value
    except DataError:
        return None  # undefined for this test part: an empty cell, never a 0
    return value if math.isfinite(value) else None


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as safetensors wants it: on the CPU, contiguous, no two names sharing memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}


def facts(
    spec: RunSpec,
    network: Network,
    trained_parameters: int,
    dataset: Dataset,
    split: Split,
    epochs: list[Epoch],
    seconds: float,
) -> dict[str, Any]:
    """Scalars for the `runs` table."""
    info = dataset.info
    best = next((epoch for epoch in reversed(epochs) if epoch.is_best), None)
    last = epochs[-1] if epochs else None
    parts = {name: getattr(split, name) for name in ("train", "val", "test")}
    patients = {name: len(set(part.patient_ids)) for name, part in parts.items()}
    data = {
        "dataset": info.name,
        "task": info.task,
        "classes": list(info.classes),
        "image_size": dataset.size,
        "channels": info.channels,
        **({"spatial_dims": info.spatial_dims} if info.spatial_dims == 3 else {}),
        "source": info.source,
        "licence": info.licence,
        "synthetic": info.synthetic,
        "fingerprint": info.fingerprint,
        "images": {name: len(part) for name, part in parts.items()},
        "patients": patients,
        "patients_known": dataset.patients_known,
    }
    return {
        "dataset": info.name,
        "task": info.task,
        "fingerprint": info.fingerprint,
        "data": json.dumps(data),
        "train_patients": patients["train"],
        "parameters": sum(parameter.numel() for parameter in network.model.parameters()),
        "trained_parameters": trained_parameters,
        "macs": macs_of(network.model, spec, split),
        "transferred_share": network.transfer.transferred_share,
        "first_layer": network.transfer.first_layer,
        "monitor": spec.monitor,
        "best_step": best.step if best else None,
        "best_epoch": best.epoch if best else None,
        "best_value": _finite(best.validation[spec.monitor]) if best else None,
        "steps": last.step if last else 0,
        "epochs": last.epoch if last else 0.0,
        "stop_reason": last.stop_reason if last else None,
        "train_seconds": last.seconds if last else 0.0,
        "total_seconds": max(seconds, last.seconds if last else 0.0),  # at least what was trained before a resume
        "device": str(next(network.model.parameters()).device.type),
        "threads": spec.train.threads,
        "torch": version("torch"),
    }


def macs_of(model: nn.Module, spec: RunSpec, split: Split) -> int | None:
    """Of a pass of one image, counted once for each kind of network; None where it cannot be run without values."""
    from transfuse.models.complexity import complexity

    images = images_of(split)
    kind = kind_of(spec, images)
    if kind not in _MACS:
        try:
            _MACS[kind] = complexity(model, images.size, images.channels).macs
        except BlocksError:
            _MACS[kind] = None
    return _MACS[kind]


_MACS: dict[Hashable, int | None] = {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions and machine, for the record; nothing that names a person or a host."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    gpu = torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "threads_per_run": threads,
    }


def processor() -> str:
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"
