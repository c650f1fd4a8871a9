"""Look up what a run needs from outside: its images, and the weights it starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from transfuse.errors import BlocksError, StoreError, TransferError
from transfuse.results.store import Store
from transfuse.specs import DataSpec, ModelSpec, RunSpec
from transfuse.study.network import Images
from transfuse.study.sweeps import BlockName, BlockNames

if TYPE_CHECKING:
    from torch import nn

    from transfuse.data import Dataset, Split
    from transfuse.models import Blocks
    from transfuse.models.weights import Weights, WeightsFile

_OPEN = tuple(
    field.name
    for field in dataclasses.fields(DataSpec)
    if field.name not in ("name", "split_seed", "fractions", "official_split", "train_fraction", "duplicates")
)


def open_data(spec: DataSpec) -> Dataset:
    """Open the data set that a study names."""
    from transfuse.data import open_dataset

    return open_dataset(spec.name, **{name: getattr(spec, name) for name in _OPEN})


def split_data(spec: DataSpec, dataset: Dataset) -> Split:
    """Cut it into train, val and test as the study says."""
    from transfuse.data import split_by_patient

    return split_by_patient(
        dataset,
        seed=spec.split_seed,
        fractions=spec.fractions,
        official=spec.official_split,
        train_fraction=spec.train_fraction,
        duplicates=spec.duplicates,
    )


def images_of(split: Split) -> Images:
    """What a network must fit."""
    dataset = split.train.dataset
    return Images(len(dataset.info.classes), dataset.info.channels, dataset.size, dataset.info.spatial_dims)


def block_names(data: DataSpec) -> BlockNames:
    """Looks up the blocks of networks that are to fit the images of `data`, which are opened when first asked for."""
    from transfuse.inits.roles import role_of
    from transfuse.models import blocks_of, create_model
    from transfuse.models.truncate_unet import decoder_needs, ends_of_stages, is_unet

    opened = cache(lambda: open_data(data))

    @cache
    def found(model: ModelSpec, level: str) -> tuple[BlockName, ...]:
        dataset = opened()
        network = create_model(
            model.name,
            len(dataset.info.classes),
            dataset.info.channels,
            dataset.info.spatial_dims,
            image_size=dataset.size,
            padding=model.padding,
            device="meta",
        )
        blocks, modules = blocks_of(network, level), dict(network.named_modules())
        roles: dict[str, set[str]] = {block.name: set() for block in blocks}
        for name in network.state_dict():
            if (owner := blocks.owner(name)) in roles:
                roles[owner].add(role_of(modules[name.rpartition(".")[0]], name))
        ends = _ends_of_stages(network, blocks)
        maps = is_unet(network)  # whose decoder goes with its encoder's stages
        cuts = ends_of_stages(network, blocks) if maps else (len(blocks),)
        needs = decoder_needs(network, blocks) if maps else {}
        return tuple(
            BlockName(
                one.name,
                one.cut or place in cuts,
                one.stays,
                frozenset(roles[one.name]),
                ends.get(place),
                needs.get(one.name, 0),
            )
            for place, one in enumerate(blocks, 1)
        )

    return found


def _ends_of_stages(network: nn.Module, blocks: Blocks) -> dict[int, int]:
    """The number of the stage that ends after so many blocks, where one does."""
    from transfuse.models import blocks_of

    try:
        stages = blocks_of(network, "stage")
    except BlocksError:  # a network that is known at another level only
        return {}
    numbers = {stage.name: number for number, stage in enumerate(stages, 1)}
    owned: dict[str, list[int]] = {}  # of each block, the stages of its entries
    left = Counter[int]()
    for key in network.state_dict():
        stage = numbers.get(stages.owner(key), 0)
        owned.setdefault(blocks.owner(key), []).append(stage)
        left[stage] += 1
    ends = {}
    for place, block in enumerate(blocks, 1):
        for stage in owned.get(block.name, ()):
            left[stage] -= 1
        reached = max(owned.get(block.name, [0]))
        if reached and not any(left[stage] for stage in range(1, reached + 1)):
            ends[place] = reached
    return ends


@cache
def fingerprint(spec: DataSpec) -> str:
    """The fingerprint of a data set; each is opened once."""
    return open_data(spec).info.fingerprint


@cache
def weights_sha256(source: str, root: str | None) -> str:
    """The SHA-256 of a weights file or of a timm tag's file."""
    return _find(source, root).sha256


def network_sha256(model: ModelSpec, data: DataSpec) -> str | None:
    """The digest of a network of one's own, `package.module:function`; None for any other, which its name stands for.

    It holds the names and shapes of the network's weights and the source of its module, with the modules beside it
    that it takes something from: a network that was changed is another one.
    """
    if ":" not in model.name:
        return None
    from transfuse.models import create_model
    from transfuse.models.foreign import source_files

    dataset = open_data(data)
    info = dataset.info
    network = create_model(
        model.name,
        len(info.classes),
        info.channels,
        info.spatial_dims,
        image_size=dataset.size,
        padding=model.padding,
    )
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    digest = hashlib.sha256(json.dumps(shapes).encode())
    for name, path in source_files(model.name).items():
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_source(source: str, root: str | None) -> Weights:
    """The tensors of a weights file or of a timm tag's file."""
    from transfuse.models import load_weights

    return load_weights(source, Path(root) if root else None)


def _find(source: str, root: str | None) -> WeightsFile:
    from transfuse.models.weights import find_weights

    return find_weights(source, Path(root) if root else None)


def normalisation_note(spec: DataSpec, dataset: Dataset, weights: str | None) -> str:
    """What to know where weights of a timm tag were trained on images normalised otherwise; empty where nothing is."""
    if weights is None or weights.startswith("run:"):
        return ""
    file = _find(weights, spec.root)
    if file.mean is None or file.std is None:
        return ""
    theirs = [sum(values) / len(values) for values in (file.mean, file.std)]
    ours = [sum(values) / len(values) for values in (dataset.mean, dataset.std)]
    if all(abs(one - other) < 0.02 for one, other in zip(theirs, ours, strict=True)):
        return ""
    return (
        f"The weights {weights} were trained on images normalised by mean {list(file.mean)} and standard deviation "
        f"{list(file.std)}, and these are by {list(dataset.mean)} and {list(dataset.std)}: set data.normalise to "
        "theirs, or the pretrained arms are at a disadvantage."
    )


def source_normalisation_note(theirs: object, ours: object, where: str) -> str:
    """What to know where a source's images are normalised otherwise than the study's; empty where they are not.

    Args:
        theirs: `normalise` of the source's data.
        ours: of the study's.
        where: whose it is, for the sentence.
    """
    if json.dumps(theirs) == json.dumps(ours):
        return ""
    return (
        f"{where}: the source is trained on images normalised by {json.dumps(theirs)}, and what starts from it by "
        f"{json.dumps(ours)}: give both the same normalise, or the pretrained arms are at a disadvantage."
    )


def source_weights(spec: RunSpec, store: Store) -> Weights | None:
    """The weights that a run starts from; None for a random start."""
    from transfuse.models import load_weights

    if not spec.init.uses_weights or spec.model.weights is None:
        return None
    if spec.source_run is None:
        weights = read_source(spec.model.weights, spec.data.root)
        if weights.sha256 != spec.weights_sha256:
            raise TransferError(
                f"the weights {str(weights.path)!r} changed after planning; start the study again to plan it on "
                "the weights as they are"
            )
        return weights
    path = store.run_folder(spec.source_run) / "best.safetensors"
    if not path.exists():
        raise StoreError(
            f"the source run {spec.source_run} has no weights at {path}; start the study again to train it"
        )
    return load_weights(str(path))
