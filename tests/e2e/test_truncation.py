"""The smallest network that is as good, as a person asks for it: from a study file, from a run, and in Python."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import transfuse as tfu
from transfuse.errors import SpecError, StoreError
from transfuse.results.cut_search import read_search
from transfuse.results.store import Store
from transfuse.specs import SearchSpec, load_study
from transfuse.study.expand import Planner
from transfuse.study.plan import check, read_plan, write_plan
from transfuse.study.sources import block_names
from transfuse.study.sweeps import unfold
from transfuse.study.truncation import CUT, WHOLE, study_of_run, truncation_study

Study = Callable[..., Path]
LENGTH = "{steps: 12, batch_size: 16, validate_every: 2}"


def transfuse(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", "from transfuse.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def plain_file(study_file: Study) -> Path:
    """A study of random weights alone: nothing to cut in but the network."""
    return study_file(
        models="{net: {name: cbr_demo, padding: same_pool}}",
        arms="{random: {}}",
        pairs="[]",
        sources="{}",
        train=LENGTH,
    )


@pytest.mark.slow
def test_search_export_and_run_without_this_package(tmp_path: Path, plain_file: Path) -> None:
    done = transfuse("truncate", plain_file, "--margin", 0.3, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "successive halving" in done.stdout
    store = Store(tmp_path / "transfuse-out")
    (found,) = read_search(store.study_folder("spots-truncated"))
    assert found.cuts == ("truncated@layer1", "truncated@layer2", "truncated@layer3", WHOLE)
    assert found.best in found.cuts
    assert 0 < found.share_of_exhaustive < 1

    rows = read_plan(store, "spots-truncated").rows
    searched = [row for row in rows if row["role"] == "search"]
    assert sorted(row["asked_steps"] for row in searched if row["asked_steps"] != 12) == [2, 2, 2, 2, 4, 4]
    assert not list((store.root / "runs").glob("*/checkpoints"))

    folder = store.study_folder("spots-truncated") / "smallest" / "net"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "How to run it without transfuse" in card
    script = (
        "import json, sys, torch\n"
        "network = torch.export.load('network.pt2').module()\n"
        "images = torch.linspace(0, 1, 3 * 1 * 16 * 16).reshape(3, 1, 16, 16)\n"
        "print(json.dumps([network(images).tolist(), 'transfuse' in sys.modules, 'timm' in sys.modules]))"
    )
    alone = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    probabilities, *loaded = json.loads(alone.stdout)
    assert loaded == [False, False]
    assert np.allclose(np.sum(probabilities, axis=1), 1)

    again = transfuse("truncate", plain_file, "--margin", 0.3, "--workers", 1, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "  start   " not in again.stdout

    of_run = next(row["run_id"] for row in rows if row["arm"] == WHOLE and row["role"] == "arm")
    study, arm = study_of_run(store, of_run)
    assert arm == WHOLE
    assert truncation_study(study, arm=arm).arms[CUT].truncate == "every"
    held = transfuse("truncate", plain_file, "--to", folder.parent, cwd=tmp_path)
    assert held.returncode == 2
    assert "already holds" in held.stderr


@pytest.mark.slow
def test_a_rung_goes_on_from_the_one_below_as_if_it_had_never_stopped(tmp_path: Path, plain_file: Path) -> None:
    study = load_study(plain_file, ["seeds=1"])
    (halved,) = tfu.search_truncation(study, strategy="halving", out=tmp_path / "halved")
    (every,) = tfu.search_truncation(study, strategy="exhaustive", out=tmp_path / "every")
    assert halved.search.best is not None
    ours, theirs = Store(tmp_path / "halved"), Store(tmp_path / "every")
    shared = [
        row["run_id"]
        for row in halved.plan.rows
        if row["role"] == "search" and row["asked_steps"] == 12 and theirs.record(row["run_id"]) is not None
    ]
    assert shared
    for run in shared:
        one, other = ours.predictions(run), theirs.predictions(run)
        np.testing.assert_array_equal(np.stack(one["scores"]), np.stack(other["scores"]))
        ends = [store.history(run).drop(columns="seconds") for store in (ours, theirs)]
        assert ends[0].equals(ends[1])
    assert every.search.share_of_exhaustive == 1
    assert math.isfinite(every.search.macs)
    assert halved.search.macs < every.search.macs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("rank", {}),
        ("screen", {}),
        ("overlap", {}),
        pytest.param("rank", {"score": "logme"}, marks=pytest.mark.exhaustive),
        pytest.param("screen", {"trunk": "frozen"}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_search_by_an_analysis_trains_the_chosen_cut_alone(
    tmp_path: Path, plain_file: Path, strategy: str, settings: dict[str, str]
) -> None:
    study = truncation_study(load_study(plain_file), margin=0.3)
    assert study.search is not None
    study = dataclasses.replace(study, search=SearchSpec(arm=CUT, strategy=strategy, **settings))  # type: ignore[arg-type]
    (found,) = tfu.search_truncation(study, out=tmp_path)
    assert found.search.best in found.search.cuts
    assert {row["arm"] for row in found.plan.rows} == {WHOLE, found.search.best, found.search.smallest}
    assert {row["role"] for row in found.plan.rows} == {"arm"}
    assert 0 <= found.search.share_of_exhaustive < 1
    assert found.search.verdict is not None
    assert found.run_id is not None
    (analysis,) = {row["analysis_id"] for row in found.plan.analyses}
    assert Store(tmp_path).analyses.record(analysis) is not None
    assert not (Store(tmp_path).analyses.run_folder(analysis) / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lines", [{"analyses": "[dynamics]"}, {"train": LENGTH[:-1] + ", snapshots: log}"}])
def test_the_chosen_cuts_keep_their_snapshots(tmp_path: Path, study_file: Study, lines: dict[str, str]) -> None:
    content = {
        "models": "{net: {name: cbr_demo, padding: same_pool}}",
        "arms": "{whole: {truncate: all}, cut: {truncate: every}}",
        "baseline": "whole",
        "search": "{arm: cut, strategy: halving}",
        "pairs": "[]",
        "sources": "{}",
        "train": LENGTH,
        **lines,
    }
    (found,) = tfu.search_truncation(load_study(study_file(**content)), out=tmp_path)
    for row in found.plan.rows:
        if row["role"] == "arm":
            steps = sorted(int(path.stem) for path in (tmp_path / "runs" / row["run_id"] / "steps").iterdir())
            assert steps == [1, 2, 4, 8, 12], row


def test_what_a_search_cannot_do_is_said_before_anything_is_trained(study_file: Study) -> None:
    content = {
        "models": "{net: {name: cbr_demo, padding: same_pool}}",
        "arms": "{whole: {truncate: all}, cut: {truncate: every}}",
        "baseline": "whole",
        "pairs": "[]",
        "sources": "{}",
    }
    asked = load_study(study_file(**content, search="{arm: cut, metric: dice}"))
    with pytest.raises(SpecError, match=r"search\.metric: dice cannot be measured on"):
        check(asked)
    masks = {"data": "{name: fundus-vessels, size: 32, count: 20}", "metric": "dice"}
    unet = {"models": "{net: {name: unet_resnet18}}"}
    for strategy, message in {
        "rank": r"it probes features for the classes of images, and these are masks; halving, screen, two_stage, exh",
        "overlap": r"it looks at the cuts of networks that end in a classifier, and these are masks; halving, screen",
    }.items():
        with pytest.raises(SpecError, match=rf"search\.strategy \({strategy}\): {message}"):
            check(
                load_study(study_file(**{**content, **masks, **unet, "search": f"{{arm: cut, strategy: {strategy}}}"}))
            )


@pytest.mark.exhaustive
def test_a_screen_of_masks_chooses_a_cut_and_trains_it(tmp_path: Path, study_file: Study) -> None:
    file = study_file(
        data="{name: fundus-vessels, size: 32, count: 40, normalise: half}",
        metric="dice",
        models="{net: {name: unet_resnet18}}",
        arms="{random: {}}",
        pairs="[]",
        sources="{}",
        train="{steps: 12, batch_size: 6, validate_every: 2, optimizer: {learning_rate: 3.0e-3}}",
        seeds="1",
    )
    (found,) = tfu.search_truncation(load_study(file), strategy="screen", level="stage", margin=0.3, out=tmp_path)
    assert found.search.cuts[0] == f"{CUT}@encoder.stem"
    assert len(found.search.cuts) == 5
    assert {(one.quantity, one.arm) for one in found.search.seen} == {("dice", cut) for cut in found.search.cuts}
    assert found.search.best in found.search.cuts
    assert {row["arm"] for row in found.plan.rows} == {WHOLE, found.search.best, found.search.smallest}
    assert 0 < found.search.share_of_exhaustive < 1 / 8
    assert found.search.verdict is not None
    assert found.run_id is not None
    (analysis,) = {row["analysis_id"] for row in found.plan.analyses}
    rows = Store(tmp_path).measurements(next(row for row in found.plan.analyses))
    assert rows is not None
    steps = rows[rows["quantity"] == "dice"]["step"]
    assert steps.max() <= 6  # half of the study's
    assert not (Store(tmp_path).analyses.run_folder(analysis) / "checkpoints").exists()


def test_a_run_of_one_of_several_networks_is_taken_at_its_own_rate(tmp_path: Path, study_file: Study) -> None:
    study = load_study(
        study_file(
            models="{net: {name: cbr_demo, padding: same_pool}, other: {name: cbr_tiny}}",
            arms="{random: {}}",
            pairs="[]",
            sources="{}",
            tune="{learning_rates: [1e-4, 1e-3]}",
            analyses="[{what: l2, models: [other]}]",
        )
    )
    store = Store(tmp_path)
    planner = Planner(unfold(study, lambda model, level: ()), lambda data: "f", lambda name, root: "0", lambda *_: None)
    run = planner.of_arm("net", "random", 0, rate=1e-4)
    write_plan(store, study, [run])
    alone, arm = study_of_run(store, run.run_id)
    assert (arm, set(alone.models), alone.analyses, alone.tune) == ("random", {"net"}, (), "none")
    assert truncation_study(alone, arm=arm).arms[CUT].learning_rate == 1e-4
    with pytest.raises(
        SpecError, match=r"the study chooses learning rates \(tune\), .*: give arms\.random\.learning_rate"
    ):
        truncation_study(study, arm="random")
    with pytest.raises(StoreError, match="has an arm with the run beefbeefbeef; name the study's file instead"):
        study_of_run(store, "beefbeefbeef")


def test_a_search_of_ones_own_keeps_its_settings(study_file: Study) -> None:
    study = load_study(study_file(arms="{random: {}, cut: {depth: all, truncate: every}}", pairs="[]"))
    study = dataclasses.replace(study, search=SearchSpec(arm="cut", strategy="halving", rungs=4, keep=0.5))
    assert truncation_study(study, strategy="halving") == study
    assert truncation_study(study, strategy="rank").search == SearchSpec(arm="cut", strategy="rank")
    with pytest.raises(SpecError, match=r"level is 'stage', and the study has a search of its own"):
        truncation_study(study, level="stage")


def test_what_can_be_cut(study_file: Study) -> None:
    study = load_study(study_file())
    derived = truncation_study(study, margin=0.01)
    assert derived.name == "spots-truncated"
    assert (derived.arms[WHOLE].depth, derived.arms[WHOLE].truncate) == ("all", "all")
    assert derived.arms[CUT].truncate == "every"
    assert derived.arms[CUT].level == "block"
    assert (derived.baseline, derived.margin, derived.pairs) == (WHOLE, 0.01, ())
    assert set(derived.sources) == {"earlier"}
    assert truncation_study(study, arm="random", level="stage").sources == {}
    assert truncation_study(study, level="stage").arms[CUT].level == "stage"
    own = truncation_study(derived, strategy="two_stage", margin=0.05)
    assert own.search is not None
    assert (own.search.strategy, own.margin, own.name) == ("two_stage", 0.05, "spots-truncated-two_stage")


def test_no_search_takes_the_name_of_another(tmp_path: Path, study_file: Study) -> None:
    study = load_study(study_file())
    assert len(study.arms) > 1
    derived = truncation_study(study)
    assert derived.title == "How small can net be? (arm pretrained)"
    assert truncation_study(study, arm="pretrained").name == derived.name == "spots-truncated"
    assert truncation_study(study, arm="random").name == "spots-random-truncated"
    ranked = truncation_study(study, strategy="rank")
    assert ranked.name == "spots-truncated-rank"
    assert truncation_study(study, strategy="halving").name == "spots-truncated"
    assert truncation_study(ranked, strategy="screen").name == "spots-truncated-screen"
    assert truncation_study(ranked, margin=0.3).name == "spots-truncated-rank"

    store = Store(tmp_path)
    planner = partial(
        Planner, fingerprint=lambda data: "f", weights_sha256=lambda name, root: "0", network_sha256=lambda *_: None
    )
    for searched in (derived, ranked):  # a run of a study that searches is searched as what that came from
        whole = planner(unfold(searched, block_names(study.data))).of_arm("net", WHOLE, 0)
        write_plan(store, searched, [whole])
        alone, arm = study_of_run(store, whole.run_id)
        assert (alone.name, arm) == ("spots", WHOLE)
        again = truncation_study(alone, arm=arm)
        assert (again.name, again.title) == ("spots-truncated", "How small can net be?")
    run = planner(unfold(study, lambda model, level: ())).of_arm("net", "random", 0)
    write_plan(store, study, [run])
    alone, arm = study_of_run(store, run.run_id)
    assert truncation_study(alone, arm=arm).name == "spots-random-truncated"


@pytest.mark.parametrize(
    ("arms", "settings", "message"),
    [
        (
            "{random: {}, pretrained: {depth: all}}",
            {"arm": "pretraned"},
            "no arm 'pretraned' to cut; did you mean 'pret",
        ),
        ("{random: {}, short: {truncate: layer2}}", {"arm": "short"}, r"is cut already \(truncate: layer2\)"),
        ("{random: {}, thin: {slim: layer2}}", {"arm": "thin"}, "says slim too; one that is searched for its cut"),
        ("{random: {}, some: {depth: every}}", {"arm": "some"}, "says depth too"),
        ("{random: {}, other: {}}", {}, "which arm is to be cut"),
    ],
)
def test_what_cannot_be_cut_is_named(study_file: Study, arms: str, settings: dict[str, str], message: str) -> None:
    models = '{net: {name: cbr_demo, padding: same_pool, weights: "run:earlier"}}'
    study = load_study(study_file(arms=arms, pairs="[]", models=models))
    with pytest.raises(SpecError, match=message):
        truncation_study(study, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "there is no study file 'nothing.yaml', and no run in"),
        (["{study}", "--strategy", "halfing"], "--strategy is 'halfing'; did you mean 'halving'"),
        (["{study}", "--level", "blocks"], "--level is 'blocks'; did you mean 'block'"),
        (["{study}", "--name", "a/b"], "name: 'a/b' names a folder; expected letters, digits"),
        (["{study}", "--margin", "0"], "--margin is 0; expected a positive loss"),
    ],
)
def test_the_command_answers_mistakes(plain_file: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = transfuse("truncate", *(one.format(study=plain_file) for one in arguments), cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
