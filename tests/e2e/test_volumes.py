"""A study of volumes from its file to the report, with pretrained weights of a run, a cut network and analyses."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from transfuse.cli import app
from transfuse.results.export import export
from transfuse.results.store import Store
from transfuse.study.plan import read_plan
from transfuse.study.program import write_program

STUDY = """
name: emboli
data: {name: embolism-phantom, size: 24, count: 40, normalise: half}
models: {net: {name: resnet10, weights: "run:earlier"}}
arms: {random: {}, pretrained: {depth: all}, short: {truncate: layer1, pool: none}}
metric: auroc
latency: true
seeds: 1
train: {steps: 2, batch_size: 8, validate_every: 2, augment: volume}
sources:
  earlier:
    data: {name: embolism-phantom, size: 24, count: 40, seed: 1, normalise: half}
    train: {steps: 2, batch_size: 8, validate_every: 2}
analyses:
  - {what: cka, arms: [random], images: 12}
  - {what: gradcam, arms: [short], images: 1}
  - {what: maximise, arms: [short], channels: 1, steps: 2}
"""


@pytest.mark.slow
def test_a_study_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    assert app(["run", "study.yaml", "--workers", "1"], result_action="return_value") in (0, None)
    store = Store(tmp_path / "transfuse-out")
    runs = store.tables(read_plan(store, "emboli").rows).runs
    assert sorted(runs["arm"]) == ["earlier", "pretrained", "random", "short"]
    assert (runs["status"] == "finished").all()
    row = runs.set_index("arm")
    assert row.loc["short", "macs"] < row.loc["random", "macs"]
    page = (store.study_folder("emboli") / "report.html").read_text(encoding="utf-8")
    for text in ("24 × 24 × 24 voxels", "of each volume the middle slice", "middle slice of volume 1"):
        assert text in page
    latency = pd.read_parquet(store.study_folder("emboli") / "tables" / "latency.parquet")
    assert sorted(latency["arm"]) == ["pretrained", "random", "short"]
    export(store.run_folder(row.loc["random", "run_id"]), tmp_path / "given")
    program = torch.export.load(write_program(store, row.loc["short", "run_id"], tmp_path / "given")).module()
    assert program(torch.rand(3, 1, 24, 24, 24)).sum(1).tolist() == pytest.approx([1, 1, 1])
    card = (tmp_path / "given" / "README.md").read_text(encoding="utf-8")
    assert "takes images `(N, 1, 24, 24, 24)` as" in card
    assert "for volumes of 24 x 24 x 24 voxels and 2 classes" in card
    assert 'create_model("resnet10", classes=2, channels=1, image_size=24, spatial_dims=3)' in card
