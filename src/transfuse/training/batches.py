"""Which images a step sees, and how they are changed: functions of (seed, epoch, step) alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.data.augment import check_augmentation
from transfuse.data.patches import Patches
from transfuse.data.splits import Part
from transfuse.errors import TrainingError
from transfuse.training.recipe import Augmentation, Recipe
from transfuse.training.windows import check_windows

# Independent streams of random numbers, all from the one seed.
ORDER, AUGMENTATION, DROPOUT, VIEWS, PATCHES = range(5)


@dataclass(frozen=True)
class Batches:
    """The training part in batches; no worker processes and no state, so any step can be had at any time.

    Attributes:
        part: the training part.
        targets: all its targets, as a tensor.
        size: images a batch.
        steps_per_epoch: batches an epoch.
        augmentation: None for none.
        bank: so many fixed views of each image stand for all that the augmentation may draw; None: it draws anew.
        patches: what is cut out of each volume, with its mask; None: nothing.
        seed: of order, augmentation and patches.
    """

    part: Part
    targets: Tensor
    size: int
    steps_per_epoch: int
    augmentation: Augmentation | None
    seed: int
    bank: int | None = None
    patches: Patches | None = None

    def order(self, epoch: int) -> np.ndarray:
        """The order (N,) of the images in an epoch (the first is 0)."""
        return np.random.default_rng((ORDER, 0, epoch, self.seed)).permutation(len(self.part))

    def positions(self, step: int, order: np.ndarray) -> np.ndarray:
        """The images (n,) of a step (the first of the training is 0), given the order of its epoch."""
        start = step % self.steps_per_epoch * self.size
        return order[start : start + self.size]

    def images(self, positions: np.ndarray, step: int, process: int = 0) -> Tensor:
        """Augmented and normalised images (n, C, H, W), or volumes (n, C, D, H, W), for a step."""
        if self.augmentation is not None and self.bank is not None:
            epoch = step // self.steps_per_epoch
            views = np.random.default_rng((VIEWS, 0, epoch, self.seed)).integers(self.bank, size=len(self.part))
            return self.part.views(positions, views[positions], self.augmentation)
        images = self.part.tensors(positions)
        if self.augmentation is not None:
            generator = torch.Generator().manual_seed(step_seed(self.seed, AUGMENTATION, step, process))
            images = self.augmentation(images, generator)
        return self.part.normalise(images)

    def drawn(self, positions: np.ndarray, step: int, process: int = 0) -> tuple[Tensor, Tensor]:
        """The images of a step, as `images` gives them, and their targets; masks are moved with their images.

        Of volumes with masks they may be patches, cut out of what was moved: what enters from a side is what was there.
        """
        if self.part.dataset.info.task != "segmentation":
            return self.images(positions, step, process), self.targets[torch.from_numpy(positions)]
        images, masks = self.part.tensors(positions), self.part.truth(positions)
        if self.augmentation is not None:
            generator = torch.Generator().manual_seed(step_seed(self.seed, AUGMENTATION, step, process))
            images, masks = self.augmentation.together(images, masks, generator)  # type: ignore[attr-defined]
        if self.patches is not None:
            generator = torch.Generator().manual_seed(step_seed(self.seed, PATCHES, step, process))
            images, masks = self.patches.drawn(images, masks, generator)
        return self.part.normalise(images), masks


def make_batches(part: Part, recipe: Recipe, model: nn.Module, *, seed: int) -> Batches:
    """Batches of `part` for `model`.

    The last batch of an epoch may be smaller. One of a single image is left out where the network has batch norm, which
    cannot train on one image; another order brings that image back in the next epoch.

    Raises:
        TrainingError: nothing to train on, an augmentation that cannot move masks, or patches that do not suit the
            network.
        DataError: an augmentation of images for volumes, or the reverse; patches of what has none.
    """
    if len(part) == 0:
        raise TrainingError("the training part is empty: expected at least one image")
    augmentation = recipe.augmentation()
    if isinstance(recipe.augment, str):
        check_augmentation(recipe.augment, part.dataset.info.spatial_dims)
    if part.dataset.info.task == "segmentation":
        _check_masks_move(augmentation, recipe)
    if recipe.patches is not None:
        check_windows(model, recipe.patches, part.dataset)
    steps = steps_of_epoch(len(part), recipe.batch_size, batch_norm=has_batch_norm(model))
    if steps == 0:
        raise TrainingError("the training part holds 1 image and the network has batch norm: expected 2 or more")
    targets = torch.from_numpy(np.array(part.targets))
    return Batches(
        part, targets, recipe.batch_size, steps, augmentation, seed, recipe.augmentation_bank, recipe.patches
    )


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network has batch norm somewhere, frozen or not.

    >>> has_batch_norm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))), has_batch_norm(nn.InstanceNorm2d(2))
    (True, False)
    """
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def steps_of_epoch(images: int, batch_size: int, *, batch_norm: bool) -> int:
    """Batches in which so many images are seen once; a last one of a single image is left out with batch norm.

    >>> steps_of_epoch(65, 32, batch_norm=False), steps_of_epoch(65, 32, batch_norm=True)
    (3, 2)
    >>> steps_of_epoch(3, 1, batch_norm=True)  # batches of one are what was asked for
    3
    """
    alone = batch_norm and batch_size > 1 and images % batch_size == 1
    return math.ceil(images / batch_size) - alone


def _check_masks_move(augmentation: Augmentation | None, recipe: Recipe) -> None:
    if augmentation is not None and not hasattr(augmentation, "together"):
        raise TrainingError(
            "the augmentation is a function of images alone, and the data are masks, which have to move with them: "
            "give one of data.AUGMENTATIONS, or an object with a method together(images, masks, generator)"
        )
    if recipe.augmentation_bank is not None:
        raise TrainingError(
            "augmentation_bank keeps views of images and none of masks: leave it out, and each step draws anew"
        )


def step_seed(seed: int, stream: int, step: int, process: int = 0) -> int:
    """A seed of 64 bits for one stream of random numbers at one step in one process."""
    return int(np.random.SeedSequence((stream, process, step, seed)).generate_state(1, np.uint64)[0])
