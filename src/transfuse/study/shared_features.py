"""What frozen blocks make of the images, computed once for all runs of a study whose frozen blocks are the same.

The features of a part of the data are a file in `features/` beside `runs/`, named by what decides their bits: the
frozen weights, where the network is cut, the images, the batch size, threads, device, processor and version of torch.
The files are deleted when the study is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.errors import BlocksError, TrainingError
from transfuse.specs import RunSpec
from transfuse.study.measure import macs_of, processor, total_steps
from transfuse.study.network import kind_of
from transfuse.study.sources import images_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from transfuse.data import Split
    from transfuse.data.splits import Part
    from transfuse.models import Blocks
    from transfuse.models.prefix import Cut
    from transfuse.study.network import Network
    from transfuse.training import Epoch

FOLDER = "features"

_OF_THE_SPLIT = ("split_seed", "fractions", "official_split", "train_fraction", "duplicates")
_TRIED = 8
"""So many images show whether the network goes on from its features to the same bits."""


class Prefix(NamedTuple):
    """How deep another run freezes a network that starts as this one does: as in its `InitSpec`."""

    depth: int | str
    freeze: int | str


@dataclass
class Frozen:
    """How the frozen blocks of a run are dealt with.

    Attributes:
        split: what is trained and validated on: images, or features of the frozen blocks.
        check: what must not change while the rest is trained, for `fit`; None where nothing is frozen.
        cut: where features are taken, None where the images go through the whole network.
        macs_above: multiply-accumulate operations of an image from the cut on.
        passed: multiply-accumulate operations of the frozen blocks that were done in this run.
    """

    split: Split
    check: Callable[[nn.Module], str] | None = None
    cut: Cut | None = None
    macs_above: int = 0
    passed: int = field(default=0)

    def training_equivalents(self, macs: int | None, epochs: list[Epoch]) -> float:
        """The work that was done, as a share of that of the same training by itself, each image through all blocks.

        In multiply-accumulate operations, a backward pass counting twice a forward pass, for the blocks above the
        frozen ones.
        """
        if self.cut is None or not macs or not epochs:
            return 1.0
        below, above = macs - self.macs_above, self.macs_above
        trained = epochs[-1].epoch * len(self.split.train)
        validated = (len(epochs) + 1) * len(self.split.val)
        looked_at = validated + len(self.split.test)
        rest = (3 * trained + looked_at) * above
        return (self.passed + rest) / ((trained + looked_at) * below + rest)


@contextmanager
def frozen_features(
    network: Network, split: Split, spec: RunSpec, root: Path, siblings: tuple[Prefix, ...] = ()
) -> Iterator[Frozen]:
    """Within, the network is trained and used on features of its frozen blocks, where it has such that allow it.

    They do not allow it where their batch norms follow the batch, where images are augmented anew at each step (a bank
    of views is computed once) or tested in ten crops, in mixed precision, and where the network does not go on from its
    features to the very bits it makes of the images, which is tried first. Where the disk has no room, features are
    computed at each step: the numbers are the same.

    Args:
        network: the network, on the device where it will be trained; frozen as its arm says.
        split: the data.
        spec: the run.
        root: the store's folder.
        siblings: of other runs with the same first weights; their features are computed in the same pass.

    Raises:
        TrainingError: at the end, if the frozen blocks make other features than at the start.
    """
    import torch

    from transfuse.models import frozen_fingerprint
    from transfuse.models.memory_order import takes_channels_last
    from transfuse.models.prefix import going_on_from, why_not_from

    model, blocks = network.model, network.blocks
    frozen = Frozen(split, _whole_check(network, spec, split))
    count = _frozen_depth(spec, blocks)
    train = spec.train
    anew = train.augment != "none" and train.augmentation_bank is None
    if not count or anew or train.test_crops != "center" or train.precision != "no":
        yield frozen
        return
    macs, found = macs_of(model, spec, split), _cut(network, spec, split, count)
    if macs is None or found is None:
        yield frozen
        return
    cut, above = found
    images = split.val.normalise(split.val.tensors(np.arange(min(_TRIED, len(split.val))))).to(_device(model))
    if takes_channels_last(model, images):  # as in training, so that nothing changes between now and then
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    if why_not_from(model, cut, images) is not None:
        yield frozen
        return
    frozen.cut, frozen.macs_above, frozen.check = cut, above, frozen_fingerprint
    bank = _Bank(network, spec, root / FOLDER, cut, macs, frozen)
    frozen.split = bank.split(split, {count: found, **_cuts_of_siblings(network, spec, split, siblings)})
    batch = np.arange(min(train.batch_size, len(split.val)))
    first = frozen.split.val.tensors(batch)  # those of a file have been compared with what the network makes now
    with going_on_from(model, cut):
        yield frozen
    if not np.array_equal(first.numpy(), bank.features(split.val)):
        raise TrainingError(
            "the frozen part of the network moved: at the end it makes other features of the first validation images "
            "than at the start. Freeze with freeze_(), which also holds batch-norm statistics and dropout still"
        )


def delete_features(root: Path) -> None:
    """Delete the features of a store; whoever still reads them keeps what is open, others compute them again."""
    for file in (root / FOLDER).glob("*.npy*"):
        if file.suffix != ".lock":
            file.unlink(missing_ok=True)


def _frozen_depth(spec: RunSpec, blocks: Blocks) -> int:
    """How many of the lowest blocks neither change nor follow the batch."""
    if spec.init.norm_statistics != "frozen" or spec.init.lora is not None:
        return 0
    if spec.init.tune:
        return min(blocks.names.index(name) for name in spec.init.tune)
    return blocks.depth(spec.init.freeze)


Place = tuple["Cut", int]
"""A cut, and the multiply-accumulate operations of an image above it."""

_CUTS: dict[Hashable, Place | None] = {}
"""Where networks of each kind are cut: found once."""


def _cut(network: Network, spec: RunSpec, split: Split, count: int) -> Place | None:
    """The cut above so many blocks, None where there is none."""
    from transfuse.models.prefix import cut_of, macs_above

    images = images_of(split)
    kind = kind_of(spec, images), count
    if kind not in _CUTS:
        try:
            cut = cut_of(network.model, network.blocks, count, images.size, images.channels)
            _CUTS[kind] = cut, macs_above(network.model, cut)
        except BlocksError:
            _CUTS[kind] = None
    return _CUTS[kind]


def _cuts_of_siblings(network: Network, spec: RunSpec, split: Split, siblings: tuple[Prefix, ...]) -> dict[int, Place]:
    """The cuts at which other runs, whose weights below are the same, ask for features; by the blocks below."""
    blocks, found = network.blocks, dict[int, Place]()
    for other in siblings:
        count = blocks.depth(other.freeze)
        place = _cut(network, spec, split, count) if count else None
        if place is not None and count <= min(blocks.depth(other.depth), blocks.depth(spec.init.depth)):
            found[count] = place
    return found


class _Bank:
    """Where the features of a network are kept, and how they are computed."""

    def __init__(self, network: Network, spec: RunSpec, folder: Path, cut: Cut, macs: int, frozen: Frozen) -> None:
        self.network, self.spec, self.folder, self.cut, self.frozen = network, spec, folder, cut, frozen
        self.batch_size, self.views = spec.train.batch_size, spec.train.augmentation_bank
        self._macs = macs

    def split(self, split: Split, places: dict[int, Place]) -> Split:
        """The split with features instead of images; `places` are where they are taken, this run's first."""
        from transfuse.training.frozen_features import room_for

        images = (self.views or 1) * len(split.train) + len(split.val) + len(split.test)
        keep = room_for(self.folder, images, [cut for cut, _ in places.values()])
        places = places if keep else dict(list(places.items())[:1])
        keep = keep or room_for(self.folder, images, [self.cut])
        # a training that sees a part of its images once is not worth computing all of them
        steps = total_steps(self.spec, split)
        whole = steps * self.batch_size >= (self.views or 1) * len(split.train)
        return replace(
            split,
            train=self._part(split.train, places, keep and whole, self.views),
            val=self._part(split.val, places, keep, check=True),
            test=self._part(split.test, places, keep),
        )

    def features(self, part: Part) -> np.ndarray:
        """The features of the first images of a part, computed now, at this run's cut."""
        own = (self.cut, self.frozen.macs_above)
        return self._compute([own], part, None, np.arange(min(self.batch_size, len(part))))[0].numpy()

    def _part(
        self, part: Part, places: dict[int, Place], keep: bool, views: int | None = None, check: bool = False
    ) -> Part:
        from transfuse.training.frozen_features import FrozenPart, kept_features

        own = list(places.values())[:1]

        def compute(positions: np.ndarray) -> Tensor:
            return self._compute(own, part, views, positions)[0]

        if not keep:
            return FrozenPart(part, None, compute)
        files = [self.folder / f"{self._key(part, views, count, cut)}.npy" for count, (cut, _) in places.items()]
        make = partial(
            kept_features,
            files,
            [cut for cut, _ in places.values()],
            (views or 1) * len(part),
            partial(self._compute, list(places.values()), part, views),
            batch_size=self.batch_size,
            lock=self.folder / f"{self._key(part, views, 0, None)}.npy",
        )
        stored, new = make()
        if check and not new and not np.array_equal(stored[: self.batch_size], self.features(part)):
            files[0].unlink(missing_ok=True)
            stored, _ = make()
        return FrozenPart(part, stored, compute)

    def _compute(self, places: list[Place], part: Part, views: int | None, positions: np.ndarray) -> list[Tensor]:
        from transfuse.data import AUGMENTATIONS
        from transfuse.models.prefix import features_at

        model = self.network.model
        if views is None:
            images = part.normalise(part.tensors(positions))
        else:
            augmentation = AUGMENTATIONS[self.spec.train.augment]
            images = part.views(positions % len(part), positions // len(part), augmentation)
        images = images.to(_device(model))
        self.frozen.passed += len(positions) * (self._macs - min(above for _, above in places))
        cuts = [cut for cut, _ in places]
        return [one.cpu() for one in features_at(model, cuts, images, batch_size=self.batch_size)]

    def _key(self, part: Part, views: int | None, count: int, cut: Cut | None) -> str:
        """What decides the bits of the features; without a cut, what runs that may share them have in common."""
        from transfuse.training.identity import digest_of_weights

        state = self.network.model.state_dict() if cut is not None else {}
        prefix = self.network.blocks[:count]
        identity = self.spec.identity()
        # who locks: runs that begin with the same weights, as far as their specs tell
        seed = self.spec.seed if self.spec.init.depth == 0 else None
        start = [self.spec.weights_sha256, self.spec.source_run, seed] if cut is None else None
        parts = {
            "start": start,
            "weights": digest_of_weights({k: v for k, v in state.items() if any(one.owns(k) for one in prefix)}),
            "cut": None if cut is None else (cut.path, cut.features, cut.image),
            "model": [self.spec.model.name, self.spec.model.padding, self.spec.network_sha256],
            "data": {name: value for name, value in identity["data"].items() if name not in _OF_THE_SPLIT},
            "images": hashlib.sha256(part.indices.astype("<i8").tobytes()).hexdigest(),
            "views": None if views is None else [views, self.spec.train.augment],
            "batch_size": self.batch_size,
            "threads": self.spec.train.threads,
            "device": _device(self.network.model).type,
            "processor": processor(),
            "torch": version("torch"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _whole_check(network: Network, spec: RunSpec, split: Split) -> Callable[[nn.Module], str] | None:
    """What must not change while the rest is trained: the output of frozen blocks, or what frozen blocks hold."""
    from transfuse.models import frozen_fingerprint, prefix_fingerprint

    if spec.init.norm_statistics == "updated":
        return None
    if spec.init.tune:
        return frozen_fingerprint
    if not spec.init.freeze:
        return None
    batch, _ = next(split.val.batches(_TRIED))

    def output(model: nn.Module) -> str:
        return prefix_fingerprint(model, network.blocks, spec.init.freeze, batch.to(_device(model)))

    return output


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
