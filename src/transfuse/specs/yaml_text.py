"""YAML as people mean it: text to plain values and back."""

from __future__ import annotations

import re
from typing import Any

import yaml

from transfuse.errors import SpecError


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


def write_yaml(content: Any) -> str:
    """Plain values as YAML that `read_yaml` reads as the same; keys keep their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
