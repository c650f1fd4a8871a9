"""What would make runs of a study fail, found before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from transfuse.errors import DataError, TransfuseError
from transfuse.metrics import COUNT_METRICS, METRICS, evaluate
from transfuse.specs import DataSpec, InitSpec, ModelSpec, StudySpec, TrainSpec
from transfuse.specs.arm import Level
from transfuse.study.measure import labels_of, patches_of
from transfuse.study.network import build, untrained
from transfuse.study.sources import images_of, read_source
from transfuse.study.sweeps import Unfolded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Part, Split
    from transfuse.data.patches import Patches
    from transfuse.models import Block


def device_problems(study: StudySpec, device: str) -> list[str]:
    """A device that is not there, or a precision that it does not have."""
    from transfuse.training.device import Runtime

    problems = []
    named = [
        ("train", study.train),
        *((f"sources.{name}.train", source.train) for name, source in study.sources.items()),
    ]
    for path, train in named:
        try:
            Runtime(device, train.precision)
        except TransfuseError as error:
            problems.append(f"{path}.precision: {error}" if train.precision != "no" else f"--device: {error}")
    return problems


def metric_problems(path: str, metric: str, part: Part) -> list[str]:
    """A metric that cannot be measured on a part, whatever a network predicts."""
    if metric == "loss":
        return []
    info = part.dataset.info
    if (info.task == "segmentation") != (metric in COUNT_METRICS):
        known = ", ".join(COUNT_METRICS if info.task == "segmentation" else METRICS)
        what = "masks" if info.task == "segmentation" else "labels of images"
        return [f"{path}: {metric} cannot be measured on {info.name}, which has {what}; choices: {known}"]
    if metric in COUNT_METRICS:
        return []
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(max(2, len(part.dataset.info.classes))), len(part))
    try:
        evaluate(metric, part.targets, scores)
    except DataError as error:
        return [f"{path}: {metric} cannot be measured on {part.dataset.info.name}: {error}"]
    return []


def training_problems(path: str, train: TrainSpec, part: Part) -> list[str]:
    """A loss that does not fit the labels, or a class that cannot be balanced."""
    from transfuse.data import class_weights
    from transfuse.data.augment import check_augmentation
    from transfuse.data.patches import check_patches
    from transfuse.training.losses import loss_name

    info, problems = part.dataset.info, []
    try:
        loss_name(train.loss, info.task)
    except TransfuseError as error:
        problems.append(f"{path}.loss: {error}")
    if info.task == "segmentation" and train.augmentation_bank is not None:
        problems.append(f"{path}.augmentation_bank: keeps views of images and none of masks; leave it out")
    if info.task == "segmentation" and train.test_crops == "ten":
        problems.append(f"{path}.test_crops: ten crops average outputs of images, and the data are masks; leave it out")
    try:
        check_augmentation(train.augment, info.spatial_dims)
    except TransfuseError as error:
        problems.append(f"{path}.augment: {error}")
    if (patches := patches_of(train)) is not None:
        try:
            check_patches(patches, part.dataset)
        except TransfuseError as error:
            problems.append(f"{path}.patch: {error}")
    if train.test_crops == "ten" and info.spatial_dims == 3:
        problems.append(f"{path}.test_crops: ten crops are of images, and {info.name} holds volumes; use center")
    if train.class_weights == "balanced":
        try:
            class_weights(labels_of(part), info.task, info.classes)
        except TransfuseError as error:
            problems.append(f"{path}.class_weights: {error}")
    return problems


def name_problems(models: Mapping[str, ModelSpec]) -> list[str]:
    """Networks whose names mean nothing, where it is not known which images they are for."""
    from transfuse.models import create_model, list_models

    problems = []
    for label, model in models.items():
        if model.name in list_models(spatial_dims=3):
            continue
        try:
            create_model(model.name, 2, padding=model.padding, device="meta")
        except TransfuseError as error:
            problems.append(f"models.{label}: {error}")
    return problems


class Found(NamedTuple):
    """What is wrong, and what is not wrong but should be known."""

    problems: list[str]
    notes: list[str]


def look_at_networks(unfolded: Unfolded, splits: Mapping[DataSpec, Split]) -> Found:
    """Networks that cannot be built or run, blocks that they do not have, weights that do not fit them."""
    found: dict[tuple[bool, str, str], list[str]] = {}  # a sentence about an arm is said once, of all its networks
    weights = _Weights(unfolded.study, splits)
    looked: list[_Network] = []
    for network in _networks(unfolded):
        if network.data in splits and network not in looked:  # a source with a network of its own serves all others
            looked.append(network)
            for note, about, networks, sentence in _Look(network, weights, splits[network.data]).all():
                found.setdefault((note, about, sentence), []).append(networks)
    texts = {
        is_note: [
            f"{about}{', '.join(dict.fromkeys(networks))}: {sentence}"
            for (note, about, sentence), networks in found.items()
            if note == is_note
        ]
        for is_note in (False, True)
    }
    return Found(texts[False], texts[True])


class _Network(NamedTuple):
    path: str
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
    arms: tuple[tuple[str, InitSpec], ...]


def _networks(unfolded: Unfolded) -> Iterator[_Network]:
    """Every network that will be built, with the arms (path, init) it will start as."""
    study = unfolded.study
    for label, model in study.models.items():
        # The arms of a sweep differ in one number: the last of them stands for all.
        last = {unfolded.sweeps.get(name, f"{name} alone"): name for name in unfolded.arms[label]}
        arms = tuple((f"arms.{name}", study.arms[name]) for name in last.values())
        yield _Network(f"models.{label}", model, study.data, study.train, arms)
        waiting = [(weights, model) for weights in (model.weights, *(init.weights for _, init in arms))]
        done = set()
        while waiting:
            weights, asking = waiting.pop()
            name = (weights or "").removeprefix("run:")
            if name in study.sources and (name, asking) not in done:
                done.add((name, asking))
                own, init = study.source_model(name, asking), study.sources[name].init
                waiting.append((own.weights, own))
                data, train = study.source_data(name), study.sources[name].train
                yield _Network(f"sources.{name}", own, data, train, ((f"sources.{name}.init", init),))


class _Weights:
    """The weights that arms start from, each read once; those of a run do not exist yet, so others stand for them."""

    def __init__(self, study: StudySpec, splits: Mapping[DataSpec, Split]) -> None:
        self.study, self.splits = study, splits
        self.read: dict[tuple[str, str | None], Mapping[str, Tensor] | str] = {}
        self.made: dict[tuple[ModelSpec, DataSpec], Mapping[str, Tensor] | None] = {}

    def of(self, name: str, model: ModelSpec, root: str | None) -> Mapping[str, Tensor] | str | None:
        """The weights `name`, or why they cannot be had; None if the source's problem is named elsewhere."""
        if not name.startswith("run:"):
            if (name, root) not in self.read:
                try:
                    self.read[name, root] = read_source(name, root)
                except TransfuseError as error:
                    self.read[name, root] = str(error)
            return self.read[name, root]
        source = name.removeprefix("run:")
        key = self.study.source_model(source, model), self.study.source_data(source)
        if key[1] not in self.splits:
            return None
        if key not in self.made:
            try:
                self.made[key] = untrained(key[0], images_of(self.splits[key[1]])).state_dict()
            except TransfuseError:
                self.made[key] = None
        return self.made[key]


_START = (
    *("depth", "level", "rest", "random", "norm", "biases", "embeddings", "overrides", "gabor_scale", "head"),
    *("truncate", "pool", "slim"),
)
"""The settings of an arm that make its network before the first step; the others say what of it is trained, and how."""

LEVELS: tuple[Level, ...] = get_args(Level)


class _Finding(NamedTuple):
    note: bool
    about: str
    networks: str
    sentence: str


class _Look:
    """One network, built once: each of its arms is tried on it."""

    def __init__(self, network: _Network, weights: _Weights, split: Split) -> None:
        self.network, self.weights, self.split = network, weights, split
        # What starts at random as a whole has nothing that may not fit.
        self.started: list[tuple[str | None, list[Any], nn.Module | None]] = [
            (None, _start(InitSpec(level=level)), None) for level in LEVELS
        ]

    def all(self) -> Iterator[_Finding]:
        """Every finding, the network's own before those of its arms."""
        path = self.network.path
        try:
            model = untrained(self.network.model, images_of(self.split))
        except TransfuseError as error:
            yield _Finding(False, "", path, str(error))
            return
        patches = patches_of(self.network.train)
        if patches is not None and (wrong := _patch_problem(model, patches, self.split)):
            patches = None
            yield _Finding(False, "patch of ", path, wrong)
        if wrong := _forward_problem(self.network.model.name, model, self.split, patches):
            yield _Finding(False, "", path, wrong)
        for where, init in self.network.arms:
            yield from self._of_arm(where, init, model)

    def _of_arm(self, where: str, init: InitSpec, model: nn.Module) -> Iterator[_Finding]:
        path = self.network.path
        name = (init.weights or self.network.model.weights) if init.uses_weights else None
        source = None if name is None else self.weights.of(name, self.network.model, self.network.data.root)
        if isinstance(source, str):
            own = bool(init.weights)
            yield _Finding(False, f"{where}.weights" if own else "", "" if own else f"{path}.weights", source)
        elif name is None or source is not None:
            try:
                if frozen := self._frozen_identities(init, self._started(init, name, source, model)):
                    yield _Finding(True, f"{where} with ", path, _IDENTITIES.format(frozen))
            except TransfuseError as error:
                yield _Finding(False, f"{where} with ", path, str(error))

    def _started(
        self, init: InitSpec, name: str | None, source: Mapping[str, Tensor] | None, model: nn.Module
    ) -> nn.Module:
        """The network as an arm starts it; where another arm started the same way, it need not be done again."""
        for known, start, made in self.started:
            if (known, start) == (name, _start(init)) and init.l2_sp is None:
                return made or model
        accept = "accept" if name is not None and name.startswith("run:") else None
        # L2-SP needs to know what is trained; for all else it is enough to start the network.
        settings = init if init.l2_sp is not None else InitSpec(**dict(zip(_START, _start(init), strict=True)))
        batches = [next(self.split.train.batches(8))[0]]
        built = build(
            self.network.model,
            settings,
            images_of(self.split),
            source=source,
            identity_statistics=accept,
            batches=batches,
            model=model,
        )
        self.started.append((name, _start(init), built.model))
        return built.model

    def _frozen_identities(self, init: InitSpec, model: nn.Module) -> str:
        """Freezes what the arm freezes and adds its adapters; names the frozen batch norms that are identities."""
        from transfuse.models import add_lora_, blocks_of, freeze_, tune_only_

        blocks = blocks_of(model, init.level)
        try:
            if init.freeze:
                freeze_(model, blocks, init.freeze, norm_statistics=init.norm_statistics)
            if init.tune:
                tune_only_(model, blocks, init.tune, norm_statistics=init.norm_statistics)
        finally:
            freeze_(model, blocks, 0)
        if init.lora is not None:
            add_lora_(copy.deepcopy(model), blocks, rank=init.lora)
        if init.norm != "identity" or init.norm_statistics != "frozen" or not (init.freeze or init.tune):
            return ""
        frozen = blocks[: blocks.depth(init.freeze)] if init.freeze else [b for b in blocks if b.name not in init.tune]
        try:
            transferred = blocks[: blocks.depth(init.depth)]
        except TransfuseError:  # a block that was cut off: all that are left are transferred
            return ""
        names = [block.name for block in frozen if block not in transferred and _has_statistics(model, block)]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _start(init: InitSpec) -> list[Any]:
    return [getattr(init, name) for name in _START]


_IDENTITIES = (
    "frozen blocks ({}) whose batch norm is an identity, for it has seen no image: it does not normalise, so numbers "
    "may grow from block to block, and little can be learned of them. norm_statistics: updated lets frozen batch norms "
    "normalise, as the papers' code does"
)


def _has_statistics(model: nn.Module, block: Block) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(
        isinstance(module, _BatchNorm) and module.running_mean is not None and block.owns(name)
        for name, module in model.named_modules()
    )


def _patch_problem(model: nn.Module, patches: Patches, split: Split) -> str:
    """What is wrong with the patches for a network; empty if nothing is, or if the data have none (said elsewhere)."""
    from transfuse.training.windows import check_windows

    try:
        check_windows(model, patches, split.train.dataset)
    except DataError:
        return ""
    except TransfuseError as error:
        return str(error)
    return ""


def _forward_problem(name: str, model: nn.Module, split: Split, patches: Patches | None) -> str:
    """What is wrong with what a network makes of two images, or of patches of them; empty if nothing is."""
    import torch

    from transfuse.training.prediction import output_shape

    images = next(split.train.batches(2))[0]
    if patches is not None and images.ndim == 5:
        depth, height, width = patches.box
        images = images[..., :depth, :height, :width]
    expected = output_shape(split.train, images)
    own = ":" in name
    mode = model.training
    try:
        with torch.no_grad():
            found = model.eval()(images)
    except Exception as error:  # whatever a network of somebody's own may raise
        reason = (str(error).splitlines() or [""])[0]
        cure = f"Mend {name!r}" if own else "Use larger images (data.size), or another network"
        return f"{name!r} fails on images of shape {tuple(images.shape)} ({type(error).__name__}: {reason}). {cure}"
    finally:
        model.train(mode)
    if not isinstance(found, torch.Tensor):
        return f"{name!r} returns a {type(found).__name__}; expected a tensor of shape {expected}, one row an image"
    maps = "unet_resnet18" if images.ndim == 4 else "unet3d"
    if tuple(found.shape) != expected and found.ndim != len(expected):
        return (
            f"{name!r} makes outputs of shape {tuple(found.shape)} from {len(images)} images; expected {expected}: "
            + (
                f"the data have masks, which take a network of maps, such as {maps}"
                if len(expected) > 2
                else "the data have labels of images, and this is a network of maps, for data with masks"
            )
        )
    if tuple(found.shape) != expected:
        cure = (
            f"use the argument `classes` in {name!r} for the outputs of its last layer"
            if own
            else "take a network that gives one output for each class"
        )
        return (
            f"{name!r} makes outputs of shape {tuple(found.shape)} from {len(images)} images; expected {expected}, one "
            f"for each of the {expected[1]} classes: {cure}"
        )
    return ""
