"""What a comparison of representations returns: one number, or one a pair of layers, never without its baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from transfuse.errors import AnalysisError, nearest

__all__ = ["Similarity", "SimilarityMatrix"]


def _nothing() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class Similarity:
    """How alike two representations are, with what is needed to read the number.

    Args:
        value: the similarity; 1 for a representation and itself. `float(similarity)` is this.
        measure: "cca", "svcca", "pwcca", "cka", "rbf_cka" or "procrustes".
        samples: number of samples, N.
        rank: effective ranks of x and of y, so how many directions were compared.
        coefficients: `(K,)` descending, in [0, 1]; empty for measures that have none.
        independent: the value that independent features of these ranks and this N would give, by theory. A value near
            it says nothing; 1 where the samples are too few for the measure to say anything at all.

    >>> float(Similarity(0.75, "cka", samples=100, rank=(8, 8)))
    0.75
    """

    value: float
    measure: str
    samples: int
    rank: tuple[int, int]
    coefficients: np.ndarray = field(default_factory=_nothing, repr=False)
    independent: float = 0.0

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class SimilarityMatrix:
    """The similarity of every row's layer and every column's layer.

    Args:
        values: `(A, B)`; NaN only in cells that were not asked for.
        rows: A block names of the first network.
        columns: B block names of the second.
        measure: as in `Similarity`.
        samples: number of samples, or `(A, B)` of them where pairs differ.
        ranks_rows: A effective ranks; empty for measures that have none.
        ranks_columns: B of them.
        independent: `(A, B)` what independent features would give; zeros if left out.
        coefficients: of CCA and SVCCA, (row, column) -> all coefficients of this pair, descending.

    >>> matrix = SimilarityMatrix(np.array([[1.0, 0.4]]), ("stem",), ("stem", "head"), "cka", samples=64)
    >>> matrix["stem", "head"]
    0.4
    """

    values: np.ndarray
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: str
    samples: int | np.ndarray
    ranks_rows: tuple[int, ...] = ()
    ranks_columns: tuple[int, ...] = ()
    independent: np.ndarray = field(default_factory=_nothing, repr=False)
    coefficients: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        if self.independent.size == 0:
            object.__setattr__(self, "independent", np.zeros(shape))
        for name in ("values", "independent"):
            found = getattr(self, name).shape
            if found != shape:
                raise AnalysisError(f"{name} has shape {found}; expected {shape}: rows x columns")
        if np.ndim(self.samples) and np.shape(self.samples) != shape:
            raise AnalysisError(f"samples has shape {np.shape(self.samples)}; expected {shape} or one number")

    def __getitem__(self, pair: tuple[str, str]) -> float:
        """The value of (row, column), by block name.

        Raises:
            AnalysisError: a name that is not there, with the nearest that is.
        """
        row, column = pair
        return float(self.values[_place(row, self.rows, "row"), _place(column, self.columns, "column")])

    def frame(self) -> pd.DataFrame:
        """One line a cell that was asked for, in the blocks' order: `row, column, value, independent, samples`."""
        wanted = ~np.isnan(self.values)
        i, j = np.nonzero(wanted)
        return pd.DataFrame(
            {
                "row": [self.rows[k] for k in i],
                "column": [self.columns[k] for k in j],
                "value": self.values[wanted],
                "independent": self.independent[wanted],
                "samples": np.broadcast_to(np.asarray(self.samples), self.values.shape)[wanted],
            }
        )


def _place(name: str, names: Iterable[str], side: str) -> int:
    known = list(names)
    if name not in known:
        raise AnalysisError(f"there is no {side} {name!r}; {nearest(name, known)}")
    return known.index(name)
