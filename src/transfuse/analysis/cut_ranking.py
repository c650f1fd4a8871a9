"""How well the cuts of a network promise to do, from one pass over the images and without training the network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from transfuse.analysis.activations import Taps, device_and_type, finite, images_of_batch, undisturbed
from transfuse.analysis.before_head import BeforeHead, before_head
from transfuse.analysis.knn import knn_scores
from transfuse.analysis.layerwise_knn import labelled_batches
from transfuse.analysis.logme import checked_features, columns_of, logme_of
from transfuse.analysis.probe import STRENGTH, PatientFolds, is_dead, patient_folds, probe, standardised
from transfuse.data.records import listed
from transfuse.errors import AnalysisError, AnalysisWarning, BlocksError, DataError, nearest
from transfuse.metrics import evaluate, find_metric
from transfuse.models.blocks import Blocks, check_blocks
from transfuse.models.weightless import run_weightless
from transfuse.statistics.estimate import Estimate, estimate

__all__ = ["CutRanking", "CutScore", "cut_points", "rank_cuts"]

SCORES = ("probe", "knn", "logme")


class CutScore(NamedTuple):
    """What the frozen features at one cut promise.

    Attributes:
        block: the last block below the cut.
        depth: how many blocks are below it.
        width: the number of features that a head would see.
        probe: the metric of the linear probe, on patients that it was not fitted on.
        knn: the metric of the nearest neighbours among other patients.
        logme: mean log evidence of a label, see `logme`; higher is better.

    All three are NaN where no feature varies over the images.
    """

    block: str
    depth: int
    width: int
    probe: float
    knn: float
    logme: float


@dataclass(frozen=True)
class CutRanking:
    """The cuts of a network, scored without training it.

    Args:
        cuts: from the image upwards; the last is the whole network.
        metric: key of `transfuse.metrics.METRICS`, of probe and k-NN.
        held: the images that were used (`rows` of those given), with targets, patients and folds.
        scores: block -> `(M, C)`, what the probe says of each image out of fold.
        k: neighbours.
        strength: of the probe.
        forward_macs: multiply-accumulate operations of the pass: those of one image times the images.
        scoring_macs: about how many the scores took: fits, neighbours, decompositions.
    """

    cuts: tuple[CutScore, ...]
    metric: str
    held: PatientFolds
    scores: Mapping[str, np.ndarray]
    k: int
    strength: float
    forward_macs: int
    scoring_macs: int

    @property
    def macs(self) -> int:
        """What the ranking costs, in multiply-accumulate operations."""
        return self.forward_macs + self.scoring_macs

    def order(self, by: str = "probe") -> tuple[str, ...]:
        """The blocks, best cut first; of equal ones the lower; without cuts that have no score.

        Args:
            by: "probe", "knn" or "logme".
        """
        if by not in SCORES:
            raise AnalysisError(f"unknown score {by!r} of cuts: {nearest(by, SCORES)}")
        sign = 1 if by == "logme" or find_metric(self.metric).higher_is_better else -1
        known = [cut for cut in self.cuts if not math.isnan(getattr(cut, by))]
        return tuple(cut.block for cut in sorted(known, key=lambda cut: -sign * getattr(cut, by)))

    def interval(self, block: str, confidence: float = 0.95) -> Estimate:
        """The probe's metric at a cut with its interval over patients; the folds are taken as given."""
        if block not in self.scores:
            raise AnalysisError(f"no cut at {block!r}: {nearest(block, self.scores)}")
        held = self.held
        return estimate(held.target, self.scores[block][None], held.patients, self.metric, confidence=confidence)

    def frame(self) -> pd.DataFrame:
        """One row a cut: block, depth, width, metric, probe, knn, logme."""
        frame = pd.DataFrame(self.cuts, columns=list(CutScore._fields))
        frame.insert(3, "metric", self.metric)
        return frame


def cut_points(blocks: Blocks) -> tuple[int, ...]:
    """The depths at which a network can be cut, and that of the whole network.

    A cut above which only norms lie that stay there (`Block.stays`) is the whole network.

    >>> from transfuse.models import Block
    >>> items = Block("a", ("0",), "0"), Block("b", ("1",), "1", cut=False), Block("c", ("2",), "2")
    >>> blocks = Blocks("stage", items, ())
    >>> cut_points(blocks)
    (1, 3)
    """
    depths = [depth for depth, block in enumerate(blocks, 1) if block.cut and not block.stays]
    top = max((depth for depth, block in enumerate(blocks, 1) if not block.stays), default=0)
    return tuple(depths if depths[-1:] == [top] else [*depths, len(blocks)])


def rank_cuts(
    model: nn.Module,
    batches: Iterable[Any],
    blocks: Blocks,
    patients: Sequence[object] | np.ndarray | None = None,
    *,
    metric: str = "auroc",
    folds: int = 5,
    strength: float = STRENGTH,
    k: int = 50,
    view: str | None = None,
    seed: int = 0,
) -> CutRanking:
    """Scores every cut of a network by its frozen features: linear probe, k-NN and LogME.

    One forward pass over the images, in eval mode, with the weights as they are. At each cut it keeps what the head of
    the truncated network would see (`transfuse.models.truncate` with its pooling): the mean of a map or the class
    token, behind a norm that stays. Probe and k-NN take features standardised over all images, LogME takes them as they
    are. Everything is measured on the images given, each patient held out in turn: give it training images only.

    Memory: 4 bytes x images x the sum of the cuts' widths.

    Args:
        model: the network.
        batches: `(images, targets)`, images (N, C, H, W) under their evaluation transforms, targets (N,) class indices
            or (N, C) of 0, 1 and NaN (unlabelled); in the order of `patients`.
        blocks: `blocks_of(model, level)`.
        patients: one id an image; None: each image is its own patient.
        metric: key of `transfuse.metrics.METRICS`.
        folds: of the probe.
        strength: of the probe, see `probe`.
        k: neighbours, at most as many as there are images of other patients.
        view: of a cut: "pooled", "cls" or "both"; None: what the network's own head sees.
        seed: of the folds.

    Warns (AnalysisWarning) of classes of too few patients and of fewer patients than folds (`patient_folds`).

    Raises:
        AnalysisError: NaN activations, with the block's name; features that are constant at every cut (where they are
            at some, these have no score, and a warning names them); batches without targets; fewer than two classes; a
            number of patients that does not fit; an unknown view.
        SpecError: an unknown metric.
        DataError: a metric that these targets do not have.
        BlocksError: blocks that are not the network's.

    >>> from transfuse.models import blocks_of, create_model
    >>> model = create_model("cbr_tiny", classes=2, image_size=64)
    >>> labels = torch.arange(24) % 2
    >>> images = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]
    >>> found = rank_cuts(model, [(images, labels)], blocks_of(model), k=5)
    >>> [cut.block for cut in found.cuts], found.cuts[0].probe
    (['layer1', 'layer2', 'layer3', 'layer4'], 1.0)
    """
    find_metric(metric)
    if isinstance(k, bool) or k != int(k) or k < 1:
        raise AnalysisError(f"k is {k!r}; expected a number of neighbours, 1 or more")
    points = {check_blocks(model, blocks)[depth - 1].name: depth for depth in cut_points(blocks)}
    vectors, target, pass_macs = _one_pass(model, batches, blocks, tuple(points.values()), view)
    held = patient_folds(target, patients, folds, seed)
    largest = int(np.bincount(held.patients).max())
    k = min(int(k), len(held.rows) - largest)
    found, said, macs = [], {}, 0
    for name, depth in points.items():
        own = torch.cat(vectors.pop(name))[torch.from_numpy(held.rows)]
        if is_dead(own):
            found.append(CutScore(name, depth, own.shape[1], math.nan, math.nan, math.nan))
            continue
        try:
            scores, fits = probe(own, held, strength)
            near = _neighbours(own, held, k)
            evidence = logme_of(checked_features(own), columns_of(held.target))
        except AnalysisError as problem:
            raise AnalysisError(f"block {name!r}: {problem}") from None
        try:
            values = [evaluate(metric, held.target, each).value for each in (scores, near)]
        except DataError as problem:
            raise DataError(f"the cuts cannot be ranked by {metric}: {problem}") from None
        count, width = own.shape
        few, many = sorted((count, width))
        macs += fits + count * count * width + few * few * (many + 5 * few)
        found.append(CutScore(name, depth, width, values[0], values[1], evidence))
        said[name] = scores
    dead = [cut.block for cut in found if cut.block not in said]
    if len(dead) == len(found):
        raise AnalysisError(
            f"at no cut does a feature vary over {len(held.rows)} images: nothing can be read from them. Look for dead "
            "units or one image repeated"
        )
    if dead:
        warnings.warn(
            f"at {listed(dead, 3)} no feature varies over the images, so these cuts have no score; look for dead units",
            AnalysisWarning,
            stacklevel=2,
        )
    return CutRanking(tuple(found), metric, held, said, k, strength, pass_macs, macs)


def _one_pass(
    model: nn.Module, batches: Iterable[Any], blocks: Blocks, depths: tuple[int, ...], view: str | None
) -> tuple[dict[str, list[Tensor]], np.ndarray, int]:
    """Features of every cut, batch by batch; targets; and the MACs of the pass."""
    top = max((depth for depth, block in enumerate(blocks, 1) if not block.stays), default=len(blocks))
    # the whole network gives out what its last block does that is no norm on top
    read_at = {
        blocks[depth - 1].name: replace(blocks[min(depth, top) - 1], name=blocks[depth - 1].name) for depth in depths
    }
    modules = dict(model.named_modules(remove_duplicate=False))
    vectors: dict[str, list[Tensor]] = {name: [] for name in read_at}
    last: dict[str, Tensor] = {}
    targets: list[np.ndarray] = []
    how = BeforeHead("pooled")
    macs = 0

    def read(name: str, output: Tensor) -> None:
        name = name if name in read_at else name.rpartition(":")[0]  # the last run of a module that runs again
        block, module = read_at[name], modules[read_at[name].output]
        last[name] = how.of(block, module, finite(name, output), taps.prefix_tokens(name)).cpu().clone()

    taps = Taps(model, Blocks(blocks.level, tuple(read_at.values()), ()), read, arrange=False)
    for images, given in labelled_batches(batches, "training images"):
        if not targets:
            how = before_head(model, blocks, images_of_batch(images)[:2], view)
            each = _macs_of_image(model, images_of_batch(images))
        macs += each * taps.run(images)
        targets.append(given)
        for name, vector in last.items():
            vectors[name].append(vector)
    return vectors, np.concatenate(targets), macs


def _macs_of_image(model: nn.Module, images: Tensor) -> int:
    """Counted without data; on one image, for a network that makes tensors of its own on the way."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with counter:
            run_weightless(model, torch.zeros(1, *images.shape[1:], device="meta"))
    except BlocksError:
        counter = FlopCounterMode(display=False)
        with counter, undisturbed(model), torch.no_grad():
            model(images[:1].to(*device_and_type(model)))
    return int(counter.get_total_flops() // 2)


def _neighbours(vectors: Tensor, held: PatientFolds, k: int) -> np.ndarray:
    """k-NN scores `(M, C)`, own patients left out; 0.5 for a label that is left out."""
    points = standardised(vectors)
    own = (held.patients, held.patients)
    if held.target.ndim == 1:
        return knn_scores(points, points, held.target, k, classes=held.classes, patients=own)
    asked = ~np.isnan(held.target).all(0)
    scores = np.full(held.target.shape, 0.5)
    scores[:, asked] = knn_scores(points, points, held.target[:, asked], k, patients=own)
    return scores
