"""A small real study: two classes of 16 px images, one tiny network, seconds of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Study = Callable[..., Path]


@pytest.fixture
def study_file(tmp_path: Path, tiny_npz: Path) -> Study:
    """Writes the study file; keyword arguments replace its lines."""

    def write(**lines: str) -> Path:
        content = {
            "name": "spots",
            "data": f"{{name: {tiny_npz}, size: 16}}",
            "models": '{net: {name: cbr_demo, padding: same_pool, weights: "run:earlier"}}',
            "arms": "{random: {}, pretrained: {depth: all}, mean_var: {rest: mean_var}}",
            "pairs": "[[pretrained, mean_var]]",
            "train": "{steps: 12, batch_size: 16, validate_every: 4}",
            "sources": (
                f"{{earlier: {{data: {{name: {tiny_npz}, size: 16, permute_labels: true}}, "
                "train: {steps: 6, batch_size: 16, validate_every: 3}}}"
            ),
            "seeds": "2",
            "threshold": "0.6",
            **lines,
        }
        path = tmp_path / "study.yaml"
        path.write_text("\n".join(f"{key}: {value}" for key, value in content.items()))
        return path

    return write
