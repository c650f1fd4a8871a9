"""The public names: pinned, importable, and free at import."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import transfuse

PUBLIC = [
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


MEASURES = {
    "transfuse.models.complexity": ("complexity", "latency", "latency_by_block"),
    "transfuse.models.peak_memory": ("peak_memory", "peak_memory_by_block"),
}
"""What measures a network: imported from where it is."""


def test_every_measure_takes_the_same_settings_where_it_takes_any() -> None:
    for home, names in MEASURES.items():
        for name in names:
            asked = inspect.signature(getattr(importlib.import_module(home), name)).parameters
            assert list(asked)[:3] == ["model", "input_size", "channels"]
            assert ("blocks" in asked) == (name == "complexity" or name.endswith("_by_block"))
            assert {"batch_size", "device"} <= set(asked) or name == "complexity"


def test_the_public_names_are_these() -> None:
    assert transfuse.__all__ == PUBLIC


def test_every_public_name_can_be_loaded() -> None:
    for name in transfuse.__all__:
        assert getattr(transfuse, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(transfuse, "fitt")


def test_light_parts_load_no_torch() -> None:
    code = (
        "import sys, transfuse, transfuse.specs, transfuse.metrics, transfuse.results.store,"
        " transfuse.results.recommend,"
        " transfuse.report, transfuse.cli, transfuse.study.plan, transfuse.study.conclude;"
        "print([name for name in ('torch', 'timm', 'sklearn', 'altair') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_needs_no_torch_and_answers() -> None:
    code = (
        "import sys; sys.argv = ['transfuse', '--help']; import transfuse.cli as c\n"
        "try: c.main()\nfinally: print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip().endswith("False"), found.stderr
    assert "Usage: transfuse COMMAND" in found.stdout
