"""What the report shows of analyses: charts, tables and pictures made from tables of measurements."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse.report.analysis_notes import plain
from transfuse.report.explanations import EXPLANATIONS
from transfuse.report.html import Contents, render, write_report
from transfuse.report.inside import Topic, topics
from transfuse.report.pair_names import pair_styles
from transfuse.report.palette import arm_styles
from transfuse.specs.analyses import ANALYSES

BLOCKS = ("conv1", "layer1", "layer2")
STUDY = {"arms": {"random": {}, "pretrained": {"depth": "all"}}, "baseline": "random", "metric": "auroc"}


def network(arm: str, seed: int = 0, state: str = "trained") -> tuple[str, int, str]:
    return arm, seed, state


def names(
    what: str, one: tuple[str, int, str], other: tuple[str, int, str] | None = None, **keys: Any
) -> dict[str, Any]:
    """How a study names an analysis of one network, or of two."""
    (arm, seed, state), (other_arm, other_seed, other_state) = one, other or one
    title = f"{what} {arm} {seed} {state} {other_arm} {other_seed} {other_state}"
    return {
        "analysis_id": title,
        "analysis": what,
        "place": 0,
        "title": title,
        "model": "net",
        "arm": arm,
        "seed": seed,
        "state": state,
        "other_arm": other_arm,
        "other_seed": other_seed,
        "other_state": other_state,
        **keys,
    }


def row(quantity: str, value: float | None, **rest: Any) -> dict[str, Any]:
    columns = ("block", "other_block", "position", "step", "label", "low", "high")
    return {**dict.fromkeys(columns), "quantity": quantity, "value": value, **rest}


def table(*measured: tuple[dict[str, Any], Iterable[dict[str, Any]]]) -> pd.DataFrame:
    frame = pd.DataFrame([{**named, **one} for named, rows in measured for one in rows])
    floats = ["position", "step", "value", "low", "high"]
    return frame.astype(dict.fromkeys(floats, "float64")) if len(frame) else frame


def by_block(quantity: str, values: Sequence[float | None], **rest: Any) -> list[dict[str, Any]]:
    return [
        row(quantity, value, block=block, position=place, **rest)
        for place, (block, value) in enumerate(zip(BLOCKS, values, strict=True))
    ]


def same_blocks(quantity: str, values: Sequence[float], level: float = 0.1) -> list[dict[str, Any]]:
    """Each block with itself, as `pairs: same` has it."""
    return [
        {**one, "other_block": one["block"]}
        for one in (
            *by_block(quantity, values),
            *by_block("independent", [level] * 3),
            *by_block("samples", [30.0] * 3),
        )
    ]


def every_pair(quantity: str, of: Callable[[int, int], float]) -> list[dict[str, Any]]:
    return [
        row(kind, value, block=one, other_block=other, position=i)
        for i, one in enumerate(BLOCKS)
        for j, other in enumerate(BLOCKS)
        for kind, value in ((quantity, of(i, j)), ("independent", 0.0), ("samples", 30.0))
    ]


def topic_of(
    *measured: tuple[dict[str, Any], list[dict[str, Any]]],
    pictures: Sequence[tuple[dict[str, Any], str, np.ndarray]] = (),
    study: dict[str, Any] = STUDY,
    **keys: Any,
) -> Topic:
    stands = [{**named, "state": "finished", "reason": "", "notes": [], **keys} for named, _ in measured]
    stands = stands or [{**named, "state": "finished", "reason": "", "notes": [], **keys} for named, _, _ in pictures]
    (topic,) = topics(study, table(*measured), pictures, stands)
    return topic


def parts(chart: Any) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The layers of a chart, each with the rows that it shows."""
    spec = chart.to_dict()

    def rows(node: dict[str, Any]) -> list[dict[str, Any]]:
        data = node.get("data") or spec.get("data") or {}
        found: list[dict[str, Any]] = data["values"] if "values" in data else spec["datasets"][data["name"]]
        return found

    return [(node, rows(node)) for node in spec["layer"]]


def values_of(chart: Any) -> list[dict[str, Any]]:
    """All that a chart shows, from all its layers."""
    return [one for _, rows in parts(chart) for one in rows]


def axis(chart: Any, channel: str) -> set[str]:
    """The titles of an axis, over the layers."""
    found = [node["encoding"].get(channel, {}) for node, _ in parts(chart)]
    titles = [own.get("title") or (own.get("axis") or {}).get("title") for own in found]
    return {title for title in titles if isinstance(title, str)}


def bands(chart: Any) -> list[dict[str, Any]]:
    """The rows from which bands are drawn."""
    return [one for node, rows in parts(chart) if node["mark"]["type"] == "area" for one in rows]


def colours(chart: Any, channel: str) -> dict[str, str]:
    """The colour of each line or kind of box."""
    scales = [node["encoding"].get(channel, {}).get("scale") for node, _ in parts(chart)]
    (scale, *_) = [own for own in scales if own]
    return dict(zip(scale["domain"], scale["range"], strict=True))


def lines(chart: Any) -> dict[tuple[str, str], float]:
    """(line, block) -> value, of a chart by block."""
    return {(one["arm"], one["block"]): one["value"] for one in values_of(chart) if {"arm", "value"} <= set(one)}


BEFORE_AFTER = (network("pretrained", 0, "initial"), network("pretrained"))


def test_before_and_after_is_a_map_of_blocks_with_both_networks_on_its_axes() -> None:
    topic = topic_of((names("cka", *BEFORE_AFTER), every_pair("cka", lambda i, j: 1.0 if i == j else 0.2)))
    (drawing,) = topic.drawings
    assert (drawing.name, drawing.fluid) == ("net, pretrained", False)
    assert drawing.description == (
        "CKA of every block of pretrained, start with every block of pretrained; each block with itself 1.000 to 1.000."
    )
    assert axis(drawing.chart, "y") == {"pretrained, start"}
    assert axis(drawing.chart, "x") == {"pretrained"}
    assert len({(one["row"], one["column"]) for one in values_of(drawing.chart)}) == 9
    assert topic.tables == []
    assert topic.title == EXPLANATIONS["cka"].title


def test_maps_are_means_over_seeds_one_for_each_pair() -> None:
    def of(arm: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        named = names("cka", network(arm, seed, "initial"), network(arm, seed))
        return named, every_pair("rbf_cka", lambda i, j: 0.1 * seed)

    topic = topic_of(*(of(arm, seed) for arm in ("random", "pretrained") for seed in (1, 3)))
    assert [drawing.name for drawing in topic.drawings] == ["net, random", "net, pretrained"]
    assert {round(one["value"], 9) for one in values_of(topic.drawings[0].chart)} == {0.2}
    assert "RBF CKA of every block" in topic.drawings[0].description


def test_seed_against_seed_says_so_on_the_axes() -> None:
    topic = topic_of((names("cka", network("random", 0), network("random", 1)), every_pair("cka", lambda i, j: 0.5)))
    (drawing,) = topic.drawings
    assert axis(drawing.chart, "y") == {"random, one seed"}
    assert axis(drawing.chart, "x") == {"random, another seed"}


def test_another_network_has_charts_of_its_own() -> None:
    topic = topic_of(
        (names("cka", *BEFORE_AFTER), every_pair("cka", lambda i, j: 0.5)),
        (names("cka", *BEFORE_AFTER, model="wide"), every_pair("cka", lambda i, j: 0.5)),
    )
    assert [drawing.name for drawing in topic.drawings] == ["net, pretrained", "wide, pretrained"]


def six(at: Sequence[float]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """{random, pretrained} x {start, trained}: every two."""
    networks = [network(arm, 0, state) for arm in ("random", "pretrained") for state in ("initial", "trained")]
    pairs = [(one, other) for i, one in enumerate(networks) for other in networks[i + 1 :]]
    return [(names("cka", one, other), same_blocks("cka", at)) for one, other in pairs]


def test_all_networks_are_a_map_for_each_block() -> None:
    topic = topic_of(*six([0.9, 0.6, 0.3]))
    assert [drawing.name for drawing in topic.drawings] == [f"net, {block}" for block in BLOCKS]
    for drawing, value in zip(topic.drawings, (0.9, 0.6, 0.3), strict=True):
        cells = {(one["row"], one["column"]): one["value"] for one in values_of(drawing.chart)}
        own = ("random, start", "random", "pretrained, start", "pretrained")
        assert cells == {(a, b): 1.0 if a == b else value for a in own for b in own}
        assert not drawing.fluid


def test_networks_that_were_not_compared_are_grey() -> None:
    topic = topic_of(*six([0.9, 0.6, 0.3])[1:])
    cells = {(one["row"], one["column"]): one["value"] for one in values_of(topic.drawings[0].chart)}
    assert cells[("random, start", "random")] is None
    assert cells[("pretrained, start", "pretrained")] == 0.9


def test_cca_by_block_has_the_level_of_independent_features() -> None:
    topic = topic_of((names("cca", *BEFORE_AFTER), same_blocks("cca", [0.9, 0.8, 0.7], 0.25)))
    (drawing,) = topic.drawings
    assert drawing.fluid
    assert lines(drawing.chart) == {("pretrained", block): v for block, v in zip(BLOCKS, (0.9, 0.8, 0.7), strict=True)}
    assert {one["independent"] for one in values_of(drawing.chart)} == {0.25}
    assert axis(drawing.chart, "y") == {"CCA"}
    assert drawing.description == "CCA by block for net: pretrained up to 0.900 at conv1."
    assert topic.tables == []  # one network against itself: nothing to set beside it


def test_all_coefficients_stand_beside_those_of_random_features() -> None:
    def rows(at: float) -> list[dict[str, Any]]:
        spread = [
            row(kind, value, block=block, other_block=block, position=place, label=f"{rank:.2f}")
            for place, block in enumerate(BLOCKS)
            for kind, top in (("coefficient", at), ("random_coefficient", 0.3))
            for rank, value in ((0.0, top), (0.5, top / 2), (1.0, 0.0))
        ]
        area = by_block("area_above_random", [at - 0.3, 0.2, 0.1])
        return [
            *same_blocks("svcca", [0.9, 0.8, 0.7]),
            *spread,
            *({**one, "other_block": one["block"]} for one in area),
        ]

    measured = [
        (names("svcca", network(arm, 0, "initial"), network(arm)), rows(at))
        for arm, at in (("random", 0.9), ("pretrained", 0.6))
    ]
    topic = topic_of(*measured)
    (drawing,) = [drawing for drawing in topic.drawings if drawing.name == "net, all coefficients"]
    shown = {(one["kind"], one["block"]): (one["median"], one["most"]) for one in values_of(drawing.chart)}
    assert shown["random", "conv1"] == (0.45, 0.9)  # the arm of that name is not taken for random features
    assert shown["pretrained", "conv1"] == (0.3, 0.6)
    assert shown["random features", "conv1"] == (0.15, 0.3)
    (line,) = [drawing for drawing in topic.drawings if drawing.name == "net"]
    assert colours(drawing.chart, "fill") == {**colours(line.chart, "color"), "random features": "var(--band)"}
    assert colours(line.chart, "color") == {"random": "var(--arm-0)", "pretrained": "var(--arm-1)"}
    assert axis(drawing.chart, "y") == {"SVCCA coefficients"}
    (found,) = topic.tables
    assert found.heads == ("Networks", *BLOCKS)
    assert found.rows == [("random", "0.600", "0.200", "0.100"), ("pretrained", "0.300", "0.200", "0.100")]


def test_seeds_and_starts_of_an_arm_are_not_mixed() -> None:
    topic = topic_of(
        (names("cca", network("random", 0), network("random", 1)), same_blocks("cca", [0.2, 0.2, 0.2])),
        (names("cca", network("random", 0, "initial"), network("random", 0)), same_blocks("cca", [0.8, 0.8, 0.8])),
    )
    found = lines(topic.drawings[-1].chart)
    assert {arm: value for (arm, block), value in found.items() if block == "conv1"} == {
        "random": 0.2,
        "random, start and trained": 0.8,
    }


def cca_pairs() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    return [
        (names("cca", network("random", 0), network("random", 1)), same_blocks("cca", [0.9, 0.5, 0.3])),
        (names("cca", network("random", 0), network("random", 2)), same_blocks("cca", [0.9, 0.7, 0.5])),
        (names("cca", network("random", 0), network("pretrained", 0)), same_blocks("cca", [0.9, 0.4, 0.2])),
    ]


def test_pairs_of_networks_have_a_table_over_the_top_two_blocks() -> None:
    topic = topic_of(*cca_pairs())
    (found,) = topic.tables
    assert found.heads == ("Networks", "Similarity", "Deviation", "Pairs")
    assert found.rows == [("random", "0.500", "0.141", "2"), ("random and pretrained", "0.300", "–", "1")]
    assert set(lines(topic.drawings[0].chart)) == {
        (pair, block) for pair in ("random", "random and pretrained") for block in BLOCKS
    }


def test_two_networks_before_and_after_are_a_scatter() -> None:
    measured = [
        (names("cca", network("random", 0, state), network("random", 1, state)), same_blocks("cca", [0.9, 0.5, at]))
        for state, at in (("initial", 0.2), ("trained", 0.4))
    ]
    topic = topic_of(*measured)
    (scatter,) = [drawing for drawing in topic.drawings if drawing.name == "net, before and after"]
    points = {one["block"]: (one["initial"], one["final"]) for one in values_of(scatter.chart) if "block" in one}
    assert points == {"conv1": (0.9, 0.9), "layer1": (0.5, 0.5), "layer2": (0.2, 0.4)}
    assert axis(scatter.chart, "x") == {"CCA at initialisation"}
    assert axis(scatter.chart, "y") == {"CCA after training"}
    trained_only = topic_of(measured[1])
    assert [drawing.name for drawing in trained_only.drawings] == ["net"]


def seeds_of(count: int, what: str = "l2", quantity: str = "l2_distance") -> Topic:
    return topic_of(
        *(
            (names(what, network(arm, seed, "initial"), network(arm, seed)), by_block(quantity, [0.1 * (seed + 1)] * 3))
            for arm in ("random", "pretrained")
            for seed in range(count)
        )
    )


def test_bands_are_drawn_from_three_seeds_on() -> None:
    assert bands(seeds_of(1).drawings[0].chart) == []
    assert bands(seeds_of(2).drawings[0].chart) == []
    three = seeds_of(3).drawings[0].chart
    found = {(one["arm"], one["block"]): (one["low"], one["high"]) for one in bands(three)}
    assert len(found) == 6
    low, high = found["random", "conv1"]
    assert (low + high) / 2 == pytest.approx(0.2)
    assert high - low == pytest.approx(2 * 4.302653 * 0.1 / 3**0.5, rel=1e-4)  # t at 2 degrees of freedom
    assert lines(three)["pretrained", "layer2"] == pytest.approx(0.2)


def test_pairs_of_seeds_have_no_band_since_they_share_runs() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]
    topic = topic_of(
        *(
            (names("cca", network("random", one), network("random", other)), same_blocks("cca", [0.1 * one + 0.3] * 3))
            for one, other in pairs
        )
    )
    (drawing,) = topic.drawings
    assert bands(drawing.chart) == []
    assert lines(drawing.chart)["random", "layer2"] == pytest.approx(1 / 3)


def test_l2_and_drops_and_neighbours_say_what_they_measure() -> None:
    assert axis(seeds_of(1).drawings[0].chart, "y") == {"l2 distance per weight"}
    assert axis(seeds_of(1, "reinitialise", "drop").drawings[0].chart, "y") == {"drop of the test metric"}
    assert axis(seeds_of(1, "knn", "auroc").drawings[0].chart, "y") == {"k-NN AUROC"}
    assert axis(seeds_of(1, "cca_patches", "cca").drawings[0].chart, "y") == {"CCA"}
    attention = topic_of(
        (
            names("attention", network("random")),
            [
                *by_block("attended_distance", [10.0, 20.0, 30.0]),
                *by_block("uniform", [25.0] * 3),
                *by_block("attended_distance_of_head", [5.0, 5.0, 5.0], label="head 0"),
            ],
        )
    )
    (drawing,) = attention.drawings
    assert axis(drawing.chart, "y") == {"attended distance (pixels)"}
    assert sorted(lines(drawing.chart).values()) == [10.0, 20.0, 30.0]
    assert {one["independent"] for one in values_of(drawing.chart)} == {25.0}


def test_one_seed_of_a_drop_has_the_interval_over_patients() -> None:
    rows = [
        {**one, "low": one["value"] - 0.05, "high": one["value"] + 0.05} for one in by_block("drop", [0.1, 0.2, 0.3])
    ]
    topic = topic_of((names("reinitialise", *BEFORE_AFTER), [*by_block("auroc", [0.9, 0.8, 0.7]), *rows]))
    found = {one["block"]: (round(one["low"], 9), round(one["high"], 9)) for one in bands(topic.drawings[0].chart)}
    assert found == {"conv1": (0.05, 0.15), "layer1": (0.15, 0.25), "layer2": (0.25, 0.35)}


def test_neighbours_without_the_metric_of_the_study_take_another() -> None:
    rows = [*by_block("accuracy", [0.5, 0.6, 0.7]), *by_block("macro_recall", [0.1, 0.1, 0.1])]
    topic = topic_of((names("knn", network("random")), rows), study={**STUDY, "metric": "kappa"})
    (drawing,) = topic.drawings
    assert sorted(lines(drawing.chart).values()) == [0.5, 0.6, 0.7]
    assert axis(drawing.chart, "y") == {"k-NN accuracy"}


def test_an_undefined_value_is_no_chart_and_no_error() -> None:
    topic = topic_of((names("knn", network("random")), by_block("auroc", [None, None, None])))
    assert topic.drawings == []
    some = topic_of((names("knn", network("random")), by_block("auroc", [0.5, None, 0.7])))
    assert sorted(lines(some.drawings[0].chart).values()) == [0.5, 0.7]


def test_blocks_stand_in_the_order_of_the_network_that_has_them_all() -> None:
    cut = [one for one in by_block("l2_distance", [0.1, 0.2, 0.3]) if one["block"] == "conv1"]
    cut.append(row("l2_distance", 0.4, block="head", position=1))
    whole = [*by_block("l2_distance", [0.1, 0.2, 0.3]), row("l2_distance", 0.4, block="head", position=3)]
    topic = topic_of(
        (names("l2", network("random", 0, "initial"), network("random")), cut),
        (names("l2", *BEFORE_AFTER), whole),
    )
    seen = list(dict.fromkeys(one["block"] for one in values_of(topic.drawings[0].chart) if "block" in one))
    assert seen == [*BLOCKS, "head"]


def test_dynamics_have_a_chart_for_each_arm_over_the_steps() -> None:
    def of(arm: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        rows = [one for step in (0, 1, 8) for one in same_blocks("cca", [0.1 * (step + seed)] * 3)]
        steps = [step for step in (0, 1, 8) for _ in range(9)]
        named = names("dynamics", network(arm, seed, "initial"), network(arm, seed))
        return named, [{**one, "step": step} for one, step in zip(rows, steps, strict=True)]

    topic = topic_of(of("random", 0), of("random", 2), of("pretrained", 0))
    assert [drawing.name for drawing in topic.drawings] == ["net, random", "net, pretrained"]
    points = {(one["block"], one["step"]): one["value"] for one in values_of(topic.drawings[0].chart)}
    assert points == {(block, step): pytest.approx(0.1 * (step + 1)) for block in BLOCKS for step in (0, 1, 8)}
    assert axis(topic.drawings[0].chart, "y") == {"CCA with the trained network"}
    assert {"training step (logarithmic)"} == axis(topic.drawings[0].chart, "x")


def test_weights_are_a_histogram_of_both_states() -> None:
    rows = [
        row("weights", count, block="first layer", label=label, low=low, high=low + 0.5)
        for label, counts in (("initial", (3, 5)), ("trained", (4, 4)))
        for low, count in zip((-0.5, 0.0), counts, strict=True)
    ]
    topic = topic_of((names("histogram", *BEFORE_AFTER), rows))
    (drawing,) = topic.drawings
    assert drawing.name == "net, pretrained"
    assert {one["state"] for one in values_of(drawing.chart)} == {"at the start", "trained"}


def test_distances_between_sets_of_images_are_a_table() -> None:
    def rows(distance: float) -> list[dict[str, Any]]:
        pairs = (("frechet_distance", distance), ("by_chance", 1.5), ("samples", 40.0))
        return [row(name, value, block="layer2", position=0, label="nat") for name, value in pairs]

    start = [network("pretrained", seed, "initial") for seed in (0, 1)]
    topic = topic_of((names("fid", start[0]), rows(10.0)), (names("fid", start[1]), rows(20.0)))
    (found,) = topic.tables
    assert found.heads == ("Source", "Features of", "Block", "Distance", "By chance", "Images, the fewer")
    assert found.rows == [("nat", "pretrained", "layer2", "15.000", "1.500", "40")]
    assert topic.drawings == []


def test_heat_in_lesions_is_a_table_beside_that_of_an_even_map() -> None:
    rows = [
        row(name, value, block="layer2", position=0)
        for name, value in (("mass_inside_lesions", 0.3), ("mass_by_chance", 0.06), ("samples", 31.0))
    ]
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    named = names("gradcam", network("random"))
    topic = topic_of((named, rows), pictures=[(named, "image 1, layer2", picture)])
    (found,) = topic.tables
    assert found.rows == [("random", "layer2", "0.300", "0.060", "31")]
    assert len(topic.galleries) == 1


def pictures_of(what: str, *networks: tuple[str, int, str]) -> list[tuple[dict[str, Any], str, np.ndarray]]:
    array = np.arange(64, dtype=np.uint8).reshape(8, 8)
    return [(names(what, one), caption, array) for one in networks for caption in ("at the start", "trained")]


@pytest.mark.parametrize("what", ["filters", "maps", "maximise", "gradcam"])
def test_pictures_stand_in_the_page_itself_by_network(what: str) -> None:
    topic = topic_of(pictures=pictures_of(what, network("random"), network("pretrained", 1)))
    assert len(topic.galleries) == 2
    first, second = topic.galleries
    assert "net · random · seed 0" in first
    assert "net · pretrained · seed 1" in second
    assert first.count('src="data:image/png;base64,') == first.count("<img") == 2
    assert f'alt="{EXPLANATIONS[what].title} net, random: at the start"' in first
    assert topic.drawings == []


def test_notes_are_counted_and_what_is_missing_is_listed() -> None:
    stands = [
        {**names("l2", network("random", 0)), "state": "finished", "reason": "", "notes": ["few samples", "other"]},
        {**names("l2", network("random", 1)), "state": "finished", "reason": "", "notes": ["few samples"]},
        {**names("l2", network("random", 2)), "state": "failed", "reason": "no block", "notes": []},
        {**names("l2", network("random", 3)), "state": "waiting", "reason": "", "notes": []},
    ]
    (topic,) = topics(STUDY, pd.DataFrame(), [], stands)
    assert topic.notes == ["Few samples (all 2 comparisons)", "other (random)"]
    assert topic.missing == [f"{stands[2]['title']}: failed, no block", f"{stands[3]['title']}: waiting"]
    assert (topic.drawings, topic.tables, topic.galleries) == ([], [], [])


def test_pairs_have_colours_that_no_arm_of_the_study_has() -> None:
    study = {**STUDY, "arms": {**STUDY["arms"], "mean_var": {}}}
    topic = topic_of(*cca_pairs(), study=study)
    (drawing,) = topic.drawings
    assert colours(drawing.chart, "color") == {"random": "var(--arm-0)", "random and pretrained": "var(--arm-3)"}


def test_arms_that_take_all_colours_leave_pairs_other_dashes() -> None:
    styles = arm_styles([f"arm{place}" for place in range(8)], "arm0")
    found = pair_styles(["arm3", "arm3, start"], styles)
    assert found["arm3"] == styles["arm3"]
    assert found["arm3, start"].dash not in {style.dash for style in styles.values()}


def test_a_topic_says_what_was_compared() -> None:
    stands = [
        {**names("cca", network("random", 0), network("random", 1)), "state": "finished", "reason": "", "notes": []},
        {**names("knn", network("random"), place=1), "state": "finished", "reason": "", "notes": []},
    ]
    asked = [{"compared": "trained networks of every two seeds", "compares": True}, {"compared": "trained networks"}]
    found = topics({**STUDY, "analyses": asked}, pd.DataFrame(), [], stands)
    assert [topic.compared for topic in found] == ["trained networks of every two seeds", "trained networks"]
    assert [topic.compared for topic in topics(STUDY, pd.DataFrame(), [], stands)] == ["", ""]


def test_notes_that_differ_in_numbers_are_one_and_name_their_networks() -> None:
    said = "42 samples for 512 dimensions: the distance of {} at 'layer4' is biased, k = 1,000."
    stands = [
        {
            **names("fid", network(arm, seed, "initial")),
            "state": "finished",
            "reason": "",
            "notes": [said.format(value)] if value else [],
        }
        for arm, seed, value in (("random", 0, "44.47"), ("random", 1, "5.2"), ("pretrained", 0, ""))
    ]
    (topic,) = topics({**STUDY, "analyses": [{"compares": False}]}, pd.DataFrame(), [], stands)
    (found,) = topic.notes
    assert found == said.format("5.2 to 44.47").replace("'", "") + " (2 networks: random)"


def test_notes_do_not_speak_python() -> None:
    note = (
        "too few samples, fewest for 'layer4 of model_a' and 'layer3 of model_b': 8 samples of 9 neurons. Compare with "
        "`independent`, take more images."
    )
    assert plain(note) == (
        "Too few samples, fewest for layer4 and layer3: 8 samples of 9 neurons. Compare with the level of independent "
        "features, take more images."
    )
    assert plain("k is 200, 'stem of model_a'; it's 'a'") == "k is 200, 'stem of the first network'; it's a"


def test_small_distances_are_told_and_drawn_to_more_than_six_decimals() -> None:
    measured = [
        (names("l2", *BEFORE_AFTER), by_block("l2_distance", [0.0000321456, 0.0000012345, 0.0])),
    ]
    (drawing,) = topic_of(*measured).drawings
    assert "pretrained up to 0.000032 at conv1" in drawing.description
    shown = lines(drawing.chart)
    assert shown["pretrained", "layer1"] == 0.0000012345
    assert '".3~r"' in json.dumps(drawing.chart.to_dict())


def test_each_line_of_the_study_is_a_topic_of_its_own_in_its_order() -> None:
    one, other = names("l2", *BEFORE_AFTER, place=1), names("l2", *BEFORE_AFTER, place=0)
    frame = table((one, by_block("l2_distance", [0.1] * 3)), (other, by_block("l2_distance", [0.2] * 3)))
    stands = [{**named, "state": "finished", "reason": "", "notes": []} for named in (other, one)]
    found = topics(STUDY, frame, pictures_of("filters", network("random"))[:0], stands)
    assert [set(lines(topic.drawings[0].chart).values()) for topic in found] == [{0.2}, {0.1}]
    assert topics(STUDY, pd.DataFrame(), [], []) == []


def test_a_line_whose_work_another_line_shares_is_shown_too() -> None:
    """Two lines of a study may ask for the same analysis, which is then kept and listed once."""
    first, second = (names("l2", *BEFORE_AFTER, place=place) for place in (0, 1))
    frame = table((first, by_block("l2_distance", [0.1] * 3)), (second, by_block("l2_distance", [0.1] * 3)))
    found = topics(STUDY, frame, [], [{**first, "state": "finished", "reason": "", "notes": []}])
    assert [len(topic.drawings) for topic in found] == [1, 1]


def test_arms_keep_their_colours() -> None:
    spec = seeds_of(1).drawings[0].chart.to_dict()
    scales = [layer["encoding"]["color"]["scale"] for layer in spec["layer"] if "color" in layer.get("encoding", {})]
    assert scales
    assert {tuple(scale["domain"]) for scale in scales} == {("random", "pretrained")}


def ranking() -> list[dict[str, Any]]:
    probe = [
        {**one, "low": one["value"] - 0.1, "high": one["value"] + 0.1}
        for one in by_block("probe", [0.6, 0.8, 0.7], label="auroc")
    ]
    return [*probe, *by_block("knn", [0.5, 0.6, 0.9], label="auroc"), *by_block("logme", [-0.5, -0.2, -0.3])]


def overlap(chosen: str) -> list[dict[str, Any]]:
    rows = [*by_block("overlap", [0.0, 0.1, 0.6]), *by_block("median", [0.9, 0.7, 0.1])]
    rows += by_block("random_quantile", [0.05, 0.05, 0.2])
    for share in (0.0, 0.5, 1.0):
        rows += by_block("coefficient", [0.8 + share / 5, 0.6 + share / 5, share / 5], label=f"{share}")
        rows += by_block("random_coefficient", [share / 10] * 3, label=f"{share}")
    return [*rows, row("chosen", 1.0, block=chosen, label="before")]


def test_a_ranking_of_cuts_is_drawn_with_its_scores_and_told_in_numbers() -> None:
    topic = topic_of((names("cut_ranking", network("pretrained", 0, "initial")), ranking()))
    (drawing,), (shown,) = topic.drawings, topic.tables
    assert "linear probe up to 0.800 at layer1; nearest neighbours up to 0.900 at layer2" in drawing.description
    assert shown.heads == ("Cut after", "Probe, AUROC", "Nearest neighbours, AUROC", "LogME")
    assert shown.rows[1] == ("layer1", "0.800", "0.600", "−0.200")


def test_the_overlap_with_random_features_is_drawn_with_the_cut() -> None:
    topic = topic_of((names("cut_overlap", *BEFORE_AFTER), overlap("layer1")))
    (drawing,), (shown,) = topic.drawings, topic.tables
    assert drawing.description.endswith("cut after layer1.")
    assert "the network is cut above layer1" in json.dumps(drawing.chart.to_dict())
    assert shown.rows[2] == ("layer2", "0.100", "0.200", "0.600")


def test_a_screen_is_a_line_over_the_cuts() -> None:
    rows = [*by_block("auroc", [0.6, 0.8, 0.7]), *by_block("parameters", [10.0, 20.0, 30.0])]
    topic = topic_of((names("cut_screen", network("pretrained", 0, "initial")), rows))
    (drawing,) = topic.drawings
    assert drawing.description.startswith("validation AUROC by block for net")


def everything() -> tuple[pd.DataFrame, list[Any], list[dict[str, Any]]]:
    """One line of each analysis, and a failure."""
    lines: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {
        "cka": [(names("cka", *BEFORE_AFTER), every_pair("cka", lambda i, j: 0.5))],
        "cca": cca_pairs(),
        "svcca": [(names("svcca", *BEFORE_AFTER), same_blocks("svcca", [0.9, 0.8, 0.7]))],
        "pwcca": [(names("pwcca", *BEFORE_AFTER), same_blocks("pwcca", [0.9, 0.8, 0.7]))],
        "cca_patches": [(names("cca_patches", *BEFORE_AFTER), same_blocks("cca", [0.9, 0.8, 0.7]))],
        "l2": [(names("l2", *BEFORE_AFTER), by_block("l2_distance", [0.1, 0.2, 0.3]))],
        "dynamics": [
            (
                names("dynamics", *BEFORE_AFTER),
                [{**one, "step": step} for step in (0, 1, 8) for one in same_blocks("cca", [0.1, 0.2, 0.9])],
            )
        ],
        "knn": [(names("knn", network("random")), by_block("auroc", [0.6, 0.7, 0.8]))],
        "reinitialise": [(names("reinitialise", *BEFORE_AFTER), by_block("drop", [0.1, 0.2, 0.3]))],
        "attention": [
            (
                names("attention", network("random")),
                [*by_block("attended_distance", [1, 2, 3]), *by_block("uniform", [4] * 3)],
            )
        ],
        "fid": [
            (
                names("fid", network("random", 0, "initial")),
                [row(q, 2.0, block="layer2", label="nat") for q in ("frechet_distance", "by_chance", "samples")],
            )
        ],
        "filters": [(names("filters", *BEFORE_AFTER), [row("relative_change", 0.1, block="first layer")])],
        "histogram": [
            (
                names("histogram", *BEFORE_AFTER),
                [row("weights", 3.0, label="initial", low=low, high=low + 1) for low in (0, 1)],
            )
        ],
        "maps": [],
        "maximise": [(names("maximise", network("random")), by_block("activation_after", [1.0, 2.0, 3.0]))],
        "gradcam": [
            (
                names("gradcam", network("random")),
                [row(q, 0.5, block="layer2") for q in ("mass_inside_lesions", "mass_by_chance", "samples")],
            )
        ],
        "cut_ranking": [(names("cut_ranking", network("random", 0, "initial")), ranking())],
        "cut_overlap": [(names("cut_overlap", *BEFORE_AFTER), overlap("layer1"))],
        "cut_screen": [(names("cut_screen", network("random", 0, "initial")), by_block("auroc", [0.6, 0.8, 0.7]))],
    }
    assert set(lines) == set(ANALYSES)
    measured, stands, pictures = [], [], []
    for place, (what, each) in enumerate(lines.items()):
        for named, rows in each or [(names(what, network("random")), [])]:
            named = {**named, "place": place}
            measured.append((named, rows))
            stands.append({**named, "state": "finished", "reason": "", "notes": [f"note of {what}"]})
        if what in ("filters", "maps", "maximise", "gradcam"):
            pictures += [({**named, "place": place}, "one", np.zeros((8, 8), dtype=np.uint8))]
    stands.append({**names("l2", network("random", 9), place=5), "state": "failed", "reason": "disk full", "notes": []})
    return table(*measured), pictures, stands


def with_analyses(build: Callable[..., Contents], **keys: Any) -> Contents:
    measurements, pictures, stands = everything()
    shown = {"measurements": measurements, "pictures": pictures, "analyses": stands}
    return build(models=("net",), diverged=None, **shown, **keys)


class Page(HTMLParser):
    """What a page would load, its texts, and whether every element is closed."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = ("src", "srcset", "poster", "data", "action") + (() if tag == "a" else ("href", "xlink:href"))
        self.loads += [str(value) for name, value in attrs if name in links and value]
        self.loads += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for _, value in attrs))
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.loads += ["".join(found) for found in re.findall(r"url\(([^)]*)\)|@import\s*(\S+)", data)]
        elif self.open and self.open[-1] != "script":
            self.text += data


def test_every_analysis_is_in_the_page_and_nothing_is_loaded(build: Callable[..., Contents]) -> None:
    text = render(with_analyses(build), interactive=False)
    page = Page(text)
    assert "Inside the networks" in page.text
    assert 'href="#inside"' in text
    for what in ANALYSES:
        assert EXPLANATIONS[what].title in page.text
        assert EXPLANATIONS[what].how in " ".join(page.text.split())
        assert f"Note of {what}" in page.text
    assert "Without a result: 1" in page.text
    assert "l2 random 9 trained random 9 trained: failed, disk full" in page.text
    assert "random and pretrained" in page.text
    assert "Note of cca (all 3 comparisons)" in page.text
    assert page.loads
    assert all(load.startswith(("data:", "#")) for load in page.loads)
    assert "default-src 'none'" in text
    inside = text[text.index('<section id="inside">') :]
    assert inside.count('src="data:image/png;base64,') >= 4
    assert len(re.findall(r'id="([^"]+)"', text)) == len(set(re.findall(r'id="([^"]+)"', text)))
    empty = render(build(models=("net",), diverged=None), interactive=False)
    assert "Inside the networks" not in empty
    assert "#inside" not in empty


def test_names_cannot_break_out_of_the_page(build: Callable[..., Contents]) -> None:
    evil = '</script><script>alert("1")</script><b>'
    named = names("l2", network(evil, 0, "initial"), network(evil), model=evil, title=evil)
    other = {**names("filters", network(evil), model=evil, place=1)}
    rows = [row("l2_distance", 0.1, block=evil, position=0)]
    stands = [
        {**named, "state": "finished", "reason": "", "notes": [evil]},
        {**other, "state": "failed", "reason": evil, "notes": []},
    ]
    contents = build(
        models=("net",),
        diverged=None,
        measurements=table((named, rows)),
        pictures=[(other, evil, np.zeros((4, 4), dtype=np.uint8))],
        analyses=stands,
    )
    text = render(contents)
    page = Page(text)
    assert "<script>alert" not in text
    assert "<b>" not in text[text.index('<section id="inside">') : text.index('id="chart-specs"')]
    assert page.text.count(evil) >= 4


@pytest.mark.slow
def test_the_page_draws_itself_in_a_browser_without_an_error(build: Callable[..., Contents], tmp_path: Path) -> None:
    beside = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("test_browser.py"))
    assert beside is not None
    assert beside.loader is not None
    browser = importlib.util.module_from_spec(beside)
    beside.loader.exec_module(browser)
    if browser.BROWSER is None:
        pytest.skip("no Chromium or Chrome is installed")
    page = write_report(with_analyses(build), tmp_path / "report.html")
    document, console = browser.open_page(page, tmp_path / "profile")
    assert console == []  # a request would be refused by the page's policy, and be here
    assert 'data-charts="ready"' in document
    inside = document[document.index('<section id="inside">') :]
    assert inside.count("vega-embed") >= 12
