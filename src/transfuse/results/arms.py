"""What an arm of a study is, in words, and what was measured about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from transfuse.results import phrases

if TYPE_CHECKING:
    from transfuse.statistics.comparison import Comparison, Estimate
    from transfuse.statistics.plateau import Plateau

RANDOM, FULL, PARTIAL, SCALE, OTHER = "random", "full", "partial", "scale", "other"


@dataclass(frozen=True)
class ArmComparison:
    """One arm against another for one network: `comparison.difference` is arm minus baseline.

    `rising` holds those of the two whose training had not levelled off; with any, the comparison has no verdict.
    `at_chance` is the metric's value at chance where neither arm is shown to be better than that, else None.
    """

    model: str
    arm: str
    baseline: str
    comparison: Comparison
    rising: Mapping[str, Plateau] = field(default_factory=dict)
    at_chance: float | None = None

    @property
    def why_undecided(self) -> str:
        """Why this decides nothing although its interval may look decided, in a word or two; else nothing."""
        if self.rising:
            return "not levelled off"
        if self.comparison.verdict != "undecided":
            return ""
        if self.at_chance is not None:
            return "not above chance"
        return phrases.why_undecided(self.comparison)


@dataclass(frozen=True)
class ArmEstimate:
    """The test metric of one arm of one network: the mean over seeds with its interval, and the value of each seed."""

    model: str
    arm: str
    estimate: Estimate | None
    seeds: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmSpeed:
    """Steps until the validation metric first reached the threshold, per seed; None where it never did.

    `median` is over seeds, "never" counted as later than any step; None where the median seed never arrived.
    """

    model: str
    arm: str
    seeds: Mapping[int, int | None]
    median: float | None

    @property
    def never(self) -> int:
        """How many seeds never reached the threshold."""
        return sum(1 for steps in self.seeds.values() if steps is None)


def kind_of(settings: Mapping[str, Any]) -> str:
    """Which of the published initialisations an arm's settings are: random, full, partial, scale or other.

    "scale" is Mean Var: random weights with the mean and variance of the pretrained ones (T, section 5). An arm that
    freezes, cuts, slims or trains otherwise, or starts parts of the network otherwise (the head among them), differs in
    more than that: it is "other".

    >>> kind_of({"depth": "all"}), kind_of({"depth": "layer2"}), kind_of({"rest": "mean_var"}), kind_of({})
    ('full', 'partial', 'scale', 'random')
    >>> kind_of({"depth": "all", "freeze": "all"}), kind_of({"depth": "all", "head": "source"})
    ('other', 'other')
    """
    own = any(settings.get(key) not in (None, 0, False, (), [], {}) for key in _MORE_THAN_A_START)
    own = own or settings.get("head") == "source"
    return OTHER if own else _start(settings)


def transfers(settings: Mapping[str, Any]) -> bool:
    """Whether an arm draws anything from pretrained weights, so that it has no result without them.

    >>> transfers({"depth": "all"}), transfers({"rest": "mean_var"}), transfers({"freeze": 1})
    (True, True, False)
    """
    return bool(_start(settings) != RANDOM or settings.get("head") == "source" or settings.get("overrides"))


_MORE_THAN_A_START = (
    *("overrides", "freeze", "tune", "truncate", "slim", "lora"),
    *("learning_rate", "head_learning_rate", "layer_decay", "l2_sp"),
)


def weights_of(settings: Mapping[str, Any], model: Mapping[str, Any] | None) -> str:
    """Where the weights of an arm come from: its own, else its network's; empty where it draws on none.

    >>> weights_of({"depth": "all"}, {"weights": "run:x"}), weights_of({"depth": "all", "weights": "run:y"}, {})
    ('run:x', 'run:y')
    """
    return str(settings.get("weights") or (model or {}).get("weights") or "") if transfers(settings) else ""


def _freezes(settings: Mapping[str, Any]) -> bool:
    return settings.get("freeze") not in (None, 0, False)


def _start(settings: Mapping[str, Any]) -> str:
    """The kind of an arm by its depth, rest and norm alone."""
    depth, rest = settings.get("depth") or 0, settings.get("rest") or "random"
    if depth == "all":
        return FULL
    if depth != 0:
        return PARTIAL
    if rest == "random" and settings.get("norm", "identity") not in ("identity", "recalibrate"):
        return OTHER
    return {"random": RANDOM, "mean_var": SCALE}.get(str(rest), OTHER)


def subjects(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each arm is called in a sentence (always a plural); arms that would read alike get their label.

    >>> subjects({"random": {}, "pretrained": {"depth": "all"}})
    {'random': 'random weights', 'pretrained': 'pretrained weights'}
    >>> subjects({"pretrained": {"depth": "all"}, "again": {"depth": "all", "random": "glorot_normal"}})
    {'pretrained': 'pretrained weights', 'again': 'pretrained weights (again)'}
    """
    readable = {arm: _subject(arm, settings) for arm, settings in arms.items()}
    names = list(readable.values())
    return {
        arm: f"{name} ({arm})" if names.count(name) > 1 and arm not in name.split() else name
        for arm, name in readable.items()
    }


def _subject(arm: str, settings: Mapping[str, Any]) -> str:
    kind, depth, rest = _start(settings), settings.get("depth"), str(settings.get("rest") or "random")
    whole = {FULL: "pretrained weights", SCALE: "Mean Var weights", RANDOM: "random weights"}.get(kind, "")
    if settings.get("overrides"):
        return f"weights of arm {arm}"
    if kind == PARTIAL:
        tail = "" if rest == "random" else f" and {rest.replace('_', ' ')} above"
        words = f"pretrained weights up to {_upto(depth)}{tail}"
    elif whole or rest in ("sampled", "shuffled"):
        words = whole or f"{rest} pretrained weights"
    else:
        return f"weights of arm {arm}"
    words += _from_where(settings) + _shape_and_training(settings)
    if not _freezes(settings):
        return words
    freeze = settings.get("freeze")
    if freeze == depth or (freeze == "all" and kind != PARTIAL):
        return f"frozen {words}"
    return f"{words} with {'every block' if freeze == 'all' else f'the blocks up to {_upto(freeze)}'} frozen"


def _from_where(settings: Mapping[str, Any]) -> str:
    """The weights of an arm that has its own, not its network's.

    >>> _from_where({"weights": "run:probe"}), _from_where({"weights": "weights/net.pth"}), _from_where({})
    (' of source probe', ' of net.pth', '')
    """
    own = str(settings.get("weights") or "")
    if own.startswith("run:"):
        return f" of source {own.removeprefix('run:')}"
    return f" of {own.replace(chr(92), '/').rsplit('/', 1)[-1]}" if own else ""


def _shape_and_training(settings: Mapping[str, Any]) -> str:
    """What an arm says beyond its start, as words after "pretrained weights"."""
    parts = []
    if settings.get("head") == "source":
        parts.append("with the source's head")
    if settings.get("truncate") not in (None, "all"):
        parts.append(f"cut after {_upto(settings['truncate'])}")
    if settings.get("head") == "mlp":
        parts.append("with an MLP head")
    if settings.get("slim") is not None:
        parts.append(f"at half width above {_upto(settings['slim'])}")
    if settings.get("tune"):
        parts.append(f"tuned in {phrases.listed(list(settings['tune']))} only")
    if settings.get("lora"):
        parts.append("tuned by LoRA")
    if settings.get("learning_rate") is not None:
        parts.append(f"at learning rate {phrases.trimmed(settings['learning_rate'])}")
    if settings.get("head_learning_rate") is not None:
        parts.append(f"with the head at learning rate {phrases.trimmed(settings['head_learning_rate'])}")
    if settings.get("layer_decay") is not None:
        parts.append("with layer-wise learning-rate decay")
    if settings.get("l2_sp") is not None:
        parts.append("with L2-SP")
    return f" {', '.join(parts)}" if parts else ""


def _upto(depth: Any) -> str:
    return "the middle" if depth == "middle" else f"block {depth}" if isinstance(depth, int) else str(depth)


def steps_to_threshold(
    runs: pd.DataFrame, history: pd.DataFrame, quantity: str, threshold: float
) -> tuple[ArmSpeed, ...]:
    """Per network and arm, the first validated step of each seed at which `quantity` was at least `threshold`.

    A loss-like quantity (loss, calibration error, Brier score) has to be at most `threshold`. Only runs with the role
    "arm" count; a diverged run counts with what it reached before, and as "never" where it was not validated once.
    The resolution is the distance of two validations.
    """
    from transfuse.statistics.convergence import steps_to

    if runs.empty:
        return ()
    curves = validations(history, quantity)
    unseen = ([0.0], [math.nan])  # diverged before the first validation
    speeds = []
    for (model, arm), group in arm_runs(runs).groupby(["model", "arm"], sort=False):
        diverged = group["status"] == "diverged" if "status" in group else False
        there = group[group["run_id"].isin(list(curves)) | diverged].sort_values("seed")
        if there.empty:
            continue
        lines = [curves.get(run_id, unseen) for run_id in there["run_id"]]
        found = steps_to(lines, threshold, not phrases.smaller_is_better(quantity))
        seeds = {
            int(seed): None if steps is None else int(steps)
            for seed, steps in zip(there["seed"], found.steps, strict=True)
        }
        speeds.append(ArmSpeed(str(model), str(arm), seeds, found.median))
    return tuple(speeds)


def validations(history: pd.DataFrame, quantity: str) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    """The validation curve `(steps, values)` of each run that logged `quantity`, by the run's id; steps ascend."""
    if history.empty:
        return {}
    logged = history[(history["split"] == "val") & (history["quantity"] == quantity)]
    curves = {}
    for run_id, frame in logged.groupby("run_id"):
        ordered = frame.drop_duplicates("step", keep="last").sort_values("step")
        curves[run_id] = (ordered["step"].to_numpy(float), ordered["value"].to_numpy(float))
    return curves


def arm_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs table that belong to arms; source trainings and trials of learning rates are left out."""
    if runs.empty or "role" not in runs:
        return runs
    return runs[runs["role"].fillna("arm") == "arm"]


def monitored_quantity(runs: pd.DataFrame, history: pd.DataFrame, metric: str) -> str:
    """The validation quantity to draw and to time: the study's metric, else what the runs monitored, else the loss."""
    logged: Sequence[str] = ()
    if not history.empty:
        logged = list(history.loc[history["split"] == "val", "quantity"].unique())
    monitors = [] if runs.empty or "monitor" not in runs else [str(name) for name in runs["monitor"].dropna()]
    for name in (metric, *(monitor.removeprefix("val/").removeprefix("val_") for monitor in monitors)):
        if name in logged:
            return name
    return logged[0] if len(logged) else metric
