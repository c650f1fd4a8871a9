"""Small data sets and networks for the tests of training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from transfuse.data import Dataset, Part, Split, open_dataset, split_by_patient


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads changes bits; here it is one, in this process and in those that a test starts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def blobs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 noisy grey images of 16 px; the class, one of three, is the brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 3
    images = rng.integers(0, 150, (100, 16, 16)) + labels[:, None, None] * 25
    path = tmp_path_factory.mktemp("blobs") / "blobs.npz"
    np.savez(path, train_images=images.astype(np.uint8), train_labels=labels[:, None])
    return path


@pytest.fixture(scope="session")
def blobs(blobs_file: Path) -> Dataset:
    return open_dataset(str(blobs_file), size=16)


@pytest.fixture(scope="session")
def split(blobs: Dataset) -> Split:
    return split_by_patient(blobs)


@pytest.fixture(scope="session")
def multilabel_split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """60 images with two findings, bright left and bright right half; every fifth label is missing."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (60, 2))
    images = rng.integers(0, 100, (60, 16, 16))
    images[:, :, :8] += 100 * labels[:, 0, None, None]
    images[:, :, 8:] += 100 * labels[:, 1, None, None]
    path = tmp_path_factory.mktemp("findings") / "findings.npz"
    np.savez(path, train_images=images.astype(np.uint8), train_labels=labels)
    dataset = copy.copy(open_dataset(str(path), size=16))
    targets = dataset.targets.copy()
    targets.reshape(-1)[::5] = np.nan
    dataset.targets = targets
    assert dataset.info.task == "multilabel"
    return split_by_patient(dataset)


@pytest.fixture
def part_of(blobs: Dataset) -> Callable[[int], Part]:
    """A part of the first so many blobs."""
    return lambda count: Part(blobs, np.arange(count))


@pytest.fixture
def network() -> Callable[..., nn.Module]:
    """A network of 16 px grey images: convolution, batch norm, dropout, linear head; the same weights each time."""

    def make(classes: int = 3, *, norm: bool = True, dropout: float = 0.2) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, bias=not norm),
                nn.BatchNorm2d(8) if norm else nn.Identity(),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Dropout(dropout),
                nn.Linear(32, classes),
            )

    return make
