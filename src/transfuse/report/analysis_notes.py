"""What analyses warned of, as the report says it: without names of Python, once for all that say the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from transfuse.report.pair_names import pair_names
from transfuse.results.phrases import counted

_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?!\w)")  # by itself: not the 4 of layer4
_BOTH = re.compile(r"'([^']+) of model_a' and '([^']+) of model_b'")
_PLAIN = (
    ("model_a", "the first network"),
    ("model_b", "the second network"),
    ("Compare with `independent`", "Compare with the level of independent features"),
    ("Their samples are not in `samples`; use a larger batch size or drop_last=True.", "Their images do not count."),
)
_QUOTED = re.compile(r"`([^`]+)`|(?<!\w)'([\w.:/-]+)'(?!\w)")
FEW = 4
"""So many networks are named with a note, and the others counted."""


def notes_of(analyses: Sequence[Mapping[str, Any]], compares: bool) -> list[str]:
    """What the analyses of a line warned of, each with the networks that it is about.

    Args:
        analyses: where each stands: its names, `state`, `notes`.
        compares: whether they are of two networks each.
    """
    if not analyses:
        return []
    names = pair_names(pd.DataFrame(analyses))
    if len({one["model"] for one in analyses}) > 1:
        names = [f"{one['model']}, {name}" for one, name in zip(analyses, names, strict=True)]
    said = [(name, note) for one, name in zip(analyses, names, strict=True) for note in one["notes"]]
    done = sum(one["state"] == "finished" for one in analyses)
    return grouped(said, done, "comparison" if compares else "network")


def plain(note: str) -> str:
    """A warning without the names that its numbers have in Python.

    >>> plain("too few samples, fewest for 'stem of model_a' and 'stem of model_b': 8")
    'Too few samples, fewest for stem: 8'
    """
    note = _BOTH.sub(lambda found: found[1] if found[1] == found[2] else f"{found[1]} and {found[2]}", note)
    for python, words in _PLAIN:
        note = note.replace(python, words)
    note = _QUOTED.sub(lambda found: found[1] or found[2], note)
    return note[:1].upper() + note[1:] if re.match(r"[a-z]{2,} ", note) else note


def grouped(said: Sequence[tuple[str, str]], of: int, kind: str) -> list[str]:
    """Each note once, with the range of numbers in which it differs, and the networks of which it was said.

    Args:
        said: network, or the two that were compared, and what was warned of.
        of: how many analyses there were.
        kind: what one of them is of: "network" or "comparison".

    >>> grouped([("a", "4 of 9 images"), ("b", "5 of 9 images")], 3, "network")
    ['4 to 5 of 9 images (2 networks: a, b)']
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, note in said:
        groups.setdefault(_NUMBER.sub("#", note), []).append((name, note))
    found = []
    for notes in groups.values():
        names = list(dict.fromkeys(name for name, _ in notes))
        more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
        whose = f"{', '.join(names[:FEW])}{more}"
        if len(notes) > 1:
            whose = f"all {counted(of, kind)}" if len(notes) == of else f"{counted(len(notes), kind)}: {whose}"
        found.append(f"{plain(_ranged([note for _, note in notes]))} ({whose})")
    return found


def _ranged(notes: Sequence[str]) -> str:
    """One note for several that differ in their numbers only."""
    columns = iter(list(zip(*(_NUMBER.findall(note) for note in notes), strict=True)))

    def span(_: re.Match[str]) -> str:
        ends = sorted(set(next(columns)), key=lambda text: float(text.replace(",", "")))
        return ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"

    return _NUMBER.sub(span, notes[0])
