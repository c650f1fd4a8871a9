"""CCA of every layer of one network and every layer of another, from one pass over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from transfuse.analysis.activations import NO_BATCHES, Batch, Taps, checked_batches, images_of_batch
from transfuse.analysis.cca import compare, warn_of_few
from transfuse.analysis.chance import random_coefficients
from transfuse.analysis.grids import Grid, common, grid_of, on_grid
from transfuse.analysis.moments import Moments
from transfuse.analysis.similarity import SimilarityMatrix
from transfuse.analysis.views import finite
from transfuse.analysis.whitening import TOLERANCE, Whitened, principal, whitened
from transfuse.errors import AnalysisError, nearest
from transfuse.models.blocks import Blocks

__all__ = ["cca_matrix"]

MEASURES = ("cca", "svcca", "pwcca")
VIEWS = ("positions", "pooled", "cls", "patches", "both")
PAIRS = ("all", "same")


def cca_matrix(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Batch],
    blocks_a: Blocks | Sequence[str],
    blocks_b: Blocks | Sequence[str] | None = None,
    *,
    measure: str = "cca",
    view: str = "positions",
    pairs: str = "all",
    variance: float = 0.99,
    tolerance: float = TOLERANCE,
    random: np.random.Generator | None = None,
) -> SimilarityMatrix:
    """CCA, SVCCA or PWCCA of every block of one network and every block of another, channels as neurons.

    Each batch goes through both networks once, so batches may be shuffled, and only second moments in float64 are
    kept: memory is 8 bytes x (sum of a's channels) x (sum of b's), and that of one batch's activations, however many
    the images. Each block is whitened once for all its pairs on a grid.

    With `view="positions"` each place of each image is a sample, and the places of the two blocks have to correspond:
    where grids differ, the finer map is averaged over areas (adaptive average pooling) to the coarser grid, axis by
    axis. Beside an output (N, C) maps are averaged over all places. Tokens stay tokens beside as many tokens; beside a
    map their patches go back to their square grid, without the class token.

    Args:
        model_a: any network, whose blocks are the rows. Images go through in eval mode, without gradients.
        model_b: the other, of any architecture that takes the same images; its blocks are the columns.
        batches: images (N, C, H, W), sequences that begin with them (a DataLoader's), or mappings of keyword
            arguments; all images of one size, batches of any length.
        blocks_a: `blocks_of(model_a)`, or names of modules; a module called twice in a pass gives `name` and `name:2`.
        blocks_b: the same for `model_b`; those in `blocks_a` by default.
        measure: `cca`, `svcca` or `pwcca` (which weighs by the row's block).
        view: `positions`; or, with images as samples, `pooled` (the mean over space or patches), `cls`, `patches` or
            `both`.
        pairs: `all`, or `same`, the k-th block of a with the k-th of b; other cells are NaN.
        variance: of SVCCA.
        tolerance: as for `cca`.
        random: if given, `independent` is the mean of one draw of Gaussian features of the same shape in each cell,
            instead of what theory expects.

    Returns:
        `SimilarityMatrix` with `independent` and, of CCA and SVCCA, all `coefficients` of each cell. `samples` differs
        by cell where grids do; `ranks_rows` and `ranks_columns` are the greatest a block has on the grids on which it
        is compared.

    Raises AnalysisError for unknown blocks and options, no batches, NaN activations, constant blocks (by name), and
    grids that cannot be matched. Warns (AnalysisWarning), once, of fewer than 10 samples a channel.

    >>> import torch
    >>> images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2))
    >>> matrix = cca_matrix(model, model, images.split(16), ["0", "2"])
    >>> matrix.rows, round(matrix["2", "2"], 6), matrix.samples.tolist()
    (('0', '2'), 1.0, [[2304, 256], [256, 256]])
    """
    for name, value, choices in (("measure", measure, MEASURES), ("view", view, VIEWS), ("pairs", pairs, PAIRS)):
        if value not in choices:
            raise AnalysisError(f"unknown {name} {value!r} for CCA: {nearest(value, choices)}")
    a = _Side("model_a", model_a, blocks_a, view)
    one = model_a is model_b and blocks_b is None
    b = a if one else _Side("model_b", model_b, blocks_a if blocks_b is None else blocks_b, view)
    plan: list[_Cell] = []
    sums: dict[Grid, Moments] = {}
    for batch in checked_batches(batches):
        a.run(batch)
        if not one:
            b.run(batch)
        if not plan:
            plan = _plan(a, b, pairs)
        _add(sums, plan, a, b)
    if not plan:
        raise AnalysisError(NO_BATCHES)
    return _result(sums, plan, (a, b), measure, variance, tolerance, random)


class _Cell(NamedTuple):
    row: int
    column: int
    grid: Grid
    a: str
    b: str


class _Side:
    """One network and what its blocks gave out for the last batch."""

    def __init__(self, side: str, model: nn.Module, blocks: Blocks | Sequence[str], view: str) -> None:
        self._side, self._view = side, view
        self.outputs: dict[str, Tensor] = {}
        self.images: tuple[int, ...] = ()
        self._grids: dict[str, Grid] = {}
        self._taps = Taps(model, blocks, self._read)

    def _read(self, name: str, output: Tensor) -> None:
        label = self.label(name)
        finite(label, output)
        # a copy, since a later in-place ReLU would overwrite it
        seen = output if self._view == "positions" else self._taps.features(name, output, self._view, VIEWS)
        seen = seen.clone() if seen.device.type in ("cpu", "cuda") else seen.cpu()
        grid = grid_of(seen)
        if self._grids.setdefault(label, grid) != grid:
            raise AnalysisError(
                f"block {label} has places {grid} in this batch and {self._grids[label]} in the first; expected "
                "images of one size. Resize them, or compare images with view='pooled'."
            )
        self.outputs[label] = seen

    def run(self, batch: Batch) -> None:
        self.images = tuple(images_of_batch(batch).shape[2:])
        self.outputs.clear()
        self._taps.run(batch)

    def label(self, name: str) -> str:
        return f"{name} of {self._side}"

    @property
    def names(self) -> tuple[str, ...]:
        return self._taps.names

    def grid(self, name: str) -> Grid:
        return self._grids[self.label(name)]

    def prefix(self, name: str) -> int:
        return self._taps.prefix_tokens(name)

    def rows(self, name: str, grid: Grid) -> Tensor:
        return on_grid(self.outputs[self.label(name)], grid, self.prefix(name))


def _plan(a: _Side, b: _Side, pairs: str) -> list[_Cell]:
    if pairs == "same" and len(a.names) != len(b.names):
        raise AnalysisError(
            f"pairs='same' goes through both lists of blocks together, and a has {len(a.names)}, b {len(b.names)}; "
            "expected as many. Name the blocks that belong together in blocks_a and blocks_b, or take pairs='all'."
        )
    cells = []
    for (i, one), (j, other) in product(enumerate(a.names), enumerate(b.names)):
        if pairs == "all" or i == j:
            labels = (a.label(one), b.label(other))
            grid = common(a.grid(one), b.grid(other), labels, (a.prefix(one), b.prefix(other)), a.images)
            cells.append(_Cell(i, j, grid, one, other))
    return cells


def _add(sums: dict[Grid, Moments], plan: list[_Cell], a: _Side, b: _Side) -> None:
    for grid in dict.fromkeys(cell.grid for cell in plan):
        cells = [cell for cell in plan if cell.grid == grid]
        rows = {a.label(name): a.rows(name, grid) for name in dict.fromkeys(cell.a for cell in cells)}
        device = next(iter(rows.values())).device
        for name in dict.fromkeys(cell.b for cell in cells):
            if b.label(name) not in rows:
                rows[b.label(name)] = b.rows(name, grid).to(device)
        if grid not in sums:
            wanted = {tuple(sorted((a.label(cell.a), b.label(cell.b)))): None for cell in cells}
            sums[grid] = Moments([*((name, name) for name in rows), *((p, q) for p, q in wanted if p != q)])
        sums[grid].add(rows)


def _result(
    sums: Mapping[Grid, Moments],
    plan: list[_Cell],
    sides: tuple[_Side, _Side],
    measure: str,
    variance: float,
    tolerance: float,
    random: np.random.Generator | None,
) -> SimilarityMatrix:
    a, b = sides
    shape = (len(a.names), len(b.names))
    values, independent, samples = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=int)
    coefficients: dict[tuple[str, str], np.ndarray] = {}
    ranks_rows, ranks_columns = [0] * shape[0], [0] * shape[1]
    fewest = (np.inf, 0, 0, "")
    for grid, moments in sums.items():
        if moments.samples < 2:
            raise AnalysisError(f"there is {moments.samples} sample in all; expected at least 2, and 10 a channel")
        white: dict[str, Whitened] = {}
        for cell in (cell for cell in plan if cell.grid == grid):
            names = (a.label(cell.a), b.label(cell.b))
            for name in names:
                if name not in white:
                    white[name] = (
                        principal(moments, name, variance, tolerance)
                        if measure == "svcca"
                        else whitened(moments, name, tolerance)
                    )
            x, y = (white[name] for name in names)
            found = compare(measure, x, y, moments.cross(*names), moments.samples)
            level = found.independent
            if random is not None:
                level = float(random_coefficients(moments.samples, x.rank, y.rank, random).mean())
            coefficients[cell.a, cell.b] = found.coefficients
            i, j = cell.row, cell.column
            values[i, j], independent[i, j], samples[i, j] = found.value, level, moments.samples
            ranks_rows[i], ranks_columns[j] = max(ranks_rows[i], x.rank), max(ranks_columns[j], y.rank)
            neurons = max(x.width, y.width)
            worst = (moments.samples / neurons, moments.samples, neurons, f"{names[0]!r} and {names[1]!r}")
            fewest = min(fewest, worst)
    warn_of_few(fewest[1], fewest[2], f"too few samples, fewest for {fewest[3]}", stacklevel=3)
    asked = [samples[cell.row, cell.column] for cell in plan]
    return SimilarityMatrix(
        values,
        a.names,
        b.names,
        measure,
        int(asked[0]) if len(set(asked)) == 1 else samples,
        tuple(ranks_rows),
        tuple(ranks_columns),
        independent,
        coefficients,
    )
