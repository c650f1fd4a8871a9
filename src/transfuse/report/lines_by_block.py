"""One number over the blocks of a network, as a line for each arm or pair: the mean over seeds and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from transfuse.report import similarity_figures
from transfuse.report.drawings import Drawing
from transfuse.report.figures import PAGE_INK
from transfuse.report.pair_names import pair_styles
from transfuse.report.palette import PAGE, Style
from transfuse.report.scales import brief
from transfuse.statistics.seeds import seed_mean

LEAST_SEEDS = 3
"""A band is drawn from so many seeds on: with two it is 12 times as wide as their distance and hides the lines."""


def lines_by_block(
    model: str, rows: pd.DataFrame, quantity: str, level: str, axis: str, styles: Mapping[str, Style]
) -> Iterator[Drawing]:
    """One chart with all arms or pairs of a network, or none where no number is finite.

    Args:
        model: the network.
        rows: its measurements, each with the name of its `pair`.
        quantity: what is drawn.
        level: the quantity that is drawn as a dashed line beside it; empty: none.
        axis: how the axis of the values is headed.
        styles: of the study's arms.
    """
    rows = rows.sort_values("position", kind="stable")
    frame = _over_seeds(rows[rows["quantity"] == quantity], ("block", "pair"))
    if frame.empty:
        return
    frame = _ordered(frame, rows)
    base = rows[rows["quantity"] == level].groupby("block", sort=False)["value"].mean() if level else pd.Series()
    if len(base):
        frame["independent"] = frame["block"].map(base)
    if level == "independent":  # a similarity lies in [0, 1], and so does what is meant by its band
        frame[["low", "high"]] = frame[["low", "high"]].astype(float).clip(0, 1)
    frame = frame.rename(columns={"pair": "arm"})
    if not np.isfinite(frame[["low", "high"]].to_numpy(float)).all(axis=1).any():
        frame = frame.drop(columns=["low", "high"])  # a chart warns of bands that are all empty
    chart = similarity_figures.block_lines(
        frame, measure=axis, styles=pair_styles(frame["arm"], styles), palette=PAGE, ink=PAGE_INK
    )
    best = frame.sort_values("value").groupby("arm", sort=False).tail(1).to_dict("records")
    said = "; ".join(f"{row['arm']} up to {brief(row['value'])} at {row['block']}" for row in best)
    yield Drawing(model, f"{axis} by block for {model}: {said}.", chart)


def _over_seeds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The mean of `value` over seeds and its t interval; of one seed the row's own, of pairs of seeds none."""
    out = []
    for key, group in rows.groupby(list(by), sort=False, dropna=False):
        values = group["value"].to_numpy(float)
        values = values[np.isfinite(values)]
        names = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        if not len(values):
            continue
        mean = seed_mean(values)
        apart = bool((group["seed"] == group["other_seed"]).all())  # pairs of seeds share runs: S runs, more pairs
        low, high = (mean.low, mean.high) if apart and len(values) >= LEAST_SEEDS else (np.nan, np.nan)
        if len(values) == 1:  # an interval of its own, over patients
            low, high = group["low"].iloc[0], group["high"].iloc[0]
        out.append({**names, "value": mean.value, "low": low, "high": high, "seeds": len(values)})
    return pd.DataFrame(out)


def _ordered(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Blocks from the image to the head, whatever the order of the networks that have them."""
    places = rows.groupby("block")["position"].max()  # a cut network has its head early
    order = frame["block"].map(places)
    return frame.assign(_place=order).sort_values("_place", kind="stable").drop(columns="_place")
