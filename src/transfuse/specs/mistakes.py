"""What is wrong with a study file, in sentences: where, what was expected, what was found."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from transfuse.errors import SpecError, nearest
from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.model import ModelSpec
from transfuse.specs.study import StudySpec
from transfuse.specs.train import OptimizerSpec, ScheduleSpec, StoppingSpec, TrainSpec


def problems_of(errors: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pydantic's errors as (where, sentence); several about one value that may be of several types become one."""
    own: list[tuple[str, str]] = []
    foreign: dict[str, list[str]] = {}
    for error in _without_consequences(errors):
        keys, spec = walk(error["loc"])
        path = ".".join(keys)
        refusal = error.get("ctx", {}).get("error")
        if isinstance(refusal, SpecError):
            own += [(path, f"{path}: {problem}" if path else problem) for problem in refusal.problems]
        else:
            foreign.setdefault(path, []).append(_sentence(error, path, spec))
    return [(path.rpartition(".")[0], _merge(found)) for path, found in foreign.items()] + own


def _without_consequences(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Less those that are no mistake of their own.

    Of a key that takes a word or a mapping (`tune`), that a mapping is no such word; of a key that is misspelled, that
    it is missing.
    """
    misspelled = [walk(error["loc"])[0] for error in errors if error["type"] == "unexpected_keyword_argument"]
    kept = []
    for error in errors:
        keys, owner = walk(error["loc"])
        if len(keys) < len(error["loc"]) and error["type"] == "literal_error" and isinstance(error["input"], dict):
            continue
        if error["type"] == "missing" and dataclasses.is_dataclass(owner):
            names = [entry.name for entry in dataclasses.fields(owner)]
            beside = [key[-1] for key in misspelled if key[:-1] == keys[:-1]]
            if any(f"did you mean {keys[-1]!r}?" in nearest(key, names) for key in beside):
                continue
        kept.append(error)
    return kept


def walk(loc: Sequence[str | int]) -> tuple[list[str], Any]:
    """The part of a pydantic location that a person wrote, and the dataclass that owns its last key."""
    keys: list[str] = []
    kind: Any = StudySpec
    owner: Any = StudySpec
    for key in loc:
        choices = [k for k in (typing.get_args(kind) or (kind,)) if dataclasses.is_dataclass(k)]
        if typing.get_origin(kind) is dict:
            owner, kind = None, typing.get_args(kind)[1]
        elif typing.get_origin(kind) is tuple and isinstance(key, int):
            owner, kind = None, typing.get_args(kind)[0]
        elif dataclasses.is_dataclass(kind) or choices:
            owner = kind if dataclasses.is_dataclass(kind) else choices[0]
            if str(key) == owner.__name__:
                kind = owner
                continue  # the branch of a union, which nobody wrote
            if re.fullmatch(r"literal\[.*\]", str(key)):
                break  # another branch
            kind = typing.get_type_hints(owner).get(str(key))
        elif isinstance(key, int):
            owner, kind = None, None
        else:
            break  # the branch of a union of plain values
        keys.append(str(key))
    return keys, owner


def _sentence(error: Mapping[str, Any], path: str, owner: Any) -> str:
    value, key = error["input"], path.rpartition(".")[2]
    if error["type"] == "missing" and isinstance(value, list | tuple):  # a list that is too short
        path, example = path.rpartition(".")[0], _example(path.rpartition(".")[0])
        return f"{path}: expected a longer list{example}, found {json.dumps(value)}"
    if error["type"] == "missing":
        return f"{path}: missing; it has no default{_example(path)}"
    if error["type"] == "unexpected_keyword_argument":
        names = [entry.name for entry in dataclasses.fields(owner)] if owner else []
        return f"{path}: unknown key; {_elsewhere(key, owner, names)}{nearest(key, names)}"
    if error["type"] == "literal_error":
        names = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        if path == "tune":
            return f"{path}: {value!r} is unknown; expected {' or '.join(names)}, or{_example(path)[6:]}"
        return f"{path}: {value!r} is unknown; {nearest(str(value), names)}"
    expected = _EXPECTED.get(error["type"]) or error["msg"].removeprefix("Input should be ").replace("valid ", "")
    shown = "nothing" if value is None else json.dumps(value) if isinstance(value, dict | list) else repr(value)
    return f"{path}: expected {expected}{_example(path) if expected in _OPAQUE else ''}, found {shown}"


def _elsewhere(key: str, owner: Any, names: Sequence[str]) -> str:
    """Where a key belongs that is none here, and is no misspelling of one; empty where it belongs nowhere."""
    homes = {
        "the study itself": StudySpec,
        "data": DataSpec,
        "models.<name>": ModelSpec,
        "arms.<name>": InitSpec,
        "train": TrainSpec,
        "train.optimizer": OptimizerSpec,
        "train.schedule": ScheduleSpec,
        "train.stopping": StoppingSpec,
    }
    if key in ("name", "seed") or "did you mean" in nearest(key, names):
        return ""
    found = [
        where
        for where, spec in homes.items()
        if spec is not owner and key in {entry.name for entry in dataclasses.fields(spec)}
    ]
    return f"it is a key of {' and of '.join(found)}, give it there. " if found else ""


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
}
_OPAQUE = ("text", "a list", "a mapping")
_EXAMPLES = {
    "name": "my-study",
    "data": "{name: my/table.csv}",
    "data.name": "my/table.csv",
    "label_columns": "[grade]",
    "fractions": "[0.64, 0.16, 0.2]",
    "models": "{small: {name: cbr_small}}",
    "models.*": "{name: resnet50}",
    "models.*.name": "resnet50",
    "arms": "{random: {}, pretrained: {depth: all}}",
    "arms.*": "{depth: all}",
    "overrides": "{conv1: gabor}",
    "tune": "{learning_rates: [1e-4, 3e-4, 1e-3]}",
    "arms.*.tune": "[layer1]",
    "learning_rates": "[1e-4, 3e-4, 1e-3]",
    "train": "{epochs: 20}",
    "optimizer": "{learning_rate: 1e-4}",
    "schedule": "{name: step, milestones: [30, 60]}",
    "stopping": "{patience: 5}",
    "milestones": "[30, 60]",
    "snapshots": "[10, 100]",
    "pairs": "[[pretrained, mean_var]]",
    "pairs.*": "[pretrained, mean_var]",
    "seeds": "[0, 1, 2]",
    "sources": "{first: {data: {name: cifar100}, train: {epochs: 10}}}",
    "sources.*": "{train: {epochs: 10}}",
    "analyses": "[cka, knn]",
    "blocks": "[layer1, layer4]",
}


def _example(path: str) -> str:
    """What may stand at a path: the examples are known by the whole path or by its last key."""
    first, *rest = path.split(".")
    named = [".".join([first, "*", *rest[1:]])] if first in ("models", "arms", "sources", "pairs") and rest else []
    known = [*named, path, *(key for key in rest[-1:] if key != "name" and len(named + rest) != 2)]
    return next((f", e.g. {_EXAMPLES[key]}" for key in known if key in _EXAMPLES), "")


def _merge(found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    unknown = [sentence for sentence in found if " is unknown; " in sentence]
    if unknown:
        return unknown[0]
    head, *_ = found
    expected = [sentence.partition("expected ")[2].rpartition(", found")[0] for sentence in found]
    where, value = head.partition("expected ")[0], head.rpartition(", found")[2]
    kinds, _, examples = zip(*(one.partition(", e.g. ") for one in expected), strict=True)
    if examples[0] and len(set(examples)) == 1:
        expected = [*(kind for kind in kinds[:-1] if kind != kinds[-1]), expected[-1]]
    return f"{where}expected {' or '.join(dict.fromkeys(expected))}, found{value}"
