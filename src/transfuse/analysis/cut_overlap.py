"""Where fine-tuning leaves nothing of the pretrained features: the cut that one full fine-tuning gives away (TTL)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from transfuse.analysis.activations import Batch
from transfuse.analysis.cca_matrix import cca_matrix
from transfuse.analysis.chance import random_coefficients, wachter_edges
from transfuse.analysis.cut_ranking import cut_points
from transfuse.errors import AnalysisError, AnalysisWarning, nearest
from transfuse.models.blocks import Blocks, check_blocks

__all__ = ["CutOverlap", "OverlapSearch", "histogram_overlap", "overlap_cut"]

PICKS = ("before", "at")
RANDOM_KIND, REAL_KIND = "random features", "before and after fine-tuning"


class CutOverlap(NamedTuple):
    """How far the features at one cut are like random ones, before against after fine-tuning.

    Attributes:
        block: the last block below the cut.
        depth: how many blocks are below it.
        coefficients: `(K,)` SVCCA coefficients, descending.
        random: `(K,)` those of random features of the same shape, descending.
        median: of the coefficients.
        random_quantile: of the random ones, the quantile that was asked for.
        edge: the largest that the law of random coefficients allows (Wachter).
        overlap: of the two histograms, 0 to 1.
        samples: how many positions of how many images.
        enough: whether there are so many samples that random features share no direction by necessity; where not, no
            overlap can be told.
        overlapped: whether the criterion holds.
    """

    block: str
    depth: int
    coefficients: np.ndarray
    random: np.ndarray
    median: float
    random_quantile: float
    edge: float
    overlap: float
    samples: int
    enough: bool
    overlapped: bool


@dataclass(frozen=True)
class OverlapSearch:
    """The cut that the overlap of SVCCA coefficients with random ones gives.

    Args:
        cuts: from the image upwards; the last is the whole network.
        detected: the first block whose coefficients overlap with random ones; None where none does.
        chosen: the last block that is kept; the whole network's last one where nothing overlaps.
        depth: of `chosen`.
        pick: "before" or "at".
        quantile: of the random coefficients.
        least_overlap: of the histograms.
    """

    cuts: tuple[CutOverlap, ...]
    detected: str | None
    chosen: str
    depth: int
    pick: str
    quantile: float
    least_overlap: float

    def frame(self) -> pd.DataFrame:
        """One row a cut: its numbers, whether it is overlapped, and whether it is the chosen one."""
        names = [name for name in CutOverlap._fields if name not in ("coefficients", "random")]
        frame = pd.DataFrame([{name: getattr(cut, name) for name in names} for cut in self.cuts], columns=names)
        return frame.assign(chosen=frame["block"] == self.chosen)

    def coefficients(self) -> pd.DataFrame:
        """One row a coefficient: block, kind, value, as `transfuse.report`'s `coefficients_box` draws them."""
        parts = [
            pd.DataFrame({"block": cut.block, "kind": kind, "value": values})
            for cut in self.cuts
            for kind, values in ((REAL_KIND, cut.coefficients), (RANDOM_KIND, cut.random))
        ]
        return pd.concat(parts, ignore_index=True)


def overlap_cut(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[Batch],
    blocks: Blocks,
    *,
    variance: float = 1.0,
    quantile: float = 0.9,
    least_overlap: float = 0.5,
    pick: str = "before",
    generator: np.random.Generator | None = None,
) -> OverlapSearch:
    """Finds the cut above which full fine-tuning left features that look like random ones (P, C.1; METHODS FT-10).

    At every cut, from the image upwards, SVCCA compares the features before and after fine-tuning, each position of
    each image being a sample and each channel a neuron; beside it stand the coefficients of one draw of independent
    Gaussian features of the same shape. P takes the first cut where both "substantially overlap" and does not say what
    that is. Here a cut is overlapped where the median of its coefficients is at most the `quantile` of the random ones,
    or the histograms of both share at least `least_overlap`; both numbers are in the result.

    Args:
        before: the network before fine-tuning.
        after: the same network, fine-tuned.
        batches: images (N, C, H, W), or sequences that begin with them; P takes all 945 test images.
        blocks: `blocks_of(before, level)`, of both.
        variance: of SVCCA; 1 keeps every direction, as P's figures do.
        quantile: of the random coefficients, in (0, 1).
        least_overlap: of the histograms, in (0, 1].
        pick: "before": the cut below the first that is overlapped, as P's worked example has it; "at": that one, as the
            paper's step 4 reads.
        generator: of the random coefficients; None is `np.random.default_rng(0)`.

    Returns:
        `OverlapSearch`; without any overlap it chooses the whole network.

    Warns (AnalysisWarning) where the first cut is overlapped and there is none before it, and names cuts of so few
    samples that random features would agree there too: these are never overlapped. And as `cca_matrix`.

    Raises:
        AnalysisError: unknown `pick`, thresholds out of range; and as `cca_matrix`.
        BlocksError: blocks that are not the networks'.

    >>> import copy, torch
    >>> from transfuse.models import Block
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> blocks = Blocks("stage", (Block("stem", ("0",), "1"), Block("body", ("2",), "2")), ())
    >>> images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> found = overlap_cut(model, copy.deepcopy(model), [images], blocks)  # nothing was trained
    >>> found.detected, found.chosen, round(found.cuts[0].median, 3)
    (None, 'body', 1.0)
    """
    if pick not in PICKS:
        raise AnalysisError(f"unknown pick {pick!r}: {nearest(pick, PICKS)}")
    if not 0 < quantile < 1:
        raise AnalysisError(f"quantile is {quantile!r}; expected a number between 0 and 1, 0.9 by default")
    if not 0 < least_overlap <= 1:
        raise AnalysisError(f"least_overlap is {least_overlap!r}; expected above 0 and at most 1, 0.5 by default")
    check_blocks(after, blocks)
    top = max((depth for depth, block in enumerate(check_blocks(before, blocks), 1) if not block.stays), default=1)
    looked = [(blocks[depth - 1].name, depth, blocks[min(depth, top) - 1].output) for depth in cut_points(blocks)]
    items = tuple(replace(blocks[depth - 1], output=output) for _, depth, output in looked)
    only = replace(blocks, items=items, head=())
    matrix = cca_matrix(before, after, batches, only, measure="svcca", pairs="same", variance=variance)
    samples = np.broadcast_to(np.asarray(matrix.samples), matrix.values.shape)
    draws = np.random.default_rng(0) if generator is None else generator
    cuts = []
    for place, (name, depth, _) in enumerate(looked):
        own, count = matrix.coefficients[name, name], int(samples[place, place])
        ranks = matrix.ranks_rows[place], matrix.ranks_columns[place]
        random = random_coefficients(count, *ranks, draws)
        median, level = float(np.median(own)), float(np.quantile(random, quantile))
        shared, enough = histogram_overlap(own, random), sum(ranks) <= count - 1
        overlapped = enough and (median <= level or shared >= least_overlap)
        edge = wachter_edges(count, *ranks)[1]
        cuts.append(CutOverlap(name, depth, own, random, median, level, edge, shared, count, enough, overlapped))
    if lost := [cut.block for cut in cuts if not cut.enough]:
        warnings.warn(
            f"too few samples to tell features from random ones at {', '.join(lost)}: taken as not overlapped. Give "
            "more images, or larger ones",
            AnalysisWarning,
            stacklevel=2,
        )
    first = next((place for place, cut in enumerate(cuts) if cut.overlapped), None)
    if first is None:
        chosen = cuts[-1]
    elif pick == "before" and first == 0:
        chosen = cuts[0]
        warnings.warn(
            f"the features at the first cut, {chosen.block!r}, are like random ones already and no cut is below it: "
            "it is taken itself",
            AnalysisWarning,
            stacklevel=2,
        )
    else:
        chosen = cuts[first - (pick == "before")]
    detected = None if first is None else cuts[first].block
    return OverlapSearch(tuple(cuts), detected, chosen.block, chosen.depth, pick, quantile, least_overlap)


def histogram_overlap(a: np.ndarray, b: np.ndarray, bins: int = 20) -> float:
    """The share that two histograms of coefficients in [0, 1] have in common: the sum over bins of the smaller part.

    >>> histogram_overlap(np.array([0.1, 0.9]), np.array([0.1, 0.1]))
    0.5
    """
    shares = [np.histogram(values, bins, (0.0, 1.0))[0] / len(values) for values in (a, b)]
    return float(np.minimum(*shares).sum())
