"""The section on how much data it takes: the table behind the chart, the chart itself, and the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse.report.data_size import (
    curve_table,
    data_size_amounts,
    data_size_drawing,
    data_size_table,
    draw_data_size,
    seed_table,
)
from transfuse.report.figures import PAPER_INK
from transfuse.report.html import Contents, chart_image, render
from transfuse.report.palette import LIGHT, arm_styles
from transfuse.results.data_size import ArmDataSize, DataSizes
from transfuse.statistics.crossover import crossover
from transfuse.statistics.data_size import data_size_curve, worth

SIZES = [48, 120, 240, 480]
LAWS = {"random": (0.9, 1.0), "pretrained": (0.92, 0.3)}


def make(model: str = "cbr_small", seeds: int = 3, margin: float = 0.02, **laws: tuple[float, float]) -> DataSizes:
    rng = np.random.default_rng(0)
    curves = {
        arm: data_size_curve(SIZES, [0.004 * rng.standard_normal(seeds) + limit - a * n**-0.5 for n in SIZES])
        for arm, (limit, a) in (laws or LAWS).items()
    }
    rows = []
    for arm, curve in curves.items():
        pair = [None, None] if arm == "random" else [crossover(curves["random"], curve, most) for most in (margin, 0.0)]
        rows.append(ArmDataSize(arm, curve, worth(curve), *pair))
    return DataSizes(model, tuple(rows))


def test_the_curves_are_drawn_from_the_smallest_to_the_largest_size() -> None:
    found = make()
    frame = curve_table(found)
    for row in found.arms:
        own = frame[frame["arm"] == row.arm]
        assert own["patients"].iloc[[0, -1]].tolist() == pytest.approx([48, 480])
        assert (own["value"].iloc[-1], own["low"].iloc[-1], own["high"].iloc[-1]) == pytest.approx(row.curve.at(480))
        assert (own["low"] < own["value"]).all()
        assert (own["value"] < own["high"]).all()


def test_without_an_interval_there_is_no_band() -> None:
    frame = curve_table(make(seeds=1))
    assert frame[["low", "high"]].isna().all(axis=None)
    assert frame["value"].notna().all()
    assert "svg" in chart_image(draw_data_size(make(seeds=1), metric="auroc", styles=arm_styles(LAWS)).to_dict())


def test_every_seed_is_a_point_and_arms_do_not_hide_each_other() -> None:
    found = make()
    frame = seed_table(found)
    assert len(frame) == 2 * 4 * 3
    assert frame[frame["arm"] == "pretrained"]["value"].tolist() == [
        value for values in found.arms[1].curve.values for value in values
    ]
    places = [set(frame[frame["arm"] == arm]["place"]) for arm in LAWS]
    assert not places[0] & places[1]
    assert (frame["place"] / frame["patients"]).between(0.95, 1.05).all()


def test_the_chart_has_the_arms_in_their_colours_on_a_logarithmic_axis() -> None:
    styles = arm_styles(LAWS, "random")
    chart = draw_data_size(make(), metric="auroc", styles=styles, palette=LIGHT)
    spec = chart.to_dict()
    for layer in spec["layer"]:
        assert layer["encoding"]["x"]["scale"]["type"] == "log"
        assert layer["encoding"]["x"]["axis"]["values"] == SIZES
        assert layer["encoding"]["color"]["scale"]["range"] == [LIGHT[0], LIGHT[1]]
    svg = chart_image(spec)
    for text in ("training patients (logarithmic scale)", "test AUROC", ">480<", ">random<", ">pretrained<"):
        assert text in svg


def test_what_the_chart_shows_is_said() -> None:
    found = make()
    drawing = data_size_drawing(found, "auroc", arm_styles(LAWS), LIGHT, PAPER_INK)
    first, last = found.arms[0].curve.at(48), found.arms[0].curve.at(480)
    assert drawing.description.startswith("Test AUROC by number of training patients for cbr_small. random ")
    assert f"random {first.value:.3f} at 48 patients and {last.value:.3f} at 480;" in drawing.description


def test_the_table_has_the_arms_in_numbers() -> None:
    found = make()
    table = data_size_table(found, "auroc", "random")
    assert table.heads == (
        "Arm",
        "Test AUROC, all patients",
        "The same, fitted",
        "100 patients more",
        "random within 0.02 from",
        "random as good from",
    )
    assert [row[0] for row in table.rows] == ["random", "pretrained"]
    assert table.rows[0][4:] == ("–", "–")
    seeds = found.arms[0].curve.values[-1]
    assert table.rows[0][1] == f"{sum(seeds) / len(seeds):.3f}\nmean of 3 seeds"
    gain = found.arms[1].worth.gain
    assert table.rows[1][3] == f"+{gain.value:.4f}\n+{gain.low:.4f} to +{gain.high:.4f}"
    assert "more than 4,800" in table.rows[1][5]


def test_numbers_that_cannot_be_given_are_said_to_be_missing() -> None:
    found = make(seeds=1)
    cells = data_size_table(found, "auroc", "random").rows[1]
    assert cells[1].endswith("\nmean of 1 seed")
    assert cells[2].endswith("\nno interval: one seed a size says nothing about other seeds")
    assert cells[3].endswith("\nno interval")
    assert cells[4] == "can't tell\nno interval can be given"
    (row,) = make(random=(0.9, 1.0)).arms
    far = replace(row, worth=worth(row.curve, 10_000))
    table = data_size_table(DataSizes("net", (far,)), "auroc", "random")
    assert table.heads[-1] == "100 patients more"
    assert table.rows[0][3] == "–\n10480 training patients are beyond 10 x the largest size, 480: not said"


def test_a_number_that_no_run_had_is_marked() -> None:
    found = make(random=(0.9, 1.0), pretrained=(0.9, 0.3))
    within = found.arms[1].within
    assert within is not None
    assert 480 < within.patients < 4800
    assert "(extrapolated)\n" in data_size_table(found, "auroc", "random").rows[1][4]


def test_sentences_are_about_arms_that_transfer_all_layers_where_there_are_any() -> None:
    laws = {**LAWS, "mean_var": (0.9, 0.8)}
    settings: dict[str, dict[str, Any]] = {
        "random": {},
        "pretrained": {"depth": "all"},
        "mean_var": {"rest": "mean_var"},
    }
    found = make(**laws)
    (amount,) = data_size_amounts([found], settings, "auroc", "random", arm_styles(settings))
    assert not any("Mean Var" in line for line in amount.sentences)
    assert amount.drawing is not None
    partly = {arm: own for arm, own in settings.items() if arm != "pretrained"}
    (amount,) = data_size_amounts(
        [make(random=(0.9, 1.0), mean_var=(0.9, 0.8))], partly, "auroc", "random", arm_styles(partly)
    )
    assert "Mean Var weights" in amount.sentences[0]
    (empty,) = data_size_amounts(
        [DataSizes("net", (), {"random": "0 sizes have a result"})], partly, "auroc", "random", arm_styles(partly)
    )
    assert empty.drawing is None
    assert empty.table.rows == []


def section_of(contents: Contents) -> tuple[str, str]:
    page = render(contents, interactive=False)
    section = page[page.index('<section id="amount">') :] if '<section id="amount">' in page else ""
    return page, section.partition("</section>")[0]


@pytest.fixture
def bare(build: Callable[..., Contents]) -> Contents:
    """A page of little else, so that it is quickly drawn."""
    none = pd.DataFrame(columns=["run_id", "epoch", "step", "split", "quantity", "value", "seconds"])
    return build(models=("cbr_small",), history=none, comparisons=(), estimates=())


def test_the_page_says_how_much_data_it_takes(bare: Contents) -> None:
    page, section = section_of(bare)
    assert "How much data does it take?" not in page
    assert 'href="#amount"' not in page
    page, section = section_of(replace(bare, data_sizes=[make()]))
    assert 'href="#amount"' in page
    assert "andom weights are within 0.02 AUROC" in section or "Random weights stay more than" in section
    assert "100 training patients more than the 480 of this study would improve" in section
    assert section.count("<figure") == 1
    assert "<h3>" not in section


def test_each_network_has_its_own_part_of_the_section(bare: Contents) -> None:
    second = replace(make("resnet18"), missing={"transfusion": "1 sizes have a result"})
    _, section = section_of(replace(bare, data_sizes=[make(), second, DataSizes("third", (), {"random": "no result"})]))
    assert [section.count(f"<h3>{name}</h3>") for name in ("cbr_small", "resnet18", "third")] == [1, 1, 1]
    assert section.count("<figure") == 2
    assert "No curve of pretrained weights up to the middle: 1 sizes have a result." in section
    assert [section.count(f'id="amount-{place}"') for place in range(3)] == [1, 1, 0]
