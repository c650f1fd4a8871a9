"""Predictions of a network for a part of the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfuse.data.splits import Part
from transfuse.errors import TrainingError, nearest
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.training.device import choose_device, evaluation_mode
from transfuse.training.losses import loss_name, probabilities_of

CROPS = ("center", "ten")

# V tests with ten crops of 224 px out of images of 256 px (V, section 4; the public code that V names).
TEN_CROP_SHARE = 224 / 256


def predict(
    model: nn.Module,
    part: Part,
    *,
    batch_size: int = 256,
    crops: str = "center",
    probabilities: str = "auto",
    device: str | None = None,
) -> np.ndarray:
    """Class probabilities (N, C) float32 in [0, 1] for every image of `part`, in its order.

    The network predicts in eval mode and float32; every module gets its own mode back. The result does not depend on
    `batch_size` beyond rounding (1e-6).

    Args:
        model: maps normalised images (n, channels, size, size) to logits (n, C).
        part: a part of a split; at least one image.
        batch_size: images a forward pass (a tenth of it with ten crops).
        crops: `center`: the image as it is; `ten`: the mean probability over the four corners, the centre and their
            mirror images, each 7/8 of the side and resized to the full side (V).
        probabilities: `softmax` (rows sum to 1), `sigmoid`, or `auto`: sigmoid for multilabel data, otherwise softmax.
        device: where to predict; None is where the network is. The network is brought back.

    Raises:
        TrainingError: an empty part, an unknown choice, or a network whose output does not fit the classes.
    """
    if crops not in CROPS:
        raise TrainingError(f"the crops {crops!r} are unknown: {nearest(crops, CROPS)}")
    if batch_size < 1:
        raise TrainingError(f"batch_size is {batch_size}; expected 1 or more images")
    head = loss_name(probabilities, part.dataset.info.task)
    home = device_of(model)
    model.to(home if device is None else choose_device(device))
    try:
        batches = (probabilities_of(logits, head) for logits in _batches_of_logits(model, part, batch_size, crops))
        if crops == "ten":
            batches = (scores.mean(dim=1) for scores in batches)
        return torch.cat(list(batches)).numpy()
    finally:
        model.to(home)


def logits_of(model: nn.Module, part: Part, *, batch_size: int) -> Tensor:
    """Logits (N, C) float32 on the CPU for every image of `part`, in its order; eval mode, restored afterwards."""
    return torch.cat(list(_batches_of_logits(model, part, batch_size, "center")))


def device_of(model: nn.Module) -> torch.device:
    """The device of the network's first parameter (the CPU if it has none)."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_logits(logits: Tensor, images: int, classes: int) -> Tensor:
    """`logits`, if they are (images, classes); raises TrainingError otherwise."""
    if tuple(logits.shape) != (images, classes):
        raise TrainingError(
            f"the network's output for {images} images has shape {tuple(logits.shape)}; expected "
            f"({images}, {classes}), one logit a class: create_model(..., classes={classes})"
        )
    return logits


def _batches_of_logits(model: nn.Module, part: Part, batch_size: int, crops: str) -> Iterator[Tensor]:
    if len(part) == 0:
        raise TrainingError("the part to predict is empty: expected at least one image")
    classes, device = len(part.dataset.info.classes), device_of(model)
    # ten crops are ten images each
    step = max(1, batch_size // 10) if crops == "ten" else batch_size
    with evaluation_mode(model):
        for start in range(0, len(part), step):
            images = part.tensors(np.arange(start, min(start + step, len(part))))
            count = len(images)
            if crops == "ten":
                images = _ten_crops(images)
            images = part.normalise(images).to(device)
            if takes_channels_last(model, images):
                images = channels_last(images)
            logits = model(images).float().cpu()
            check_logits(logits, len(images), classes)
            yield logits.reshape(count, 10, classes) if crops == "ten" else logits


def _ten_crops(images: Tensor) -> Tensor:
    from transfuse.data.augment import ten_crop

    side = images.shape[-1]
    crops = ten_crop(images, round(side * TEN_CROP_SHARE)).flatten(0, 1)
    return F.interpolate(crops, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
