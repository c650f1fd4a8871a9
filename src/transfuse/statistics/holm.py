"""Many tests at once: Holm's step-down procedure for comparisons of which each may be claimed in two ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from transfuse.errors import DataError, SpecError


def rejected(p_values: Sequence[Sequence[float]] | ArrayLike, level: float = 0.05) -> np.ndarray:
    """Which null hypotheses are rejected, so that any is wrongly so in at most `level` of all studies.

    The K comparisons have several null hypotheses each, of which at most one can be true: a difference is not 0 and as
    large as the margin. So no more than K are true at once, and the smallest p-value is held against `level / K`, not
    `level / (2 K)`; whenever all hypotheses of a comparison are rejected, K becomes smaller by 1. With one hypothesis
    each it is Holm's procedure (1979), with several Shaffer's first (1986).

    Args:
        p_values: `(K, H)`, in [0, 1]; NaN was not tested and is never rejected.
        level: in (0, 1).

    Returns:
        `(K, H)` bool.

    Raises:
        SpecError: a level outside (0, 1).
        DataError: another shape, or p-values outside [0, 1].

    >>> rejected([[0.01], [0.04], [0.03]]).ravel().tolist()
    [True, False, False]
    """
    if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise SpecError(f"level is {level!r}; expected a number between 0 and 1, as 0.05")
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 2 or not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
        raise DataError(f"p_values have shape {values.shape}; expected (K, hypotheses) of numbers in [0, 1] or NaN")
    left = ~np.isnan(values)
    found = np.zeros(values.shape, dtype=bool)
    for place in np.argsort(values, axis=None, kind="stable")[: left.sum()]:
        where = np.unravel_index(place, values.shape)
        if values[where] * left.any(axis=1).sum() > level:
            break
        found[where], left[where] = True, False
    return found
