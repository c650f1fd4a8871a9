"""The features of a network's frozen blocks, computed once for a part of the data and read by every training that
shares them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transfuse.data.cache import locked, npy_header, written
from transfuse.data.splits import Part
from transfuse.models.prefix import Cut

FREE_SHARE = 0.5
"""Features are kept where they take at most this share of the free space of the disk."""


class FrozenPart(Part):
    """A part of the data whose images have gone through frozen blocks: `tensors` are features (n, ...), float32.

    Together with a network within `models.prefix.going_on_from` it stands for the part and the network:

        with going_on_from(model, cut):
            scores = predict(model, FrozenPart(part, stored, compute))

    Args:
        part: the images.
        stored: the features of all of them (N, ...), as `kept_features` gives them, or of all their views one after
            the other (views x N, ...); None: they are computed each time.
        compute: the features at some places of what would be stored.
    """

    def __init__(self, part: Part, stored: np.ndarray | None, compute: Callable[[np.ndarray], Tensor]) -> None:
        super().__init__(part.dataset, part.indices)
        self.stored, self._compute = stored, compute

    def tensors(self, positions: np.ndarray) -> Tensor:
        """Features `(n, ...)`, float32; `positions` count within this part (view by view), any order."""
        if self.stored is None:
            return self._compute(positions)
        return torch.from_numpy(self.stored[positions])

    def normalise(self, images: Tensor) -> Tensor:
        """Features as they are."""
        return images

    def views(self, positions: np.ndarray, views: np.ndarray, augmentation: object) -> Tensor:
        """Features `(n, ...)` of one of the fixed augmented views of each image."""
        return self.tensors(views * len(self) + positions)


def room_for(folder: Path, count: int, cuts: Sequence[Cut]) -> bool:
    """Whether the features of so many images at some cuts take at most half of what is free on a folder's disk."""
    folder.mkdir(parents=True, exist_ok=True)
    return count * sum(cut.numbers for cut in cuts) * 4 <= FREE_SHARE * shutil.disk_usage(folder).free


def kept_features(
    files: Sequence[Path],
    cuts: Sequence[Cut],
    count: int,
    compute: Callable[[np.ndarray], list[Tensor]],
    *,
    batch_size: int,
    lock: Path,
) -> tuple[np.ndarray, bool]:
    """The features of images at the first cut as a read-only memory map, computed first if their file is missing.

    In the same pass those at the other cuts are computed where their files are missing. Files get their names when they
    are complete; of several processes one computes, and the others wait.

    Args:
        files: one .npy file a cut.
        cuts: where the features are taken.
        count: N, how many images there are.
        compute: the features of the images at some positions, at each of the cuts.
        batch_size: images that are computed at a time.
        lock: a path that everybody who may compute these features at the same time gives.

    Returns:
        The features `(N, ...)`, float32, and whether they were computed just now.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    stored = _opened(files[0], count, cuts[0])
    if stored is not None:
        return stored, False
    with locked(lock):
        stored = _opened(files[0], count, cuts[0])  # another process may have written it meanwhile
        if stored is not None:
            return stored, False
        wanted = [place for place, file in enumerate(files) if place == 0 or not file.exists()]
        with ExitStack() as stack:
            outs = []
            for place in wanted:
                out = stack.enter_context(written(files[place], need=count * cuts[place].numbers * 4))
                npy_header(out, (count, *cuts[place].features), np.dtype(np.float32))
                outs.append(out)
            for features in _chunks(compute, count, batch_size):
                for place, out in zip(wanted, outs, strict=True):
                    out.write(np.ascontiguousarray(features[place].numpy(), np.float32).data)
    stored = _opened(files[0], count, cuts[0])
    if stored is None:
        raise OSError(f"{files[0]} was written and cannot be read back")
    return stored, True


def _chunks(compute: Callable[[np.ndarray], list[Tensor]], count: int, size: int) -> Iterator[list[Tensor]]:
    for start in range(0, count, size):
        yield compute(np.arange(start, min(start + size, count)))


def _opened(file: Path, count: int, cut: Cut) -> np.ndarray | None:
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, cut short, or not an array
        return None
    return stored if stored.shape == (count, *cut.features) and stored.dtype == np.float32 else None
