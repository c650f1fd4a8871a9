"""Plain nodes in the place of those of a study file that make no sense, so that what they hide can be looked at."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

STAND_INS: dict[str, dict[str, Any]] = {
    "data": {"name": "?"},
    "train": {"steps": 1},
    "models": {"name": "?", "weights": "?"},
    "arms": {},
    "sources": {"train": {"steps": 1}},
    "analyses": {"what": "knn"},
    "tune": {"learning_rates": [1e-4, 1e-3]},
    "search": {"arm": "?"},
    "part of train": {},
}


def _kind(keys: Sequence[str]) -> str:
    """What a study file has at a path, if it is something that a plain one can stand in for."""
    *above, last = keys
    if not above and last in ("tune", "search"):
        return last
    if not above or (len(above) == 2 and above[0] == "sources"):
        of_source = {"model": "models", "init": "arms"} if above else {}
        return last if last in ("data", "train") else of_source.get(last, "")
    if above[-1] == "train" and _kind(above) == "train" and last in ("optimizer", "schedule", "stopping"):
        return "part of train"
    return above[0] if len(above) == 1 and above[0] in ("models", "arms", "sources", "analyses") else ""


def mend(content: dict[str, Any], keys: Sequence[str], whole: bool) -> Sequence[str]:
    """Put a plain node in the place of one that makes no sense (`whole`), or drop a key that cannot be read.

    Returns:
        The path of the key that was dropped, so that its absence is not another mistake.
    """
    for depth in range(len(keys), 0, -1):
        kind, node = _kind(keys[:depth]), _at(content, keys[:depth])
        above = _at(content, keys[: depth - 1])
        if not kind or not (whole if isinstance(node, dict) else depth == len(keys)):
            continue
        stand_in = copy.deepcopy(STAND_INS[kind])
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
