"""Exported networks: the card says what the run's files say, and what it tells to do works."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from transfuse.errors import StoreError
from transfuse.models import blocks_of, create_model, truncate
from transfuse.results import phrases
from transfuse.results.card import NORMALISATIONS
from transfuse.results.cut_search import Search
from transfuse.results.export import export
from transfuse.results.loading import read_facts
from transfuse.results.search_verdict import verdict_on
from transfuse.results.store import RunRecord, Store, write_json, write_table, write_weights
from transfuse.statistics.arm import arm_of_scores

DATA: dict[str, Any] = {
    "dataset": "natural-phantom",
    "task": "multiclass",
    "classes": list("abcdefg"),
    "image_size": 48,
    "channels": 3,
    "source": "pictures drawn by a program",
    "licence": "Apache-2.0",
    "synthetic": True,
    "fingerprint": "f" * 64,
    "images": {"train": 1200, "val": 70, "test": 140},
    "patients": {"train": 1200, "val": 70, "test": 70},
}
OPTIMIZER = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4, "momentum": 0.9, "nesterov": False}
SCHEDULE = {"name": "step", "milestones": [3, 6], "milestone_unit": "epochs", "factor": 0.1, "patience": 5, "warmup": 0}


def a_run(
    out: Path,
    *,
    status: str = "finished",
    network: str = "cbr_demo",
    padding: str | None = None,
    data: dict[str, Any] | None = None,
    init: dict[str, Any] | None = None,
    weights: tuple[str, str] | None = None,
    notes: tuple[str, ...] = (),
    ended: bool = True,
    skill: float = 0.1,
) -> Path:
    """The files of a run of 7 classes, with weights of a network that nobody trained."""
    store, data = Store(out), DATA | (data or {})
    folder = store.run_folder("abc123")
    model = create_model(network, classes=7, channels=data["channels"], image_size=data["image_size"], padding=padding)
    if init and "truncate" in init:
        blocks = blocks_of(model, init["level"])
        model = truncate(model, blocks, init["truncate"], 7, init["pool"], image_size=data["image_size"])
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    write_weights(folder / "best.safetensors", dict(model.state_dict()))
    generator = np.random.default_rng(0)
    target = generator.integers(0, 7, 140)
    scores = generator.dirichlet(np.ones(7), 140) + np.eye(7)[target] * skill
    frame = pd.DataFrame(
        {
            "part": "test",
            "sample_id": [f"s{i}" for i in range(140)],
            "patient_id": [f"p{i // 2}" for i in range(140)],
            "target": list(target[:, None].astype(float)),
            "scores": list(scores / scores.sum(axis=1, keepdims=True)),
        }
    )
    write_table(folder / "predictions.parquet", pd.concat([frame.assign(part="val"), frame], ignore_index=True))
    identity = {
        "data": {"normalise": "imagenet", "fit": "crop"},
        "model": {"name": network, "padding": padding},
        "init": init or {},
        "train": {
            "optimizer": OPTIMIZER, "schedule": SCHEDULE, "loss": "auto", "batch_size": 32,
            "class_weights": "none", "augment": "imagenet",
        },
        "seed": 3,
        "weights_sha256": weights[1] if weights else None,
        "source_run": None,
    }  # fmt: skip
    names = {"model": "net", "network": network, "weights": weights[0] if weights else None}
    write_json(folder / "spec.json", {"identity": identity, "names": names})
    environment = {"versions": {"transfuse": "9.9", "torch": "2"}, "python": "3.11", "system": "Linux", "gpu": None}
    write_json(folder / "environment.json", {**environment, "processor": "a processor"})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {
        "data": json.dumps(data), "parameters": parameters, "trained_parameters": parameters, "monitor": "accuracy",
        "best_value": 0.5, "best_step": 40, "epochs": 10.0, "steps": 380, "device": "cpu", "threads": 1,
        "train_seconds": 192.0,
    }  # fmt: skip
    record = RunRecord("abc123", status, "reached 10 epochs", facts, {"accuracy": 0.25, "auroc": 0.9}, notes)
    if ended:
        store.finish(record, ["best.safetensors", "predictions.parquet"] if status == "finished" else ["spec.json"])
    return folder


def card_of(folder: Path, destination: Path, **options: Any) -> str:
    return export(folder, destination, **options)[1].read_text(encoding="utf-8")


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_weights_are_copied_byte_for_byte_and_the_card_names_their_sum(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out")
    weights, card = export(folder, tmp_path / "given")
    assert [weights.name, card.name] == ["cbr_demo.natural-phantom-48.safetensors", "README.md"]
    assert sorted(path.name for path in (tmp_path / "given").iterdir()) == sorted([weights.name, card.name])
    assert weights.read_bytes() == (folder / "best.safetensors").read_bytes()
    text = card.read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in text
    assert f"`{weights.name}`" in text
    facts = read_facts(weights)
    assert facts.shapes == {name: tuple(tensor.shape) for name, tensor in load_file(weights).items()}
    assert facts.size == weights.stat().st_size


def test_the_card_says_what_the_files_say(tmp_path: Path) -> None:
    text = card_of(a_run(tmp_path / "out"), tmp_path / "given")
    for said in (
        "# cbr_demo, trained on natural-phantom at 48 px",
        "trained from random weights by transfuse 9.9.",
        "train 1,200 images; val 70 images; test 140 images of 70 patients",
        "7, in the order of the outputs: a, b, c, d, e, f, g",
        "| mean | 0.485, 0.456, 0.406 |",
        "| standard deviation | 0.229, 0.224, 0.225 |",
        "sgd; learning rate 0.1, weight decay 0.0001, momentum 0.9 |",
        "step; milestones 3, 6, milestone unit epochs, factor 0.1 |",
        "10 epochs, 380 steps; reached 10 epochs",
        "| loss | softmax |",
        "accuracy (0.500 at step 40)",
        "3 min 12 s on cpu (a processor, 1 thread)",
        "140 images of 70 patients, none of which was trained on.",
        "what another seed would give is not covered",
    ):
        assert said in text, said


def test_top_1_and_top_5_are_measured_on_the_test_part_with_intervals(tmp_path: Path) -> None:
    from sklearn.metrics import accuracy_score, top_k_accuracy_score

    folder = a_run(tmp_path / "out")
    frame = pd.read_parquet(folder / "predictions.parquet").query("part == 'test'")
    target, scores = np.concatenate(list(frame["target"])), np.stack(list(frame["scores"]))
    expected = {
        "Top-1 accuracy": accuracy_score(target, scores.argmax(axis=1)),
        "Top-5 accuracy": top_k_accuracy_score(target, scores, k=5),
    }
    text = card_of(folder, tmp_path / "given")
    for title, value in expected.items():
        row = re.search(rf"\| {title} \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", text)
        assert row is not None
        shown, low, high = map(float, row.groups())
        assert shown == pytest.approx(value, abs=6e-4)
        # Two images a patient: the interval is about that of a proportion of 140, within a factor.
        assert 0.7 < (high - low) / (2 * 1.96 * np.sqrt(value * (1 - value) / 140)) < 1.4
        assert low < shown < high
    assert "| AUROC | 0.900 | - |" in text


def test_a_perfect_value_has_no_interval(tmp_path: Path) -> None:
    text = card_of(a_run(tmp_path / "out", skill=0.3), tmp_path / "given")
    assert "| Top-5 accuracy | 1.000 | - |" in text
    assert "140 images of 70 patients, none of which was trained on. Interval: bootstrap of patients" in text


def searched(effect: float, patients: int) -> Search:
    """A search whose cut has scores that differ by so many standard deviations between the classes; the whole by 2."""
    target = np.arange(patients) % 2
    shared = np.random.default_rng(0).normal(size=patients)
    arms = {}
    for place, (arm, size) in enumerate({"cut@layer2": effect, "whole": 2.0}.items()):
        own = np.random.default_rng([1, place]).normal(size=(3, patients))
        arms["cbr", arm] = arm_of_scores(target, size * target + 0.95 * shared + 0.3 * own, range(patients))
    found = Search(
        model="cbr",
        arm="cut",
        strategy="halving",
        metric="auroc",
        test_metric="auroc",
        margin=0.05,
        slack=0.5,
        seeds=1,
        cuts=("cut@layer1", "cut@layer2", "whole"),
        whole="whole",
        seen=(),
        best="cut@layer2",
        smallest="cut@layer2",
        parameters={"cut@layer1": 1000, "cut@layer2": 5000, "whole": 100_000},
        macs_of={"cut@layer1": 10_000, "cut@layer2": 50_000, "whole": 200_000},
    )
    return replace(found, verdict=verdict_on(found, arms))


def test_the_card_tells_of_the_search(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    shown = searched(2.0, 300)
    card = card_of(folder, tmp_path / "shown", search=shown).replace("\N{NO-BREAK SPACE}", " ")
    assert "# cbr_demo, cut after layer2, trained on" in card
    assert "| strategy | `halving`: all cuts were trained a little, and the better ones longer" in card
    assert "| looked at | 3 cuts, the whole network among them |" in card
    assert "| chosen | cut after layer2; 5.00 k of 100 k parameters (5 %) and 50.0 k of 200 k MACs (25 %) |" in card
    assert "| margin | 0.05 AUROC: " in card
    assert shown.verdict is not None
    row, whole = shown.verdict.of("cut@layer2"), shown.verdict.of("whole")
    assert f"test AUROC {row.value:.3f}, the mean over 3 seeds; of the whole network {whole.value:.3f}; diff" in card
    assert phrases.interval(row.low, row.high) in card
    assert "| as good as the whole one | shown. The probability" in card
    seed = json.loads((folder / "spec.json").read_text(encoding="utf-8"))["identity"]["seed"]
    assert f"| this file | seed {seed}, the best of 3 on validation data; what this seed alone does stands" in card
    assert "A GUESS" not in card

    guess = card_of(folder, tmp_path / "guess", search=searched(2.0, 40))
    assert "> **A GUESS.** It is not shown that this network is as good" in guess
    assert "**not shown, the best guess**. The probability" in guess
    worse = card_of(folder, tmp_path / "worse", search=searched(0.5, 300))
    assert "# cbr_demo, trained on" in worse
    assert "| chosen | the whole network; " in worse
    assert "no cut is shown to be as good |" in worse
    early = card_of(folder, tmp_path / "early", search=replace(shown, verdict=None))
    assert "| compared with the whole network | not yet: " in early
    assert "How it was found" not in card_of(folder, tmp_path / "plain")


def test_few_classes_have_no_top_5(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out", data={"task": "ordinal"})
    text = card_of(folder, tmp_path / "given")
    assert "| Accuracy | " in text
    assert "Top-5" not in text


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard, ModelCardData

    text = card_of(a_run(tmp_path / "out"), tmp_path / "given")
    head = front_matter(text)
    assert head["license"] == "apache-2.0"
    assert head["tags"] == ["image-classification", "transfuse", "cbr_demo", "synthetic"]
    assert head["datasets"] == ["natural-phantom"]
    assert head["metrics"] == ["accuracy", "top5", "auroc"]
    found = ModelCard(text).data
    assert isinstance(found, ModelCardData)
    assert {result.metric_type for result in found.eval_results or ()} == {"accuracy", "top5", "auroc"}


def test_phantoms_are_called_synthetic_loudly_and_photographs_are_not(tmp_path: Path) -> None:
    drawn = card_of(a_run(tmp_path / "one"), tmp_path / "drawn")
    assert (
        "> **SYNTHETIC DATA.** This network was trained on pictures drawn by a program. It has never seen a photo"
        in drawn
    )
    assert "| data set | natural-phantom (**synthetic**) |" in drawn
    real = card_of(a_run(tmp_path / "two", data={"synthetic": False, "licence": "CC BY 4.0"}), tmp_path / "real")
    assert "synthetic" not in real.lower().replace("natural-phantom", "")
    assert "licence of the weights | not chosen yet: look at the licence of the data" in real
    assert front_matter(real)["license"] == "other"


def test_a_network_that_started_from_photographs_does_not_deny_it(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out", weights=("tag.in1k", "0" * 64), init={"depth": "all", "rest": "random"})
    text = card_of(folder, tmp_path / "given")
    assert "SYNTHETIC DATA" in text
    assert "never seen a photograph" not in text
    assert f"trained from the weights `tag.in1k` (sha256 {'0' * 64}) with depth all by transfuse" in text
    assert front_matter(text)["license"] == "other"  # what the phantoms allow is not what the weights allow
    assert front_matter(card_of(folder, tmp_path / "mine", licence="cc-by-4.0"))["license"] == "cc-by-4.0"


def test_the_card_names_no_image_and_no_patient(tmp_path: Path) -> None:
    notes = (
        "2 image(s) of train are exact copies of 2 of val (doe_jane(1).png = x, roe).png = y (2 in all)): a leak.",
        "1 of 9 samples were left out (doe_john.dcm: no image).",
        "NEGATIVE CONTROL: the labels were shuffled over patients (seed 0); nothing can be learned from them.",
    )
    text = card_of(a_run(tmp_path / "out", notes=notes), tmp_path / "given")
    assert not re.search(r"doe|roe|\bs\d+\b|\bp\d+\b", text)
    assert "- 2 image(s) of train are exact copies of 2 of val: a leak." in text
    assert "> **NEGATIVE CONTROL: the labels were shuffled" in text


@pytest.mark.parametrize(
    ("network", "padding"),
    [("cbr_demo", None), ("cbr_demo", "valid"), ("cbr_small", "same_pool"), ("cbr_large_t", "same")],
)
def test_the_code_of_the_card_gives_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, padding: str | None
) -> None:
    folder = a_run(tmp_path / "out", network=network, padding=padding, data={"image_size": 96})
    text = card_of(folder, tmp_path / "given")
    monkeypatch.chdir(tmp_path / "given")
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    here, plain = (_run(code)(images) for code in re.findall(r"```python\n(.*?)```", text, re.S))
    assert here.std() > 0
    torch.testing.assert_close(plain, here, rtol=0, atol=0)
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    assert Path(block["models"]["mine"]["weights"]).exists()
    assert block["models"]["mine"].get("padding") == padding


def test_a_network_of_timm_loads_in_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = card_of(a_run(tmp_path / "out", network="resnet18", data={"channels": 1}), tmp_path / "given")
    monkeypatch.chdir(tmp_path / "given")
    images = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    here, timm = (_run(code).eval()(images) for code in re.findall(r"```python\n(.*?)```", text, re.S))
    torch.testing.assert_close(timm, here, rtol=0, atol=0)


@pytest.mark.parametrize("pool", ["average", "none"])
def test_the_code_of_the_card_cuts_a_network_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    init = {"level": "block", "truncate": "layer2", "pool": pool, "slim": None}
    text = card_of(a_run(tmp_path / "out", init=init), tmp_path / "given")
    monkeypatch.chdir(tmp_path / "given")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    model = _run(code)
    assert [name for name, _ in model.named_children()] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "global_pool",
        "flatten",
        "head",
    ]
    assert not list(model.layer3.parameters())
    assert model(torch.rand(2, 3, 48, 48)).shape == (2, 7)


def test_a_slim_network_is_made_slim_again(tmp_path: Path) -> None:
    init = {"level": "stage", "slim": "layer2"}
    text = card_of(a_run(tmp_path / "out", init=init), tmp_path / "given")
    assert 'model = tfu.slim(model, tfu.blocks_of(model, "stage"), "layer2")' in text


def _run(code: str) -> Any:
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        exec(code, names)
    return names["model"]


def test_the_normalisations_are_those_of_the_data_sets() -> None:
    from transfuse.data import open_dataset

    for (name, channels), expected in NORMALISATIONS.items():
        dataset = open_dataset("natural-phantom", size=32, count=24, channels=channels, normalise=name)
        assert (dataset.mean, dataset.std) == expected


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the run abc123 has not finished; start its study again, which goes on"):
        export(a_run(tmp_path / "one", ended=False), tmp_path / "given")
    Store(tmp_path / "one").fail("abc123", "a run", "out of memory")
    with pytest.raises(StoreError, match=r"abc123 has not finished: it failed \(out of memory\)"):
        export(tmp_path / "one" / "runs" / "abc123", tmp_path / "given")
    with pytest.raises(StoreError, match=r"abc123 diverged .*no weights to export.*smaller learning rate"):
        export(a_run(tmp_path / "two", status="diverged"), tmp_path / "given")
    folder = a_run(tmp_path / "three")
    with pytest.raises(StoreError, match=r"abc124 is no run; expected OUT/runs/<run_id>.*did you mean 'abc123'"):
        export(folder.parent / "abc124", tmp_path / "given")
    (folder / "best.safetensors").write_bytes(b"short")
    with pytest.raises(StoreError, match=r"best\.safetensors has 5 bytes instead of"):
        export(folder, tmp_path / "given")
    assert not (tmp_path / "given").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder, target = a_run(tmp_path / "out"), tmp_path / "given"
    target.mkdir()
    export(folder, target)
    with pytest.raises(
        StoreError, match=r"already holds README\.md and cbr_demo.*; name a folder that is new or empty"
    ):
        export(folder, target)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"file is a file; name a folder"):
        export(folder, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\xff" * 40, b"\x08" + b"\0" * 7 + b"not json"):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(StoreError, match=r"w\.safetensors cannot be read as safetensors"):
            read_facts(tmp_path / "w.safetensors")


def test_exporting_needs_no_torch(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out")
    code = (
        "import sys; from transfuse.results.export import export; "
        f"export({str(folder)!r}, {str(tmp_path / 'given')!r}); assert not {{'torch', 'timm'}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
