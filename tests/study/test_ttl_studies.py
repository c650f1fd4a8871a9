"""The shipped studies of truncation: what they say is what the paper says, and they run on other data and networks."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transfuse
from transfuse.data.label_groups import CHEXPERT, LABEL_GROUPS
from transfuse.results.store import Store
from transfuse.specs import StudySpec, load_study
from transfuse.study.carry_out import carry_out
from transfuse.study.conclude import conclude
from transfuse.study.events import Event
from transfuse.study.expand import PlannedRun, expand
from transfuse.study.plan import check, plan
from transfuse.study.sources import block_names
from transfuse.study.sweeps import unfold

STUDIES = Path(transfuse.__file__).parent / "studies"
PENG = {"learning_rate": 1e-4, "batch_size": 64, "factor": 0.5, "min_learning_rate": 1e-7, "monitor": "auprc"}


@contextlib.contextmanager
def quiet(*_: int) -> Iterator[Callable[[Event], None]]:
    yield lambda event: None


def write_table(folder: Path, name: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table with a 16 px PNG for the path in each row's first cell."""
    rng = np.random.default_rng(len(rows))
    for path, *_ in rows:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(folder / path)
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as CheXpert's with 80 images of 40 patients, one of another hospital with 48 images of 48."""
    root, rng, cells = tmp_path_factory.mktemp("hospitals"), np.random.default_rng(1), ("1.0", "0.0", "-1.0", "")
    (root / "chexpert").mkdir()
    (root / "bimcv").mkdir()
    rows: list[tuple[Any, ...]] = [
        (
            f"train/patient{number // 2:05d}/study1/view{number % 2}_frontal.png",
            *("Female", 60, "Frontal", "AP"),
            *rng.choice(cells, len(CHEXPERT)),
            f"patient{number // 2:05d}",
        )
        for number in range(80)
    ]
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT, "patient")
    write_table(root / "chexpert", "chexpert.csv", header, rows)
    other: list[tuple[Any, ...]] = [
        (f"{number}.png", ("no", "covid")[number % 2], f"p{number}") for number in range(48)
    ]
    write_table(root / "bimcv", "bimcv.csv", ("image", "label", "patient"), other)
    return root


def interdomain(root: Path) -> StudySpec:
    """The shipped study on made-up tables, with a tiny network and two steps."""
    overrides = [
        "models.resnet50={name: cbr_demo, padding: same_pool}",
        "seeds=1",
        "margin=0.3",
        "data.fractions=[0.5, 0.25, 0.25]",
    ]
    for name in ("data", *(f"sources.{source}.data" for source in ("full", "low", "high"))):
        overrides += [f"{name}.root={root}", f"{name}.size=16", f"{name}.channels=1"]
    for name in ("train", *(f"sources.{source}.train" for source in ("full", "low", "high"))):
        overrides += [f"{name}.epochs=null", f"{name}.steps=2", f"{name}.batch_size=16", f"{name}.validate_every=2"]
    overrides += [f"sources.{source}.data.fractions=[0.5, 0.25, 0.25]" for source in ("full", "low", "high")]
    return load_study(STUDIES / "ttl_interdomain.yaml", overrides)


def test_interdomain_is_as_published() -> None:
    study = load_study(STUDIES / "ttl_interdomain.yaml")
    assert (study.models["resnet50"].name, study.seed_list) == ("resnet50", (0, 1, 2))
    for group in ("low", "high", "full"):
        source = study.sources[group]
        assert source.data is not None
        assert source.data.label_columns == (f"chexpert-{group}:table4",)
        assert (source.data.uncertain_labels, source.data.blank_labels) == ("positive", "negative")
        assert (source.data.root, source.data.name) == ("data", "chexpert/chexpert.csv")
        assert not source.init.needs_weights
        cuts = {"ftl": None, "ttl1": "layer1", "ttl2": "layer2", "ttl3": "layer3"}
        for name, cut in cuts.items():
            arm = study.arms[f"{group}_{name}"]
            assert (arm.weights, arm.depth, arm.truncate) == (f"run:{group}", "all", cut)
    assert len(study.arms) == 1 + 3 * 4
    assert study.data.root == "data"


@pytest.mark.parametrize("name", ["ttl", "ttl_interdomain"])
def test_the_optimisation_is_the_papers(name: str) -> None:
    study = load_study(STUDIES / f"{name}.yaml")
    for train in (study.train, *(source.train for source in study.sources.values())):
        found = {
            "learning_rate": train.optimizer.learning_rate,
            "batch_size": train.batch_size,
            "factor": train.schedule.factor,
            "min_learning_rate": train.stopping.min_learning_rate,
            "monitor": train.monitor,
        }
        assert found == PENG
        assert (train.optimizer.name, train.schedule.name, train.augment) == ("adam", "plateau", "peng")
    assert study.seed_list == (0, 1, 2)


def test_an_override_of_the_arms_training_is_not_one_of_the_sources() -> None:
    study = load_study(STUDIES / "ttl_interdomain.yaml", ["train.epochs=3", "sources.low.train.optimizer.name=sgd"])
    assert study.train.epochs == 3
    assert study.train.optimizer.name == "adam"
    assert {name: source.train.epochs for name, source in study.sources.items()} == {
        "full": 200,
        "low": 200,
        "high": 200,
    }
    assert [source.train.optimizer.name for source in study.sources.values()] == ["adam", "sgd", "adam"]


@pytest.mark.slow
def test_interdomain_trains_from_sources_to_cut_networks(hospitals: Path, tmp_path: Path) -> None:
    study, store = interdomain(hospitals), Store(tmp_path / "out")
    runs = plan(study)
    sources = {run.arm: run for run in runs if run.role == "source"}
    assert set(sources) == {"full", "low", "high"}
    assert len({run.spec.fingerprint for run in sources.values()}) == 3  # other labels
    for run in runs:
        group = run.arm.partition("_")[0]
        assert run.needs == (sources[group].run_id if run.role == "arm" and group in sources else None)
    assert len(runs) == 3 + 13
    outcome = carry_out(study, runs, store, show=quiet, workers=1, device="cpu")
    found = conclude(store, outcome.plan)
    table = found.tables.runs.set_index("arm")
    assert set(table["status"]) == {"finished"}
    for group, source in sources.items():
        assert f'"{LABEL_GROUPS[f"chexpert-{group}:table4"][0]}"' in table.loc[group, "data"]
        parameters = [table.loc[f"{group}_{name}", "parameters"] for name in ("ttl1", "ttl2", "ttl3", "ftl")]
        assert parameters == sorted(set(parameters))  # the later the cut, the more
        assert table.loc[f"{group}_ttl1", "source_run"] == source.run_id
        assert table.loc[f"{group}_ttl1", "transferred_share"] > 0.9
    assert {(row.arm, row.baseline) for row in found.comparisons} >= {("low_ttl3", "low_ftl"), ("low_ftl", "high_ftl")}
    said = " ".join(found.notes)
    assert "are uncertain (-1); they count as positive (U-Ones)." in said
    assert "are empty; they count as negative." in said


def ttl_runs() -> list[PlannedRun]:
    """The runs of the shipped study on a ResNet-50, planned on a phantom."""
    study = load_study(STUDIES / "ttl.yaml", ["data={name: fundus-phantom, size: 64, count: 20}", "seeds=[0]"])
    unfolded = unfold(study, block_names(study.data))
    return expand(unfolded, lambda data: "data", lambda *source: "weights", lambda *network: None)


def test_ttl_has_every_strategy_at_every_block_of_a_resnet_50() -> None:
    runs = {run.arm: run.spec for run in ttl_runs()}
    blocks = [
        "stem",
        *(f"layer{stage}.{block}" for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(count)),
    ]
    for sweep, at in {"lwft": blocks, "tf": blocks[:-1], "ttl": blocks, "ttl_unpooled": blocks}.items():
        assert [arm.partition("@")[2] for arm in runs if arm.startswith(f"{sweep}@")] == at
    assert {arm for arm in runs if "@" not in arm} == {"ftl", "probe"}
    assert len(runs) == 69
    lwft = runs["lwft@layer1.2"]
    assert (lwft.init.freeze, lwft.init.norm_statistics, lwft.init.depth) == ("layer1.2", "updated", "all")
    rates = lwft.train.optimizer
    assert (rates.learning_rate, rates.head_learning_rate) == (1e-5, 1e-4)
    for arm in ("ftl", "tf@layer2.3", "ttl@layer3.5", "ttl_unpooled@layer3.5"):
        rates = runs[arm].train.optimizer
        assert (rates.learning_rate, rates.head_learning_rate) == (1e-4, None)
    assert (runs["tf@layer2.3"].init.slim, runs["tf@layer2.3"].init.depth) == ("layer2.3", "layer2.3")
    assert {runs[f"ttl{which}@layer2.3"].init.pool for which in ("", "_unpooled")} == {"average", "none"}


@pytest.mark.slow
def test_ttl_is_checked_on_a_phantom_with_a_small_network() -> None:
    tiny = "{name: fundus-phantom, size: 32, count: 60, seed: %d}"
    study = load_study(
        STUDIES / "ttl.yaml",
        [
            f"data={tiny % 0}",
            "models={small: {name: cbr_demo, padding: same_pool, weights: 'run:first'}}",
            f"sources={{first: {{data: {tiny % 1}, train: {{steps: 2}}}}}}",
            "train.batch_size=16",
        ],
    )
    checked = check(study)
    assert checked.lines[-1] == "51 runs (1 network x 17 arms x 3 seeds) and 1 source run"
    assert {"ttl@layer1", "ttl_unpooled@layer1", "lwft@layer1", "tf@layer1"} <= set(checked.study.arms)
