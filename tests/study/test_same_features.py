"""k-NN of features that were measured before is not measured again, and says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from transfuse import analysis
from transfuse.models import create_model
from transfuse.results.store import Store
from transfuse.specs import StudySpec
from transfuse.study.analyse import do_analysis
from transfuse.study.analyses import PlannedAnalysis, plan_analyses
from transfuse.study.events import Event, Failed
from transfuse.study.plan import plan
from transfuse.study.run import do_run

ARMS = {"tuned": {"depth": "all"}, "probe": {"depth": "all", "freeze": "all"}}


def test_knn_of_the_same_features_is_measured_once(
    make_study: Callable[..., StudySpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("cbr_demo", 2, 1, padding="same_pool").train()
    with torch.no_grad():  # statistics that no untrained network has
        model(torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    study = make_study(
        models={"net": {"name": "cbr_demo", "padding": "same_pool", "weights": str(tmp_path / "mine.safetensors")}},
        arms=ARMS,
        baseline="tuned",
        analyses=[{"what": "knn", "k": 5}, {"what": "knn", "k": 7, "seeds": [0], "arms": ["probe"]}],
    )
    store, events = Store(tmp_path / "out"), list[Event]()
    runs = plan(study)
    for run in runs:
        do_run(run, events.append, root=store.root, device="cpu")
    measured: list[int] = []
    real = analysis.knn_by_block

    def counted(*arguments: Any, **keys: Any) -> Any:
        measured.append(keys["k"])
        return real(*arguments, **keys)

    monkeypatch.setattr(analysis, "knn_by_block", counted)
    jobs = plan_analyses(study, runs)
    for job in jobs:
        do_analysis(job, events.append, root=store.root, device="cpu")
    assert [event.message for event in events if isinstance(event, Failed)] == []

    # the two probes have the same blocks; each tuned network has its own
    assert sorted(measured) == [5, 5, 5, 7]
    assert len(jobs) == 4 + 1

    def rows(job: PlannedAnalysis, root: Path) -> pd.DataFrame:
        return pd.read_parquet(Store(root).analyses.run_folder(job.run_id) / "measurements.parquet")

    for job in jobs:  # each measured by itself, in a store without the others
        alone = tmp_path / "alone" / job.run_id
        (alone / "runs").parent.mkdir(parents=True)
        (alone / "runs").symlink_to(store.root / "runs")
        do_analysis(job, events.append, root=alone, device="cpu")
        pd.testing.assert_frame_equal(rows(job, store.root), rows(job, alone), check_exact=True)
