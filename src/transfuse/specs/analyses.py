"""What a study wants to know about the insides of its networks: which analysis, of which of them, on which images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

from transfuse.errors import nearest
from transfuse.specs.arm import Level
from transfuse.specs.metric import Metric
from transfuse.specs.refuse import STRICT, refuse

What = Literal[
    "cka",
    "cca",
    "svcca",
    "pwcca",
    "cca_patches",
    "l2",
    "dynamics",
    "knn",
    "reinitialise",
    "attention",
    "fid",
    "filters",
    "histogram",
    "maps",
    "maximise",
    "gradcam",
    "cut_ranking",
    "cut_overlap",
    "cut_screen",
]
Between = Literal["before_after", "seeds", "arms", "all"]
View = Literal["pooled", "positions", "flat", "cls", "patches", "both"]

PAIRS = ("cka", "cca", "svcca", "pwcca", "cca_patches", "l2")
"""The analyses that compare two networks; the others look at one."""

PICTURES = ("filters", "histogram", "maps", "maximise", "gradcam")
"""The analyses that end in pictures: of the first seed only, where a study does not say otherwise."""

ANALYSES: tuple[str, ...] = get_args(What)

_OF_BLOCKS = tuple(name for name in ANALYSES if name not in ("filters", "histogram", "attention"))
_OF_IMAGES = tuple(name for name in ANALYSES if name not in ("l2", "filters", "histogram", "maximise", "reinitialise"))
_OF_CUTS = ("cut_ranking", "cut_overlap", "cut_screen")

_TAKES: dict[str, tuple[str, ...]] = {
    "between": PAIRS,
    "level": _OF_BLOCKS,
    "blocks": tuple(name for name in _OF_BLOCKS if name not in _OF_CUTS),
    "part": tuple(name for name in _OF_IMAGES if name not in _OF_CUTS),
    "images": tuple(name for name in _OF_IMAGES if name != "cut_screen"),
    "metric": ("cut_ranking", "cut_screen"),
    "trunk": ("cut_screen",),
    "length": ("cut_screen",),
    "take": ("cut_overlap",),
    "view": ("cka", "cca", "svcca", "pwcca", "dynamics", "knn"),
    "pairs": ("cka", "cca", "svcca", "pwcca"),
    "average": ("cka",),
    "kernel": ("cka",),
    "variance": ("svcca",),
    "measure": ("dynamics",),
    "p": ("cca_patches",),
    "d": ("cca_patches",),
    "repeats": ("cca_patches",),
    "share_channels": ("cca_patches",),
    "k": ("knn",),
    "temperature": ("knn",),
    "vote": ("knn",),
    "reduce": ("l2", "attention"),
    "source": ("fid",),
    "channels": ("maps", "maximise"),
    "steps": ("maximise",),
    "jitter": ("maximise",),
    "frequency_prior": ("maximise",),
}

_LEAST = {"images": 1, "p": 2, "d": 1, "repeats": 1, "k": 1, "channels": 1, "steps": 1, "jitter": 0}
_TOKENS = ("pooled", "cls", "patches", "both")
_VIEWS: dict[str, tuple[str, ...]] = {"cka": ("flat", *_TOKENS), "knn": _TOKENS} | dict.fromkeys(
    ("cca", "svcca", "pwcca"), ("positions", *_TOKENS)
)
_LEAST_IMAGES = {"cka": 4, "fid": 2, "cca": 2, "svcca": 2, "pwcca": 2}

_REDUCE = {"l2": ("concatenated", "tensor_mean"), "attention": ("sum", "mean")}


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """One line of `analyses`. Whatever is left out has the default of the function that does it (docs/analyses.md).

    Attributes:
        what: the analysis.
        between: which networks are compared: `before_after` (each at its start and trained), `seeds` (trained from
            every two seeds of an arm), `arms` (every two arms at one seed), `all` (every arm before and after at one
            seed), or pairs `[[pretrained, random], [random:initial, random:initial]]`: an arm against itself is every
            two of its seeds.
        arms, models, seeds: of these only; default: all (pictures: the first seed).
        level: what a block is: `stage`, `block`, `layer` or `wt-st`; default `block`.
        blocks: only these blocks.
        part, images: the images looked at: so many (default 512; `gradcam` 6, `maps` 2; `knn` and `fid` all) of
            `train`, `val` or `test` (default `test`), in one random order.
        view: what of an activation is compared: `pooled`, `cls`, `patches` or `both`; of CKA also `flat`, of CCA
            `positions`.
        pairs: `all` pairs of blocks or the `same` block in both.
        average, kernel: of minibatch CKA: `ratio_of_sums` or `mean_of_ratios`; `linear` or `rbf`.
        variance: share that SVCCA keeps.
        measure: what `dynamics` follows over the steps of training: `cca`, `svcca`, `pwcca` or `cka`.
        p, d, repeats, share_channels: of patch-sampled CCA.
        k, temperature, vote: of the nearest neighbours: `weighted` or `majority`.
        reduce: of l2, `concatenated` or `tensor_mean`; of attention, `sum` or `mean`.
        source: of fid: the source whose images are compared with the study's.
        channels: how many channels are shown.
        steps, jitter, frequency_prior: of feature visualisation.
        metric: by which cuts are ranked; None is the study's.
        trunk, length: of the training with a head at every cut: `joint`, `top` or `frozen`; its share of the study's
            steps (default 0.5).
        take: of the cuts at chance, the one `before` the first, or the one `at` it.
    """

    __pydantic_config__ = STRICT
    what: What
    between: Between | tuple[tuple[str, str], ...] = "before_after"
    arms: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    level: Level = "block"
    blocks: tuple[str, ...] = ()
    part: Literal["train", "val", "test"] = "test"
    images: int | None = None
    view: View | None = None
    pairs: Literal["all", "same"] | None = None
    average: Literal["ratio_of_sums", "mean_of_ratios"] | None = None
    kernel: Literal["linear", "rbf"] | None = None
    variance: float | None = None
    measure: Literal["cca", "svcca", "pwcca", "cka"] | None = None
    p: int | None = None
    d: int | None = None
    repeats: int | None = None
    share_channels: bool | None = None
    k: int | None = None
    temperature: float | None = None
    vote: Literal["weighted", "majority"] | None = None
    reduce: Literal["concatenated", "tensor_mean", "sum", "mean"] | None = None
    source: str | None = None
    channels: int | None = None
    steps: int | None = None
    jitter: int | None = None
    frequency_prior: bool | None = None
    metric: Metric | None = None
    trunk: Literal["joint", "top", "frozen"] | None = None
    length: float | None = None
    take: Literal["before", "at"] | None = None

    @property
    def compares(self) -> bool:
        """Whether two networks are compared."""
        return self.what in PAIRS

    def takes(self, setting: str) -> bool:
        """Whether a setting goes with this analysis."""
        return self.what in _TAKES.get(setting, (self.what,))

    def covers(self, model: str, arm: str, seed: int) -> bool:
        """Whether a network, by its names in the study, is one of those that the analysis is of."""
        return (
            (not self.models or model in self.models)
            and (not self.arms or arm in self.arms or arm.partition("@")[0] in self.arms)
            and (not self.seeds or seed in self.seeds)
        )

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the settings that were given, by name: arguments of the function that does the analysis."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, as plain values; which networks it is of stands elsewhere."""
        apart = ("arms", "models", "seeds", "between")
        fields = [entry for entry in dataclasses.fields(self) if entry.name not in apart]
        return {e.name: getattr(self, e.name) for e in fields if e.name == "what" or getattr(self, e.name) != e.default}

    def __post_init__(self) -> None:
        problems = []
        for entry in dataclasses.fields(self):
            takers = _TAKES.get(entry.name)
            if takers is not None and self.what not in takers and getattr(self, entry.name) != entry.default:
                problems.append(
                    f"{entry.name} does not go with {self.what}; it is a setting of {', '.join(sorted(takers))}"
                )
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                problems.append(f"{name} is {value}; expected {least} or more")
        if self.variance is not None and not 0 < self.variance <= 1:
            problems.append(f"variance is {self.variance}; expected a share in (0, 1], such as 0.99")
        if self.length is not None and not 0 < self.length <= 1:
            problems.append(f"length is {self.length}; expected a share of the study's steps in (0, 1]")
        if self.temperature is not None and not self.temperature > 0:
            problems.append(f"temperature is {self.temperature}; expected a positive number, such as 0.1")
        if self.reduce is not None and self.reduce not in _REDUCE.get(self.what, (self.reduce,)):
            problems.append(f"reduce of {self.what} is {self.reduce!r}; {nearest(self.reduce, _REDUCE[self.what])}")
        measured = (self.measure or "cca") if self.what == "dynamics" else self.what
        if self.images is not None and 0 < self.images < _LEAST_IMAGES.get(measured, 1):
            problems.append(f"images is {self.images}; {measured} needs {_LEAST_IMAGES[measured]} or more")
        if self.view is not None and self.view not in _VIEWS.get(measured, (self.view,)):
            problems.append(f"view of {measured} is {self.view!r}; {nearest(self.view, _VIEWS[measured])}")
        if self.what == "fid" and self.source is None:
            problems.append("fid compares the study's images with those of a source; give source: NAME, one of sources")
        if isinstance(self.between, tuple):
            for name in (name for pair in self.between for name in pair):
                state = name.partition(":")[2]
                if state not in ("", "initial", "trained"):
                    problems.append(
                        f"between: {name!r} is no network; expected an arm, arm:initial or arm:trained "
                        f"({nearest(state, ('initial', 'trained'))})"
                    )
            if not self.between:
                problems.append("between: no pair given; expected before_after, seeds, arms, all or [[arm, arm], ...]")
        refuse(problems)
