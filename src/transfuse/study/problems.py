"""What would make runs of a study fail, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfuse.errors import DataError, TransfuseError
from transfuse.metrics import evaluate
from transfuse.specs import DataSpec, InitSpec, ModelSpec, StudySpec
from transfuse.study.sources import images_of, read_source
from transfuse.study.sweeps import Unfolded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transfuse.data import Part, Split


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


def network_problems(unfolded: Unfolded, splits: Mapping[DataSpec, Split]) -> list[str]:
    """Networks that cannot be built, blocks that they do not have, weights that do not fit them."""
    found: list[str] = []
    weights = _Weights(unfolded.study, splits)
    for network in _networks(unfolded):
        if network.data in splits:
            found += _problems(network, weights, splits[network.data])
    return list(dict.fromkeys(found))


class _Network(NamedTuple):
    path: str
    model: ModelSpec
    data: DataSpec
    arms: dict[str, tuple[str, InitSpec]]


def _networks(unfolded: Unfolded) -> Iterator[_Network]:
    """Every network that will be built, with the arms (path, init) it will start as."""
    study = unfolded.study
    for label, model in study.models.items():
        # The arms of a sweep differ in one number: the last of them stands for all.
        last = {name.partition("@")[0]: name for name in unfolded.arms[label]}
        arms = {name: (f"arms.{name}", study.arms[name]) for name in last.values()}
        yield _Network(f"models.{label}", model, study.data, arms)
        waiting = [model.weights, *(init.weights for _, init in arms.values())]
        done = set()
        while waiting:
            name = (waiting.pop() or "").removeprefix("run:")
            if name in study.sources and name not in done:
                done.add(name)
                own, init = study.source_model(name, model), study.sources[name].init
                waiting.append(own.weights)
                yield _Network(f"sources.{name}", own, study.source_data(name), {name: (f"sources.{name}.init", init)})


class _Weights:
    """The weights that arms start from, each read once; those of a run do not exist yet, so others stand for them."""

    def __init__(self, study: StudySpec, splits: Mapping[DataSpec, Split]) -> None:
        self.study, self.splits = study, splits
        self.read: dict[tuple[str, str | None], Mapping[str, Tensor]] = {}

    def of(self, name: str, model: ModelSpec, root: str | None) -> Mapping[str, Tensor] | None:
        """The weights `name`; None if the source itself has a problem, which is named elsewhere."""
        if not name.startswith("run:"):
            if (name, root) not in self.read:
                self.read[name, root] = read_source(name, root)
            return self.read[name, root]
        source = name.removeprefix("run:")
        data = self.study.source_data(source)
        if data not in self.splits:
            return None
        try:
            return _created(self.study.source_model(source, model), self.splits[data]).state_dict()
        except TransfuseError:
            return None


def _problems(network: _Network, weights: _Weights, split: Split) -> list[str]:
    from transfuse.study.network import build

    path, model, data, arms = network
    try:
        _created(model, split)
    except TransfuseError as error:
        return [f"{path}: {error}"]
    problems = []
    for where, init in arms.values():
        name = init.weights or model.weights
        source = None
        try:
            if init.uses_weights and name is not None:
                source = weights.of(name, model, data.root)
                if source is None:
                    continue
        except TransfuseError as error:
            problems.append(f"{where if init.weights else path}.weights: {error}")
            continue
        accept = "accept" if name is not None and name.startswith("run:") else None
        try:
            images = next(split.train.batches(8))[0]
            network_of_arm = build(
                model, init, images_of(split), source=source, identity_statistics=accept, batches=[images]
            )
            if init.lora is not None:
                from transfuse.models import add_lora_

                add_lora_(network_of_arm.model, network_of_arm.blocks, rank=init.lora)
        except TransfuseError as error:
            problems.append(f"{where} with {path}: {error}")
    return problems


def _created(model: ModelSpec, split: Split) -> nn.Module:
    from transfuse.models import create_model

    images = images_of(split)
    return create_model(model.name, images.classes, images.channels, image_size=images.size, padding=model.padding)
