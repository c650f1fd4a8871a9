"""What would make analyses of a study fail, found before anything is trained: each is tried on two images."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from transfuse.errors import AnalysisError, TransfuseError, nearest
from transfuse.specs import AnalysisSpec, StudySpec
from transfuse.study.network import untrained
from transfuse.study.search import of_search
from transfuse.study.sources import images_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Split
    from transfuse.models import Blocks


OF_CLASSES = {
    "knn": "votes on the class of an image",
    "gradcam": "explains the class of an image",
    "reinitialise": "measures probabilities of the classes of images",
    "cut_ranking": "probes features for the classes of images",
    "cut_overlap": "looks at the cuts of networks that end in a classifier",
}
"""Analyses that need labels of images, with what for."""

OF_MASKS = ("halving", "screen", "two_stage", "exhaustive")
"""The strategies of a search that masks can decide."""


def analysis_problems(study: StudySpec, split: Split) -> list[str]:
    """Levels that a network does not have, unknown blocks, views and analyses that do not go with it."""
    if not study.analyses:
        return []

    @cache
    def network(label: str) -> nn.Module | None:
        try:
            return untrained(study.models[label], images_of(split))
        except TransfuseError:
            return None  # said elsewhere

    masks = split.test.dataset.info.task == "segmentation"
    images = split.test.normalise(split.test.tensors(np.arange(min(2, len(split.test)))))
    problems = []
    for place, analysis in enumerate(study.analyses):
        if masks and analysis.what in OF_CLASSES:
            path, cure = f"analyses.{place} ({analysis.what}):", ""
            if study.search is not None and place in of_search(study):
                path, cure = f"search.strategy ({study.search.strategy}): it", f"; {', '.join(OF_MASKS)} choose by them"
            problems.append(f"{path} {OF_CLASSES[analysis.what]}, and these are masks{cure}")
            continue
        for label in analysis.models or study.models:
            model = network(label)
            if model is None:
                continue
            try:
                if masks and analysis.what == "cut_screen":
                    _check_unet(model)
                _try(analysis, model, images)
            except TransfuseError as error:
                problems.append(f"analyses.{place} ({analysis.what}) with models.{label}: {error}")
    return problems


def _try(analysis: AnalysisSpec, model: nn.Module, images: Tensor) -> None:
    from transfuse.analysis import gradcam_block, mean_attended_distance
    from transfuse.analysis.activations import Taps
    from transfuse.models import Blocks, blocks_of

    if analysis.what == "attention":
        mean_attended_distance(model, [images])
        return
    if not analysis.takes("blocks"):
        return
    blocks = blocks_of(model, analysis.level)
    if unknown := [name for name in analysis.blocks if name not in blocks.names]:
        raise AnalysisError(f"no block {unknown[0]!r} at level {analysis.level!r}; {nearest(unknown[0], blocks.names)}")
    shown = tuple(block for block in blocks if not analysis.blocks or block.name in analysis.blocks)
    if analysis.what == "gradcam":
        gradcam_block(model, images, blocks=blocks)
    if analysis.channels is not None and analysis.what == "maximise":
        _check_channels(analysis, model, images, Blocks(blocks.level, shown, blocks.head))
    if analysis.view is not None:
        view, wanted = analysis.view, analysis.blocks or blocks.names

        def read(name: str, output: Tensor) -> None:
            if name in wanted:
                taps.features(name, output, view)

        taps = Taps(model, blocks, read)
        taps.run(images)


def _check_unet(model: nn.Module) -> None:
    from transfuse.models.truncate_unet import is_unet

    if not is_unet(model):
        raise AnalysisError(
            f"of masks it trains a head at every cut of a U-Net that truncate_unet cuts, and this "
            f"{type(model).__name__} is none; take a network such as unet_resnet18"
        )


def _check_channels(analysis: AnalysisSpec, model: nn.Module, images: Tensor, blocks: Blocks) -> None:
    from transfuse.analysis.activations import Taps
    from transfuse.analysis.views import channels_of

    widths: dict[str, int] = {}
    Taps(model, blocks, lambda name, output: widths.update({name: channels_of(output)})).run(images)
    narrowest = min(widths, key=lambda name: widths[name])
    if analysis.channels is not None and analysis.channels > widths[narrowest]:
        raise AnalysisError(
            f"channels is {analysis.channels}, and block {narrowest!r} has {widths[narrowest]}; "
            f"expected at most {widths[narrowest]}, or other blocks"
        )
