"""The analyses that rank the cuts of a network: before training, by one training of all, and after a full one.

None of them looks at the test part: the cut that they choose is compared there.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from transfuse.metrics import COUNT_METRICS
from transfuse.study.lengths import lengths_of, total_steps
from transfuse.study.looked import IMAGES, ORDER_SEED, Found, Looked, batches_of
from transfuse.study.measure import recipe_of
from transfuse.study.network import head_kind

if TYPE_CHECKING:
    from torch import nn

    from transfuse.models import Blocks

RANKED_IMAGES = 2000
"""So many training images are probed; more tell neighbouring cuts apart no better and cost as much as a training."""

SHOWN = 101
"""Of the sorted coefficients of a cut so many are kept, evenly spread, for a box plot."""


def cut_ranking(looked: Looked) -> Found:
    """What the features of each cut tell of the training images, each patient held out in turn."""
    from transfuse.analysis import rank_cuts

    found, part = Found(), looked.split.train
    images = looked.job.spec.images or RANKED_IMAGES
    order = np.random.default_rng(ORDER_SEED).permutation(len(part))[:images]  # as `batches_of` takes them
    model, blocks = _network(looked)
    metric = looked.job.cut_metric
    ranking = rank_cuts(model, batches_of(part, images), blocks, np.asarray(part.patient_ids)[order], metric=metric)
    for place, cut in enumerate(ranking.cuts):
        where = {"block": cut.block, "position": place, "label": metric}
        span = ranking.interval(cut.block) if cut.block in ranking.scores else None
        low, high = (math.nan, math.nan) if span is None else (span.low, span.high)
        found.add("probe", cut.probe, low=low, high=high, **where)
        found.add("knn", cut.knn, **where)
        found.add("logme", cut.logme, block=cut.block, position=place)
    found.facts |= {"metric": metric, "images": len(order), "macs": ranking.macs}
    return found


def cut_overlap(looked: Looked) -> Found:
    """SVCCA of every cut before and after fine-tuning, beside that of random features, and the cut that follows."""
    from transfuse.analysis import overlap_cut

    found, spec = Found(), looked.job.spec
    before, after = (looked.network(side) for side in looked.job.sides)
    batches = batches_of(looked.split.train, spec.images or IMAGES)
    result = overlap_cut(before, after, batches, _blocks(looked, before), pick=spec.take or "before")
    for place, cut in enumerate(result.cuts):
        where = {"block": cut.block, "position": place}
        found.add("overlap", cut.overlap, **where)
        found.add("median", cut.median, **where)
        found.add("random_quantile", cut.random_quantile, **where)
        for kind, values in (("coefficient", cut.coefficients), ("random_coefficient", cut.random)):
            for share in np.linspace(0, 1, min(SHOWN, len(values))):
                found.add(kind, float(np.quantile(values, share)), label=f"{share:.2f}", **where)
    found.add("chosen", 1.0, block=result.chosen, label=spec.take or "before")
    found.facts |= {"detected": result.detected, "chosen": result.chosen}
    return found


def cut_screen(looked: Looked) -> Found:
    """Every cut by its head in one training of a network that has a head at every cut."""
    from transfuse.statistics.counts import arm_of_counts
    from transfuse.statistics.estimate import estimate, estimate_arm
    from transfuse.training.batches import has_batch_norm
    from transfuse.training.screen import TRUNK, screen

    found, spec = Found(), looked.job.spec
    split, metric = looked.split, looked.job.cut_metric
    model, blocks = _network(looked)
    recipe = recipe_of(looked.spec, split)
    folder = looked.folder / "checkpoints"
    normed = metric in COUNT_METRICS or has_batch_norm(model)  # the heads of masks have it, too
    period = lengths_of(looked.spec.train, len(split.train), batch_norm=normed).period
    whole, share = total_steps(looked.spec, split), looked.job.spec.length or HALF
    steps = max(1, round(max(1, round(share * whole / period)) * period))
    result = screen(
        model,
        blocks,
        split,
        replace(recipe, schedule=recipe.schedule.shortened(steps / whole)),
        steps=steps,
        trunk=spec.trunk or TRUNK,
        pool=looked.spec.init.pool,
        head=head_kind(looked.spec.init),
        seed=looked.spec.seed,
        checkpoint_dir=folder,
        device=str(looked.device),
    )
    for place, one in enumerate(result.exits):
        if metric in COUNT_METRICS:
            span = estimate_arm(arm_of_counts(one.scores[None], split.val.patient_ids, metric, background=True))
        else:
            span = estimate(split.val.targets, one.scores[None], split.val.patient_ids, metric)
        where = {"block": one.block, "position": place, "step": one.step}
        found.add(metric, span.value, low=span.low, high=span.high, **where)
        found.add("parameters", float(one.parameters), **where)
        found.add("macs", float(one.macs), **where)
    found.facts |= {"metric": metric, "steps": result.steps, "trunk": result.trunk, "macs": result.training_macs}
    shutil.rmtree(folder, ignore_errors=True)
    return found


HALF = 0.5
"""The share of the study's steps that a screen takes: heads at all cuts learn from every image."""


def _network(looked: Looked) -> tuple[nn.Module, Blocks]:
    """The whole network before its first step, frozen as its arm says."""
    from transfuse.models import freeze_

    init, model = looked.spec.init, looked.network(looked.job.sides[0])
    blocks = _blocks(looked, model)
    if init.freeze:
        freeze_(model, blocks, init.freeze, norm_statistics=init.norm_statistics)
    return model, blocks


def _blocks(looked: Looked, model: nn.Module) -> Blocks:
    from transfuse.models import blocks_of

    return blocks_of(model, looked.job.spec.level)
