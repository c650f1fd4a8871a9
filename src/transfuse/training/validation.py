"""What a validation measures."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from transfuse import metrics
from transfuse.data.splits import Part
from transfuse.errors import DataError, TrainingError
from transfuse.training.losses import Loss, loss_name, probabilities_of
from transfuse.training.prediction import logits_of, maps_of, pixel_counts
from transfuse.training.recipe import Recipe


def validate(model: nn.Module, part: Part, loss: Loss, recipe: Recipe) -> dict[str, float] | None:
    """Validation loss and metrics in float32; None if an output of the network is not finite.

    Returns:
        `loss`, the monitored metric and `auroc`, and for each class that the metric tells apart `auroc/<class>`; NaN
        where a class has no positives or no negatives in `part` (never counted as 0). Of masks `loss`, `dice` and
        `jaccard`, and `dice/<class>` for each class but the background.
    """
    if part.dataset.info.task == "segmentation":
        return _of_masks(model, part, loss, recipe)
    # without gradients, four times the training batch fits in the same memory
    logits = logits_of(model, part, batch_size=min(256, 4 * recipe.batch_size))
    return values_of(logits, part, loss, recipe) if bool(torch.isfinite(logits).all()) else None


def values_of(logits: Tensor, part: Part, loss: Loss, recipe: Recipe) -> dict[str, float]:
    """What `validate` returns, for finite logits (N, C) of the images of `part`."""
    info = part.dataset.info
    values = {"loss": float(loss(logits, torch.from_numpy(np.array(part.targets))))}
    scores = probabilities_of(logits, loss_name(recipe.loss, info.task)).numpy()
    for name in logged_metrics(recipe):
        values |= _values(name, part, scores)
    return values


def _of_masks(model: nn.Module, part: Part, loss: Loss, recipe: Recipe) -> dict[str, float] | None:
    total, counts = 0.0, []
    for maps, masks in maps_of(model, part, 4 * recipe.batch_size, recipe.patches):
        if not bool(torch.isfinite(maps).all()):
            return None
        total += float(loss(maps, masks)) * len(maps)  # of a batch it is the mean over images
        counts.append(pixel_counts(maps, masks).numpy())
    return values_of_counts(total / len(part), np.concatenate(counts), part)


def values_of_counts(loss: float, counts: np.ndarray, part: Part) -> dict[str, float]:
    """What `validate` returns of masks, from their mean loss and counted pixels (N, C, 3) (see `pixel_counts`)."""
    values, classes = {"loss": loss}, part.dataset.info.classes
    for name in metrics.COUNT_METRICS:
        found = metrics.mean_overlap(counts, name)
        values |= {name: found.value} | {f"{name}/{classes[c]}": value for c, value in found.per_class.items()}
    return values


def logged_metrics(recipe: Recipe) -> list[str]:
    """The metrics of a validation: what is monitored, and AUROC."""
    return [name for name in dict.fromkeys([recipe.monitor, "auroc"]) if name != "loss"]


def check_validation(part: Part, recipe: Recipe) -> None:
    """Raise TrainingError now if the monitored metric will be undefined on `part`."""
    if len(part) == 0:
        raise TrainingError("the validation part is empty: expected at least one image")
    if recipe.monitor == "loss":
        return
    masks = part.dataset.info.task == "segmentation"
    if masks != (recipe.monitor in metrics.COUNT_METRICS):
        what = "masks: monitor 'dice', 'jaccard' or 'loss'" if masks else "labels of images: monitor 'auroc', or 'loss'"
        raise TrainingError(f"the monitor {recipe.monitor!r} cannot be measured here, as the data have {what}")
    if masks:
        return
    classes = len(part.dataset.info.classes)
    try:
        metrics.evaluate(recipe.monitor, part.targets, np.full((len(part), classes), 1 / classes))
    except DataError as problem:
        message = f"the monitor {recipe.monitor!r} cannot be measured on the validation part: {problem}"
        raise TrainingError(message) from problem


def _values(name: str, part: Part, scores: np.ndarray) -> dict[str, float]:
    classes = part.dataset.info.classes
    try:
        measured = metrics.evaluate(name, part.targets, scores)
    except DataError:  # undefined for every class; `check_validation` has refused to monitor such a metric
        return {name: math.nan}
    undefined = dict.fromkeys(measured.undefined, math.nan)
    per_class = sorted((measured.per_class | undefined).items())
    return {name: measured.value} | {f"{name}/{classes[index]}": value for index, value in per_class}
