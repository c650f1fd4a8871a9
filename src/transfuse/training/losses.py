"""The two heads of the papers as losses: one softmax, or one sigmoid an output. For masks: Dice and cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from transfuse.errors import TrainingError, nearest

Loss = Callable[[Tensor, Tensor], Tensor]


def softmax_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (N, C) against class indices (N,), averaged over images.

    With class weights (C,) the mean is weighted: `sum(w[t] * loss) / sum(w[t])`.

    >>> softmax_loss(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor(4.)
    """
    return F.cross_entropy(logits, target, weight=weight)


def sigmoid_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of C independent sigmoids, averaged over the N * C outputs that have a label.

    Class indices (N,) become one-hot rows, as T trains the grades of RETINA (T, appendix A); a multilabel target (N, C)
    holds 0, 1 or NaN, and a NaN (unlabelled) takes no part. No label at all in a batch gives 0.

    A weight (C,) is an image's weight through its class where targets are indices, and the weight of the positive
    term of its output where they are multilabel.

    >>> sigmoid_loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]])).exp()
    tensor(2.)
    """
    if target.ndim == 1:
        labels = F.one_hot(target, logits.shape[1]).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)
        if weight is None:
            return each.mean()
        image_weight = weight[target]
        return (each * image_weight).sum() / image_weight.sum()
    labelled = ~torch.isnan(target)
    labels = torch.where(labelled, target, torch.zeros_like(target)).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="none")
    return torch.where(labelled, each, torch.zeros_like(each)).sum() / labelled.sum().clamp(min=1)


SMOOTHING = 1e-5
"""Added to numerator and denominator of a Dice, so that a class that is neither there nor predicted costs nothing."""


def dice_ce_loss(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Soft Dice plus cross-entropy of maps of logits (N, C, ...) against masks of class indices (N, ...).

    With p the softmax of an image and g its mask as 0 and 1, class by class, summed over its pixels:

        loss = mean over images and classes of 1 - (2 sum(p g) + s) / (sum(p) + sum(g) + s), + mean of cross-entropy

    s is `SMOOTHING`. Dice is of each image (not of the batch, so that the loss of a batch is the mean of those of its
    images, however they are batched), over all classes but the background, class 0; the cross-entropy counts every
    pixel of every class. MONAI calls this `DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)`.

    Class weights (C,) weigh pixels in the cross-entropy, normalised within each image; Dice takes none.

    >>> mask = torch.tensor([[[0, 1], [1, 0]]])
    >>> sure = 50.0 * (torch.nn.functional.one_hot(mask, 2).movedim(-1, 1) - 0.5)
    >>> round(float(dice_ce_loss(sure, mask)), 6), round(float(dice_ce_loss(-sure, mask)), 2)
    (0.0, 51.0)
    """
    classes, images = logits.shape[1], len(logits)
    p = torch.softmax(logits, dim=1).flatten(2)
    g = F.one_hot(target, classes).movedim(-1, 1).to(p.dtype).flatten(2)
    both, either = (p * g).sum(2), p.sum(2) + g.sum(2)
    dice = (2 * both + SMOOTHING) / (either + SMOOTHING)
    each = F.cross_entropy(logits, target, weight=weight, reduction="none").reshape(images, -1)
    pixels = torch.ones_like(each) if weight is None else weight[target].reshape(images, -1)
    return 1 - dice[:, 1:].mean() + (each.sum(1) / pixels.sum(1)).mean()


def probabilities_of(logits: Tensor, loss: str) -> Tensor:
    """Logits (..., C) as probabilities of the same shape: rows that sum to 1 (`softmax`) or independent (`sigmoid`)."""
    return torch.softmax(logits, dim=-1) if _checked(loss) == "softmax" else torch.sigmoid(logits)


def loss_for(name: str, *, task: str, classes: int, class_weights: ArrayLike | None = None) -> Loss:
    """The loss `name` for a data set of `task` with `classes` classes.

    Args:
        name: `softmax`; `sigmoid`; `dice_ce`; or `auto`: sigmoid for multilabel data, dice_ce for masks, otherwise
            softmax. Of masks, `softmax` is the cross-entropy of their pixels.
        task: a task of a `DatasetInfo`.
        classes: number of classes C.
        class_weights: (C,) positive numbers, see `softmax_loss` and `sigmoid_loss`.

    Raises:
        TrainingError: an unknown name, a softmax on multilabel data, a loss of masks for labels of images or the
            reverse, or weights of the wrong number or sign.
    """
    chosen = loss_name(name, task)
    if class_weights is None:
        weight = None
    else:
        weight = torch.from_numpy(np.array(class_weights, dtype=np.float32))
        if weight.shape != (classes,):
            raise TrainingError(
                f"class_weights has shape {tuple(weight.shape)}; expected one number for each of the {classes} classes"
            )
        if not bool((torch.isfinite(weight) & (weight > 0)).all()):
            raise TrainingError(f"class_weights is {weight.tolist()}; expected finite numbers above 0")
    function = LOSSES[chosen]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        placed = None if weight is None else weight.to(logits.device)
        return function(logits, target, placed)

    return loss


def loss_name(name: str, task: str) -> str:
    """`softmax`, `sigmoid` or `dice_ce` for a choice that may be `auto`; raises TrainingError where it does not fit.

    >>> loss_name("auto", "multilabel"), loss_name("auto", "ordinal"), loss_name("sigmoid", "ordinal")
    ('sigmoid', 'softmax', 'sigmoid')
    """
    if task == "segmentation":
        if _checked("dice_ce" if name == "auto" else name) == "sigmoid":
            raise TrainingError(
                "the loss 'sigmoid' is for labels of images, and the data are masks of one class a pixel: use "
                "'dice_ce' or 'softmax'"
            )
        return "dice_ce" if name == "auto" else name
    if name == "dice_ce":
        raise TrainingError(
            f"the loss 'dice_ce' needs masks, and the task of the data is {task!r}: use 'auto', 'softmax' or 'sigmoid'"
        )
    if name == "auto":
        return "sigmoid" if task == "multilabel" else "softmax"
    if _checked(name) == "softmax" and task == "multilabel":
        raise TrainingError("the loss 'softmax' needs one class an image, and the data are multilabel: use 'sigmoid'")
    return name


def _checked(name: str) -> str:
    if name not in LOSSES:
        raise TrainingError(f"the loss {name!r} is unknown: {nearest(name, ['auto', *LOSSES])}")
    return name


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "softmax": softmax_loss,
    "sigmoid": sigmoid_loss,
    "dice_ce": dice_ce_loss,
}
