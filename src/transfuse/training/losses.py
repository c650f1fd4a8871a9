"""The two heads of the papers as losses: one softmax, or one sigmoid an output."""

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


def probabilities_of(logits: Tensor, loss: str) -> Tensor:
    """Logits (..., C) as probabilities of the same shape: rows that sum to 1 (`softmax`) or independent (`sigmoid`)."""
    return torch.softmax(logits, dim=-1) if _checked(loss) == "softmax" else torch.sigmoid(logits)


def loss_for(name: str, *, task: str, classes: int, class_weights: ArrayLike | None = None) -> Loss:
    """The loss `name` for a data set of `task` with `classes` classes.

    Args:
        name: `softmax`; `sigmoid`; or `auto`: sigmoid for multilabel data, otherwise softmax.
        task: a task of a `DatasetInfo`.
        classes: number of classes C.
        class_weights: (C,) positive numbers, see `softmax_loss` and `sigmoid_loss`.

    Raises:
        TrainingError: an unknown name, a softmax on multilabel data, or weights of the wrong number or sign.
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
    """`softmax` or `sigmoid` for a choice that may be `auto`; raises TrainingError where the two do not fit.

    >>> loss_name("auto", "multilabel"), loss_name("auto", "ordinal"), loss_name("sigmoid", "ordinal")
    ('sigmoid', 'softmax', 'sigmoid')
    """
    if task == "segmentation":
        raise TrainingError("training for the task 'segmentation' is not part of this version; expected image labels")
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
}
