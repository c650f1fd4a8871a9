"""Where the features of frozen blocks are kept for all runs that share them, and how they are computed.

The features of a part of the data are a file in `features/` beside `runs/`, named by what decides their bits: the
frozen weights, where the network is cut, the images, the batch size, the versions and the machine. Files get their
names when they are complete; of several processes one computes, and the others wait. They are deleted when a study is
done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.data.cache import locked, npy_header, remove_stale, written
from transfuse.errors import StoreError
from transfuse.study.measure import processor

if TYPE_CHECKING:
    from torch import Tensor

    from transfuse.data.splits import Part
    from transfuse.models.prefix import Cut
    from transfuse.specs import RunSpec
    from transfuse.study.network import Network

FOLDER = "features"
FREE_SHARE = 0.5
"""Files of features may take at most this share of what is free on the disk."""
_OF_THE_SPLIT = ("split_seed", "fractions", "official_split", "train_fraction", "duplicates")


class Place(NamedTuple):
    """Where features are taken: how many blocks lie below, the cut, and the MACs of an image above it."""

    blocks: int
    cut: Cut
    macs_above: int


class Images(NamedTuple):
    """A part of the data, or so many augmented views of each of its images, one view of all after the other."""

    part: Part
    views: int | None = None

    @property
    def number(self) -> int:
        """How many images pass through the network."""
        return len(self.part) * (self.views or 1)


class FeatureFiles:
    """The features of one network's frozen blocks.

    Args:
        network: the network, on its device; its frozen blocks never change.
        spec: its run.
        root: the store's folder.
        places: where features are taken, those of this run first, then those of other runs with the same weights.
        macs: multiply-accumulate operations of an image through the whole network.

    Attributes:
        passed: multiply-accumulate operations of the frozen blocks that were done here.
    """

    def __init__(self, network: Network, spec: RunSpec, root: Path, places: Sequence[Place], macs: int) -> None:
        self.network, self.spec, self.folder = network, spec, root / FOLDER
        self.places, self._macs = list(places), macs
        self.batch_size, self.passed = spec.train.batch_size, 0

    def compute(self, images: Images, positions: np.ndarray) -> Tensor:
        """The features of some images at this run's cut, `(n, ...)`, on the CPU."""
        return self._compute(self.places[:1], self._given(images, positions))[0]

    def sample(self, parts: Sequence[Images]) -> list[np.ndarray]:
        """The features of the first images of each part, computed now, in one pass where a batch has room for all."""
        import torch

        few = [np.arange(min(max(1, self.batch_size // len(parts)), len(images.part))) for images in parts]
        given = [self._given(images, positions) for images, positions in zip(parts, few, strict=True)]
        found = self._compute(self.places[:1], torch.cat(given))[0].numpy()
        return np.split(found, np.cumsum([len(positions) for positions in few])[:-1])

    def room_for(self, images: Sequence[Images]) -> bool:
        """Whether the files that are not there yet would take at most half of what is free on the disk.

        Where only this run's own have room, those of other runs are given up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        free = FREE_SHARE * shutil.disk_usage(self.folder).free

        def fits() -> bool:
            new = [(one, place) for one in images for place in self.places if not self._file(one, place).exists()]
            return sum(one.number * place.cut.numbers * 4 for one, place in new) <= free

        if not fits():
            self.places = self.places[:1]
        return fits()

    def kept(self, images: Images) -> np.ndarray | None:
        """The features of all images at this run's cut, a read-only memory map `(N, ...)`; None if the disk is full.

        Where its file is missing it is computed, in one pass with those that are missing at the other cuts.
        """
        own = self._file(images, self.places[0])
        try:
            for _ in range(3):  # a study that ends may delete a file at the moment when it is there
                stored = _opened(own, images.number, self.places[0].cut)
                if stored is not None:
                    return stored
                with locked(self._lock(images)):
                    if _opened(own, images.number, self.places[0].cut) is None:
                        self._write(images)
        except StoreError:
            return None
        return None

    def drop(self, images: Images) -> None:
        """Delete the file of these images at this run's cut: its features are not those of this network."""
        self._file(images, self.places[0]).unlink(missing_ok=True)

    def _write(self, images: Images) -> None:
        own, *others = [(self._file(images, place), place) for place in self.places]
        wanted = [own, *((file, place) for file, place in others if not file.exists())]
        places = [place for _, place in wanted]
        with ExitStack() as stack:
            outs = []
            for file, place in wanted:
                remove_stale(file)
                need = images.number * place.cut.numbers * 4
                outs.append(stack.enter_context(written(file, need=need)))
                npy_header(outs[-1], (images.number, *place.cut.features), np.dtype(np.float32))
            for start in range(0, images.number, self.batch_size):
                positions = np.arange(start, min(start + self.batch_size, images.number))
                for out, features in zip(outs, self._compute(places, self._given(images, positions)), strict=True):
                    out.write(np.ascontiguousarray(features.numpy(), np.float32).data)

    def _given(self, images: Images, positions: np.ndarray) -> Tensor:
        """Images as the network takes them."""
        from transfuse.data import AUGMENTATIONS

        part = images.part
        if images.views is None:
            return part.normalise(part.tensors(positions))
        augmentation = AUGMENTATIONS[self.spec.train.augment]
        return part.views(positions % len(part), positions // len(part), augmentation)

    def _compute(self, places: Sequence[Place], given: Tensor) -> list[Tensor]:
        from transfuse.models.prefix import features_at
        from transfuse.training.prediction import device_of

        model, cuts = self.network.model, [place.cut for place in places]
        self.passed += len(given) * (self._macs - min(place.macs_above for place in places))
        found = features_at(model, cuts, given.to(device_of(model)), batch_size=self.batch_size)
        return [one.cpu() for one in found]

    def _file(self, images: Images, place: Place) -> Path:
        prefix = [self._digests[block.name] for block in self.network.blocks[: place.blocks]]
        return self._path(images, weights=prefix, cut=(place.cut.path, place.cut.features, place.cut.image))

    def _lock(self, images: Images) -> Path:
        """One for all runs that may share: those that begin with the same weights, as far as their specs tell."""
        spec = self.spec
        seed = spec.seed if spec.init.depth == 0 else None
        return self._path(images, start=[spec.weights_sha256, spec.source_run, seed])

    def _path(self, images: Images, **more: object) -> Path:
        parts = {**self._common, **more}
        parts["images"] = hashlib.sha256(images.part.indices.astype("<i8").tobytes()).hexdigest()
        parts["views"] = None if images.views is None else [images.views, self.spec.train.augment]
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.npy"

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        """The digest of the weights of each block, by its name."""
        from transfuse.training.identity import digest_of_weights

        state = dict(self.network.model.state_dict())
        blocks = self.network.blocks
        return {block.name: digest_of_weights({k: v for k, v in state.items() if block.owns(k)}) for block in blocks}

    @cached_property
    def _common(self) -> dict[str, object]:
        import torch

        from transfuse.training.prediction import device_of

        spec, identity = self.spec, self.spec.identity()
        device = device_of(self.network.model)
        gpu = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
        return {
            "numerics": identity["numerics"],
            "model": [spec.model.name, spec.model.padding, spec.network_sha256],
            "data": {name: value for name, value in identity["data"].items() if name not in _OF_THE_SPLIT},
            "batch_size": self.batch_size,
            "threads": spec.train.threads,
            "machine": [processor(), device.type, *gpu],
            "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
            "versions": [version("torch"), version("timm")],
        }


def delete_features(root: Path) -> None:
    """Delete the features of a store; whoever reads them keeps what is open, others compute them again."""
    for file in (root / FOLDER).glob("*.npy"):  # not what another process is writing, which has a longer name
        file.unlink(missing_ok=True)


def _opened(file: Path, count: int, cut: Cut) -> np.ndarray | None:
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, cut short, or not an array
        return None
    return stored if stored.shape == (count, *cut.features) and stored.dtype == np.float32 else None
