"""Layer-wise k-NN: what each block of a network knows, by the neighbours of its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfuse.analysis.activations import NO_BATCHES, Taps, checked_batches, finite, images_of_batch
from transfuse.analysis.knn import knn_scores, neighbours_of, plain_array
from transfuse.errors import AnalysisError, nearest
from transfuse.metrics import evaluate, find_metric
from transfuse.models.blocks import Blocks

__all__ = ["KnnByBlock", "knn_by_block"]

VIEWS = ("pooled", "cls", "patches", "both")

Metric = str | Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class KnnByBlock:
    """The k-NN scores of every block of a network, for the same queries.

    Args:
        scores: block -> `(Q, C)`.
        labels: `(Q,)` or `(Q, C)`, of the queries.
        bank: number of samples in the bank.
        k: neighbours that were used.
        view: which features.
    """

    scores: dict[str, np.ndarray]
    labels: np.ndarray
    bank: int
    k: int
    view: str

    def values(self, metric: Metric) -> dict[str, float]:
        """A metric at every block.

        Args:
            metric: key of `transfuse.metrics.METRICS`, or a function of labels and scores.
        """
        if isinstance(metric, str):
            return {name: evaluate(metric, self.labels, scores).value for name, scores in self.scores.items()}
        return {name: float(metric(self.labels, scores)) for name, scores in self.scores.items()}

    def best(self, metric: Metric) -> tuple[str, float]:
        """The block at which a metric is best, and its value there; the first of equal ones.

        Of a function the largest value is the best. It is the best of many values on the same queries, so it is
        optimistic: compare it between networks with as many blocks, or choose the block on other samples.
        """
        values = self.values(metric)
        sign = 1 if not isinstance(metric, str) or find_metric(metric).higher_is_better else -1
        name = max(values, key=lambda block: sign * values[block])
        return name, values[name]


def knn_by_block(
    model: nn.Module,
    bank: Iterable[Any],
    queries: Iterable[Any],
    blocks: Blocks | Sequence[str],
    *,
    view: str = "pooled",
    k: int = 200,
    temperature: float = 0.1,
    vote: str = "weighted",
    classes: int | None = None,
) -> KnnByBlock:
    """k-NN scores on the features of every block: one forward pass over bank and queries each.

    Memory: unlike the other analyses this one has to keep features of the whole bank: one vector a block and image in
    float32, so `4 x (images) x (sum of the blocks' channels)` bytes on the network's device; 3 GB for 50,000 images and
    the 17 blocks of a ResNet-50. Take fewer blocks at a time where that is too much.

    Args:
        model: any module; its mode and the random generators are left as they were.
        bank: batches `(images, labels)`: the training set under its evaluation transforms.
        queries: batches `(images, labels)`.
        blocks: `blocks_of(model)`, or names of modules.
        view: "pooled" (maps: mean over space; tokens: mean of the patches), "cls", "patches" or "both" (`features`).
        k: as in `knn_scores`, and so `temperature`, `vote` and `classes`.

    Raises:
        AnalysisError: as `knn_scores`, with the block's name; NaN activations; batches without labels.

    >>> images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> batches = [(images, torch.tensor([0, 1, 0, 1, 0, 1]))]
    >>> found = knn_by_block(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), batches, batches, ["0"], k=1)
    >>> found.values("accuracy")
    {'0': 1.0}
    """
    if view not in VIEWS:
        raise AnalysisError(f"unknown view {view!r} for k-NN: {nearest(view, VIEWS)}")
    points, labels = _collect("bank", model, bank, blocks, view)
    asked, wanted = _collect("queries", model, queries, blocks, view)
    if labels.ndim != wanted.ndim or labels.shape[1:] != wanted.shape[1:]:
        raise AnalysisError(
            f"labels of the bank have shape {labels.shape} and of the queries {wanted.shape}; expected (N,) of both, "
            "or (N, C) with the same classes"
        )
    if labels.ndim == 1 and classes is None:
        both = np.concatenate([labels, wanted])
        classes = int(both.max()) + 1 if np.isfinite(both).all() else None
    k = neighbours_of(k, len(labels), stacklevel=3)  # warned of once, not at every block
    scores = {}
    for name in tuple(points):
        mine, theirs = torch.cat(asked.pop(name)), torch.cat(points.pop(name))
        try:
            scores[name] = knn_scores(mine, theirs, labels, k, temperature, vote=vote, classes=classes)
        except AnalysisError as problem:
            raise AnalysisError(f"block {name!r}: {problem}") from None
    return KnnByBlock(scores, wanted, len(labels), k, view)


def raised(output: Tensor) -> Tensor:
    """Halves as float32, before their mean over space is taken; other types as they are."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _collect(
    what: str, model: nn.Module, batches: Iterable[Any], blocks: Blocks | Sequence[str], view: str
) -> tuple[dict[str, list[Tensor]], np.ndarray]:
    """Features of every block, batch by batch, and the labels."""
    parts: dict[str, list[Tensor]] = {}
    labels: list[np.ndarray] = []

    def read(name: str, output: Tensor) -> None:
        vectors = taps.features(name, raised(finite(name, output)), view, VIEWS)
        # A copy, since a view would keep all of the output, and a later in-place ReLU would overwrite it.
        parts.setdefault(name, []).append(vectors.float().clone())

    taps = Taps(model, blocks, read)
    for images, given in labelled_batches(batches, what):
        taps.run(images)
        labels.append(given)
    return {name: parts[name] for name in taps.names}, np.concatenate(labels)


def labelled_batches(batches: Iterable[Any], what: str) -> Iterator[tuple[Any, np.ndarray]]:
    """The images and labels, `(N,)` or `(N, C)`, of each batch.

    Args:
        batches: `(images, labels)` each.
        what: what they are, for messages.

    Raises:
        AnalysisError: no batches, batches without labels, labels of another number or shape.
    """
    empty = True
    for batch in checked_batches(batches, what, "(images, labels)"):
        if isinstance(batch, Tensor | Mapping) or not isinstance(batch, Sequence) or len(batch) < 2:
            raise AnalysisError(f"a batch of the {what} is a {type(batch).__name__}; expected (images, labels)")
        count, given = len(images_of_batch(batch[0])), plain_array(batch[1])
        if given.ndim not in (1, 2) or len(given) != count:
            raise AnalysisError(
                f"a batch of the {what} has {count} images and labels of shape {given.shape}; expected ({count},) "
                f"class indices or ({count}, C) of 0, 1, NaN"
            )
        empty = False
        yield batch[0], given
    if empty:
        raise AnalysisError(f"{what}: {NO_BATCHES}")
