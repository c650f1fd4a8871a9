"""Study files: YAML to `StudySpec` and back, with every mistake listed at once."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfuse.errors import SpecError, nearest
from transfuse.specs.data import SEGMENTATIONS, DataSpec
from transfuse.specs.mistakes import problems_of, walk
from transfuse.specs.stand_ins import STAND_INS, mend
from transfuse.specs.study import StudySpec
from transfuse.specs.yaml_text import read_yaml, write_yaml


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
    if "metric" not in left and segments(left.get("data")):
        left["metric"] = "dice"
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
            for node, problem in problems_of(found):
                if not any(node == at and re.search(rf"\b{re.escape(key)}\b", problem) for at, key in dropped):
                    problems[problem] = None
            # What is wrong in one place hides what is wrong around it: mend it in the copy and look again.
            before = copy.deepcopy(left)
            for one in found:
                keys, _ = walk(one["loc"])
                if gone := mend(left, keys, bool(one.get("ctx", {}).get("error")) or one["type"] == "missing"):
                    dropped.add((".".join(gone[:-1]), gone[-1]))
            if left == before:
                break
        else:
            if not problems:
                return study
            break
    raise SpecError(tuple(problems), where)


def segments(data: Any) -> bool:
    """Whether the `data` of a study file have masks instead of labels, as far as the file says it."""
    return isinstance(data, dict) and (data.get("mask_column") is not None or data.get("name") in SEGMENTATIONS)


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
    content = _copied(read_yaml(text, str(path)))
    for override in overrides:
        _override(content, override)
    return content


def _copied(value: Any) -> Any:
    """A copy in which no two places share a mapping, as those of a YAML alias do: an override is of one place."""
    if isinstance(value, dict):
        return {key: _copied(below) for key, below in value.items()}
    return [_copied(below) for below in value] if isinstance(value, list) else value


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
        "models": {"net": copy.deepcopy(STAND_INS["models"]) | {"weights": None}},
        "arms": {"random": {}},
        "train": copy.deepcopy(STAND_INS["train"]),
    }
    return study_from(content, name).data


def to_yaml(study: StudySpec) -> str:
    """Write a study as YAML, without the values that are defaults; `study_from(read_yaml(...))` gives it back."""
    return write_yaml(_without_defaults(study))


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
