"""Heat maps of similarities: every pair of blocks, on one colour scale that never changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from transfuse.errors import DataError
from transfuse.report.figures import PAPER_INK, Ink
from transfuse.report.scales import inline, styled, table
from transfuse.results import phrases

if TYPE_CHECKING:
    import altair

# Viridis (van der Walt and Smith 2015): even steps of lightness to all eyes. Dark: unlike, light: alike, on any page.
SCALE = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
DOMAIN = (0.0, 1.0)
PRINTED = 8  # blocks up to which the values fit into the cells
_ROUNDING = 1e-4  # beyond the scale by less than this is the float's doing


class Matrix(Protocol):
    """Similarities of every pair of blocks, as `cka_matrix` and `cca_matrix` give them."""

    @property
    def measure(self) -> str:
        """Its name."""

    def frame(self) -> pd.DataFrame:
        """Columns row, column, value, independent, samples."""


def heatmap(
    frame: pd.DataFrame | Matrix,
    *,
    measure: str = "",
    rows: str = "row",
    columns: str = "column",
    title: str = "",
    ink: Ink = PAPER_INK,
) -> altair.LayerChart:
    """Similarity of every pair of blocks; **the first block is at the lower left**, as in the papers on CKA.

    The colours run from 0 to 1 in every heat map of every study, so that two of them can be compared by eye. A value
    outside is drawn as 0 or as 1, and a line below the title says how many were and how far out; the value under the
    pointer is the true one. A pair without a value (NaN) is a grey cell.

    Args:
        frame: what `cka_matrix` or `cca_matrix` gave, or a table with columns row, column, value[, independent,
            samples], or block and other_block for row and column; blocks in order of first appearance.
        measure: name of the value, for the legend; default: the matrix's own, or "similarity".
        rows: what the rows are, for the axis and under the pointer.
        columns: what the columns are.
        title: above the map.
        ink: of texts and lines.

    Raises:
        DataError: missing columns, no row, or two values of a pair.

    >>> table = pd.DataFrame({"row": ["stem"], "column": ["stem"], "value": [0.9]})
    >>> chart = heatmap(table, measure="CKA")  # chart.save("cka.svg"), .png, .pdf or .html
    """
    if not isinstance(frame, pd.DataFrame) and not callable(getattr(frame, "frame", None)):
        raise DataError(
            f"a heat map of {type(frame).__name__}: expected what cka_matrix or cca_matrix gave, or a table with "
            "columns row, column and value"
        )
    if not isinstance(frame, pd.DataFrame):
        frame, measure = frame.frame(), measure or frame.measure.upper()
    return styled(_map(_cells(frame), measure or "similarity", (rows, columns), title, ink), ink)


def heatmaps(
    frame: pd.DataFrame,
    facet: str,
    *,
    measure: str = "similarity",
    rows: str = "row",
    columns: str = "column",
    most: int = 3,
    ink: Ink = PAPER_INK,
) -> altair.HConcatChart:
    """Small multiples of `heatmap`, one for each value of the column `facet`, with one legend.

    Args:
        frame: as for `heatmap`, with the column `facet`.
        facet: a map for each of its values, in order of first appearance.
        measure: as for `heatmap`.
        rows: as for `heatmap`.
        columns: as for `heatmap`.
        most: maps side by side.
        ink: of texts and lines.

    Raises:
        DataError: as `heatmap`.
    """
    import altair as alt

    frame = table(frame, (facet,), facet)
    parts = [(str(name), _cells(part)) for name, part in frame.groupby(facet, sort=False)]
    # One size of cell for all, or a smaller network would look more alike.
    across = math.ceil(len(parts) / math.ceil(len(parts) / most))
    side = _side(max(max(_shape(cells)) for _, cells in parts), across)
    maps = [_map(cells, measure, (rows, columns), name, ink, side=side) for name, cells in parts]
    chart = alt.concat(*maps, columns=across, spacing=28)
    return styled(chart, ink)


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    if "row" not in frame and "block" in frame:
        frame = frame.rename(columns={"block": "row", "other_block": "column"})
    frame = table(frame, ("row", "column", "value"))
    twice = frame[frame.duplicated(["row", "column"])]
    if len(twice):
        row, column = twice[["row", "column"]].iloc[0]
        raise DataError(f"{row!r} with {column!r} has several values; choose one, or draw heatmaps(frame, facet)")
    kept = [name for name in ("row", "column", "value", "independent", "samples") if name in frame]
    return frame[kept].astype({"value": float})


def _map(
    cells: pd.DataFrame, measure: str, axes: tuple[str, str], title: str, ink: Ink, side: int = 0
) -> altair.LayerChart:
    import altair as alt

    down, across = list(dict.fromkeys(cells["row"])), list(dict.fromkeys(cells["column"]))
    largest = max(len(down), len(across))
    side = side or _side(largest)
    cells = cells.assign(says=[_said(cell, measure) for cell in cells.to_dict("records")])
    found = cells[np.isfinite(cells["value"])]
    font = 11 if side >= 15 else max(7, side - 4)
    axis: dict[str, Any] = {
        "labelFontSize": font,
        "labelLimit": 110,
        "ticks": False,
        "domain": False,
        "labelPadding": 5,
    }
    x = alt.X(
        "column:N",
        title=axes[1],
        sort=across,
        scale=alt.Scale(domain=across, paddingInner=0, paddingOuter=0),
        axis=alt.Axis(labelAngle=-90 if _long(across, side, font) else 0, **axis),
    )
    y = alt.Y(
        "row:N",
        title=axes[0],
        sort=down[::-1],
        scale=alt.Scale(domain=down[::-1], paddingInner=0, paddingOuter=0),
        axis=alt.Axis(**axis),
    )
    scale = alt.Scale(
        domain=np.linspace(*DOMAIN, len(SCALE)).tolist(), range=list(SCALE), clamp=True, interpolate="rgb"
    )
    legend = alt.Legend(
        title=measure, type="gradient", values=[0, 0.25, 0.5, 0.75, 1], format=".2~f", gradientLength=160
    )
    tooltip = [
        alt.Tooltip("row:N", title=axes[0]),
        alt.Tooltip("column:N", title=axes[1]),
        alt.Tooltip("value:Q", title=measure, format=".3f"),
        *([alt.Tooltip("independent:Q", title="independent features", format=".3f")] if "independent" in cells else ()),
        *([alt.Tooltip("samples:Q", format=",")] if "samples" in cells else ()),
    ]
    base = alt.Chart(inline(found)).encode(x=x, y=y)
    whole = alt.RelativeBandSize(band=1.03)  # a hair over its neighbours, or a scaled picture shows seams
    layers = [
        base.mark_rect(width=whole, height=whole).encode(
            color=alt.Color("value:Q", scale=scale, legend=legend), tooltip=tooltip, description="says:N"
        )
    ]
    if len(found) < len(cells):
        empty = alt.Chart(inline(cells[~np.isfinite(cells["value"])])).encode(x=x, y=y)
        layers.append(empty.mark_rect(color=ink.band).encode(tooltip=[*tooltip[:2], "says:N"], description="says:N"))
    if largest <= PRINTED:
        light = alt.condition("datum.value > 0.55", alt.value("#101418"), alt.value("#ffffff"))
        layers.append(
            base.mark_text(fontSize=min(12.5, 0.29 * side), tooltip=None, aria=False).encode(
                text=alt.Text("value:Q", format=".2f"), color=light
            )
        )
    chart: Any = alt.layer(*layers).properties(width=side * len(across), height=side * len(down))
    notes = _notes(cells)
    if title:
        chart = chart.properties(title=alt.TitleParams(title, subtitle=notes))
    elif notes:
        chart = chart.properties(title=alt.TitleParams(notes, color=ink.muted, fontSize=11.5, fontWeight="normal"))
    return chart


def _notes(cells: pd.DataFrame) -> list[str]:
    """What the colours do not show."""
    values = cells["value"].to_numpy()
    below, above = values[values < DOMAIN[0] - _ROUNDING], values[values > DOMAIN[1] + _ROUNDING]
    notes = []
    if len(below):
        notes.append(
            f"{phrases.counted(len(below), 'value')} below 0 drawn as 0 (lowest {phrases.number(below.min())})"
        )
    if len(above):
        notes.append(
            f"{phrases.counted(len(above), 'value')} above 1 drawn as 1 (highest {phrases.number(above.max())})"
        )
    if lost := int((~np.isfinite(values)).sum()):
        notes.append(f"{phrases.counted(lost, 'pair')} without a value: grey")
    return notes


def _said(cell: dict[Any, Any], measure: str) -> str:
    parts = [f"{cell['row']} and {cell['column']}: {measure} {phrases.number(cell['value'])}"]
    if math.isfinite(cell.get("independent", math.nan)):
        parts.append(f"independent features: {phrases.number(cell['independent'])}")
    if "samples" in cell:
        parts.append(phrases.counted(cell["samples"], "sample"))
    return ", ".join(parts)


def _side(largest: int, maps: int = 1) -> int:
    """Pixels of a cell where so many maps stand side by side, so that 5 blocks fill as much of a page as 40."""
    room, least, most = (430, 14, 52) if maps == 1 else (360, 10, 46) if maps == 2 else (250, 7, 40)
    return int(np.clip(room // largest, least, most))


def _shape(cells: pd.DataFrame) -> tuple[int, int]:
    return cells["row"].nunique(), cells["column"].nunique()


def _long(names: Sequence[str], side: int, font: int) -> bool:
    return max(map(len, names)) * 0.6 * font > side - 4
