"""Are pretrained weights worth it for your medical images, which layers of them, and how sure can we be?

>>> import transfuse as tfu
>>> model = tfu.create_model("cbr_tiny", classes=5)
>>> blocks = tfu.blocks_of(model)
>>> blocks.names
('layer1', 'layer2', 'layer3', 'layer4')

Names are loaded when they are first used, so that `import transfuse` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfuse.analysis import (
        activations,
        cca,
        cca_matrix,
        cca_patches,
        cka,
        cka_matrix,
        gradcam,
        knn_scores,
        pwcca,
        svcca,
    )
    from transfuse.data import open_dataset, split_by_patient
    from transfuse.errors import TransfuseError
    from transfuse.inits import initialise_, rerandomise_
    from transfuse.metrics import evaluate
    from transfuse.models import (
        Block,
        Blocks,
        add_lora_,
        blocks_of,
        create_model,
        freeze_,
        list_models,
        load_weights,
        merge_lora_,
        recalibrate_,
        slim,
        truncate,
        truncate_unet,
        tune_only_,
    )
    from transfuse.models.complexity import complexity
    from transfuse.report.heatmaps import heatmap
    from transfuse.statistics.comparison import Comparison, compare, estimate
    from transfuse.statistics.counts import compare_counts
    from transfuse.statistics.many import compare_all
    from transfuse.study.truncation import search_truncation
    from transfuse.training import Optimizer, Recipe, Schedule, Stopping, fit, predict

_HOMES = {
    "Block": "models",
    "Blocks": "models",
    "Comparison": "statistics.comparison",
    "Optimizer": "training",
    "Recipe": "training",
    "Schedule": "training",
    "Stopping": "training",
    "TransfuseError": "errors",
    "activations": "analysis",
    "add_lora_": "models",
    "blocks_of": "models",
    "cca": "analysis",
    "cca_matrix": "analysis",
    "cca_patches": "analysis",
    "cka": "analysis",
    "cka_matrix": "analysis",
    "compare": "statistics.comparison",
    "compare_all": "statistics.many",
    "compare_counts": "statistics.counts",
    "complexity": "models.complexity",
    "create_model": "models",
    "estimate": "statistics.comparison",
    "evaluate": "metrics",
    "fit": "training",
    "freeze_": "models",
    "gradcam": "analysis",
    "heatmap": "report.heatmaps",
    "initialise_": "inits",
    "knn_scores": "analysis",
    "list_models": "models",
    "load_weights": "models",
    "merge_lora_": "models",
    "open_dataset": "data",
    "predict": "training",
    "pwcca": "analysis",
    "recalibrate_": "models",
    "rerandomise_": "inits",
    "search_truncation": "study.truncation",
    "slim": "models",
    "split_by_patient": "data",
    "svcca": "analysis",
    "truncate": "models",
    "truncate_unet": "models",
    "tune_only_": "models",
}

__all__ = [
    "Block",
    "Blocks",
    "Comparison",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Stopping",
    "TransfuseError",
    "activations",
    "add_lora_",
    "blocks_of",
    "cca",
    "cca_matrix",
    "cca_patches",
    "cka",
    "cka_matrix",
    "compare",
    "compare_all",
    "compare_counts",
    "complexity",
    "create_model",
    "estimate",
    "evaluate",
    "fit",
    "freeze_",
    "gradcam",
    "heatmap",
    "initialise_",
    "knn_scores",
    "list_models",
    "load_weights",
    "merge_lora_",
    "open_dataset",
    "predict",
    "pwcca",
    "recalibrate_",
    "rerandomise_",
    "search_truncation",
    "slim",
    "split_by_patient",
    "svcca",
    "truncate",
    "truncate_unet",
    "tune_only_",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'transfuse' has no attribute {name!r}")
    return getattr(import_module(f"transfuse.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
