from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's own cache, home or data folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRANSFUSE_CACHE", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFUSE_DATA", raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def write_npz(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Write a MedMNIST-style file; arguments replace its arrays (None removes one)."""

    def write(
        name: str = "tiny.npz", shape: tuple[int, ...] = (12, 12), classes: int = 2, **arrays: np.ndarray | None
    ) -> Path:
        content: dict[str, np.ndarray | None] = {}
        for part, count in (("train", 24), ("val", 6), ("test", 6)):
            content[f"{part}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            content[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
        content |= arrays
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path, allow_pickle=True, **{key: value for key, value in content.items() if value is not None}
        )
        return path

    return write


@pytest.fixture
def write_image(rng: np.random.Generator) -> Callable[..., Path]:
    """Write a random picture."""

    def write(path: Path, shape: tuple[int, ...] = (16, 16), mode: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        (image.convert(mode) if mode else image).save(path)
        return path

    return write


@pytest.fixture
def class_folders(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write class folders, `count` pictures each."""

    def write(classes: Sequence[str] = ("normal", "sick"), count: int = 10, root: str = "folders") -> Path:
        for name in classes:
            for number in range(count):
                write_image(tmp_path / root / name / f"{number:02d}.png")
        return tmp_path / root

    return write


@pytest.fixture
def write_table(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write a table and the pictures in its first column."""

    def write(
        header: Sequence[str], rows: Sequence[Sequence[object]], name: str = "set.csv", delimiter: str = ","
    ) -> Path:
        for row in rows:
            if str(row[0]) and not (tmp_path / "table" / str(row[0])).exists():
                write_image(tmp_path / "table" / str(row[0]))
        path = tmp_path / "table" / name
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([header, *rows])
        return path

    return write


@pytest.fixture
def patients_table(write_table: Callable[..., Path]) -> Path:
    """30 patients of two images each, three classes."""
    rows = [(f"{p:02d}_{eye}.png", "abc"[p % 3], f"patient {p}") for p in range(30) for eye in "lr"]
    return write_table(("image", "label", "patient"), rows)


@pytest.fixture(scope="session")
def functional() -> Iterator[object]:
    """torchvision.transforms.v2.functional, as a reference; see docs on torchvision beside a CPU-only torch."""
    import importlib.util

    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    library = None
    try:
        torch.ops.load_library(str(next(Path(spec.origin).parent.glob("_C*"))))
    except (OSError, StopIteration):
        # A CUDA build of torchvision beside a CPU-only torch: its operators cannot load, and none is needed here.
        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    try:
        from torchvision.transforms.v2 import functional as reference
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import here: {error}")
    yield reference
    del library
