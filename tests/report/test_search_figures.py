"""How the page shows a search: the chart of its rounds and the table of the chosen cuts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from transfuse.report.figures import PAPER_INK
from transfuse.report.html import Contents, render
from transfuse.report.palette import LIGHT
from transfuse.report.search_figures import quantity_of, search_drawing, search_table, verdict_table
from transfuse.results.cut_search import Search, Seen
from transfuse.results.search_verdict import verdict_on
from transfuse.statistics.arm import arm_of_scores

SEARCH = Search(
    model="net",
    arm="cut",
    strategy="halving",
    metric="auroc",
    test_metric="auroc",
    margin=0.05,
    slack=0.5,
    seeds=1,
    cuts=("cut@a", "cut@b", "whole"),
    whole="whole",
    seen=(
        Seen("rung 1", "cut@a", "auroc", 0.7, 0.6, 0.8, 10, kept=False),
        Seen("rung 1", "cut@b", "auroc", 0.8, 0.7, 0.9, 10),
        Seen("rung 1", "whole", "auroc", float("nan"), steps=10, kept=False),
        Seen("rung 2", "cut@b", "auroc", 0.85, 0.8, 0.9, 30),
    ),
    best="cut@b",
    smallest="cut@b",
    parameters={"cut@a": 10, "cut@b": 100, "whole": 1000},
    macs_of={"cut@a": 10, "cut@b": 100, "whole": 1000},
    macs=1.0,
    macs_exhaustive=4.0,
)


def test_only_the_last_sight_of_a_chosen_cut_is_ringed() -> None:
    frame = search_table(SEARCH)
    assert frame["mark"].tolist() == ["left", "went on", "left", "chosen"]
    assert frame["cut"].tolist() == ["a", "b", "whole", "b"]


def test_the_chart_has_every_cut_in_its_order_and_says_it_in_words() -> None:
    drawing = search_drawing(SEARCH, LIGHT, PAPER_INK)
    assert drawing is not None
    spec = json.dumps(drawing.chart.to_dict())
    assert '["a", "b", "whole"]' in spec
    assert "validation AUROC" in spec
    assert "rung 1, a: 0.700, left" in drawing.description
    assert "rung 2, b: 0.850, chosen" in drawing.description


def test_nothing_is_drawn_before_anything_was_seen() -> None:
    assert search_drawing(replace(SEARCH, seen=(), best=None, smallest=None), LIGHT, PAPER_INK) is None


@pytest.mark.parametrize(
    ("strategy", "quantity", "said"),
    [
        ("rank", "probe", "AUROC, held-out training images"),
        ("rank", "logme", "LogME"),
        ("overlap", "overlap", "overlap with random features"),
        ("screen", "auroc", "validation AUROC"),
    ],
)
def test_the_axis_says_what_was_seen(strategy: str, quantity: str, said: str) -> None:
    assert quantity_of(replace(SEARCH, strategy=strategy, seen=(Seen("x", "cut@a", quantity, 0.5),))) == said


def test_the_table_of_the_chosen_cuts() -> None:
    target = np.arange(100) % 2
    scores = {
        name: np.random.default_rng(place).normal(size=(3, 100)) + 2 * target
        for place, name in enumerate(("cut@b", "whole"))
    }
    arms = {("net", name): arm_of_scores(target, one, range(100)) for name, one in scores.items()}
    table = verdict_table(replace(SEARCH, verdict=verdict_on(SEARCH, arms)))
    assert table.heads[4] == "Difference to whole, with its 95 % interval"
    assert [row[0] for row in table.rows] == ["cut@b", "whole"]
    assert table.rows[0][4].count("\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}") == 1
    assert table.rows[0][5].endswith("%")
    assert table.rows[1][4:] == ("the whole network", "")
    still = verdict_table(replace(SEARCH, verdict=verdict_on(SEARCH, arms, rising={("net", "whole")})))
    assert still.rows[0][5].endswith("%\nshows nothing: training had not levelled off")


def test_how_small_it_can_be_comes_before_all_else_on_the_page_of_a_search(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",))
    page = render(replace(contents, searches=(SEARCH,)))
    assert page.index('id="answer"') < page.index('id="network-size"') < page.index('id="differences"')
    assert page.count('id="network-size"') == 1
    assert page.index('href="#network-size"') < page.index('href="#differences"')
    assert "how small can the network be?" in page
    assert '"search-0"' in re.search(r'id="chart-specs">(.*?)</script>', page, re.DOTALL).group(1)  # type: ignore[union-attr]
    begun = render(replace(contents, searches=(replace(SEARCH, seen=(), best=None, smallest=None),)), interactive=False)
    assert "the search has not ended." in begun
    assert 'id="network-size"' not in render(contents, interactive=False)
