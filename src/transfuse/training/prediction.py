"""Predictions of a network for a part of the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfuse.data.patches import Patches, check_patches
from transfuse.data.splits import Part
from transfuse.errors import TrainingError, nearest
from transfuse.models.memory_order import channels_last, takes_channels_last
from transfuse.training.device import choose_device, evaluation_mode
from transfuse.training.losses import loss_name, probabilities_of
from transfuse.training.windows import maps_by_windows

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
    patches: Patches | None = None,
    device: str | None = None,
) -> np.ndarray:
    """Class probabilities (N, C) float32 in [0, 1] for every image of `part`, in its order; of masks, counted pixels.

    Of a segmentation these are the true positives, false positives and false negatives of each image and class,
    (N, C, 3) int64, each pixel being of the class with the largest logit: what `metrics.mean_overlap` and
    `statistics.compare_counts` measure. `segment` gives the predicted masks themselves.

    The network predicts in eval mode and float32; every module gets its own mode back. The result does not depend on
    `batch_size` beyond rounding (1e-6).

    Args:
        model: maps normalised images (n, channels, size, size) to logits (n, C).
        part: a part of a split; at least one image.
        batch_size: images a forward pass (a tenth of it with ten crops; of masks 16 at most, of those of volumes 4).
        crops: `center`: the image as it is; `ten`: the mean probability over the four corners, the centre and their
            mirror images, each 7/8 of the side and resized to the full side (V). Not of masks.
        probabilities: `softmax` (rows sum to 1), `sigmoid`, or `auto`: sigmoid for multilabel data, otherwise softmax.
            Of masks it changes nothing.
        patches: those that a network of volumes with masks was trained on: it sees whole volumes by windows of this
            size (`maps_by_windows`).
        device: where to predict; None is where the network is. The network is brought back.

    Raises:
        TrainingError: an empty part, an unknown choice, or a network whose output does not fit the classes.
        DataError: patches of data that have none, or larger than the volumes.
    """
    if patches is not None:
        check_patches(patches, part.dataset)
    if crops not in CROPS:
        raise TrainingError(f"the crops {crops!r} are unknown: {nearest(crops, CROPS)}")
    if batch_size < 1:
        raise TrainingError(f"batch_size is {batch_size}; expected 1 or more images")
    head = loss_name(probabilities, part.dataset.info.task)
    masks = part.dataset.info.task == "segmentation"
    if masks and crops == "ten":
        raise TrainingError("the crops 'ten' average outputs of images, and the data are masks: use 'center'")
    home = device_of(model)
    model.to(home if device is None else choose_device(device))
    try:
        if masks:
            return np.concatenate(
                [pixel_counts(maps, truth).numpy() for maps, truth in maps_of(model, part, batch_size, patches)]
            )
        batches = (probabilities_of(logits, head) for logits in _batches_of_logits(model, part, batch_size, crops))
        if crops == "ten":
            batches = (scores.mean(dim=1) for scores in batches)
        return torch.cat(list(batches)).numpy()
    finally:
        model.to(home)


def segment(model: nn.Module, part: Part, *, patches: Patches | None = None, device: str | None = None) -> np.ndarray:
    """Predicted masks (N, size, size) uint8 for every image of `part`, in its order; (N, size, size, size) of volumes.

    Args as of `predict`.

    Raises:
        TrainingError: an empty part, data without masks, or a network whose output does not fit the classes.
        DataError: patches larger than the volumes, or of images.
    """
    if patches is not None:
        check_patches(patches, part.dataset)
    loss_name("dice_ce", part.dataset.info.task)
    home = device_of(model)
    model.to(home if device is None else choose_device(device))
    try:
        found = maps_of(model, part, patches=patches)
        return np.concatenate([maps.argmax(dim=1).to(torch.uint8).numpy() for maps, _ in found])
    finally:
        model.to(home)


MAPS_AT_ONCE = 16
"""At most so many maps are predicted at once: a U-Net keeps what its skips pass on, at the size of the image."""
MAPS_OF_VOLUMES_AT_ONCE = 4


def maps_of(
    model: nn.Module, part: Part, batch_size: int = MAPS_AT_ONCE, patches: Patches | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps of logits (n, C, ...) float32 and masks (n, ...) of all images of `part`, on the CPU, batch by batch."""
    most = MAPS_OF_VOLUMES_AT_ONCE if part.dataset.info.spatial_dims == 3 else MAPS_AT_ONCE
    step, start = min(batch_size, most), 0
    for maps in _batches_of_logits(model, part, step, "center", patches):
        yield maps, part.truth(np.arange(start, start + len(maps)))
        start += len(maps)


def pixel_counts(maps: Tensor, masks: Tensor) -> Tensor:
    """True positives, false positives and false negatives (N, C, 3) int64 of each image and class.

    Args:
        maps: logits (N, C, ...); each pixel is of the class with the largest.
        masks: class indices (N, ...).

    >>> pixel_counts(torch.tensor([[[0.0, 1, 1], [1, 0, 0]]]), torch.tensor([[0, 0, 1]])).tolist()
    [[[1, 1, 1], [0, 1, 1]]]
    """
    classes = maps.shape[1]
    truth, found = (F.one_hot(m.flatten(1), classes) for m in (masks, maps.argmax(dim=1)))
    both = (truth * found).sum(1)
    return torch.stack([both, found.sum(1) - both, truth.sum(1) - both], dim=-1)


def logits_of(model: nn.Module, part: Part, *, batch_size: int) -> Tensor:
    """Logits (N, C) float32 on the CPU for every image of `part`, in its order; eval mode, restored afterwards."""
    return torch.cat(list(_batches_of_logits(model, part, batch_size, "center")))


def device_of(model: nn.Module) -> torch.device:
    """The device of the network's first parameter (the CPU if it has none)."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def output_shape(part: Part, images: Tensor) -> tuple[int, ...]:
    """What a network is to give for a batch of images of `part`: (n, C), or maps (n, C, ...) of a segmentation."""
    info = part.dataset.info
    return (len(images), len(info.classes), *(images.shape[2:] if info.task == "segmentation" else ()))


def check_logits(logits: Tensor, expected: tuple[int, ...]) -> Tensor:
    """`logits`, if they are of the shape that is expected; raises TrainingError otherwise."""
    images, classes = expected[:2]
    if tuple(logits.shape) != expected:
        what = f"one logit a class: create_model(..., classes={classes})"
        if len(expected) > 2:
            name = "'unet_resnet18'" if len(expected) == 4 else "'unet3d', spatial_dims=3"
            what = f"a map of logits a class, as a U-Net gives: create_model({name}, classes={classes})"
        elif logits.ndim > 2:
            what = f"one logit a class; a network of maps is for data with masks: {what}"
        raise TrainingError(
            f"the network's output for {images} images has shape {tuple(logits.shape)}; expected {expected}, {what}"
        )
    return logits


def _batches_of_logits(
    model: nn.Module, part: Part, batch_size: int, crops: str, patches: Patches | None = None
) -> Iterator[Tensor]:
    if len(part) == 0:
        raise TrainingError("the part to predict is empty: expected at least one image")
    device = device_of(model)
    # ten crops are ten images each
    step = max(1, batch_size // 10) if crops == "ten" else batch_size
    if crops == "ten" and part.dataset.info.spatial_dims == 3:
        raise TrainingError("ten crops are of images, and these are volumes: crops='center' (test_crops: center)")
    with evaluation_mode(model):
        for start in range(0, len(part), step):
            images = part.tensors(np.arange(start, min(start + step, len(part))))
            count = len(images)
            if crops == "ten":
                images = _ten_crops(images)
            images = part.normalise(images).to(device)
            if takes_channels_last(model, images):
                images = channels_last(images)
            logits = check_logits(maps_by_windows(model, images, patches).float().cpu(), output_shape(part, images))
            yield logits.reshape(count, 10, -1) if crops == "ten" else logits


def _ten_crops(images: Tensor) -> Tensor:
    from transfuse.data.augment import ten_crop

    side = images.shape[-1]
    crops = ten_crop(images, round(side * TEN_CROP_SHARE)).flatten(0, 1)
    return F.interpolate(crops, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
