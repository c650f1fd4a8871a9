"""The screen of cuts as an analysis of a study."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from transfuse.specs import StudySpec
from transfuse.study.analyse import do_analysis
from transfuse.study.analyses import plan_analyses
from transfuse.study.events import Ended, Event
from transfuse.study.plan import plan
from transfuse.study.run import do_run
from transfuse.training.screen import screen

MakeStudy = Callable[..., StudySpec]


def test_a_screen_takes_the_whole_course_of_the_schedule_in_its_own_length(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[float, ...]]()
    length = {"steps": 8, "batch_size": 16, "validate_every": 2}
    stepped = {**length, "schedule": {"name": "step", "milestones": [4, 6], "milestone_unit": "steps"}}

    def looked_on(model: Any, blocks: Any, split: Any, recipe: Any, **settings: Any) -> Any:
        seen.append(recipe.schedule.milestones)
        return screen(model, blocks, split, recipe, **settings)

    monkeypatch.setattr(import_module("transfuse.training.screen"), "screen", looked_on)
    for train in (stepped, length):
        study = make_study(train=train, seeds=1, analyses=[{"what": "cut_screen", "arms": ["random"]}])
        (run,) = plan(study)
        do_run(run, lambda event: None, root=tmp_path, device="cpu")
        (job,) = plan_analyses(study, [run])
        assert ("schedule" in job.identity()) == (train is stepped)
        events = list[Event]()
        do_analysis(job, events.append, root=tmp_path, device="cpu")
        assert isinstance(events[-1], Ended), events[-1]
    assert seen == [(2.0, 3.0), ()]
