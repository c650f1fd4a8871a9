"""How a study looks for the smallest network: `SearchSpec`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from transfuse.specs.metric import Metric
from transfuse.specs.refuse import STRICT, refuse

Strategy = Literal["exhaustive", "two_stage", "overlap", "rank", "screen", "halving"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

_TAKES = {
    "seeds": ("two_stage", "halving"),
    "metric": ("exhaustive", "two_stage", "rank", "screen", "halving"),
    "slack": ("exhaustive", "two_stage", "rank", "screen", "halving"),
    "rungs": ("halving",),
    "keep": ("halving",),
    "score": ("rank",),
    "trunk": ("screen",),
    "length": ("screen",),
    "take": ("overlap",),
    "images": ("rank", "overlap"),
}


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    """A search over the cuts of an arm that says `truncate: every`, by what its networks do on validation data.

    Whatever the strategy, it ends in the same way: the cut with the best validation value, the smallest cut that is at
    most `slack` of the study's margin below it, and the whole network are trained with all seeds of the study and
    compared on its test part, which the search never looks at. Where a strategy gives no validation values (`overlap`,
    `rank` by LogME), one cut is chosen.

    Attributes:
        arm: the arm.
        strategy: `exhaustive` trains every cut with every seed; `two_stage` the ends of the stages and then the blocks
            inside of the best one (P, C.1); `overlap` trains the whole network and keeps what training did not leave
            at chance (P, C.1, SVCCA); `rank` trains nothing and probes the pretrained features of each cut; `screen`
            trains one network with a head at every cut; `halving` trains all cuts a little, the better ones longer.
            Masks go with all but `rank` and `overlap`.
        metric: of the validation part; None is the study's. P ranks by `auprc`.
        slack: share of the margin that the smaller cut may lose on validation data, on the scale of the metric there.
        seeds: of `two_stage` and `halving`, how many of the study's seeds the search trains with.
        rungs: of `halving`, how many lengths of training there are, the last one whole.
        keep: of `halving`, the largest share of the cuts that goes on from each, and the ratio of the lengths. A cut
            that is significantly worse than the best, less the slack, does not go on either, from the second length
            on; the smallest that is not more than the slack below the best always does.
        score: of `rank`: `probe` (a linear one, cross-validated by patient), `knn` or `logme`.
        trunk: of `screen`, what is trained: `joint` (all heads train the blocks below them), `top` (only the last
            does) or `frozen`; None is the default of `transfuse.training.screen`.
        length: of `screen`, its share of the study's steps; None: half.
        take: of `overlap`, the cut `before` the first that is at chance, or the one `at` it.
        images: of `rank` and `overlap`, at most so many training images are looked at; None: 2,000 and 512.
    """

    __pydantic_config__ = STRICT
    arm: str
    strategy: Strategy = "halving"
    metric: Metric | None = None
    slack: float = 0.5
    seeds: int = 1
    rungs: int = 3
    keep: float = 1 / 3
    score: Literal["probe", "knn", "logme"] = "probe"
    trunk: Literal["joint", "top", "frozen"] | None = None
    length: float | None = None
    take: Literal["before", "at"] = "before"
    images: int | None = None

    def __post_init__(self) -> None:
        problems = []
        for name, takers in _TAKES.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if self.strategy not in takers and value != default:
                problems.append(f"{name} does not go with {self.strategy}; it is a setting of {' and '.join(takers)}")
        if not 0 <= self.slack <= 1:
            problems.append(f"slack is {self.slack}; expected a share of the margin in [0, 1]")
        if self.seeds < 1:
            problems.append(f"seeds is {self.seeds}; expected 1 or more of the study's seeds")
        if self.rungs < 2:
            problems.append(f"rungs is {self.rungs}; expected 2 or more lengths of training")
        if not 0 < self.keep < 1:
            problems.append(f"keep is {self.keep}; expected a share in (0, 1), such as 0.33")
        if self.length is not None and not 0 < self.length <= 1:
            problems.append(f"length is {self.length}; expected a share of the study's steps in (0, 1]")
        if self.images is not None and self.images < 20:
            problems.append(f"images is {self.images}; expected 20 or more")
        refuse(problems)
