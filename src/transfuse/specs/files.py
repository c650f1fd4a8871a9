"""Study files: YAML to `StudySpec` and back, with every mistake listed at once."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from transfuse.errors import SpecError, nearest
from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.model import ModelSpec
from transfuse.specs.study import StudySpec
from transfuse.specs.train import OptimizerSpec, ScheduleSpec, StoppingSpec, TrainSpec


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `1e-4` is a number, a key given twice is a mistake, a date is text."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str | int | float | bool):
            raise SpecError(f"line {line}: {key!r} cannot be a key; expected a name")
        if key in seen:
            raise SpecError(f"line {line}: {key!r} is given twice, first in line {seen[key]}; keep one")
        seen[key] = line
    loader.flatten_mapping(node)  # `<<: *other`; after the check, since taking over and overriding is no repetition
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# PyYAML follows YAML 1.1, in which 1e-4 is a string, `no` is False and an ISO date is an object: all surprise.
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp", ":bool"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|nan))$",
        re.I,
    ),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader`, or YAML 1.1, would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    letter: [*_Loader.yaml_implicit_resolvers.get(letter, ()), *yaml.SafeDumper.yaml_implicit_resolvers.get(letter, ())]
    for letter in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
}


def read_yaml(text: str, where: str = "") -> dict[str, Any]:
    """Read the mapping that a study file holds.

    >>> read_yaml("learning_rate: 1e-4")
    {'learning_rate': 0.0001}

    Raises:
        SpecError: no YAML, no mapping, or a key given twice, with its line.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SpecError(f"this is not YAML: {' '.join(str(error).split())}", where) from None
    except SpecError as error:
        raise SpecError(error.problems, where) from None
    if not isinstance(content, dict):
        raise SpecError(f"expected a mapping of keys, found {type(content).__name__}", where)
    return content


def study_from(content: Mapping[str, Any], where: str = "") -> StudySpec:
    """Build the study that a mapping describes.

    Raises:
        SpecError: every unknown key, wrong type and impossible combination at once, each with its path.
    """
    from pydantic import TypeAdapter, ValidationError

    left = copy.deepcopy(dict(content))
    if isinstance(named := left.get("analyses"), str | list):  # a bare name is an analysis with its defaults
        every = [named] if isinstance(named, str) else named
        left["analyses"] = [{"what": one} if isinstance(one, str) else one for one in every]
    strange = _not_plain(left)
    if strange:
        raise SpecError(strange, where)
    problems: dict[str, None] = {}
    dropped: set[tuple[str, str]] = set()
    while True:
        try:
            study = TypeAdapter(StudySpec).validate_json(json.dumps(left))
        except ValidationError as error:
            found = error.errors(include_url=False)
            for node, problem in _problems(found):
                if not any(node == at and re.search(rf"\b{re.escape(key)}\b", problem) for at, key in dropped):
                    problems[problem] = None
            # What is wrong in one place hides what is wrong around it: mend it in the copy and look again.
            before = copy.deepcopy(left)
            for one in found:
                keys, _ = _walk(one["loc"])
                if gone := _mend(left, keys, bool(one.get("ctx", {}).get("error")) or one["type"] == "missing"):
                    dropped.add((".".join(gone[:-1]), gone[-1]))
            if left == before:
                break
        else:
            if not problems:
                return study
            break
    raise SpecError(tuple(problems), where)


def _not_plain(value: Any, path: str = "") -> list[str]:
    """Values that JSON cannot hold, each with its path."""
    if isinstance(value, Mapping):
        return [p for key, below in value.items() for p in _not_plain(below, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        return [p for number, below in enumerate(value) for p in _not_plain(below, f"{path}.{number}")]
    if isinstance(value, float) and not math.isfinite(value):
        return [f"{path}: {value} is not a number that can be used"]
    plain = value is None or isinstance(value, str | int | float | bool)
    return [] if plain else [f"{path}: {value!r} is not plain YAML"]


_STAND_INS: dict[str, dict[str, Any]] = {
    "data": {"name": "?"},
    "train": {"steps": 1},
    "models": {"name": "?", "weights": "?"},
    "arms": {},
    "sources": {"train": {"steps": 1}},
    "analyses": {"what": "knn"},
    "tune": {"learning_rates": [1e-4, 1e-3]},
    "part of train": {},
}


def _kind(keys: Sequence[str]) -> str:
    """What a study file has at a path, if it is something that a plain one can stand in for."""
    *above, last = keys
    if not above and last == "tune":
        return last
    if not above or (len(above) == 2 and above[0] == "sources"):
        of_source = {"model": "models", "init": "arms"} if above else {}
        return last if last in ("data", "train") else of_source.get(last, "")
    if above[-1] == "train" and _kind(above) == "train" and last in ("optimizer", "schedule", "stopping"):
        return "part of train"
    return above[0] if len(above) == 1 and above[0] in ("models", "arms", "sources", "analyses") else ""


def _mend(content: dict[str, Any], keys: Sequence[str], whole: bool) -> Sequence[str]:
    """Put a plain node in the place of one that makes no sense (`whole`), or drop a key that cannot be read.

    Returns:
        The path of the key that was dropped, so that its absence is not another mistake.
    """
    for depth in range(len(keys), 0, -1):
        kind, node = _kind(keys[:depth]), _at(content, keys[:depth])
        above = _at(content, keys[: depth - 1])
        if not kind or not (whole if isinstance(node, dict) else depth == len(keys)):
            continue
        stand_in = copy.deepcopy(_STAND_INS[kind])
        weights = node.get("weights") if isinstance(node, dict) else None
        if isinstance(weights, str) and kind in ("models", "arms"):
            stand_in |= {"weights": weights} if kind == "models" else {"weights": weights, "depth": "all"}
        elif isinstance(node, dict) and kind == "models":
            del stand_in["weights"]  # that a network has none may be a mistake; what is not read is none
        if isinstance(above, list):
            above[int(keys[depth - 1])] = stand_in
        else:
            above[keys[depth - 1]] = stand_in
        return []
    last = len(keys)
    while last > 1 and isinstance(_at(content, keys[: last - 1]), list):
        last -= 1  # one wrong entry spoils the list
    above = _at(content, keys[: last - 1])
    if keys and isinstance(above, dict) and (last < len(keys) or not (whole or isinstance(_at(content, keys), dict))):
        above.pop(keys[last - 1], None)
        return keys[:last]
    return []


def _at(content: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        if isinstance(content, list):
            content = content[int(key)] if key.isdigit() and int(key) < len(content) else None
        else:
            content = content.get(key) if isinstance(content, dict) else None
    return content


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a study file; `overrides` are `key.sub=value` with YAML values.

    Raises:
        SpecError: the file is missing or holds mistakes (all of them are listed).
    """
    return study_from(read_study(path, overrides), str(path))


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a study file holds, with the overrides, whether or not it makes sense.

    Raises:
        SpecError: there is no such file, it is no YAML, or an override is none.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"; {nearest(path.name, near)}" if near else ""
        raise SpecError(f"there is no study file {str(path)!r}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the study file {str(path)!r}: {error}") from None
    content = read_yaml(text, str(path))
    for override in overrides:
        _override(content, override)
    return content


def data_from(name: str, keys: Mapping[str, Any], overrides: Sequence[str] = ()) -> DataSpec:
    """What a study would say of its data.

    Args:
        name: of the data, or the path of a study file (`.yaml`), whose data it is then.
        keys: keys of `data:`.
        overrides: more of them as `key=value`, with YAML values; the last word.

    >>> data_from("fundus-phantom", {"size": 32}, ["official_split=false"]).official_split
    False

    Raises:
        SpecError: everything that is wrong with them, or with the study file.
    """
    of_study = Path(name).suffix.lower() in (".yaml", ".yml")
    data = read_study(name).get("data") if of_study else {"name": name}
    if isinstance(data, dict):
        data |= keys
        for override in overrides:
            _override(data, override)
    content: dict[str, Any] = {  # nothing but the data can be wrong
        "name": "data",
        "data": data,
        "models": {"net": copy.deepcopy(_STAND_INS["models"]) | {"weights": None}},
        "arms": {"random": {}},
        "train": copy.deepcopy(_STAND_INS["train"]),
    }
    return study_from(content, name).data


def to_yaml(study: StudySpec) -> str:
    """Write a study as YAML, without the values that are defaults; `study_from(read_yaml(...))` gives it back."""
    return yaml.dump(_without_defaults(study), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _without_defaults(spec: Any) -> Any:
    if dataclasses.is_dataclass(spec):
        out = {}
        for entry in dataclasses.fields(spec):
            value = getattr(spec, entry.name)
            default = entry.default_factory() if entry.default_factory is not dataclasses.MISSING else entry.default
            if (type(value), value) != (type(default), default):  # 1 step is not 1.0 epoch
                out[entry.name] = _without_defaults(value)
        return out
    if isinstance(spec, dict):
        return {key: _without_defaults(value) for key, value in spec.items()}
    if isinstance(spec, tuple):
        return [_without_defaults(value) for value in spec]
    return spec


def _override(content: dict[str, Any], override: str) -> None:
    path, found, value = override.partition("=")
    keys = path.strip().split(".")
    if not found or not all(keys):
        raise SpecError(f"{override!r} is no override; expected key=value or key.sub=value, e.g. data.size=64")
    here = content
    for key in keys[:-1]:
        if not isinstance(here.get(key, {}), dict):
            raise SpecError(f"{override!r}: {key!r} holds {here[key]!r}, which has no keys below it")
        here = here.setdefault(key, {})
    here[keys[-1]] = read_yaml(f"value: {value}", f"override {override!r}")["value"]


def _problems(errors: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pydantic's errors as (where, sentence); several about one value that may be of several types become one."""
    own: list[tuple[str, str]] = []
    foreign: dict[str, list[str]] = {}
    for error in _without_consequences(errors):
        keys, spec = _walk(error["loc"])
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
    misspelled = [_walk(error["loc"])[0] for error in errors if error["type"] == "unexpected_keyword_argument"]
    kept = []
    for error in errors:
        keys, owner = _walk(error["loc"])
        if len(keys) < len(error["loc"]) and error["type"] == "literal_error" and isinstance(error["input"], dict):
            continue
        if error["type"] == "missing" and dataclasses.is_dataclass(owner):
            names = [entry.name for entry in dataclasses.fields(owner)]
            beside = [key[-1] for key in misspelled if key[:-1] == keys[:-1]]
            if any(f"did you mean {keys[-1]!r}?" in nearest(key, names) for key in beside):
                continue
        kept.append(error)
    return kept


def _walk(loc: Sequence[str | int]) -> tuple[list[str], Any]:
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
    return f"{where}expected {' or '.join(dict.fromkeys(expected))}, found{value}"
