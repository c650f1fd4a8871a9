"""Analyses that cannot be done, or would do nothing, are found by `check`; snapshots that are missing are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from transfuse.errors import SpecError
from transfuse.results.store import Store
from transfuse.specs import StudySpec
from transfuse.study.events import Event, Started, Validated
from transfuse.study.plan import check, plan, replaced, write_plan
from transfuse.study.run import do_run

MakeStudy = Callable[..., StudySpec]


def problems(study: StudySpec) -> str:
    with pytest.raises(SpecError) as refused:
        check(study)
    return "\n".join(refused.value.problems)


@pytest.mark.parametrize(
    ("analysis", "problem"),
    [
        ({"what": "attention"}, "analyses.0 (attention) with models.net: Sequential has no attention"),
        ({"what": "cka", "view": "cls"}, "analyses.0 (cka) with models.net: view 'cls' needs a class token"),
        ({"what": "l2", "blocks": ["layer9"]}, "no block 'layer9' at level 'block'; did you mean 'layer"),
        ({"what": "knn", "level": "wt-st"}, "Level 'wt-st' is not defined for the cbr family"),
        ({"what": "maximise", "channels": 999}, "channels is 999, and block 'layer1' has 16; expected at most 16"),
        ({"what": "cca", "between": "arms"}, "analyses.0: no network of the study is meant by it"),
    ],
)
def test_an_analysis_that_cannot_be_done_is_a_mistake(
    make_study: MakeStudy, analysis: dict[str, object], problem: str
) -> None:
    assert problem in problems(make_study(analyses=[analysis]))


def test_the_same_analysis_twice_is_a_mistake(make_study: MakeStudy) -> None:
    assert "analyses.1: the same as analyses.0; keep one" in problems(make_study(analyses=["l2", "l2"]))


def test_a_run_that_was_interrupted_before_its_first_snapshot_goes_on(make_study: MakeStudy, tmp_path: Path) -> None:
    run = plan(make_study(train={"steps": 4, "batch_size": 16, "validate_every": 2, "snapshots": [3]}, seeds=1))[0]

    def interrupt(event: Event) -> None:
        if isinstance(event, Validated) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_run(run, interrupt, root=tmp_path, device="cpu")
    events = list[Event]()
    do_run(run, events.append, root=tmp_path, device="cpu")
    assert [event.again for event in events if isinstance(event, Started)] == [True]
    record = Store(tmp_path).record(run.run_id)
    assert record is not None
    assert "steps/00000003.safetensors" in record.files


def test_a_finished_run_is_done_again_for_snapshots_only_if_it_has_none(make_study: MakeStudy, tmp_path: Path) -> None:
    plain, followed = make_study(), make_study(analyses=["dynamics"])
    store = Store(tmp_path)
    for run in plan(plain):
        do_run(run, lambda event: None, root=tmp_path, device="cpu")
    write_plan(store, plain, plan(plain))
    before = store.predictions(plan(plain)[0].run_id)
    (notice,) = replaced(store, followed, plan(followed))
    assert notice.startswith("2 finished runs did not keep the weights along the training")
    events = list[Event]()
    for run in plan(followed):
        do_run(run, events.append, root=tmp_path, device="cpu")
    assert sum(isinstance(event, Started) for event in events) == 2
    record = store.record(plan(plain)[0].run_id)
    assert record is not None
    assert {f"steps/{step:08d}.safetensors" for step in (1, 2, 4)} <= set(record.files)
    assert store.predictions(plan(plain)[0].run_id).equals(before)
    assert replaced(store, followed, plan(followed)) == []
    events.clear()
    for run in (*plan(followed), *plan(plain)):
        do_run(run, events.append, root=tmp_path, device="cpu")
    assert not any(isinstance(event, Started) for event in events)
