"""How many runs a study will take, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transfuse.study.expand import PlannedRun
from transfuse.study.search import cuts_of
from transfuse.study.sweeps import Unfolded
from transfuse.study.tuning import tuned


def counts(unfolded: Unfolded, runs: Sequence[PlannedRun]) -> str:
    """How many runs there will be, as far as that is known before the first."""
    study, roles = unfolded.study, Counter(run.role for run in runs)
    if study.search is not None and study.search.strategy != "exhaustive":
        return _of_search(unfolded, runs)
    arms, seeds = sum(map(len, unfolded.arms.values())), _count(len(study.seed_list), "seed")
    text = f"{_count(arms * len(study.seed_list), 'run')} ({_arms(unfolded)} x {seeds})"
    if study.train_fractions:
        fewer = arms * len(study.seed_list) * len(study.smaller_data)
        text += f", {_count(fewer, 'run')} on fewer patients ({_count(len(study.smaller_data), 'size')} below 1)"
    if roles["source"]:
        text += f" and {_count(roles['source'], 'source run')}"
    grid = tuned(study)
    if grid is not None:
        tried = len({(run.model, run.arm) for run in runs if run.role == "trial"})
        text += (
            f", after {_count(roles['trial'], 'trial run')} ({_count(tried, 'arm')} x {len(grid.learning_rates)} "
            f"learning rates x {_count(grid.seeds, 'seed')}); the trials at the chosen rates count as runs"
        )
    distinct = len({run.run_id for run in runs})
    return text + (f"; {distinct} different ones" if distinct < len(runs) else "")


def _of_search(unfolded: Unfolded, runs: Sequence[PlannedRun]) -> str:
    study = unfolded.study
    assert study.search is not None
    roles = Counter(run.role for run in runs)
    of = {label: _count(len(cuts_of(unfolded, label)), "cut") for label in study.models}
    cuts = " and ".join(f"{count} of {label}" if len(of) > 1 else count for label, count in of.items())
    known = _count(len({(run.model, run.arm) for run in runs if run.role == "arm"}), "arm")
    first = "short run" if study.search.strategy == "halving" else "run"
    lengths = sorted({run.spec.train.steps for run in runs if run.role == "search" and run.spec.train.steps})
    at = f" from {lengths[0]} steps on" if study.search.strategy == "halving" and lengths else ""
    begins = f", which begins with {_count(roles['search'], first)}" if roles["search"] else ""
    return (
        f"{_count(roles['arm'], 'run')} ({known} x {_count(len(study.seed_list), 'seed')})"
        + (f" and {_count(roles['source'], 'source run')}" if roles["source"] else "")
        + (f", after {_count(roles['trial'], 'trial run')}" if roles["trial"] else "")
        + f"; a search over {cuts} ({study.search.strategy}{at}){begins}; then the chosen cuts with every seed"
    )


def _arms(unfolded: Unfolded) -> str:
    counts = {label: len(arms) for label, arms in unfolded.arms.items()}
    if len(set(counts.values())) == 1:
        return f"{_count(len(counts), 'network')} x {_count(next(iter(counts.values())), 'arm')}"
    return "(" + " + ".join(f"{_count(count, 'arm')} of {label}" for label, count in counts.items()) + ")"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
