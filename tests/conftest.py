"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and weights, where the environment names one."""
    folder = os.environ.get("TRANSFUSE_DATA")
    if not folder:
        pytest.skip("needs real images and weights: set TRANSFUSE_DATA to their folder")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"TRANSFUSE_DATA names {path}, which is no folder")
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's cache of decoded images."""
    os.environ["TRANSFUSE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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
