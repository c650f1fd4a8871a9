"""A whole study: `StudySpec`, the trainings that it starts from, and that its parts name each other rightly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from transfuse.errors import nearest
from transfuse.specs.analyses import AnalysisSpec
from transfuse.specs.arm import InitSpec
from transfuse.specs.data import DataSpec
from transfuse.specs.metric import BOUNDS, Metric
from transfuse.specs.model import ModelSpec
from transfuse.specs.refuse import STRICT, refuse
from transfuse.specs.search import SearchSpec
from transfuse.specs.train import TrainSpec
from transfuse.specs.tune import TuneSpec

FEWEST_SIZES = 3
"""Of a curve over the number of training patients, which has three parameters."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A training whose weights others start from.

    Without `data` it is the study's own, without `model` each network that asks is trained itself (LP-FT: a linear
    probe of the network's `weights`, whose head and blocks the arm then starts from).
    """

    __pydantic_config__ = STRICT
    train: TrainSpec
    data: DataSpec | None = None
    model: ModelSpec | None = None
    init: InitSpec = field(default_factory=InitSpec)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A whole study: data, networks, arms, seeds, and the question they answer.

    Attributes:
        name: names the folder of the results; letters, digits, `-`, `_`, `.`.
        title, question: what the report says above the answer.
        metric: what the arms are compared by; a study file that does not say means AUROC, and Dice where the data have
            masks.
        margin: the difference in the metric below which two arms count as equal; fixed before training.
        threshold: validation value of the metric for "steps to reach it"; None leaves that table out.
        baseline: the arm that the others are compared with.
        pairs: further pairs to compare, `[[pretrained, mean_var], ...]`: the first against the second.
        seeds: how many, or which; a seed is initialisation, order and augmentation, never the split.
        sources: trainings whose weights the arms start from.
        tune: the learning rates among which each arm gets its own on validation data; `none` leaves every arm at the
            rate of `train.optimizer`, as the papers did.
        train_fractions: shares of the training patients at which every arm is trained too, `[0.1, 0.25, 0.5, 1]`, for
            the curve over the number of patients; the last is 1, the study itself, whose verdict they never change.
        search: which cuts of an arm that says `truncate: every` are trained, to find the smallest network without
            training all of them; without it every cut is.
        latency: whether the report times a pass of each network, on the machine that first writes it; no run is another
            for it.
        analyses: what to look at inside the networks, `[cka, {what: knn, k: 100}]`; never changes a training.
    """

    __pydantic_config__ = STRICT
    name: str
    data: DataSpec
    models: dict[str, ModelSpec]
    arms: dict[str, InitSpec]
    train: TrainSpec
    title: str = ""
    question: str = ""
    metric: Metric = "auroc"
    margin: float = 0.02
    threshold: float | None = None
    baseline: str = "random"
    pairs: tuple[tuple[str, str], ...] = ()
    seeds: int | tuple[int, ...] = 3
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    tune: TuneSpec | Literal["none"] = "none"
    train_fractions: tuple[float, ...] = ()
    search: SearchSpec | None = None
    latency: bool = False
    analyses: tuple[AnalysisSpec, ...] = ()

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds themselves: `3` means 0, 1, 2."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def __post_init__(self) -> None:
        problems = []
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            problems.append(f"name: {self.name!r} names a folder; expected letters, digits, '-', '_' or '.' only")
        if not self.models:
            problems.append("models: none given; expected at least one, e.g. {small: {name: cbr_small}}")
        if not self.arms:
            problems.append("arms: none given; expected at least one, e.g. {random: {}}")
        if self.arms and self.baseline not in self.arms:
            problems.append(f"baseline: {self.baseline!r} is not an arm; {nearest(self.baseline, self.arms)}")
        elif self.arms and self.arms[self.baseline].sweeps:
            problems.append(f"baseline: {self.baseline!r} is one arm for every block; expected a single arm")
        for index, pair in enumerate(self.pairs):
            problems += [
                f"pairs.{index}: {arm!r} is not an arm; {nearest(arm, self.arms)}"
                for arm in pair
                if arm not in self.arms
            ]
        if not self.margin > 0:
            problems.append(f"margin: {self.margin} is no margin; expected a positive difference in {self.metric}")
        low, high = BOUNDS.get(self.metric, (0.0, 1.0))
        if self.margin >= high - low:
            problems.append(
                f"margin: {self.margin} leaves no two arms apart: {self.metric} lies between {low:g} and {high:g}; "
                "expected the smallest difference that matters to you, e.g. 0.02"
            )
        if self.threshold is not None and not low <= self.threshold <= high:
            problems.append(
                f"threshold: {self.threshold} is no value that training can reach: {self.metric} lies between {low:g} "
                f"and {high:g}"
            )
        if not self.seed_list or len(set(self.seed_list)) != len(self.seed_list) or min(self.seed_list) < 0:
            problems.append(f"seeds: {self.seeds}; expected a positive number of seeds, or a list of different ones")
        problems += self._tune_problems()
        problems += self._size_problems()
        problems += self._search_problems()
        problems += self._weight_problems()
        problems += [
            f"analyses.{index}: {problem}"
            for index, analysis in enumerate(self.analyses)
            for problem in self._analysis_problems(analysis)
        ]
        refuse(problems)

    def _analysis_problems(self, analysis: AnalysisSpec) -> list[str]:
        between = analysis.between if isinstance(analysis.between, tuple) else ()
        arms = [*analysis.arms, *(name.partition(":")[0] for pair in between for name in pair)]
        bases = {arm.partition("@")[0] for arm in self.arms}  # of sweeps, unfolded or not
        sweeps = {arm for arm, init in self.arms.items() if init.sweeps}
        problems = [
            f"{arm!r} is not an arm; {nearest(arm, self.arms)}"
            for arm in dict.fromkeys(arms)
            if arm not in self.arms and arm not in bases and arm.partition("@")[0] not in sweeps
        ]
        problems += [
            f"{model!r} is not a network; {nearest(model, self.models)}"
            for model in analysis.models
            if model not in self.models
        ]
        problems += [
            f"{seed} is not a seed of the study; {nearest(seed, self.seed_list)}"
            for seed in analysis.seeds
            if seed not in self.seed_list
        ]
        if analysis.source is not None and analysis.source not in self.sources:
            problems.append(f"{analysis.source!r} is not a source; {nearest(analysis.source, self.sources)}")
        same = analysis.between == "seeds" or any(_arm(a) == _arm(b) and _at(a) == _at(b) for a, b in between)
        if same and len(analysis.seeds or self.seed_list) < 2:
            problems.append("an arm is compared with itself over its seeds, and there is only one; give two or more")
        return problems

    def _tune_problems(self) -> list[str]:
        if isinstance(self.tune, str):
            return []
        problems = []
        if self.tune.seeds > len(self.seed_list):
            problems.append(f"tune.seeds: {self.tune.seeds} of the study's seeds, which are {len(self.seed_list)}")
        if self.arms and all(arm.learning_rate is not None for arm in self.arms.values()):
            problems.append("tune: every arm has a learning_rate of its own, which it keeps; leave tune out")
        return problems

    def _search_problems(self) -> list[str]:
        search = self.search
        if search is None:
            return []
        problems = []
        own = [arm for name, arm in self.arms.items() if name == search.arm or name.startswith(f"{search.arm}@")]
        cut = [name for name, arm in self.arms.items() if "truncate" in arm.sweeps]
        if not own:
            problems.append(f"search.arm: {search.arm!r} is not an arm; {nearest(search.arm, self.arms)}")
        elif any(arm.truncate is None for arm in own) or (search.arm in self.arms and search.arm not in cut):
            known = f" as {', '.join(map(repr, cut))} does" if cut else f"; give arms.{search.arm}.truncate: every"
            problems.append(f"search.arm: {search.arm!r} is not cut at every block{known}")
        if search.seeds > len(self.seed_list):
            problems.append(f"search.seeds: {search.seeds} of the study's seeds, which are {len(self.seed_list)}")
        if self.train_fractions:
            problems.append(
                "search and train_fractions: a curve over the number of patients is of networks that are known; search "
                "first, and give train_fractions to a study of the chosen cut"
            )
        if not isinstance(self.tune, str) and any(arm.learning_rate is None for arm in own):
            problems.append(
                f"search and tune: every cut would be trained at every rate first; give arms.{search.arm}.learning_rate"
            )
        return problems

    def _size_problems(self) -> list[str]:
        shares = self.train_fractions
        if not shares:
            return []
        problems = [
            f"train_fractions.{place}: {share:g} is no share of the training patients; expected a number in (0, 1]"
            for place, share in enumerate(shares)
            if not 0 < share <= 1
        ]
        if any(later <= share for share, later in pairwise(shares)):
            problems.append(
                f"train_fractions: {_shares(shares)} do not ascend; expected {_shares(sorted(set(shares)))}"
            )
        if len(set(shares)) < FEWEST_SIZES:
            problems.append(
                f"train_fractions: {_shares(shares)}; a curve over the number of patients takes at least "
                f"{FEWEST_SIZES} sizes, e.g. [0.1, 0.25, 0.5, 1]"
            )
        if max(shares) < 1:
            problems.append(
                f"train_fractions: {_shares(shares)} end before 1; expected 1 as the last, which is the study itself "
                "(data.train_fraction makes the whole study smaller)"
            )
        return problems

    def _weight_problems(self) -> list[str]:
        problems = []
        asked = {
            model.weights: f"models.{label}.weights" for label, model in reversed(self.models.items()) if model.weights
        }
        asked |= {arm.weights: f"arms.{name}.weights" for name, arm in reversed(self.arms.items()) if arm.weights}
        asked |= {
            source.model.weights: f"sources.{name}.model.weights"
            for name, source in self.sources.items()
            if source.model is not None and source.model.weights
        }
        asked |= {
            source.init.weights: f"sources.{name}.init.weights"
            for name, source in self.sources.items()
            if source.init.weights
        }
        runs = {weights.removeprefix("run:"): path for weights, path in asked.items() if weights.startswith("run:")}
        for name, path in runs.items():
            if name not in self.sources:
                problems.append(f"{path}: 'run:{name}' names no source; {nearest(name, self.sources)}")
        hungry = [name for name, arm in self.arms.items() if arm.needs_weights and arm.weights is None]
        for label, model in self.models.items():
            if hungry and model.weights is None:
                problems.append(
                    f"models.{label}.weights: missing, but the arm{'s' if len(hungry) > 1 else ''} {', '.join(hungry)} "
                    f"need{'' if len(hungry) > 1 else 's'} pretrained weights; give a timm tag, a file, or run:NAME"
                )
        for name, source in self.sources.items():
            if name not in runs and not any(problem.startswith("models.") for problem in problems):
                problems.append(
                    f"sources.{name}: no model starts from it; give a model or an arm weights: run:{name}, or remove it"
                )
            for label, model in self.models.items():
                if f"run:{name}" in (model.weights, *(arm.weights for arm in self.arms.values())):
                    problems += self._source_problems(name, model, label)
            if source.init.sweeps:
                problems.append(
                    f"sources.{name}.init.{source.init.sweeps[0]}: 'every' is for arms; a source is one training"
                )
        return list(dict.fromkeys(problems))

    @property
    def smaller_data(self) -> tuple[DataSpec, ...]:
        """The study's data at each of its `train_fractions` but the last; a smaller one is part of a larger one."""
        own = self.data.train_fraction
        return tuple(replace(self.data, train_fraction=own * share) for share in self.train_fractions[:-1])

    def source_data(self, name: str) -> DataSpec:
        """The data that a source trains on: its own, or the study's."""
        return self.sources[name].data or self.data

    def source_model(self, name: str, model: ModelSpec) -> ModelSpec:
        """The network that a source trains for `model`, with the weights that the source itself starts from."""
        source = self.sources[name]
        own = source.model or model
        weights = (source.init.weights or own.weights) if source.init.uses_weights else None
        return replace(own, weights=weights)

    def _source_problems(self, name: str, model: ModelSpec, label: str) -> list[str]:
        """A source without the weights it needs, or one that starts from itself."""
        seen: list[str] = []
        while name in self.sources:
            if name in seen:
                return [f"sources.{name}: it starts from itself ({' from '.join([*seen, name])}); break the circle"]
            seen.append(name)
            model = self.source_model(name, model)
            if model.weights is None and self.sources[name].init.needs_weights:
                keys = f"sources.{name}.init.weights or sources.{name}.model.weights"
                return [f"sources.{name}.init needs weights for the network {label}: give {keys}"]
            name = (model.weights or "").removeprefix("run:") if (model.weights or "").startswith("run:") else ""
        return []


def _shares(shares: Sequence[float]) -> str:
    return f"[{', '.join(f'{share:g}' for share in shares)}]"


def _arm(network: str) -> str:
    return network.partition(":")[0]


def _at(network: str) -> str:
    return network.partition(":")[2] or "trained"
