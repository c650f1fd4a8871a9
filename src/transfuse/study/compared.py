"""What a line of `analyses` compared, in a line of text: which networks, which blocks, what of them, which images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfuse.results.phrases import listed
from transfuse.specs.analyses import PICTURES, AnalysisSpec
from transfuse.study.looked import IMAGES

_BETWEEN = {
    "before_after": "each network at its start and trained",
    "seeds": "trained networks of every two seeds of an arm",
    "arms": "trained networks of every two arms, seed by seed",
    "all": "every two networks of a seed, at their start and trained",
}
_ALONE = {
    "dynamics": "snapshots with the trained network",
    "fid": "features of networks at their start",
    **dict.fromkeys(("filters", "histogram", "maps"), "networks at their start and trained"),
}
_VIEWS = {"cka": "flat", "knn": "pooled"}
"""Views that are no `positions` where a study names none."""
_ALL = ("knn", "fid")
"""Analyses of all images where a study gives no number."""
_SETTINGS = (
    *("kernel", "average", "variance", "p", "d", "repeats", "share_channels", "k", "temperature", "vote", "reduce"),
    *("source", "channels", "steps", "jitter", "frequency_prior"),
)


def compared(spec: AnalysisSpec, images: Mapping[str, int]) -> str:
    """The line of a study in words.

    Args:
        spec: the line.
        images: how many images each part of the data has, as far as that is known.

    >>> compared(AnalysisSpec(what="cca", between="seeds", level="stage"), {"test": 60})
    'trained networks of every two seeds of an arm · level stage · view positions · 60 test images'
    """
    said = [_networks(spec), *_only(spec)]
    if spec.blocks:
        said.append(f"{'block' if len(spec.blocks) == 1 else 'blocks'} {listed(spec.blocks)}")
    elif spec.takes("level") and spec.what not in (*PICTURES, "fid"):  # those name their blocks themselves
        said.append(f"level {spec.level}")
    if spec.what == "dynamics":
        said.append((spec.measure or "cca").upper())
    if spec.takes("view"):
        said.append(f"view {spec.view or _VIEWS.get(spec.measure or spec.what, 'positions')}")
    said += [f"{name} {_plain(value)}" for name, value in spec.given(*_SETTINGS).items()]
    if spec.takes("part") and spec.what not in PICTURES:
        said.append(_images(spec, images.get(spec.part)))
    return " · ".join(said)


def _networks(spec: AnalysisSpec) -> str:
    if not spec.compares:
        return _ALONE.get(spec.what, "trained networks")
    if isinstance(spec.between, str):
        return _BETWEEN[spec.between]
    pairs = [tuple(_network(name) for name in pair) for pair in spec.between]
    return "; ".join(f"{one}, every two seeds" if one == other else f"{one} with {other}" for one, other in pairs)


def _network(name: str) -> str:
    arm, _, state = name.partition(":")
    return f"{arm} at its start" if state == "initial" else f"{arm} trained"


def _only(spec: AnalysisSpec) -> list[str]:
    chosen = (("arm", spec.arms), ("model", spec.models), ("seed", tuple(map(str, spec.seeds))))
    return [f"{name if len(names) == 1 else f'{name}s'} {listed(names)}" for name, names in chosen if names]


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value).replace("_", " ")


def _images(spec: AnalysisSpec, there: int | None) -> str:
    most = spec.images or (None if spec.what in _ALL else IMAGES)
    if there is None:
        return f"all {spec.part} images" if most is None else f"up to {most:,} {spec.part} images"
    return f"{min(there, most or there):,} {spec.part} images"
