"""Many comparisons that are looked at together: their verdicts after Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, overload

from transfuse.errors import DataError
from transfuse.statistics.comparison import Comparison, decided

Key = TypeVar("Key")


@overload
def compare_all(comparisons: Mapping[Key, Comparison], level: float = 0.05) -> dict[Key, Comparison]: ...
@overload
def compare_all(comparisons: Sequence[Comparison], level: float = 0.05) -> list[Comparison]: ...
def compare_all(
    comparisons: Mapping[Key, Comparison] | Sequence[Comparison], level: float = 0.05
) -> dict[Key, Comparison] | list[Comparison]:
    """The same comparisons with verdicts of which any is wrong in at most `level` of all studies (Holm 1979).

    A verdict of K comparisons may be wrong in one way each: HELPS or HURTS without a difference, or EQUIVALENT at one
    of the margin and more; see `transfuse.statistics.holm.rejected`. The comparisons of classes are a family of their
    own: all classes of all comparisons. Differences and intervals stay as they are: a 95 % interval is that of its
    own comparison. A verdict that the correction takes away becomes "undecided", and `caveats` say so.

    Args:
        comparisons: by name, or in a row; of any metrics, networks and arms, see `compare` and `compare_counts`.
        level: in (0, 1).

    Returns:
        The same names, or a list in the same order.

    Raises:
        SpecError: a level outside (0, 1).
        DataError: something that is no comparison.

    >>> import numpy as np
    >>> from transfuse import compare
    >>> target = np.repeat([0, 1], 100)
    >>> scores = {d: target * d + np.random.default_rng(0).normal(size=(4, 200)) for d in (0.5, 1.0, 3.0)}
    >>> found = {d: compare(target, scores[d], scores[0.5], range(200), margin=0.02) for d in (1.0, 3.0)}
    >>> [one.verdict for one in compare_all(found).values()]
    ['helps', 'helps']
    """
    if isinstance(comparisons, Comparison):
        raise DataError(
            "one comparison was given; expected several, by name or in a list: the verdict of one needs no correction"
        )
    given = list(comparisons.values() if isinstance(comparisons, Mapping) else comparisons)
    for one in given:
        if not isinstance(one, Comparison):
            raise DataError(f"{one!r} is no comparison; expected what `compare` or `compare_counts` returned")
    overall = decided(given, level)
    classes = iter(decided([of_class for one in given for of_class in one.per_class.values()], level))
    found = [replace(one, per_class={index: next(classes) for index in one.per_class}) for one in overall]
    return dict(zip(comparisons, found, strict=True)) if isinstance(comparisons, Mapping) else found
