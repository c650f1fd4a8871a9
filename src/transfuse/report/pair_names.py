"""Networks and pairs of networks in words, and the styles of the lines and boxes that have such a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from transfuse.report.palette import DASHES, LIGHT, Style


def network_name(arm: Any, state: Any) -> str:
    """An arm in words, at its start or trained.

    >>> network_name("random", "initial"), network_name("random", "trained")
    ('random, start', 'random')
    """
    return f"{arm}, start" if state == "initial" else str(arm)


def pair_names(rows: pd.DataFrame) -> list[str]:
    """What a row is of, in words: an arm, or two networks.

    Args:
        rows: with `arm`, `state`, `seed` and `other_arm`, `other_state`, `other_seed`.
    """
    names = []
    same = (rows["arm"] == rows["other_arm"]) & (rows["state"] == rows["other_state"])
    over_seeds = bool((same & (rows["seed"] != rows["other_seed"])).any())
    for row in rows[["arm", "state", "other_arm", "other_state"]].to_dict("records"):
        one, other = network_name(row["arm"], row["state"]), network_name(row["other_arm"], row["other_state"])
        if row["arm"] == row["other_arm"]:  # before and after, or seed against seed
            moved = f"{one} and trained" if over_seeds else str(row["arm"])
            names.append(one if row["state"] == row["other_state"] else moved)
        else:
            names.append(f"{one} and {other}")
    return names


def pair_styles(names: Iterable[str], styles: Mapping[str, Style]) -> dict[str, Style]:
    """An arm keeps its colour in every chart; starts and pairs of arms take colours that no arm has, while there are.

    Args:
        names: of the lines or boxes of a chart.
        styles: of the study's arms.
    """
    names = list(dict.fromkeys(names))
    taken = {style.place for style in styles.values()}
    free = [place for place in range(1, len(LIGHT)) if place not in taken]
    first = 0 if free else 1  # an arm's colour, but never its line
    free = free or list(range(1, len(LIGHT)))
    others = [name for name in names if name not in styles]
    own = {
        name: Style(free[count % len(free)], DASHES[(first + count // len(free)) % len(DASHES)])
        for count, name in enumerate(others)
    }
    return {name: styles[name] if name in styles else own[name] for name in names}
