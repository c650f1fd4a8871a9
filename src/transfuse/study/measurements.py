"""What each analysis of a study does: from networks and images to rows of one kind of table, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from transfuse.study import cut_measurements, pictures
from transfuse.study.looked import IMAGES, Found, Looked, batches_of, blocks_for, part_of

if TYPE_CHECKING:
    from torch import nn

    from transfuse.analysis.similarity import SimilarityMatrix
    from transfuse.analysis.states import State
    from transfuse.models import Blocks


def _matrix(found: Found, matrix: SimilarityMatrix, **rest: Any) -> None:
    """Rows of a similarity of all pairs: the value, what independent features would give, and the samples."""
    places = {name: place for place, name in enumerate(matrix.rows)}
    for cell in matrix.frame().to_dict("records"):
        where = {"block": cell["row"], "other_block": cell["column"], "position": places[cell["row"]], **rest}
        found.add(matrix.measure, cell["value"], **where)
        found.add("independent", cell["independent"], **where)
        found.add("samples", cell["samples"], **where)


def _cka(looked: Looked) -> Found:
    from transfuse.analysis import cka_matrix

    spec, found = looked.job.spec, Found()
    a, b = (looked.network(side) for side in looked.job.sides)
    ours, theirs = blocks_for(looked, a), blocks_for(looked, b)
    batches = batches_of(part_of(looked), spec.images or IMAGES)
    matrix = cka_matrix(a, b, batches, ours, theirs, **spec.given("view", "average", "kernel"))
    if spec.pairs == "same":
        matrix = _only_same(matrix)
    _matrix(found, matrix)
    return found


def _only_same(matrix: SimilarityMatrix) -> SimilarityMatrix:
    import dataclasses

    same = np.asarray(matrix.rows)[:, None] == np.asarray(matrix.columns)[None]
    return dataclasses.replace(matrix, values=np.where(same, matrix.values, np.nan))


def _cca(looked: Looked) -> Found:
    from transfuse.analysis import cca_matrix

    spec, found = looked.job.spec, Found()
    a, b = (looked.network(side) for side in looked.job.sides)
    options = {"pairs": "same", **spec.given("view", "pairs", "variance")}
    if options["pairs"] == "same":
        ours, theirs = _common(looked, a, b), _common(looked, b, a)
    else:
        ours, theirs = blocks_for(looked, a), blocks_for(looked, b)
    batches = batches_of(part_of(looked), spec.images or IMAGES)
    matrix = cca_matrix(a, b, batches, ours, theirs, measure=spec.what, **options)
    _matrix(found, matrix)
    if spec.what != "pwcca":
        _coefficients(found, matrix)
    return found


SHOWN_COEFFICIENTS = 101
"""Of the sorted coefficients of a block so many are kept, evenly spread: a box plot or a curve needs no more."""


def _coefficients(found: Found, matrix: SimilarityMatrix) -> None:
    """The distribution of each block's coefficients and of random ones, and the area between them (AN-24, AN-25).

    Both are sorted, largest first; the label is the rank, stretched to [0, 1].
    """
    from transfuse.analysis.chance import random_coefficients
    from transfuse.statistics.reuse import area_above_random

    samples = np.broadcast_to(np.asarray(matrix.samples), matrix.values.shape)
    for place, block in enumerate(matrix.rows):
        if (block, block) not in matrix.coefficients:
            continue
        own, column = matrix.coefficients[block, block], matrix.columns.index(block)
        count, ranks = int(samples[place, column]), (matrix.ranks_rows[place], matrix.ranks_columns[column])
        random = random_coefficients(count, *ranks)
        where = {"block": block, "other_block": block, "position": place}
        found.add("area_above_random", area_above_random(own, random), **where)
        for kind, values in (("coefficient", own), ("random_coefficient", random)):
            ranked = np.linspace(0, 1, len(values))
            for rank in np.linspace(0, 1, min(SHOWN_COEFFICIENTS, len(values))):
                found.add(kind, float(np.interp(rank, ranked, values)), label=f"{rank:.2f}", **where)


def _dynamics(looked: Looked) -> Found:
    """The similarity of each block after some steps to itself in the trained network (AN-8)."""
    from transfuse.analysis import cca_matrix, cka_matrix

    spec, found = looked.job.spec, Found()
    start, end = looked.job.sides
    measure = spec.measure or "cca"
    trained = looked.network(end)
    blocks = blocks_for(looked, trained)
    for step in [None, *looked.snapshots(start)]:
        now = looked.network(start, step)
        batches = batches_of(part_of(looked), spec.images or IMAGES)
        if measure == "cka":
            matrix = _only_same(cka_matrix(now, trained, batches, blocks, blocks, **spec.given("view")))
        else:
            options = {"measure": measure, "pairs": "same", **spec.given("view")}
            matrix = cca_matrix(now, trained, batches, blocks, blocks, **options)
        _matrix(found, matrix, step=step or 0)
    return found


def _knn(looked: Looked) -> Found:
    from transfuse.analysis import knn_by_block
    from transfuse.study.measure import test_metrics

    spec, found = looked.job.spec, Found()
    model = looked.network(looked.job.sides[0])
    blocks, part, bank = blocks_for(looked, model), part_of(looked), looked.split.train
    info = part.dataset.info
    scores = knn_by_block(
        model,
        batches_of(bank, None),
        batches_of(part, spec.images),
        blocks,
        classes=None if info.task == "multilabel" else len(info.classes),
        **spec.given("view", "k", "temperature", "vote"),
    )
    found.facts |= {"bank": scores.bank, "k": scores.k}
    for metric in test_metrics(info.task, len(info.classes)):
        for place, (block, value) in enumerate(scores.values(metric).items()):
            found.add(metric, value, block=block, position=place)
    return found


def _fid(looked: Looked) -> Found:
    """Between the study's images and a source's, in the features of one block of a network (MET-10)."""
    from transfuse.analysis import frechet_between

    spec, found = looked.job.spec, Found()
    model = looked.network(looked.job.sides[0])
    blocks = blocks_for(looked, model)
    ours, theirs = part_of(looked), getattr(looked.other_split(), spec.part)
    for place, block in enumerate(blocks if spec.blocks else blocks[-1:]):
        distance = frechet_between(model, batches_of(ours, spec.images), batches_of(theirs, spec.images), block.output)
        where = {"block": block.name, "position": place, "label": spec.source}
        found.add("frechet_distance", float(distance), **where)
        found.add("by_chance", distance.by_chance, **where)
        found.add("samples", float(min(distance.samples)), **where)
    return found


def _attention(looked: Looked) -> Found:
    from transfuse.analysis import mean_attended_distance

    spec, found = looked.job.spec, Found()
    batches = batches_of(part_of(looked), spec.images or IMAGES, 32)
    distance = mean_attended_distance(looked.network(looked.job.sides[0]), batches, **spec.given("reduce"))
    for place, (block, heads, uniform) in enumerate(
        zip(distance.blocks, distance.heads, distance.uniform, strict=True)
    ):
        where = {"block": block, "position": place}
        found.add("attended_distance", float(heads.mean()), **where)
        found.add("uniform", float(uniform), **where)
        for head, value in enumerate(heads):
            found.add("attended_distance_of_head", float(value), label=f"head {head}", **where)
    found.facts["samples"] = distance.images
    return found


def _cca_patches(looked: Looked) -> Found:
    from transfuse.analysis import cca_patches

    spec, found = looked.job.spec, Found()
    a, b = (looked.network(side) for side in looked.job.sides)
    images = next(batches_of(part_of(looked), spec.images or IMAGES, spec.images or IMAGES))[0]
    # the same channels where one network is compared with its own start (METHODS 2.1.20)
    same = looked.job.sides[0].run.run_id == looked.job.sides[1].run.run_id
    options = {"share_channels": same, **spec.given("p", "d", "repeats", "share_channels")}
    similar = cca_patches(a, b, images, _common(looked, a, b), **options)
    for place, (block, patches) in enumerate(similar.items()):
        where = {"block": block, "other_block": block, "position": place}
        found.add("cca", patches.value, **where)
        found.add("spread", patches.spread, **where)
        found.add("independent", patches.independent, **where)
        found.add("samples", float(patches.positions), **where)
    return found


def _common(looked: Looked, a: nn.Module, b: nn.Module) -> Blocks:
    """The blocks that both networks have: one of them may be cut."""
    from transfuse.models import Blocks

    ours, theirs = blocks_for(looked, a), blocks_for(looked, b)
    return Blocks(ours.level, tuple(block for block in ours if block.name in theirs.names), ours.head)


def _l2(looked: Looked) -> Found:
    from transfuse.analysis import l2_distance
    from transfuse.models import blocks_of

    found, spec = Found(), looked.job.spec
    a, b = (looked.network(side) for side in looked.job.sides)
    wanted = blocks_for(looked, a).names
    whole = blocks_of(a, spec.level)
    first, last = _of_one_shape(a, b, whole)
    for place, (block, moved) in enumerate(l2_distance(first, last, whole, **spec.given("reduce")).items()):
        if spec.blocks and block not in wanted:
            continue
        found.add("l2_distance", moved.distance, block=block, position=place)
        found.add("weights", float(moved.weights), block=block, position=place)
    return found


def _of_one_shape(a: nn.Module, b: nn.Module, blocks: Blocks) -> tuple[State, State]:
    """Both networks, or where one of them is cut or slim, the weights of the blocks that are of one shape in both."""
    first, last = a.state_dict(), b.state_dict()
    if {name: tensor.shape for name, tensor in first.items()} == {name: t.shape for name, t in last.items()}:
        return a, b
    unlike = {blocks.owner(name) for name in first if name not in last or first[name].shape != last[name].shape}
    names = [name for name in first if blocks.owner(name) not in unlike]
    return {name: first[name] for name in names}, {name: last[name] for name in names}


def _reinitialise(looked: Looked) -> Found:
    from transfuse.analysis import reinitialise
    from transfuse.models import blocks_of
    from transfuse.training import predict

    found, test = Found(), looked.split.test
    before, after = looked.job.sides
    model, initial = looked.network(after), looked.network(before)
    train, wanted = looked.spec.train, blocks_for(looked, model).names
    robust = reinitialise(
        model,
        initial,
        blocks_of(model, looked.job.spec.level),
        lambda network: predict(network, test, crops=train.test_crops, probabilities=train.loss),
        test.targets,
        metric=looked.job.metric,
        patients=test.patient_ids,
    )
    found.facts |= {"whole": robust.whole, "metric": robust.metric, "patients": robust.patients}
    for place, forgotten in enumerate(robust.blocks):
        if looked.job.spec.blocks and forgotten.block not in wanted:
            continue
        where = {"block": forgotten.block, "position": place}
        found.add(robust.metric, forgotten.value, **where)
        found.add("drop", forgotten.drop, low=forgotten.low, high=forgotten.high, **where)
    return found


MEASURES: dict[str, Callable[[Looked], Found]] = {
    "cka": _cka,
    "cca": _cca,
    "svcca": _cca,
    "pwcca": _cca,
    "cca_patches": _cca_patches,
    "l2": _l2,
    "dynamics": _dynamics,
    "reinitialise": _reinitialise,
    "knn": _knn,
    "fid": _fid,
    "attention": _attention,
    "filters": pictures.filters,
    "histogram": pictures.histogram,
    "maps": pictures.maps,
    "maximise": pictures.maximise,
    "gradcam": pictures.gradcam,
    "cut_ranking": cut_measurements.cut_ranking,
    "cut_overlap": cut_measurements.cut_overlap,
    "cut_screen": cut_measurements.cut_screen,
}
