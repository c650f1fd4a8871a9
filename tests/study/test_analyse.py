"""Analyses from a study to their records: what is kept is what the functions give on the same networks and images."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from transfuse import analysis
from transfuse.errors import AnalysisWarning
from transfuse.models import Blocks, blocks_of, create_model, truncate
from transfuse.report.inside import Topic, topics
from transfuse.results.depth import pairs_against
from transfuse.results.store import Store
from transfuse.specs import StudySpec, study_from
from transfuse.study import sources
from transfuse.study.analyse import do_analysis
from transfuse.study.analyses import PlannedAnalysis, plan_analyses
from transfuse.study.carry_out import Outcome, carry_out
from transfuse.study.conclude import conclude
from transfuse.study.events import Ended, Event, Failed, Started
from transfuse.study.looked import batches_of
from transfuse.study.plan import analysis_status, plan

MakeStudy = Callable[..., StudySpec]
ARMS = {
    "random": {},
    "imnet": {"depth": "all"},
    "frozen": {"depth": "all", "freeze": "all"},
    "cut": {"depth": "all", "truncate": "layer2"},
    "slim": {"depth": "layer2", "slim": "layer2"},
}
BEFORE_AFTER = ["imnet", "frozen", "cut", "slim"]
ANALYSES: list[Any] = [
    {"what": "cka", "arms": BEFORE_AFTER, "seeds": [0], "images": 20},
    {"what": "cka", "between": "all", "arms": ["random", "imnet", "frozen"], "seeds": [0], "pairs": "same"},
    {"what": "cka", "between": [["imnet", "cut"]], "seeds": [0]},
    {"what": "cca", "between": [["random", "random"], ["imnet", "imnet"], ["random", "imnet"]], "level": "stage"},
    {"what": "cca", "between": [["random:initial", "random:initial"], ["random", "random"]], "level": "stage"},
    {"what": "cca", "between": [["imnet", "cut"], ["cut", "slim"]], "seeds": [0]},
    {"what": "svcca", "arms": ["imnet"], "seeds": [0], "variance": 0.9, "part": "train"},
    {
        "what": "pwcca",
        "arms": ["imnet"],
        "seeds": [0],
        "pairs": "all",
        "view": "pooled",
        "blocks": ["layer1", "layer2"],
    },
    {"what": "l2", "arms": BEFORE_AFTER, "seeds": [0]},
    {"what": "l2", "arms": ["imnet"], "seeds": [0], "blocks": ["layer2"], "reduce": "tensor_mean"},
    {"what": "l2", "between": [["imnet", "cut"], ["cut", "imnet"], ["imnet", "slim"]], "seeds": [0]},
    {"what": "dynamics", "arms": ["imnet"], "seeds": [0]},
    {"what": "knn", "arms": ["imnet", "cut"], "seeds": [0], "k": 5, "vote": "majority"},
    {"what": "reinitialise", "arms": ["imnet", "cut"], "seeds": [0]},
    {"what": "reinitialise", "arms": ["imnet"], "seeds": [0], "blocks": ["layer1"]},
    {"what": "fid", "source": "nat", "arms": ["imnet"], "seeds": [0], "blocks": ["layer1"]},
    {
        "what": "cca_patches",
        "between": [["random:initial", "random"], ["random", "cut"]],
        "seeds": [0],
        "p": 400,
        "d": 8,
    },
    {"what": "filters", "arms": ["imnet"]},
    {"what": "histogram", "arms": ["imnet"]},
    {"what": "maps", "arms": ["imnet"], "images": 2, "channels": 4},
    {"what": "maximise", "arms": ["imnet"], "channels": 2, "steps": 2, "blocks": ["layer2"]},
    {"what": "gradcam", "arms": ["imnet"], "images": 2},
]


def tiny(npz: Path, **keys: Any) -> StudySpec:
    nat = {"data": {"name": str(npz), "size": 16}, "train": {"steps": 4, "validate_every": 4}}
    return study_from(
        {
            "name": "spots",
            "data": {"name": str(npz), "size": 16},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool", "weights": "run:nat"}},
            "arms": ARMS,
            "sources": {"nat": nat},
            "train": {"steps": 4, "batch_size": 16, "validate_every": 2},
            "seeds": 2,
            **keys,
        }
    )


@contextlib.contextmanager
def quiet(*_: int) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


class Finished:
    """A study that was carried out, and what it left."""

    def __init__(self, study: StudySpec, root: Path) -> None:
        self.study, self.store = study, Store(root)
        runs = plan(study)
        self.runs = {(run.role, run.arm, run.spec.seed): run for run in runs}
        self.jobs = plan_analyses(study, runs)
        self.outcome: Outcome = carry_out(study, runs, self.store, show=quiet, workers=1, device="cpu")
        self.states = {one.row["analysis_id"]: one for one in analysis_status(self.store, self.outcome.plan.analyses)}

    def job(self, place: int, title: str = "") -> PlannedAnalysis:
        (job,) = [job for job in self.jobs if job.place == place and title in job.title]
        return job

    def rows(self, place: int, quantity: str, title: str = "") -> pd.DataFrame:
        """What an analysis measured of a quantity."""
        job = self.job(place, title)
        found = self.store.measurements(job.row())
        assert found is not None, self.states[job.run_id]
        return found[found["quantity"] == quantity].reset_index(drop=True)

    def values(self, place: int, quantity: str, title: str = "") -> dict[str, float]:
        """By block; of a map, the block with itself."""
        rows = self.rows(place, quantity, title)
        rows = rows[rows["other_block"].isna() | (rows["other_block"] == rows["block"])]
        assert not rows["block"].duplicated().any()
        return dict(zip(rows["block"], rows["value"], strict=True))

    def weights(self, arm: str, file: str = "best", seed: int = 0, role: str = "arm") -> dict[str, Tensor]:
        folder = self.store.run_folder(self.runs[role, arm, seed].run_id)
        return load_file(folder / f"{file}.safetensors")

    def network(self, arm: str, file: str = "best", seed: int = 0) -> nn.Module:
        """The network of an arm, built and loaded by other means than those of the analyses."""
        model = create_model("cbr_demo", 2, 1, padding="same_pool", image_size=16)
        if arm == "cut":
            model = truncate(model, blocks_of(model, "stage"), "layer2", 2, image_size=16)
        model.load_state_dict(self.weights(arm, file, seed))
        return model.eval()

    def images(self, count: int, part: str = "test") -> tuple[Tensor, Tensor]:
        """The first so many of the random order in which all analyses look at images."""
        own = getattr(sources.split_data(self.study.data, sources.open_data(self.study.data)), part)
        order = np.random.default_rng(0).permutation(len(own))[:count]
        return own.normalise(own.tensors(order)), torch.from_numpy(own.targets[order])


@pytest.fixture(scope="module")
def finished(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    study = tiny(tiny_npz, analyses=ANALYSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnalysisWarning)  # what an analysis warns of is a note of its record
        return Finished(study, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def shown(finished: Finished) -> list[Topic]:
    """What the report has for each line of the study."""
    study = conclude(finished.store, finished.outcome.plan)
    return topics(study.study, study.tables.measurements, study.pictures, study.analyses)


def approx(values: Any) -> Any:
    return pytest.approx(values, rel=1e-5, abs=1e-6)


def quietly(call: Callable[..., Any], *args: Any, **keys: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnalysisWarning)
        return call(*args, **keys)


def test_every_analysis_has_finished(finished: Finished) -> None:
    assert [one for one in finished.states.values() if one.state != "finished"] == []
    assert finished.outcome.complete
    assert finished.outcome.states == {
        "finished": len({run.run_id for run in finished.runs.values()} | set(finished.states))
    }
    assert {job.place for job in finished.jobs} == set(range(len(ANALYSES)))


def test_cka_before_and_after_is_that_of_the_functions(finished: Finished) -> None:
    before, after, images = finished.network("imnet", "initial"), finished.network("imnet"), finished.images(20)[0]
    matrix = analysis.cka_matrix(before, after, [images], blocks_of(before, "block"))
    rows = finished.rows(0, "cka", "imnet")
    assert len(rows) == 16
    assert [matrix[row["block"], row["other_block"]] for row in rows.to_dict("records")] == approx(list(rows["value"]))
    assert set(finished.rows(0, "samples", "imnet")["value"]) == {20}
    assert finished.values(0, "cka", "imnet")["layer4"] != approx(1.0)
    assert list(rows["position"].unique()) == [0, 1, 2, 3]


def test_a_network_that_was_not_trained_has_not_changed(finished: Finished) -> None:
    assert finished.values(0, "cka", "frozen") == approx({f"layer{n}": 1.0 for n in (1, 2, 3, 4)})
    moved = finished.values(8, "l2_distance", "frozen")
    assert {block: moved[block] == 0 for block in moved} == {**{f"layer{n}": True for n in (1, 2, 3, 4)}, "head": False}


def test_all_pairs_of_networks_fill_a_map_for_each_block(finished: Finished, shown: list[Topic]) -> None:
    """AN-7."""
    rows = [finished.store.measurements(job.row()) for job in finished.jobs if job.place == 1]
    assert len(rows) == 15
    values = pd.concat([found[found["quantity"] == "cka"] for found in rows if found is not None])
    assert list(values.groupby("block").size()) == [15] * 4
    assert (values["block"] == values["other_block"]).all()
    (start,) = values[
        (values["block"] == "layer1")
        & (values["arm"] == "imnet")
        & (values["state"] == "initial")
        & (values["other_arm"] == "frozen")
        & (values["other_state"] == "initial")
    ]["value"]
    assert start == approx(1.0)  # both start from the same weights
    topic = shown[1]
    assert [drawing.name for drawing in topic.drawings] == [f"net, layer{n}" for n in (1, 2, 3, 4)]
    spec = topic.drawings[0].chart.to_dict()
    assert sorted(len(rows) for rows in spec["datasets"].values()) == [36]


def test_cka_of_a_cut_and_a_whole_network(finished: Finished) -> None:
    rows = finished.rows(2, "cka")
    whole, cut, images = finished.network("imnet"), finished.network("cut"), finished.images(30)[0]
    matrix = analysis.cka_matrix(whole, cut, [images], blocks_of(whole, "block"), blocks_of(cut, "block"))
    assert set(zip(rows["block"], rows["other_block"], strict=True)) == {
        (f"layer{n}", f"layer{m}") for n in (1, 2, 3, 4) for m in (1, 2)
    }
    assert [matrix[row["block"], row["other_block"]] for row in rows.to_dict("records")] == approx(list(rows["value"]))


def test_two_random_networks_and_a_random_with_a_pretrained_one(finished: Finished, shown: list[Topic]) -> None:
    """AN-4: over the top two stages; each pair is that of the functions on the same two networks."""
    images = finished.images(30)[0]
    networks = {(arm, seed): finished.network(arm, seed=seed) for arm in ("random", "imnet") for seed in (0, 1)}
    for title, one, other in (
        ("random and random", ("random", 0), ("random", 1)),
        ("imnet and imnet", ("imnet", 0), ("imnet", 1)),
        ("random and imnet · seed 1", ("random", 1), ("imnet", 1)),
    ):
        blocks = blocks_of(networks[one], "stage")
        matrix = quietly(analysis.cca_matrix, networks[one], networks[other], [images], blocks, pairs="same")
        assert finished.values(3, "cca", title) == approx({name: matrix[name, name] for name in blocks.names})
        level = dict(zip(blocks.names, np.diagonal(matrix.independent), strict=True))
        assert finished.values(3, "independent", title) == approx(level)
    (table,) = [table for table in shown[3].tables if "top two" in table.caption]
    assert [row[0] for row in table.rows] == ["random", "imnet", "random and imnet"]
    assert [row[3] for row in table.rows] == ["1", "1", "2"]
    top = [list(finished.values(3, "cca", title).values())[-2:] for title in ("random and random", "imnet and imnet")]
    assert [float(row[1]) for row in table.rows[:2]] == pytest.approx([np.mean(two) for two in top], abs=6e-4)


def test_all_coefficients_are_kept_beside_random_ones(finished: Finished, shown: list[Topic]) -> None:
    """AN-24 and AN-25."""
    before, after = finished.network("imnet", "initial"), finished.network("imnet")
    taken = {name: {} for name in ("layer1", "layer3")}  # type: dict[str, dict[str, np.ndarray]]
    images = finished.images(60, "train")[0]
    for step, model in (("x", before), ("y", after)):
        found = analysis.activations(model, [images], blocks_of(model, "block"))
        for name, sides in taken.items():
            sides[step] = found[name].permute(0, 2, 3, 1).flatten(0, 2).numpy()
    rows = finished.store.measurements(finished.job(6).row())
    assert rows is not None
    for name, sides in taken.items():
        exact = quietly(analysis.svcca, sides["x"], sides["y"], variance=0.9)
        own = rows[(rows["block"] == name) & (rows["quantity"] == "coefficient")]
        assert list(own["value"]) == pytest.approx(list(exact.coefficients), abs=1e-4)  # fewer than are thinned out
        assert own["label"].iloc[0] == "0.00"
        assert own["label"].iloc[-1] == ("1.00" if len(own) > 1 else "0.00")
        random = rows[(rows["block"] == name) & (rows["quantity"] == "random_coefficient")]
        assert random["value"].is_monotonic_decreasing
        area = finished.values(6, "area_above_random")[name]
        assert area == pytest.approx(own["value"].mean() - random["value"].mean(), abs=0.15)
    assert "net, all coefficients" in [drawing.name for drawing in shown[6].drawings]
    assert [table.caption for table in shown[6].tables] == ["net, area of the sorted coefficients above random"]


def test_two_pretrained_less_two_random_networks(finished: Finished) -> None:
    """AN-5."""
    frame = finished.outcome.plan
    rows = finished.store.tables(frame.rows, frame.analyses).measurements
    rows = rows[(rows["place"] == 3) & (rows["quantity"] == "cca") & (rows["arm"] == rows["other_arm"])]
    table = pairs_against(rows, "imnet", "random")
    own, other = finished.values(3, "cca", "imnet and imnet"), finished.values(3, "cca", "random and random")
    assert list(table["block"]) == list(own)
    assert list(table["difference"]) == approx([own[block] - other[block] for block in own])
    assert set(table["pairs"]) == set(table["reference_pairs"]) == {1}


def test_networks_at_their_start_against_the_same_trained(finished: Finished, shown: list[Topic]) -> None:
    """AN-6."""
    start = finished.values(4, "cca", "random:initial and random:initial")
    images = finished.images(30)[0]
    one, other = (finished.network("random", "initial", seed) for seed in (0, 1))
    matrix = quietly(analysis.cca_matrix, one, other, [images], blocks_of(one, "stage"), pairs="same")
    assert start == approx({name: matrix[name, name] for name in matrix.rows})
    assert finished.values(4, "cca", "random and random") == finished.values(3, "cca", "random and random")
    assert "net, before and after" in [drawing.name for drawing in shown[4].drawings]


def test_cca_of_networks_with_other_blocks_is_of_those_in_both(finished: Finished) -> None:
    assert list(finished.values(5, "cca", "imnet and cut")) == ["layer1", "layer2"]
    assert list(finished.values(5, "cca", "cut and slim")) == ["layer1", "layer2"]
    whole, cut, images = finished.network("imnet"), finished.network("cut"), finished.images(30)[0]
    matrix = quietly(analysis.cca_matrix, whole, cut, [images], ["layer1", "layer2"], pairs="same")
    assert finished.values(5, "cca", "imnet and cut")["layer2"] == approx(matrix["layer2", "layer2"])


def test_settings_reach_the_functions(finished: Finished) -> None:
    before, after = finished.network("imnet", "initial"), finished.network("imnet")
    blocks = blocks_of(before, "block")
    images = finished.images(60, "train")[0]
    matrix = quietly(analysis.cca_matrix, before, after, [images], blocks, measure="svcca", pairs="same", variance=0.9)
    assert finished.values(6, "svcca") == approx({name: matrix[name, name] for name in blocks.names})
    other = quietly(analysis.cca_matrix, before, after, [images], blocks, measure="svcca", pairs="same")
    assert finished.values(6, "svcca") != approx({name: other[name, name] for name in blocks.names})
    lower = Blocks(blocks.level, blocks[:2], blocks.head)
    pooled = quietly(
        analysis.cca_matrix, before, after, [finished.images(30)[0]], lower, measure="pwcca", view="pooled"
    )
    rows = finished.rows(7, "pwcca")
    assert [pooled[row["block"], row["other_block"]] for row in rows.to_dict("records")] == approx(list(rows["value"]))
    assert len(rows) == 4


def test_l2_is_that_of_the_functions(finished: Finished) -> None:
    before, after = finished.network("imnet", "initial"), finished.network("imnet")
    moved = analysis.l2_distance(before, after, blocks_of(after, "block"))
    assert finished.values(8, "l2_distance", "imnet") == approx({name: one.distance for name, one in moved.items()})
    assert finished.values(8, "weights", "imnet") == {name: one.weights for name, one in moved.items()}
    assert list(finished.values(8, "l2_distance", "cut")) == ["layer1", "layer2", "head"]
    means = analysis.l2_distance(before, after, blocks_of(after, "block"), reduce="tensor_mean")
    assert finished.values(9, "l2_distance") == approx({"layer2": means["layer2"].distance})


def test_l2_of_networks_of_other_shapes_is_of_the_blocks_they_share(finished: Finished) -> None:
    one, other = finished.weights("imnet"), finished.weights("cut")
    name = "layer2.conv.weight"
    expected = float((one[name].double() - other[name].double()).norm()) / one[name].numel()
    for title in ("imnet and cut", "cut and imnet"):
        found = finished.values(10, "l2_distance", title)
        assert list(found) == ["layer1", "layer2"]
        assert found["layer2"] == approx(expected)
    assert list(finished.values(10, "l2_distance", "imnet and slim")) == ["layer1", "layer2"]


def test_dynamics_go_from_before_and_after_to_one(finished: Finished) -> None:
    """AN-8."""
    rows = finished.rows(11, "cca")
    assert sorted(set(rows["step"])) == [0, 1, 2, 4]
    run = finished.store.record(finished.runs["arm", "imnet", 0].run_id)
    assert run is not None
    best = rows[rows["step"] == run.facts["best_step"]]
    assert list(best["value"]) == approx([1.0] * 4)
    trained, images = finished.network("imnet"), finished.images(30)[0]
    for step, file in ((0, "initial"), (1, "steps/00000001")):
        now = finished.network("imnet", file)
        matrix = quietly(analysis.cca_matrix, now, trained, [images], blocks_of(now, "block"), pairs="same")
        own = rows[rows["step"] == step]
        assert dict(zip(own["block"], own["value"], strict=True)) == approx(
            {name: matrix[name, name] for name in matrix.rows}
        )
        assert list(own["value"]) != approx([1.0] * 4)


def test_snapshots_are_the_weights_of_that_step(finished: Finished, tiny_npz: Path) -> None:
    short = tiny(
        tiny_npz,
        name="short",
        arms={"random": {}, "imnet": {"depth": "all"}},
        seeds=1,
        train={"steps": 2, "batch_size": 16, "validate_every": 2},
    )
    run = next(run for run in plan(short) if run.arm == "imnet")
    carry_out(
        short, [one for one in plan(short) if one.arm != "random"], finished.store, show=quiet, workers=1, device="cpu"
    )
    ended = load_file(finished.store.run_folder(run.run_id) / "best.safetensors")
    kept = finished.weights("imnet", "steps/00000002")
    assert kept.keys() == ended.keys()
    assert all(torch.equal(kept[name], ended[name]) for name in ended)
    assert not torch.equal(kept["head.weight"], finished.weights("imnet", "steps/00000001")["head.weight"])
    record = finished.store.record(finished.runs["arm", "imnet", 0].run_id)
    assert record is not None
    assert {f"steps/{step:08d}.safetensors" for step in (1, 2, 4)} <= set(record.files)
    other = finished.store.record(finished.runs["arm", "random", 0].run_id)
    assert other is not None
    assert not [name for name in other.files if name.startswith("steps")]


def test_knn_is_that_of_the_functions(finished: Finished) -> None:
    model, bank, queries = finished.network("imnet"), finished.images(60, "train"), finished.images(30)
    scores = analysis.knn_by_block(model, [bank], [queries], blocks_of(model, "block"), k=5, vote="majority", classes=2)
    assert finished.values(12, "auroc", "imnet") == approx(scores.values("auroc"))
    assert finished.values(12, "accuracy", "imnet") == approx(scores.values("accuracy"))
    assert list(finished.values(12, "auroc", "cut")) == ["layer1", "layer2"]
    record = finished.store.analyses.record(finished.job(12, "imnet").run_id)
    assert record is not None
    assert (record.facts["bank"], record.facts["k"]) == (60, 5)


def test_a_block_put_back_costs_what_the_network_loses(finished: Finished) -> None:
    model, images = finished.network("imnet"), finished.images(30)
    before = finished.network("imnet", "initial")
    values = finished.values(13, "auroc", "imnet")
    assert list(values) == ["layer1", "layer2", "layer3", "layer4", "head"]
    from transfuse.metrics import evaluate

    def auroc() -> float:
        with torch.no_grad():
            return evaluate("auroc", images[1].numpy(), model(images[0]).softmax(1).numpy()).value

    whole = auroc()
    with analysis.put_back(model, before, blocks_of(model, "block"), "layer3"):
        assert values["layer3"] == approx(auroc())
    assert finished.values(13, "drop", "imnet")["layer3"] == approx(whole - values["layer3"])
    assert list(finished.values(13, "auroc", "cut")) == ["layer1", "layer2", "head"]
    assert finished.values(14, "drop") == {"layer1": finished.values(13, "drop", "imnet")["layer1"]}
    record = finished.store.analyses.record(finished.job(13, "imnet").run_id)
    assert record is not None
    assert record.facts["whole"] == approx(whole)


def test_fid_of_a_source_with_the_same_images_is_none(finished: Finished) -> None:
    (row,) = finished.rows(15, "frechet_distance").to_dict("records")
    assert (row["label"], row["block"]) == ("nat", "layer1")
    assert row["value"] == pytest.approx(0.0, abs=1e-4)
    assert finished.values(15, "samples") == {"layer1": 30}
    assert finished.values(15, "by_chance")["layer1"] > 0


def test_patches_share_channels_where_a_network_meets_itself(finished: Finished) -> None:
    images = finished.images(30)[0]
    before, after = finished.network("random", "initial"), finished.network("random")
    options: dict[str, Any] = {"p": 400, "d": 8, "share_channels": True}
    similar = quietly(analysis.cca_patches, before, after, images, blocks_of(before, "block"), **options)
    assert finished.values(16, "cca", "initial") == approx({name: one.value for name, one in similar.items()})
    assert finished.values(16, "independent", "initial") == approx({n: one.independent for n, one in similar.items()})
    cut = finished.network("cut")
    shared = quietly(
        analysis.cca_patches, after, cut, images, blocks_of(cut, "block"), p=400, d=8, share_channels=False
    )
    assert finished.values(16, "cca", "random and cut") == approx({name: one.value for name, one in shared.items()})


def test_pictures_of_the_first_layer(finished: Finished) -> None:
    job = finished.job(17)
    pictures = dict(finished.store.pictures(job.row()))
    assert list(pictures)[:3] == ["at the start", "trained", "difference"]
    assert {"after step 1", "after step 2", "after step 4"} <= set(pictures)
    layer = analysis.first_layer(finished.network("imnet", "initial"), finished.network("imnet"))
    limit = float(max(np.abs(layer.initial).max(), np.abs(layer.trained).max()))
    assert np.array_equal(pictures["trained"], analysis.filter_grid(layer.trained, limit=limit))
    assert np.array_equal(pictures["difference"], analysis.filter_grid(layer.difference, limit=limit))
    change = np.linalg.norm(layer.difference) / np.linalg.norm(layer.initial)
    assert finished.values(17, "relative_change") == approx({"first layer": float(change)})


def test_weights_are_counted_in_the_same_bins(finished: Finished) -> None:
    rows = finished.rows(18, "weights")
    weights = {state: finished.weights("imnet", file)["layer1.conv.weight"] for state, file in STATES.items()}
    for state, tensor in weights.items():
        own = rows[rows["label"] == state]
        edges = [*own["low"], own["high"].iloc[-1]]
        assert list(np.histogram(tensor.numpy().ravel().astype(float), edges)[0]) == list(own["value"])
        assert own["value"].sum() == tensor.numel()
    assert list(rows[rows["label"] == "initial"]["low"]) == list(rows[rows["label"] == "trained"]["low"])


STATES = {"initial": "initial", "trained": "best"}


def test_pictures_of_channels_filters_and_heat(finished: Finished) -> None:
    maps = dict(finished.store.pictures(finished.job(19).row()))
    assert list(maps) == [
        *(f"image 1{name}" for name in ("", ", layer3, at the start", ", layer3, trained")),
        *(f"image 2{name}" for name in ("", ", layer3, at the start", ", layer3, trained")),
    ]
    images = finished.images(2)[0]
    part = sources.split_data(finished.study.data, sources.open_data(finished.study.data)).test
    seen = images[0, 0] * part.dataset.std[0] + part.dataset.mean[0]
    assert np.abs(maps["image 1"].astype(float) - 255 * seen.numpy()).max() <= 0.6
    model = finished.network("imnet")
    shown = analysis.activation_maps(model, images, "layer3", channels=4, blocks=blocks_of(model, "block"))
    assert np.array_equal(maps["image 2, layer3, trained"], analysis.tile(shown.values[1], scaling="each"))
    assert [caption for caption, _ in finished.store.pictures(finished.job(20).row())] == ["layer2"]
    assert set(finished.values(20, "activation_after")) == {"layer2"}
    heat = finished.store.pictures(finished.job(21).row())
    assert [caption.partition(", ")[0] for caption, _ in heat] == ["image 1", "image 2"]
    assert {(array.shape, str(array.dtype)) for _, array in heat} == {((16, 16, 3), "uint8")}
    measured = finished.store.measurements(finished.job(21).row())
    assert measured is not None
    assert measured.empty  # no phantoms, no lesions that are known


def test_warnings_of_an_analysis_are_notes_of_its_record(finished: Finished) -> None:
    record = finished.store.analyses.record(finished.job(3, "random and random").run_id)
    assert record is not None
    assert len(record.notes) == len(set(record.notes)) >= 1
    assert "samples" in record.notes[0]


def test_images_come_in_one_random_order(finished: Finished) -> None:
    part = sources.split_data(finished.study.data, sources.open_data(finished.study.data)).test
    parts = list(batches_of(part, 10, 4))
    assert [len(images) for images, _ in parts] == [4, 4, 2]
    images, targets = finished.images(10)
    assert torch.equal(torch.cat([one for one, _ in parts]), images)
    assert torch.equal(torch.cat([one for _, one in parts]), targets)
    whole = torch.cat([one for one, _ in batches_of(part, None)])
    assert torch.equal(whole[:10], images)
    assert len(whole) == len(part) == len(torch.unique(whole.flatten(1), dim=0))
    plain = part.normalise(part.tensors(np.arange(10)))
    assert not torch.equal(plain, images)
    assert 0 < int((targets == targets[0]).sum()) < 10


def test_what_is_done_is_not_done_again(finished: Finished) -> None:
    job, events = finished.job(8, "imnet"), list[Event]()
    record = finished.store.analyses.run_folder(job.run_id) / "record.json"
    written = record.stat().st_mtime_ns
    do_analysis(job, events.append, root=finished.store.root, device="cpu")
    assert [type(event) for event in events] == [Ended]
    shown: list[tuple[int, ...]] = []

    @contextlib.contextmanager
    def show(*counts: int) -> Iterator[Callable[[Event], None]]:
        shown.append(counts)
        yield events.append

    runs = plan(finished.study)
    assert carry_out(finished.study, runs, finished.store, show=show, workers=1, device="cpu").complete
    assert not [event for event in events if isinstance(event, Started | Failed)]
    assert len(shown) == 1  # that of the runs: nothing to look at is left
    assert record.stat().st_mtime_ns == written


def test_an_analysis_that_fails_says_why_and_the_others_go_on(finished: Finished, tiny_npz: Path) -> None:
    lines = [{"what": "cka", "blocks": ["layr1"], "seeds": [0]}, {"what": "l2", "level": "stage", "seeds": [0]}]
    for line in lines:
        line["arms"] = ["imnet"]
    study = tiny(tiny_npz, name="failing", analyses=[*lines, {**ANALYSES[11]}])
    after = Finished(study, finished.store.root)
    wrong, right = after.job(0), after.job(1)
    assert not after.outcome.complete
    assert after.states[wrong.run_id].state == "failed"
    assert "no block 'layr1' at level 'block'; did you mean 'layer1'?" in after.states[wrong.run_id].detail
    failure = after.store.analyses.failure(wrong.run_id)
    assert failure is not None
    assert failure["title"] == wrong.title
    assert "Traceback" in failure["traceback"]
    assert after.states[right.run_id].state == "finished"
    assert after.store.measurements(wrong.row()) is None
    assert after.store.pictures(wrong.row()) == []
    found = conclude(after.store, after.outcome.plan)
    topic = topics(found.study, found.tables.measurements, found.pictures, found.analyses)[0]
    assert topic.missing == [f"{wrong.title}: failed, {failure['message']}"]
    mended = replace(wrong, spec=replace(wrong.spec, blocks=("layer1",)))
    do_analysis(mended, lambda event: None, root=after.store.root, device="cpu")
    assert set(after.store.measurements(mended.row())["block"]) == {"layer1"}  # type: ignore[index]


def test_a_failure_is_forgotten_once_it_is_mended(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    from transfuse.study import measurements

    def broken(looked: object) -> None:
        raise MemoryError("too large")

    job, events = finished.job(8, "frozen"), list[Event]()
    job = replace(job, spec=replace(job.spec, level="stage"))
    with monkeypatch.context() as patched:
        patched.setitem(measurements.MEASURES, "l2", broken)
        do_analysis(job, events.append, root=finished.store.root, device="cpu")
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.message == "MemoryError: too large"
    assert finished.store.analyses.record(job.run_id) is None
    do_analysis(job, events.append, root=finished.store.root, device="cpu")
    assert isinstance(events[-1], Ended)
    assert finished.store.analyses.failure(job.run_id) is None


def test_data_that_changed_are_named(make_study: MakeStudy, tiny_npz: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    shutil.copy(tiny_npz, path)
    study = make_study(data={"name": str(path), "size": 16}, seeds=1, train={"steps": 1, "batch_size": 16})
    runs = plan(study)
    store = Store(tmp_path / "out")
    carry_out(study, runs, store, show=quiet, workers=1, device="cpu")
    arrays = dict(np.load(path))
    arrays["train_images"] = arrays["train_images"][::-1]
    np.savez(path, **arrays)
    asked = replace(study, analyses=study_from({**content(study), "analyses": ["cka"]}).analyses)
    (job,) = plan_analyses(asked, runs)
    events = list[Event]()
    do_analysis(job, events.append, root=store.root, device="cpu")
    (*_, failed) = events
    assert isinstance(failed, Failed)
    assert f"the data {str(path)!r} changed since the networks were trained" in failed.message
    assert "start the study again" in failed.message


def content(study: StudySpec) -> dict[str, Any]:
    from transfuse.specs import read_yaml, to_yaml

    return read_yaml(to_yaml(study))


def test_a_listener_that_is_gone_is_no_fault_of_the_analysis(finished: Finished) -> None:
    job = finished.job(8, "slim")
    job = replace(job, spec=replace(job.spec, reduce="tensor_mean"))

    def gone(event: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        do_analysis(job, gone, root=finished.store.root, device="cpu")
    assert finished.store.analyses.failure(job.run_id) is None


def test_fid_without_an_arm_that_starts_from_the_source_says_so(finished: Finished) -> None:
    job, events = replace(finished.job(15), other_data=None), list[Event]()
    do_analysis(job, events.append, root=finished.store.root, device="cpu")
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert "no arm of the study starts from the source 'nat'" in failed.message


def test_transformers(make_study: MakeStudy, tmp_path: Path) -> None:
    """Views of tokens, attention, and adapters, which are part of the weights once they are kept."""
    model = create_model("test_vit", 2, 1, image_size=32)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    study = make_study(
        models={"net": {"name": "test_vit", "weights": str(tmp_path / "vit.safetensors")}},
        arms={"random": {}, "lora": {"depth": "all", "lora": 4, "learning_rate": 0.01}},
        data={**make_study().data.__dict__, "size": 32},
        seeds=1,
        analyses=[
            {"what": "attention", "images": 6},
            {"what": "attention", "images": 6, "reduce": "mean", "arms": ["lora"]},
            {"what": "cka", "view": "cls", "arms": ["random"]},
            {"what": "cka", "view": "patches", "arms": ["random"]},
            {"what": "knn", "view": "both", "k": 5, "arms": ["lora"]},
            {"what": "dynamics", "arms": ["lora"], "measure": "cka"},
            {"what": "l2", "arms": ["lora"]},
        ],
    )
    done = Finished(study, tmp_path / "out")
    assert [one.detail for one in done.states.values() if one.state != "finished"] == []

    def network(arm: str, file: str = "best") -> nn.Module:
        made = create_model("test_vit", 2, 1, image_size=32)
        made.load_state_dict(done.weights(arm, file))
        return made.eval()

    images = done.images(6)[0]
    for arm in ("random", "lora"):
        distance = analysis.mean_attended_distance(network(arm), [images])
        assert list(done.values(0, "attended_distance", arm).values()) == approx([h.mean() for h in distance.heads])
        assert list(done.values(0, "uniform", arm).values()) == approx(list(distance.uniform))
    heads = done.rows(0, "attended_distance_of_head", "lora")
    assert set(heads["label"]) == {f"head {n}" for n in range(len(distance.heads[0]))}
    assert max(done.values(1, "attended_distance").values()) < max(done.values(0, "attended_distance", "lora").values())
    before, after, images = network("random", "initial"), network("random"), done.images(30)[0]
    for place, view in ((2, "cls"), (3, "patches")):
        blocks = blocks_of(before, "block")
        blocks = Blocks(blocks.level, blocks[1:], blocks.head) if view == "cls" else blocks
        matrix = analysis.cka_matrix(before, after, [images], blocks, view=view)
        assert done.values(place, "cka") == approx({name: matrix[name, name] for name in blocks.names})
    noted = done.store.analyses.record(done.job(2).run_id)
    assert noted is not None
    assert "block 'patch_embed' is left out: the class token has seen nothing" in " ".join(noted.notes)
    assert done.values(2, "cka")["blocks.1"] != approx(done.values(3, "cka")["blocks.1"])
    assert len(done.values(4, "auroc")) == len(blocks_of(before, "block").names)
    record = done.store.record(done.runs["arm", "lora", 0].run_id)
    assert record is not None
    steps = done.rows(5, "cka")
    assert list(steps[steps["step"] == record.facts["best_step"]]["value"]) == approx([1.0] * steps["block"].nunique())
    assert not np.allclose(steps[steps["step"] == 0]["value"], 1.0, atol=1e-6)
    moved = done.values(6, "l2_distance")
    assert moved["head"] > 0
    assert max(moved.values()) > 0


def test_gradcam_of_phantoms_says_how_much_lies_in_the_lesions(tmp_path: Path) -> None:
    study = study_from(
        {
            "name": "fundus",
            "data": {"name": "fundus-phantom", "size": 32, "count": 60},
            "models": {"net": {"name": "cbr_demo", "padding": "same_pool"}},
            "arms": {"random": {}},
            "train": {"steps": 1, "batch_size": 16, "validate_every": 1},
            "seeds": 1,
            "analyses": [{"what": "gradcam", "images": 2, "blocks": ["layer3"]}],
        }
    )
    done = Finished(study, tmp_path)
    (job,) = done.jobs
    assert done.states[job.run_id].state == "finished", done.states[job.run_id].detail
    share, level = done.values(0, "mass_inside_lesions"), done.values(0, "mass_by_chance")
    assert set(share) == set(level) == {"layer3"}
    assert 0 <= share["layer3"] <= 1
    assert 0 < level["layer3"] < 0.5
    assert done.values(0, "samples")["layer3"] > 1
    assert len(done.store.pictures(job.row())) == 2


def test_status_and_report_of_analyses_that_are_done_failed_and_waiting(
    finished: Finished, tiny_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transfuse.cli import report, status

    diverging = {"depth": 0, "learning_rate": 1e30}
    study = tiny(
        tiny_npz,
        name="mixed",
        arms={"random": {}, "wild": diverging},
        models={"net": {"name": "cbr_demo", "padding": "same_pool"}},
        sources={},
        seeds=1,
        train={"steps": 3, "batch_size": 16, "validate_every": 1},
        analyses=[{"what": "l2"}, {"what": "cka", "blocks": ["layr1"], "arms": ["random"]}],
    )
    done = Finished(study, tmp_path)
    assert done.store.record(done.runs["arm", "wild", 0].run_id).status == "diverged"  # type: ignore[union-attr]
    states = {job.title: done.states[job.run_id].state for job in done.jobs}
    assert states["l2 · net · random:initial and random · seed 0"] == "finished"
    assert states["cka · net · random:initial and random · seed 0"] == "failed"
    assert states["l2 · net · wild:initial and wild · seed 0"] == "diverged"  # as its run: there is nothing to look at
    capsys.readouterr()
    assert status("mixed", out=tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 analyses: " in shown
    assert "1 finished" in shown.partition("3 analyses: ")[2]
    assert "1 failed" in shown.partition("3 analyses: ")[2]
    assert "no block 'layr1'" in shown
    assert report("mixed", out=tmp_path) == 0
    page = (tmp_path / "studies" / "mixed" / "report.html").read_text(encoding="utf-8")
    assert "Inside the networks" in page
    assert "How far did the weights move?" in page
    assert "l2 · net · wild:initial and wild · seed 0: " in page
    assert "no block &#39;layr1&#39;" in page
