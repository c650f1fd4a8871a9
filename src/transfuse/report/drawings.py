"""A chart and a table with the words that belong to them, as the page takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Drawing(NamedTuple):
    """A chart, what it is of, and what it says in words; `fluid` ones take the width of the page."""

    name: str
    description: str
    chart: Any
    fluid: bool = True


class Table(NamedTuple):
    """A table of texts: first columns of words, then numbers; what follows a line break in a cell is small."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1
