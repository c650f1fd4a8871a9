"""What limits a recommendation: synthetic data, one source, lost runs, unfinished training, many comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from transfuse.results import arms, phrases
from transfuse.results.arms import ArmComparison


def of_study(
    study: Mapping[str, Any],
    comparisons: Sequence[ArmComparison],
    *,
    runs: pd.DataFrame,
    history: pd.DataFrame,
    notes: Sequence[str] = (),
    failures: Sequence[Mapping[str, Any]] = (),
) -> dict[str, tuple[str, ...]]:
    """The caveats as sentences: those of the whole study under "", those of one network under its label."""
    found: dict[str, list[str]] = {}
    models = list(dict.fromkeys([*(study.get("models") or {}), *(row.model for row in comparisons)]))
    for model in models:
        own = [*_sources(model, runs), *_lost(model, runs, failures), *_unfinished(model, runs)]
        if own:
            found.setdefault(model, []).extend(own)
    whole = found.setdefault("", [])
    data = study.get("data") or {}
    if data.get("synthetic") and not any("synthetic" in note.lower() for note in notes):
        whole.append(f"{data.get('name', 'The data')} is synthetic: this says nothing yet about patients.")
    whole += list(notes)
    whole += _from_statistics(comparisons)
    count = len(comparisons)
    if count > 1:
        chance = "about 1 in 20 of such intervals" if count < 30 else f"about {count / 20:.0f} of them"
        whole.append(
            f"{count} comparisons were made and their intervals are not widened for that: "
            f"without any true difference, {chance} would still exclude zero."
        )
    return {model: tuple(dict.fromkeys(sentences)) for model, sentences in found.items() if sentences}


def _of(model: str, runs: pd.DataFrame) -> pd.DataFrame:
    rows = arms.arm_runs(runs)
    return rows[rows["model"] == model] if not rows.empty else rows


def _sources(model: str, runs: pd.DataFrame) -> list[str]:
    """A verdict over one set of source weights is a verdict about this set."""
    rows = _of(model, runs)
    names, trained = (
        sorted({str(name) for name in rows[column].dropna() if name}) if column in rows else []
        for column in ("weights", "source_run")
    )
    if len(trained) == 1:
        name = f" ({names[0].removeprefix('run:')})" if names else ""
        text = (
            f"all transferred weights come from one source training{name}: the interval does not hold the chance "
            "of that training, and another one could give another verdict."
        )
        return [text]
    if not trained and len(names) == 1:
        return [f"the verdict is about one set of pretrained weights ({names[0]}), not about pretraining in general."]
    return []


def _lost(model: str, runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that diverged or failed are missing from every average."""
    rows = _of(model, runs)
    lines = []
    if not rows.empty:
        lost = rows[rows["status"] == "diverged"]
        if len(lost):
            names = [f"{row.arm}, seed {row.seed}" for row in lost.itertuples()]
            lines.append(
                f"{len(lost)} of {phrases.counted(len(rows), 'run')} diverged "
                f"({_some(names)}) and {'is' if len(lost) == 1 else 'are'} missing from the averages, "
                "which favours the arms concerned."
            )
    failed = [failure for failure in failures if failure.get("model") == model]
    if failed:
        names = [f"{failure.get('arm', '?')}, seed {failure.get('seed', '?')}" for failure in failed]
        lines.append(f"{phrases.counted(len(failed), 'run')} failed and left no result ({_some(names)}).")
    return lines


def _unfinished(model: str, runs: pd.DataFrame) -> list[str]:
    """Arms whose best checkpoint is their last one had not levelled off; slow starters lose unfairly by that."""
    rows = _of(model, runs)
    if rows.empty or not {"best_step", "steps", "status"} <= set(rows.columns):
        return []
    done = rows[rows["status"] == "finished"]
    last = done[(done["best_step"] >= done["steps"]) & (done["steps"] > 0)]
    slow = [
        f"{arm} ({len(group)} of {int((done['arm'] == arm).sum())} seeds)"
        for arm, group in last.groupby("arm", sort=False)
        if 2 * len(group) > (done["arm"] == arm).sum()
    ]
    if not slow:
        return []
    text = (
        f"training ended at its best validation value, so it may not have levelled off: {_some(slow)}; "
        "a longer training could change the difference."
    )
    return [text]


def _from_statistics(comparisons: Sequence[ArmComparison]) -> list[str]:
    """The statistics' own caveats, each once, with the share of comparisons it applies to."""
    counts: dict[str, int] = {}
    for row in comparisons:
        for text in dict.fromkeys(row.comparison.caveats):
            counts[text] = counts.get(text, 0) + 1
    total = len(comparisons)
    lines = []
    for text, count in counts.items():
        where = "" if count == total else f"in {count} of {total} comparisons"
        lines.append(phrases.sentence(f"{where}: {text}" if where else text))
    return lines


def _some(names: Sequence[str], most: int = 6) -> str:
    """The first few of many names.

    >>> _some(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "; ".join([*names[:most], *more])
