"""A study's verdicts when arms had not levelled off, from run folders that were made up, not trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from transfuse.results.arms import ArmComparison
from transfuse.results.store import RunRecord, Store, write_table
from transfuse.specs import study_from
from transfuse.study.conclude import Conclusion, conclude
from transfuse.study.plan import Plan

SHIFTS = {"random": 0.0, "pretrained": 1.5, "middle": 1.4}
RISING, LEVEL = [0.5, 0.6, 0.7], [0.5, 0.7, 0.701]
Concluded = Callable[..., Conclusion]


def write_run(store: Store, run_id: str, curve: list[float], quantity: str, shift: float, seed: int) -> None:
    """A finished run: validations at steps 100, 200, ..., and scores of 300 patients; classes are `1 + shift` apart."""
    folder = store.run_folder(run_id)
    rows = [(100 * (place + 1), "val", quantity, value) for place, value in enumerate(curve)]
    write_table(
        folder / "history.parquet",
        pd.DataFrame(rows, columns=["step", "split", "quantity", "value"]).assign(epoch=1.0, seconds=1.0),
    )
    target = np.arange(300) % 2
    patients, own = np.random.default_rng(0).normal(size=300), np.random.default_rng(seed).normal(size=300)
    scores = target * (1 + shift) + patients + 0.3 * own
    names = [f"p{place}" for place in range(300)]
    table = pd.DataFrame({"part": "test", "sample_id": names, "patient_id": names})
    table["target"] = [[float(one)] for one in target]
    table["scores"] = [[-one, one] for one in scores]
    write_table(folder / "predictions.parquet", table)
    facts = {"monitor": quantity, "best_step": 300, "steps": 300}
    store.finish(
        RunRecord(run_id, "finished", facts=facts, metrics={"auroc": 0.5}), ["history.parquet", "predictions.parquet"]
    )


@pytest.fixture
def concluded(tmp_path: Path) -> Concluded:
    def make(quantity: str = "auroc", **curves: list[float]) -> Conclusion:
        store = Store(tmp_path / "out")
        arms = {"random": {}, "pretrained": {"depth": "all"}, "middle": {"depth": "middle"}}
        study = study_from(
            {
                "name": "made-up",
                "data": {"name": "fundus-phantom"},
                "models": {"net": {"name": "cbr_demo", "weights": "run:natural"}},
                "arms": arms,
                "pairs": [["middle", "pretrained"]],
                "metric": "auroc",
                "margin": 0.05,
                "seeds": 3,
                "train": {"steps": 300, "validate_every": 100},
                "sources": {"natural": {"train": {"steps": 1}}},
            }
        )
        rows: list[dict[str, Any]] = []
        for place, arm in enumerate(arms):
            for seed in range(3):
                run_id = f"{arm}{seed}"
                write_run(store, run_id, curves.get(arm, LEVEL), quantity, SHIFTS[arm], 10 * place + seed)
                row = {"run_id": run_id, "model": "net", "arm": arm, "seed": seed, "role": "arm", "title": run_id}
                rows.append({"study": "made-up", **row})
        return conclude(store, Plan(study, rows, []))

    return make


def by_pair(found: Conclusion) -> dict[tuple[str, str], ArmComparison]:
    return {(row.arm, row.baseline): row for row in found.comparisons}


def test_where_all_have_levelled_off_the_verdicts_stand(concluded: Concluded) -> None:
    found = concluded()
    rows = by_pair(found)
    assert rows["pretrained", "random"].comparison.verdict == rows["middle", "random"].comparison.verdict == "helps"
    assert [row.rising for row in rows.values()] == [{}, {}, {}]
    assert {row.comparison.family for row in rows.values()} == {3}
    assert found.recommendation.choice == "pretrained"
    assert not any("levelled off" in caveat for caveat in found.recommendation.caveats)


def test_an_arm_that_rises_has_no_verdict_and_the_others_keep_theirs(concluded: Concluded) -> None:
    before, found = by_pair(concluded()), concluded(pretrained=RISING)
    rows = by_pair(found)
    for pair in (("pretrained", "random"), ("middle", "pretrained")):
        one, own = rows[pair].comparison, before[pair].comparison
        assert (one.verdict, list(rows[pair].rising)) == ("undecided", ["pretrained"])
        assert (one.difference, one.low, one.high) == (own.difference, own.low, own.high)
        assert "pretrained gained 0.100 validation AUROC in the last third of its 300 steps" in one.notes[-1]
    other = rows["middle", "random"]
    assert (other.comparison.verdict, other.comparison.family, other.rising) == ("helps", 1, {})
    assert found.recommendation.choice == "middle"
    told = [caveat for caveat in found.recommendation.caveats if "levelled off" in caveat]
    assert len(told) == 1
    assert told[0].endswith("(pretrained: 0.100 over steps 200 to 300).")


def test_a_baseline_that_rises_leaves_no_verdict_and_no_choice(concluded: Concluded) -> None:
    found = concluded(random=RISING)
    rows = by_pair(found)
    assert {row.comparison.verdict for pair, row in rows.items() if "random" in pair} == {"undecided"}
    assert found.recommendation.choice == "can't tell"
    assert (
        "we can't tell whether pretrained weights help: training had not levelled off (random gained 0.100 validation "
        "AUROC in the last third of its 300 steps). So far: test AUROC"
    ) in found.recommendation.sentence


def test_where_only_the_loss_is_logged_the_verdict_stands_with_a_caveat(concluded: Concluded) -> None:
    found = concluded(quantity="loss", random=[0.9, 0.5, 0.2])
    assert by_pair(found)["pretrained", "random"].comparison.verdict == "helps"
    assert found.recommendation.caveats[0].startswith("Whether training had levelled off can't be told for random, pre")
