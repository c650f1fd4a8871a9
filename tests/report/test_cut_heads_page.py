"""The cuts of a network on the page: tables behind the charts, the charts, their words, the section."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from transfuse.report.cut_heads import (
    COLUMNS,
    best_in_words,
    cut_drawings,
    cut_numbers,
    cut_table,
    draw_cut_metric,
    draw_cut_parameters,
    how_to_read,
)
from transfuse.report.html import Contents, chart_image, render
from transfuse.results.arms import ArmComparison
from transfuse.results.cut_heads import Cut, Cuts, CutSweep
from transfuse.statistics.comparison import Comparison, Estimate

BLOCKS = ("stem", "layer1", "layer2")


def make_cuts(heads: tuple[str, ...] = ("average", "none"), model: str = "net") -> Cuts:
    def cut(place: int, pool: str) -> Cut:
        value = 0.7 + 0.05 * place - 0.02 * (pool == "none")
        known = {
            metric: Estimate(less * value, less * value - 0.03, less * value + 0.03, 0.95, "patients and seeds", 60)
            for metric, less in (("auroc", 1.0), ("auprc", 0.5))
        }
        name = {"average": "ttl", "none": "whole"}[pool]
        return Cut(BLOCKS[place], f"{name}@{BLOCKS[place]}", known, 1000 * 10**place + 500 * (pool == "none"))

    names = {"average": "ttl", "none": "whole"}
    sweeps = tuple(CutSweep(names[pool], pool, tuple(cut(place, pool) for place in range(3))) for pool in heads)
    return Cuts(model, sweeps, ("auroc", "auprc"), {})


def test_the_table_has_a_row_for_each_cut_and_head() -> None:
    frame = cut_table(make_cuts(), "auprc")
    assert list(frame) == COLUMNS
    assert list(zip(frame["head"], frame["block"], strict=True)) == [
        (head, block) for head in ("pooled", "unpooled") for block in BLOCKS
    ]
    row = frame.set_index("arm").loc["whole@layer1"]
    assert row["value"] == pytest.approx(0.5 * 0.73)
    assert (row["low"], row["high"]) == (pytest.approx(0.335), pytest.approx(0.395))
    assert row["parameters"] == 10_500


def test_what_is_unknown_is_nan_and_is_not_drawn() -> None:
    found = make_cuts(("average",))
    first, *rest = found.sweeps[0].cuts
    unbounded = Estimate(0.7, -math.inf, math.inf, 0.95, "none", 60)
    cuts = (first._replace(estimates={"auroc": unbounded}, parameters=None), *rest)
    found = replace(found, sweeps=(replace(found.sweeps[0], cuts=cuts),))
    of_auroc, of_auprc = cut_table(found, "auroc"), cut_table(found, "auprc")
    assert math.isnan(of_auroc["low"][0])
    assert of_auroc["value"][0] == 0.7
    assert math.isnan(of_auprc["value"][0])
    assert "pooled, stem: no result" in cut_drawings(found)[1].description
    assert "stem" not in cut_drawings(found)[2].description
    assert cut_numbers(found).rows[0] == ("stem", "pooled", "–", "0.700\nnone", "–")


@pytest.mark.parametrize("heads", [("average", "none"), ("average",), ("none",)])
def test_every_chart_is_drawn_and_says_its_numbers(heads: tuple[str, ...]) -> None:
    found = make_cuts(heads)
    drawn = cut_drawings(found)
    sweeps = {2: "ttl and whole", 1: {"average": "ttl", "none": "whole"}[heads[0]]}[len(heads)]
    assert [one.name for one in drawn] == [
        f"net, {sweeps}: {what}" for what in ("test AUROC", "test AUPRC", "parameters")
    ]
    assert f"{'pooled' if 'average' in heads else 'unpooled'}, layer2: " in drawn[0].description
    for metric in found.metrics:
        image = chart_image(draw_cut_metric(cut_table(found, metric), metric=metric).to_dict())
        assert "layer1" in image
        assert ("unpooled" in re.sub(r"aria-[a-z]+=\"[^\"]*\"", "", image)) == (len(heads) == 2)  # the legend
    bars = draw_cut_parameters(cut_table(found, "auroc")).to_dict()
    assert chart_image(bars).count("<path") >= 3 * len(heads)


def test_blocks_stand_at_one_place_in_all_charts() -> None:
    found = make_cuts()
    frame = cut_table(found, "auroc")
    charts = [draw_cut_metric(frame, metric="auroc").to_dict(), draw_cut_parameters(frame).to_dict()]
    scales, axes = [], []
    for chart in charts:
        encoding = next(layer["encoding"] for layer in chart["layer"] if "xOffset" in layer["encoding"])
        scales.append(encoding["x"]["scale"])
        axes.append(encoding["y"]["axis"]["minExtent"])
    assert scales[0] == scales[1]
    assert axes[0] == axes[1]


def test_words(comparison: Callable[..., Comparison]) -> None:
    found = make_cuts()
    said = best_in_words(found).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "Best mean test AUROC of net: 0.800 with the pooled head after layer2 and 100 k parameters; 0.780 with the "
        "unpooled head after layer2 and 100 k parameters."
    )
    assert "pairs: [[one arm, the other]]" in how_to_read([found])
    assert "unpooled" not in how_to_read([make_cuts(("average",))])
    assert how_to_read([]) == ""
    pair = ArmComparison("net", "whole@layer1", "ttl@layer1", comparison(-0.05, 0.03))
    against = replace(found, against={"layer1": pair})
    assert "the table has it, with its verdict" in how_to_read([against])
    table = cut_numbers(against)
    assert table.heads[-1] == "Unpooled less pooled"
    column = {row[:2]: row[-1] for row in table.rows}
    assert column["layer1", "unpooled"] == "−0.050\n(−0.080 to −0.020) hurts"
    assert column["layer1", "pooled"] == ""
    assert column["stem", "unpooled"] == "not compared"


def test_the_section_is_there_with_cuts_alone(build: Callable[..., Contents]) -> None:
    contents = build(models=("net",), arms={"random": {}}, seeds=1)
    assert 'id="cuts"' not in render(contents, interactive=False)
    page = render(replace(contents, cuts=(make_cuts(), make_cuts(("none",), "other"))), interactive=False)
    assert '<a href="#cuts">Cuts</a>' in page
    section = page.partition('<section id="cuts">')[2].partition("</section>")[0]
    assert section.count('class="chart"') == 6
    assert "<h3>other, whole</h3>" in section
    assert "Best mean test AUROC of other" in section
    assert section.count("<table") == 2


@contextmanager
def quiet(*_: int) -> Iterator[Callable[[object], None]]:
    yield lambda event: None


@pytest.mark.slow
def test_a_study_with_both_sweeps_has_auroc_and_auprc_of_every_cut(tiny_npz: Path, tmp_path: Path) -> None:
    from transfuse.metrics import evaluate
    from transfuse.results.store import Store
    from transfuse.specs import study_from
    from transfuse.study.carry_out import carry_out
    from transfuse.study.conclude import conclude
    from transfuse.study.plan import check

    study = study_from(
        {
            "name": "cuts",
            "data": {"name": str(tiny_npz), "size": 16},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
            "arms": {"random": {}, "cut": {"truncate": "every"}, "whole": {"truncate": "every", "pool": "none"}},
            "pairs": [["whole", "cut"]],
            "train": {"steps": 2, "batch_size": 16, "validate_every": 2},
            "margin": 0.3,
            "seeds": 1,
        }
    )
    store, checked = Store(tmp_path / "out"), check(study)
    outcome = carry_out(checked.study, checked.runs, store, show=quiet, workers=1, device="cpu")
    found = conclude(store, outcome.plan)
    (cuts,) = found.cuts
    assert cuts.metrics == ("auroc", "auprc")
    assert [one.pool for one in cuts.sweeps] == ["average", "none"]
    assert set(cuts.against) == set(cuts.blocks) == {"layer1", "layer2", "layer3", "layer4"}
    runs = found.tables.runs.set_index("arm")
    for sweep in cuts.sweeps:
        for cut in sweep.cuts:
            assert cut.parameters == runs.loc[cut.arm, "parameters"]
            for metric in cuts.metrics:
                assert cut.estimates[metric].value == pytest.approx(runs.loc[cut.arm, f"test_{metric}"], abs=1e-9)
    one = found.tables.predictions
    one = one[(one["run_id"] == runs.loc["whole@layer1", "run_id"]) & (one["part"] == "test")]
    by_hand = evaluate("auprc", [int(target[0]) for target in one["target"]], list(one["scores"])).value
    assert cuts.sweeps[1].cuts[0].estimates["auprc"].value == pytest.approx(by_hand)
    pooled, unpooled = ({cut.block: cut.parameters for cut in sweep.cuts} for sweep in cuts.sweeps)
    assert all((pooled[block] or 0) < (unpooled[block] or 0) for block in ("layer1", "layer2"))
