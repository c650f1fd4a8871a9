"""Training on what frozen blocks make of the images, computed once for all runs whose frozen blocks are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.errors import BlocksError, TrainingError
from transfuse.specs import RunSpec
from transfuse.study.feature_files import FeatureFiles, Images, Place
from transfuse.study.lengths import total_steps
from transfuse.study.measure import macs_of
from transfuse.study.network import kind_of
from transfuse.study.sources import images_of

if TYPE_CHECKING:
    from torch import nn

    from transfuse.data import Split
    from transfuse.models import Blocks
    from transfuse.study.network import Network
    from transfuse.training import Epoch

_TRIED = 8
"""So many images show whether the network goes on from its features to the same bits."""


class Sibling(NamedTuple):
    """How deep a run freezes a network that starts as this one does: as in its `InitSpec`."""

    depth: int | str
    freeze: int | str


@dataclass
class Frozen:
    """How the frozen blocks of a run are dealt with.

    Attributes:
        split: what is trained and validated on: images, or features of the frozen blocks.
        check: what must not change while the rest is trained, for `fit`; None where nothing is frozen.
        files: the features; None where the images go through the whole network.
        why_not: why the network does not go on from features, where it was tried and does not.
    """

    split: Split
    check: Callable[[nn.Module], str] | None = None
    files: FeatureFiles | None = None
    why_not: str | None = None

    def training_equivalents(self, macs: int | None, epochs: list[Epoch]) -> float:
        """The work that was done, as a share of that of the same training by itself, each image through all blocks.

        In multiply-accumulate operations, a backward pass counting twice a forward pass, for the blocks above the
        frozen ones. What was done before an interruption is counted as if its features had been found.
        """
        if self.files is None or not macs or not epochs:
            return 1.0
        above = self.files.places[0].macs_above
        trained = epochs[-1].epoch * len(self.split.train)
        looked_at = (len(epochs) + 1) * len(self.split.val) + len(self.split.test)
        rest = (3 * trained + looked_at) * above
        return (self.files.passed + rest) / ((trained + looked_at) * (macs - above) + rest)


@contextmanager
def frozen_features(
    network: Network, split: Split, spec: RunSpec, root: Path, siblings: tuple[Sibling, ...] = ()
) -> Iterator[Frozen]:
    """Within, the network is trained and used on features of its frozen blocks, where it has such that allow it.

    They do not allow it where their batch norms follow the batch, where images are augmented anew at each step (a bank
    of views is computed once), cut into patches or tested in ten crops, in mixed precision, and where the network does
    not go on from its features to the very bits it makes of the images, which is tried first. Where the disk has no
    room, features are computed at each step: the numbers are the same.

    Args:
        network: the network, on the device where it will be trained; frozen as its arm says.
        split: the data.
        spec: the run.
        root: the store's folder.
        siblings: of runs with the same first weights; their features are computed in the same pass.

    Raises:
        TrainingError: at the end, if the frozen blocks make other features than at the start.
    """
    import torch

    from transfuse.models import frozen_fingerprint
    from transfuse.models.memory_order import takes_channels_last
    from transfuse.models.prefix import going_on_from, why_not_from
    from transfuse.training.prediction import device_of

    model = network.model
    frozen = Frozen(split, _whole_check(network, spec, split))
    count, train = _frozen_depth(spec, network.blocks), spec.train
    anew = train.augment != "none" and train.augmentation_bank is None
    if not count or anew or train.test_crops != "center" or train.precision != "no" or train.patch is not None:
        yield frozen
        return
    macs, own = macs_of(model, spec, split), _place(network, spec, split, count)
    if macs is None or own is None:
        yield frozen
        return
    tried = split.val.normalise(split.val.tensors(np.arange(min(_TRIED, len(split.val))))).to(device_of(model))
    if takes_channels_last(model, tried):  # as in training, so that nothing changes between now and then
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    frozen.why_not = why_not_from(model, own.cut, tried)
    if frozen.why_not is not None:
        yield frozen
        return
    places = [own, *_places_of_siblings(network, spec, split, siblings, own)]
    files = frozen.files = FeatureFiles(network, spec, root, places, macs)
    images = {
        "train": Images(split.train, train.augmentation_bank),
        "val": Images(split.val),
        "test": Images(split.test),
    }
    first = dict(zip(images, files.sample(list(images.values())), strict=True))
    sharing = max(1, sum(one.freeze == spec.init.freeze for one in siblings))
    frozen.split = _on_features(files, split, images, first, sharing)
    frozen.check = frozen_fingerprint
    with going_on_from(model, own.cut):
        yield frozen
    if not all(map(np.array_equal, first.values(), files.sample(list(images.values())))):
        raise TrainingError(
            "the frozen part of the network moved: at the end it makes other features of the same images than at the "
            "start. Freeze with freeze_(), which also holds batch-norm statistics and dropout still"
        )


def _on_features(
    files: FeatureFiles, split: Split, images: dict[str, Images], first: dict[str, np.ndarray], sharing: int
) -> Split:
    """The split with features instead of images.

    Args:
        files: where features are kept.
        split: the data.
        images: what passes through the network, by part.
        first: the features of the first of them, as the network makes them now; files that hold others are replaced.
        sharing: how many runs share the features.
    """
    from transfuse.training.frozen_part import FrozenPart

    # a training that sees a part of its images once is not worth computing all of them
    seen = sharing * total_steps(files.spec, split) * files.batch_size
    worth = {name: one for name, one in images.items() if name != "train" or seen >= one.number}
    stored = {name: files.kept(one) for name, one in worth.items()} if files.room_for(list(worth.values())) else {}
    if any(
        kept is not None and not np.array_equal(kept[: len(first[name])], first[name]) for name, kept in stored.items()
    ):
        for name in stored:
            files.drop(images[name])
        stored = {name: files.kept(images[name]) for name in stored}
    found = {name: FrozenPart(one.part, stored.get(name), partial(files.compute, one)) for name, one in images.items()}
    return replace(split, train=found["train"], val=found["val"], test=found["test"])


def _frozen_depth(spec: RunSpec, blocks: Blocks) -> int:
    """How many of the lowest blocks neither change nor follow the batch."""
    if spec.init.norm_statistics != "frozen" or spec.init.lora is not None:
        return 0
    if spec.init.tune:
        return min(blocks.names.index(name) for name in spec.init.tune)
    return blocks.depth(spec.init.freeze)


_CUTS: dict[Hashable, Place | None] = {}
"""Where networks of each kind are cut: found once."""


def _place(network: Network, spec: RunSpec, split: Split, count: int) -> Place | None:
    """The cut above so many blocks, None where there is none."""
    from transfuse.models.prefix import cut_of, macs_above

    images = images_of(split)
    kind = kind_of(spec, images), count
    if kind not in _CUTS:
        try:
            cut = cut_of(network.model, network.blocks, count, images.size, images.channels)
            _CUTS[kind] = Place(count, cut, macs_above(network.model, cut))
        except BlocksError:
            _CUTS[kind] = None
    return _CUTS[kind]


def _places_of_siblings(
    network: Network, spec: RunSpec, split: Split, siblings: tuple[Sibling, ...], own: Place
) -> list[Place]:
    """The cuts at which other runs, whose weights below are the same, ask for features, but for this run's."""
    blocks, found = network.blocks, dict[int, Place]()
    for other in siblings:
        count = blocks.depth(other.freeze)
        if 0 < count <= min(blocks.depth(other.depth), blocks.depth(spec.init.depth)) and count != own.blocks:
            place = _place(network, spec, split, count)
            if place is not None:
                found[count] = place
    return list(found.values())


def _whole_check(network: Network, spec: RunSpec, split: Split) -> Callable[[nn.Module], str] | None:
    """What must not change while the rest is trained: the output of frozen blocks, or what frozen blocks hold."""
    from transfuse.models import frozen_fingerprint, prefix_fingerprint
    from transfuse.training.prediction import device_of

    if spec.init.norm_statistics == "updated":
        return None
    if spec.init.tune:
        return frozen_fingerprint
    if not spec.init.freeze:
        return None
    batch, _ = next(split.val.batches(_TRIED))

    def output(model: nn.Module) -> str:
        return prefix_fingerprint(model, network.blocks, spec.init.freeze, batch.to(device_of(model)))

    return output
