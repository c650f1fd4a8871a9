"""One self-contained HTML page: it opens offline, asks the network for nothing, and says the answer first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from transfuse.report import data_facts, figures, learning, pictures, search_figures, tables
from transfuse.report import network_sizes as of_size
from transfuse.report.bundle import VEGA_LITE, vega_bundle
from transfuse.report.cut_heads import cut_topics
from transfuse.report.cut_heads import how_to_read as how_cuts_read
from transfuse.report.data_size import Amount, data_size_amounts
from transfuse.report.drawings import Drawing
from transfuse.report.gain import gain
from transfuse.report.hover import titled
from transfuse.report.inside import topics
from transfuse.report.palette import DARK, LIGHT, PAGE, Style, arm_styles
from transfuse.report.pareto_figures import chart_costs
from transfuse.results import arms, caveats, chance, phrases
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.cut_heads import Cuts
from transfuse.results.cut_search import Search
from transfuse.results.data_size import DataSizes
from transfuse.results.network_sizes import Sizes
from transfuse.results.recommend import Recommendation
from transfuse.results.shared_work import shared_work
from transfuse.results.smallest_network import sentences
from transfuse.results.store import replacing

if TYPE_CHECKING:
    import altair
    import jinja2

MANY_RUNS = 40  # a longer table of runs starts folded


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows; it is made of tables and texts only.

    Attributes:
        study: name, title, question, metric, margin, threshold, baseline, confidence, arms (label -> init settings),
            models (label -> settings), data (facts, nested as wished), seeds, spec (YAML text); each may be missing.
        recommendation: what `recommend` made of it.
        runs, history, predictions: the study's tables; may be empty.
        comparisons, estimates: what the recommendation rests on.
        notes: sentences about the data.
        environment: versions, machine, threads; nested as wished.
        samples: sample images as (caption, bytes of a PNG file).
        measurements: what the analyses measured, a row a number.
        pictures: what they drew: the names of the analysis, a caption, a uint8 array.
        analyses: where each of them stands: its names, `state`, `reason`, `notes`.
        failures: runs without a record, as `recommend` takes them.
        data_sizes: the arms of each network over the number of training patients.
        network_sizes: how small the network may be, or None.
        searches: how the cuts of each network were searched.
        cuts: the networks cut at one block after the other, by head.
    """

    study: Mapping[str, Any]
    recommendation: Recommendation
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: Sequence[ArmComparison] = ()
    estimates: Sequence[ArmEstimate] = ()
    notes: Sequence[str] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[tuple[str, bytes]] = ()
    measurements: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: Sequence[tuple[Mapping[str, Any], str, np.ndarray]] = ()
    analyses: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Mapping[str, Any]] = ()
    network_sizes: Sizes | None = None
    data_sizes: Sequence[DataSizes] = ()
    searches: Sequence[Search] = ()
    cuts: Sequence[Cuts] = ()


@dataclass(frozen=True)
class Chart:
    """One chart of the page: a still picture, and the definition that the page's script makes interactive."""

    key: str
    model: str
    description: str
    svg: str
    spec: Mapping[str, Any]


def write_report(contents: Contents, path: str | Path, *, interactive: bool = True) -> Path:
    """Write the report to `path` (made whole or not at all) and return the path.

    Raises:
        StoreError: where the file cannot be written; an earlier report stays as it was.
    """
    path = Path(path)
    page = render(contents, interactive=interactive)
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def render(contents: Contents, *, interactive: bool = True) -> str:
    """The page as text; `interactive` puts the Vega bundle (0.9 MB) into it, else its charts are still pictures."""
    study = contents.study
    contents = replace(contents, comparisons=chance.withheld(contents.comparisons, contents.estimates, study))
    settings = {str(arm): dict(value or {}) for arm, value in (study.get("arms") or {}).items()}
    seen = [*(row.arm for row in contents.estimates), *(row.arm for row in contents.comparisons)]
    for arm in [*seen, *(arms.arm_runs(contents.runs)["arm"].astype(str) if len(contents.runs) else ())]:
        settings.setdefault(arm, {"overrides": "unknown"})
    baseline = str(study.get("baseline") or next(iter(settings), ""))
    styles = arm_styles(settings, baseline)
    metric = str(study.get("metric") or "auroc")
    quantity = arms.monitored_quantity(contents.runs, contents.history, metric)
    forests, gains, curves = _charts(contents, styles, baseline, quantity)
    where = gain(study, settings, baseline, contents.estimates, contents.comparisons, styles)
    searched = _search_charts(contents.searches)
    falls, depths = _drawn("fall", where.falls), _drawn("depth", where.depths)
    size = _sizes(contents.network_sizes, styles)
    amounts = data_size_amounts(contents.data_sizes, settings, metric, baseline, styles)
    amount_charts = _amount_charts(amounts)
    cuts = cut_topics(contents.cuts)
    of_cuts = [_drawn(f"cut-{place}", topic.drawings) for place, topic in enumerate(cuts)]
    counts = tables.counts(contents.predictions, contents.runs)
    inside = topics(study, contents.measurements, contents.pictures, contents.analyses)
    of_classes = _drawn("class", learning.class_curves(contents.runs, contents.history, quantity, styles))
    within = [_drawn(f"inside-{place}", topic.drawings) for place, topic in enumerate(inside)]
    charts = [*forests, *falls, *depths, *gains, *curves, *of_classes, *size]
    charts += [chart for chart in [*searched, *amount_charts] if chart is not None]
    charts += [chart for row in [*within, *of_cuts] for chart in row]
    threshold = study.get("threshold")
    speeds = (
        arms.steps_to_threshold(contents.runs, contents.history, quantity, float(threshold))
        if threshold is not None
        else ()
    )
    models = list(
        dict.fromkeys([*map(str, study.get("models") or {}), *(part.model for part in contents.recommendation.models)])
    )
    metrics = tables.test_metrics(contents.runs, metric)
    never = caveats.never_coming(study, contents.runs, contents.failures)
    missing = [
        {**run, "state": "without weights", "reason": "its source training diverged"}
        if (run.get("model"), run.get("arm")) in never
        else run
        for run in contents.failures
    ]
    run_rows = tables.run_rows(contents.runs, metrics, missing)
    first = caveats.unfinished(study, contents.runs, contents.failures)
    spec = str(study.get("spec") or "")
    name = str(study.get("name") or "study")
    template = _environment().get_template("report.html.j2")
    return template.render(
        study=study,
        name=name,
        title=str(study.get("title") or name),
        recommendation=contents.recommendation,
        caveats=[(caveat in first, *tables.parted(caveat)) for caveat in contents.recommendation.caveats],
        metric=phrases.metric_name(metric),
        margin=study.get("margin"),
        threshold=threshold,
        quantity=phrases.metric_name(quantity),
        baseline=baseline,
        confidence=f"{100 * float(study.get('confidence') or 0.95):g}",
        styles=styles,
        subjects={arm: words.removesuffix(f" ({arm})") for arm, words in arms.subjects(settings).items()},
        forests=forests,
        gains=gains,
        falls=falls,
        falls_of_classes=_drawn("fall-class", where.of_classes),
        depths=depths,
        where=where,
        curves=curves,
        size=size,
        size_tables=[of_size.size_table(contents.network_sizes)] if contents.network_sizes else (),
        searches=list(zip(contents.searches, searched, strict=True)),
        search_tables=[search_figures.verdict_table(one) for one in contents.searches if one.verdict is not None],
        timed=contents.network_sizes.timed if contents.network_sizes else "",
        smallest=sentences(contents.network_sizes) if contents.network_sizes else (),
        of_classes=of_classes,
        cuts=list(zip(cuts, of_cuts, strict=True)),
        how_cuts_read=how_cuts_read(contents.cuts),
        amounts=list(zip(amounts, amount_charts, strict=True)),
        inside=list(zip(inside, within, strict=True)),
        arm_tables={
            model: tables.arm_rows(
                model,
                list(settings),
                baseline,
                contents.estimates,
                contents.comparisons,
                speeds,
                study.get("seeds") or (),
            )
            for model in models
        },
        seeds=study.get("seeds") or (),
        speeds=speeds,
        convergence=learning.convergence(contents.runs, contents.history, quantity, threshold, baseline),
        reuse=learning.reuse(study, contents.runs, metric),
        metrics=[phrases.metric_name(each) for each in metrics],
        runs=run_rows,
        open_states=caveats.OPEN_STATES,
        run_states=tables.states(run_rows),
        shared_work=shared_work(contents.runs, (study.get("search") or {}).get("strategy", "")),
        many_runs=len(run_rows) > MANY_RUNS,
        samples=tables.grouped(contents.samples),
        data_facts=data_facts.lines(study.get("data") or {}, counts),
        notes=[tables.parted(note) for note in contents.notes if note not in contents.recommendation.caveats],
        noted=any(note in contents.recommendation.caveats for note in contents.notes),
        environment=tables.facts(contents.environment),
        spec=spec,
        spec_link=f"data:text/yaml;charset=utf-8,{quote(spec)}",
        palettes={"light": LIGHT, "dark": DARK},
        style=_file("report.css") + pictures.STYLE,
        script=_file("report.js") if interactive and charts else "",
        bundle=vega_bundle() if interactive and charts else "",
        specs=script_json({chart.key: chart.spec for chart in charts}),
    )


def _charts(
    contents: Contents, styles: Mapping[str, Style], baseline: str, quantity: str
) -> tuple[list[Chart], list[Chart], list[Chart]]:
    study = contents.study
    margin, metric = float(study.get("margin") or 0), str(study.get("metric") or "auroc")
    against = [row for row in contents.comparisons if row.baseline == baseline]
    between = [row for row in contents.comparisons if row.baseline != baseline]
    domain = figures.forest_domain(figures.forest(contents.comparisons), margin, phrases.span(metric))
    drawn: tuple[list[Chart], list[Chart]] = ([], [])
    for place, rows in enumerate((against, between)):
        for model in dict.fromkeys(row.model for row in rows):
            frame = figures.forest([row for row in rows if row.model == model])
            chart = figures.draw_forest(
                frame, margin=margin, metric=metric, styles=styles, domain=domain, palette=PAGE, ink=figures.PAGE_INK
            )
            lines = [f"{row.arm} minus {row.baseline}: {row.label}" for row in frame.itertuples(index=False)]
            text = f"Differences in test {phrases.metric_name(metric)} for {model}. {'; '.join(lines)}."
            drawn[place].append(_chart(f"{('forest', 'gain')[place]}-{len(drawn[place])}", model, text, chart))
    curves = figures.learning_curves(contents.history, contents.runs, quantity)
    lines_drawn = []
    for place, model in enumerate(curves["model"].unique()):
        frame = curves[curves["model"] == model]
        chart = figures.draw_learning_curves(
            figures.thinned(frame),
            quantity=quantity,
            styles=styles,
            threshold=study.get("threshold"),
            palette=PAGE,
            ink=figures.PAGE_INK,
        )
        best = figures.mean_curves(frame).groupby("arm", sort=False)["value"]
        top = best.min() if phrases.smaller_is_better(quantity) else best.max()
        text = (
            f"Validation {phrases.metric_name(quantity)} by training step for {model}. Best mean over seeds: "
            + "; ".join(f"{arm} {phrases.number(value)}" for arm, value in top.items())
            + "."
        )
        lines_drawn.append(_chart(f"curve-{place}", str(model), text, chart))
    return *drawn, lines_drawn


def _sizes(found: Sizes | None, styles: Mapping[str, Style]) -> list[Chart]:
    """The charts of how small the network may be, one a cost; none where all arms cost the same."""
    if found is None:
        return []
    costs = chart_costs(found)
    return _drawn("pareto", [of_size.size_drawing(found, cost, styles, PAGE, figures.PAGE_INK) for cost in costs])


def _search_charts(searches: Sequence[Search]) -> list[Chart | None]:
    drawings = [search_figures.search_drawing(one, PAGE, figures.PAGE_INK) for one in searches]
    return [
        None if one is None else _chart(f"search-{place}", one.name, one.description, one.chart)
        for place, one in enumerate(drawings)
    ]


def _amount_charts(amounts: Sequence[Amount]) -> list[Chart | None]:
    return [
        None if (one := amount.drawing) is None else _chart(f"amount-{place}", one.name, one.description, one.chart)
        for place, amount in enumerate(amounts)
    ]


def _drawn(key: str, drawings: Sequence[Drawing]) -> list[Chart]:
    return [_chart(f"{key}-{place}", *drawing) for place, drawing in enumerate(drawings)]


def _chart(key: str, model: str, description: str, chart: altair.LayerChart, fluid: bool = True) -> Chart:
    spec = chart.to_dict()
    spec.setdefault("config", {})["aria"] = False  # the figure is described as a whole, next to it
    return Chart(key, model, description, titled(chart_image(spec)), {**spec, "width": "container"} if fluid else spec)


def chart_image(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite definition as the text of an SVG image that scales with the page; nothing is loaded for it."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VEGA_LITE, allowed_base_urls=[])
    return svg


def script_json(value: Any) -> str:
    r"""JSON that is safe inside a script element: no `<`, `>` or `&` is left in it.

    >>> script_json({"arm": "</script>"})
    '{"arm": "\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return resources.files("transfuse.report").joinpath("templates", name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
