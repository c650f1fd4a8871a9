"""Re-initialisation robustness: what the network loses when one block forgets what fine-tuning taught it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from transfuse.analysis.activations import undisturbed
from transfuse.analysis.knn import plain_array
from transfuse.analysis.states import State, owned, refuse_shared, refuse_unlike, state_of
from transfuse.errors import AnalysisError, AnalysisWarning, DataError, nearest
from transfuse.metrics import Prepared, evaluate, find_metric, prepare
from transfuse.models.blocks import Blocks, check_blocks

__all__ = ["Forgotten", "Robustness", "put_back", "reinitialise", "reinitialise_score"]

T = TypeVar("T")

FEWEST = 10
# Samples x replicates worked on at once.
_CELLS = 1 << 20


@dataclass(frozen=True)
class Forgotten:
    """The network with one block put back to its state before fine-tuning.

    Args:
        block: its name, or "head".
        value: the metric, or the score.
        drop: how much worse than the whole network; below 0 where it is better.
        low: lower end of the drop's interval; None where there is none.
        high: upper end.
    """

    block: str
    value: float
    drop: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Robustness:
    """Every block of a network forgotten in turn.

    Args:
        whole: the metric of the network as it is.
        blocks: the blocks in order, then the head.
        metric: its name, "score" where a function gave it.
        patients: how many the intervals rest on; None without intervals.
        level: of the intervals.
    """

    whole: float
    blocks: tuple[Forgotten, ...]
    metric: str
    patients: int | None = None
    level: float = 0.95

    def __getitem__(self, block: str) -> Forgotten:
        """What forgetting this block did; AnalysisError for an unknown name."""
        found = {item.block: item for item in self.blocks}
        if block not in found:
            raise AnalysisError(f"there is no block {block!r}; {nearest(block, found)}")
        return found[block]

    def frame(self) -> pd.DataFrame:
        """One line a block: `block, value, drop, low, high`, in the order of the blocks."""
        return pd.DataFrame([vars(item) for item in self.blocks], columns=["block", "value", "drop", "low", "high"])


def reinitialise(
    model: nn.Module,
    initial: State,
    blocks: Blocks | Sequence[str],
    predict: Callable[[nn.Module], ArrayLike | Tensor],
    target: ArrayLike | Tensor,
    *,
    metric: str = "auroc",
    patients: Sequence[object] | np.ndarray | None = None,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Robustness:
    """Re-initialisation robustness (Zhang, Bengio and Singer 2022; Matsoukas et al. 2022, appendix C), with intervals.

    For each block and the head: its parameters and buffers are put back to their state before fine-tuning, all others
    stay, and the network is evaluated again. A block owns an entry by the parts of its path, so `layer3.1` does not
    touch `layer3.10` and the head `fc` no `mlp.fc1`. Afterwards the network is as it was, to the last bit, also when
    `predict` fails; it is in eval mode while `predict` runs.

    The interval of a drop is a percentile bootstrap over patients, paired: every resample of patients evaluates the
    whole network and all the changed ones (Efron and Tibshirani 1993, chapter 13; Field and Welsh 2007). It speaks of
    this trained network on other patients, not of another training.

    Args:
        model: the fine-tuned network.
        initial: the network or its state dict right before fine-tuning; a copy.
        blocks: its blocks at any level; or names of modules, of which each is put back in turn, without a head.
        predict: the network -> scores `(N,)` or `(N, C)` of the same samples in the same order each time.
        target: `(N,)` class indices, or `(N, C)` of 0, 1, NaN.
        metric: key of `transfuse.metrics.METRICS`.
        patients: `(N,)` ids of any kind; None: every sample is its own patient.
        replicates: resamples; 0 for none and no intervals.
        level: of the intervals.
        seed: of the resamples.

    Raises:
        AnalysisError: `initial` is of another network, or shares the network's memory; scores that have no metric, with
            the name of the block; a level or a number that cannot be meant.

    Warns:
        AnalysisWarning: fewer than 10 patients, whose intervals are too narrow.

    >>> from transfuse.models import blocks_of
    >>> images = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    >>> initial = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    >>> _ = [parameter.data.fill_(1.0) for parameter in model.parameters()]
    >>> predict = lambda net: net(images)[:, 0]
    >>> found = reinitialise(model, initial, blocks_of(model), predict, [0, 0, 1, 1], replicates=0)
    >>> found.whole, found["0"].value, found["0"].drop
    (1.0, 0.5, 0.5)
    """
    if not 0 < level < 1 or replicates < 0:
        raise AnalysisError(f"level is {level} and replicates {replicates}; expected a level in (0, 1) and 0 or more")
    sign = 1 if find_metric(metric).higher_is_better else -1
    labels = plain_array(target)
    groups = _groups(patients, len(labels))
    number = int(groups.max()) + 1

    def measure(name: str) -> tuple[float, Prepared]:
        scores = plain_array(predict(model))
        try:
            return evaluate(metric, labels, scores).value, prepare(metric, labels, scores, groups)
        except DataError as problem:
            raise AnalysisError(f"{name}: {problem}") from None

    (whole, base), *others = _each(model, initial, blocks, measure)
    names = _names(blocks)
    replicates = replicates if number > 1 else 0
    drops = sign * _differences(base, [prepared for _, prepared in others], number, replicates, seed)
    if replicates and number < FEWEST:
        warnings.warn(
            f"{number} patients: intervals of a bootstrap over fewer than {FEWEST} are too narrow, read the drops",
            AnalysisWarning,
            stacklevel=2,
        )
    items = (
        Forgotten(name, value, sign * (whole - value), *_interval(row, level))
        for name, (value, _), row in zip(names, others, drops, strict=True)
    )
    return Robustness(whole, tuple(items), metric, number if replicates else None, level)


def reinitialise_score(
    model: nn.Module, initial: State, blocks: Blocks | Sequence[str], score: Callable[[nn.Module], float]
) -> Robustness:
    """Re-initialisation robustness of any score, without intervals; see `reinitialise`.

    Args:
        model: the fine-tuned network.
        initial: the network or its state dict right before fine-tuning; a copy.
        blocks: its blocks at any level, or names of modules.
        score: the network -> a number, of which more is better.

    Raises:
        AnalysisError: as `reinitialise`; a score that is not finite, with the name of the block.

    >>> from transfuse.models import blocks_of
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    >>> reinitialise_score(model, initial, blocks_of(model), lambda net: 1.0)["head"].drop
    0.0
    """

    def measure(name: str) -> float:
        value = float(score(model))
        if not math.isfinite(value):
            raise AnalysisError(f"{name}: the score is {value}; expected a finite number, more of it being better")
        return value

    whole, *others = _each(model, initial, blocks, measure)
    items = (
        Forgotten(name, value, whole - value, None, None) for name, value in zip(_names(blocks), others, strict=True)
    )
    return Robustness(whole, tuple(items), "score")


@contextmanager
def put_back(model: nn.Module, initial: State, blocks: Blocks | Sequence[str], block: str) -> Iterator[nn.Module]:
    """The network with one block (or "head") in its initial state and in eval mode; afterwards it is as it was.

    Raises:
        AnalysisError: an unknown block; `initial` is of another network, or shares the network's memory.

    >>> from transfuse.models import blocks_of
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> initial = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    >>> with put_back(model, initial, blocks_of(model), "0") as changed:
    ...     changed[0].weight.sum().item()
    0.0
    """
    state, source = model.state_dict(), state_of(initial)
    entries = dict.fromkeys([*state, *source])
    if not isinstance(blocks, Blocks):
        entries = dict.fromkeys(name for mine in owned(blocks, entries).values() for name in mine)
    if block not in (names := _names(blocks)):
        raise AnalysisError(f"there is no block {block!r}; {nearest(block, names)}")
    if isinstance(blocks, Blocks):
        check_blocks(model, blocks)
    refuse_shared(source, state, "initial", "the network")
    refuse_unlike(source, state, entries, "initial", "the network")
    back = owned(blocks, entries)[block]
    with _kept(model):
        with torch.no_grad():
            for name in back:
                state[name].copy_(source[name])
        yield model


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards all parameters and buffers, modes and random generators are as they were."""
    held = [*model.parameters(), *model.buffers()]
    copies = [tensor.detach().clone() for tensor in held]
    try:
        with undisturbed(model):
            yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(held, copies, strict=True):
                tensor.copy_(copy)


def _names(blocks: Blocks | Sequence[str]) -> tuple[str, ...]:
    """What is put back in turn: the blocks and the head, or the modules that were named."""
    if isinstance(blocks, Blocks):
        return (*blocks.names, "head")
    return (blocks,) if isinstance(blocks, str) else tuple(dict.fromkeys(str(name) for name in blocks))


def _each(model: nn.Module, initial: State, blocks: Blocks | Sequence[str], measure: Callable[[str], T]) -> list[T]:
    """What `measure(name for messages)` finds on the whole network, then with each block and the head put back."""
    names = _names(blocks)
    with put_back(model, initial, blocks, names[-1] if names else ""):
        pass  # what does not fit is said before the first evaluation
    with _kept(model):
        found = [measure("the whole network")]
    for name in names:
        with put_back(model, initial, blocks, name):
            found.append(measure(f"with {name!r} put back"))
    return found


def _groups(patients: Sequence[object] | np.ndarray | None, size: int) -> np.ndarray:
    """The patient of each sample as a number (N,), in the order of the ids."""
    if patients is None:
        return np.arange(size)
    ids = list(patients)
    missing = sum(1 for one in ids if one is None or one != one or one == "")
    if len(ids) != size or missing:
        raise AnalysisError(
            f"{len(ids)} patient ids, {missing} of them missing, for {size} samples; expected an id for each, or "
            "patients=None where every sample is a patient of its own"
        )
    return np.unique([str(one) for one in ids], return_inverse=True)[1]


def _differences(base: Prepared, others: Sequence[Prepared], patients: int, replicates: int, seed: int) -> np.ndarray:
    """(len(others), replicates): base less other on the same resamples, mean over the classes that both have."""
    generator = np.random.default_rng(seed)
    width = max(1, _CELLS // max(patients, 1))
    parts = [np.empty((len(others), 0))]
    for first in range(0, replicates, width):
        count = min(width, replicates - first)
        drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=count)
        weights = np.ascontiguousarray(drawn.T.astype(np.float64))
        whole = base.values(weights)
        parts.append(np.stack([_mean_of_defined(whole - other.values(weights)) for other in others]))
    return np.concatenate(parts, axis=1)


def _mean_of_defined(rows: np.ndarray) -> np.ndarray:
    there = np.isfinite(rows)
    total, count = np.where(there, rows, 0.0).sum(0), there.sum(0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _interval(values: np.ndarray, level: float) -> tuple[float, float] | tuple[None, None]:
    """Percentiles of the resamples in which the metric is defined; none where those are fewer than half."""
    defined = values[np.isfinite(values)]
    if not len(defined) or 2 * len(defined) < len(values):
        return None, None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
