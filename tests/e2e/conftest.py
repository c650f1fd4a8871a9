"""A small real study: two classes of 16 px images, one tiny network, seconds of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Study = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 grey images in the layout of MedMNIST; class 1 has a brighter spot at a random place."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 60), ("val", 30), ("test", 30)):
        labels = np.arange(count) % 2
        images = rng.normal(100, 20, (count, 16, 16))
        for image, label in zip(images, labels, strict=True):
            row, column = rng.integers(2, 11, 2)
            image[row : row + 3, column : column + 3] += 60 * label
        arrays[f"{part}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None]
    path = tmp_path_factory.mktemp("data") / "spots.npz"
    np.savez(path, **arrays)
    return path


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
