"""What can be read of a study file with mistakes, so that those outside the file are found in the same go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, get_args

from transfuse.errors import SpecError
from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.files import segments
from transfuse.specs.metric import Metric
from transfuse.specs.model import ModelSpec
from transfuse.specs.study import SourceSpec, StudySpec
from transfuse.specs.train import TrainSpec

Kind = TypeVar("Kind")

ANY = "?"
"""Names what stands in for something that is not known: a source."""


def readable_part(content: Mapping[str, Any]) -> StudySpec | None:
    """A study of the networks, arms and sources that can be read, on its data; None without data or a network.

    Where weights are missing, those of a source called `?` stand in for them, so that blocks can be looked up.
    """
    data = _read(DataSpec, content.get("data"))
    models, arms = readable_networks(content), _each(InitSpec, content.get("arms"))
    sources = _each(SourceSpec, content.get("sources"))
    if data is None or not models:
        return None
    stand_in = SourceSpec(train=TrainSpec(steps=1))

    def known(weights: str | None) -> bool:
        return weights is not None and (not weights.startswith("run:") or weights.removeprefix("run:") in sources)

    models = {
        label: model if known(model.weights) else replace(model, weights=f"run:{ANY}")
        for label, model in models.items()
    }
    arms = {name: arm if known(arm.weights) else replace(arm, weights=None) for name, arm in arms.items()}
    train = _read(TrainSpec, content.get("train")) or TrainSpec(steps=1, monitor="loss")
    single = [name for name, arm in arms.items() if not arm.sweeps]
    baseline = content.get("baseline", "random")
    if baseline not in single:
        baseline = single[0] if single else ANY
        arms = arms if single else {**arms, ANY: InitSpec()}
    sources[ANY] = stand_in
    while True:
        asked = [*(model.weights for model in models.values()), *(arm.weights for arm in arms.values())]
        asked += [weights for source in sources.values() for weights in _weights_of(source)]
        used = {name: source for name, source in sources.items() if f"run:{name}" in asked}
        if used == sources:
            break
        sources = used
    metric = content.get("metric", "dice" if segments(content.get("data")) else "auroc")
    try:
        return StudySpec(
            name="study",
            data=data,
            models=models,
            arms=arms,
            train=train,
            metric=metric if metric in get_args(Metric) else "accuracy",
            baseline=baseline,
            seeds=1,
            sources=sources,
        )
    except SpecError:
        return None


def readable_networks(content: Mapping[str, Any]) -> dict[str, ModelSpec]:
    """The networks of a study file that can be read."""
    return _each(ModelSpec, content.get("models"))


def _weights_of(source: SourceSpec) -> tuple[str | None, ...]:
    return source.init.weights, source.model.weights if source.model is not None else None


def _each(kind: type[Kind], content: Any) -> dict[str, Kind]:
    """The entries of a mapping that can be read."""
    entries = content.items() if isinstance(content, Mapping) else ()
    read = {str(name): _read(kind, entry) for name, entry in entries}
    return {name: entry for name, entry in read.items() if entry is not None}


def _read(kind: type[Kind], content: Any) -> Kind | None:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(content))
    except (ValidationError, TypeError, ValueError):
        return None
