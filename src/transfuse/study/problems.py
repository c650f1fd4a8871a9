"""What would make runs of a study fail, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.errors import DataError, TransfuseError
from transfuse.metrics import evaluate
from transfuse.specs import DataSpec, InitSpec, ModelSpec, StudySpec
from transfuse.study.sources import read_source

if TYPE_CHECKING:
    from torch import Tensor

    from transfuse.data import DatasetInfo, Part, Split


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
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(max(2, len(part.dataset.info.classes))), len(part))
    try:
        evaluate(metric, part.targets, scores)
    except DataError as error:
        return [f"{path}: {metric} cannot be measured on {part.dataset.info.name}: {error}"]
    return []


def network_problems(study: StudySpec, splits: Mapping[DataSpec, Split]) -> list[str]:
    """Networks that cannot be built, blocks that they do not have, weights that do not fit them."""
    problems: list[str] = []
    for network in _networks(study):
        if network.data in splits:
            problems += _problems(study, network, splits)
    return problems


class _Network(NamedTuple):
    path: str
    model: ModelSpec
    data: DataSpec
    arms: dict[str, tuple[str, InitSpec]]


def _networks(study: StudySpec) -> Iterator[_Network]:
    """Every network that will be built, with the arms (path, init) it will start as."""
    for label, model in study.models.items():
        arms = {name: (f"arms.{name}", init) for name, init in study.arms.items()}
        yield _Network(f"models.{label}", model, study.data, arms)
        name = (model.weights or "").removeprefix("run:")
        if name in study.sources:
            source = study.sources[name]
            own = source.model or replace(model, weights=None)
            yield _Network(f"sources.{name}", own, source.data, {name: (f"sources.{name}.init", source.init)})


def _problems(study: StudySpec, network: _Network, splits: Mapping[DataSpec, Split]) -> list[str]:
    from transfuse.inits import initialise_
    from transfuse.models import blocks_of

    path, model, data, arms = network
    info, size = splits[data].test.dataset.info, splits[data].test.dataset.size
    try:
        built = _build(model, info, size)
    except TransfuseError as error:
        return [f"{path}: {error}"]
    try:
        weights, measured = _weights(study, network, splits)
    except TransfuseError as error:
        return [f"{path}.weights: {error}"]
    problems = []
    for where, init in arms.values():
        try:
            blocks = blocks_of(built, init.level)
            blocks.depth(init.freeze)
            if init.needs_weights and weights is None:
                blocks.depth(init.depth)  # the source itself has a problem, which is named elsewhere
                continue
            initialise_(
                built,
                blocks,
                source=weights if init.needs_weights else None,
                depth=init.depth,
                rest=init.rest,
                random=init.random,
                norm=init.norm,
                biases=init.biases,
                head=init.head,
                overrides=init.overrides,
                first_layer=model.first_layer,
                identity_statistics=model.identity_statistics if measured else "accept",
            )
        except TransfuseError as error:
            problems.append(f"{where} with {path}: {error}")
    return problems


def _build(model: ModelSpec, info: DatasetInfo, size: int):  # type: ignore[no-untyped-def]
    from transfuse.models import create_model

    return create_model(
        model.name, classes=len(info.classes), channels=info.channels, image_size=size, padding=model.padding
    )


def _weights(
    study: StudySpec, network: _Network, splits: Mapping[DataSpec, Split]
) -> tuple[dict[str, Tensor] | None, bool]:
    """The weights the arms will start from, and whether they are the real ones: those of a run do not exist yet."""
    model = network.model
    if model.weights is None or not any(init.needs_weights for _, init in network.arms.values()):
        return None, False
    if not model.weights.startswith("run:"):
        return read_source(model.weights, network.data.root), True
    source = study.sources[model.weights.removeprefix("run:")]
    if source.data not in splits:
        return None, False
    dataset = splits[source.data].test.dataset
    try:
        return _build(source.model or model, dataset.info, dataset.size).state_dict(), False
    except TransfuseError:
        return None, False
