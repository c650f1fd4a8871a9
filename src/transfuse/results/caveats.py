"""What limits a recommendation: missing runs, synthetic data, one source, short training, many comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from transfuse.results import arms, chance, phrases, plateaus
from transfuse.results.arms import ArmComparison, ArmEstimate

OPEN_STATES = ("running", "interrupted", "waiting")


def of_study(
    study: Mapping[str, Any],
    comparisons: Sequence[ArmComparison],
    *,
    runs: pd.DataFrame,
    history: pd.DataFrame,
    notes: Sequence[str] = (),
    failures: Sequence[Mapping[str, Any]] = (),
    estimates: Sequence[ArmEstimate] = (),
) -> dict[str, tuple[str, ...]]:
    """The caveats as sentences: those of the whole study under "", those of one network under its label."""
    found: dict[str, list[str]] = {}
    models = list(dict.fromkeys([*(study.get("models") or {}), *(row.model for row in comparisons)]))
    for model in models:
        lost = _lost_sources(study, model, runs, failures)
        own = [*lost, *_sources(model, runs), *_lost(study, model, runs, failures)]
        own += [*_levelling(study, model, runs, history), *chance.caveats(estimates, study, model)]
        if own:
            found.setdefault(model, []).extend(own)
    whole = found.setdefault("", [])
    data = study.get("data") or {}
    if data.get("synthetic") and not any("synthetic" in note.lower() for note in notes):
        name = data.get("dataset") or data.get("name", "The data")
        whole.append(f"{name} is synthetic: this says nothing yet about patients.")
    whole += list(notes)
    whole += _rates(study)
    whole += _machines(runs)
    whole += _from_statistics(comparisons)
    whole += _few_patients(comparisons)
    count = len(comparisons)
    if count > 1:
        luck = "about 1 in 20 of such intervals" if count < 30 else f"about {count / 20:.0f} of them"
        each = Counter(row.model for row in comparisons)
        of_each = f", {phrases.listed([f'{number} of {model}' for model, number in each.items()])}"
        whole.append(
            f"{count} comparisons were made{of_each if 1 < len(each) < 4 else ''}. Their verdicts are corrected for "
            "that, network by network (Holm: of a network none is wrong in 95 of 100 such studies); their intervals "
            f"are not: without any true difference, {luck} would exclude zero."
        )
    return {model: tuple(dict.fromkeys(sentences)) for model, sentences in found.items() if sentences}


def unfinished(study: Mapping[str, Any], runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What must be said before anything else: how many trainings, the sources' included, are still to come.

    Runs that start from a diverged source are no part of it: they will never come.
    """
    never = never_coming(study, runs, failures)
    open_ = [run for run in failures if _is_open(run) and (run.get("model"), run.get("arm")) not in never]
    if not open_:
        return ()
    states = Counter(_state(run) for run in open_)
    order = sorted(states, key=OPEN_STATES.index)
    total, ended = len(runs) + len(failures), len(arms.arm_runs(runs))
    verb = "is" if len(open_) == 1 else "are"
    cure = "" if states["running"] else "; start the study again to go on"
    end = "these numbers will change" if ended else "there are no numbers yet"
    where = ", ".join(f"{states[state]} {state}" for state in order)
    return (f"{len(open_)} of {phrases.counted(total, 'run')} {verb} not finished yet ({where}): {end}{cure}.",)


def never_coming(
    study: Mapping[str, Any], runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]
) -> set[tuple[str, str]]:
    """The networks and arms, among those without a result, whose source diverged: starting again will not help."""
    models = dict.fromkeys(str(failure.get("model")) for failure in failures)
    return {(model, arm) for model in models for arm in _without_source(study, model, _gone_sources(model, runs, ()))}


def _state(failure: Mapping[str, Any]) -> str:
    return str(failure.get("state") or "failed")


def _is_open(failure: Mapping[str, Any]) -> bool:
    """Whether the run has not ended; any other one without a record failed, or its record is damaged."""
    return _state(failure) in OPEN_STATES


def _role(failure: Mapping[str, Any]) -> str:
    return str(failure.get("role") or "arm")


def _gone_sources(model: str, runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """The source trainings of one network that gave no weights: name -> (diverged or failed, why)."""
    gone = {}
    if not runs.empty and "role" in runs:
        rows = runs[(runs["role"] == "source") & (runs["model"] == model) & (runs["status"] == "diverged")]
        gone = {str(row["arm"]): ("diverged", _first_line(row.get("reason"))) for row in rows.to_dict("records")}
    for failure in failures:
        if failure.get("model") == model and _role(failure) == "source" and not _is_open(failure):
            gone[str(failure.get("arm", "?"))] = ("failed", _first_line(failure.get("reason")))
    return gone


def _without_source(study: Mapping[str, Any], model: str, gone: Collection[str]) -> list[str]:
    """The arms of one network that have nothing to start from, as the sources `gone` gave no weights."""
    return [
        str(arm)
        for arm, settings in (study.get("arms") or {}).items()
        if gone and arms.transfers(settings or {}) and _rests_on(study, model, settings or {}, gone)
    ]


def _rests_on(study: Mapping[str, Any], model: str, settings: Mapping[str, Any], gone: Collection[str]) -> bool:
    """Whether an arm starts from one of these sources, or from one that starts from them; so if nothing is known."""
    network = (study.get("models") or {}).get(model) or {}
    name, seen = arms.weights_of(settings, network), set()
    if not name:
        return True
    while name.startswith("run:") and name not in seen:
        seen.add(name)
        source = name.removeprefix("run:")
        if source in gone:
            return True
        own = (study.get("sources") or {}).get(source) or {}
        name = arms.weights_of(own.get("init") or {}, own.get("model") or network)
    return False


def _lost_sources(
    study: Mapping[str, Any], model: str, runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]
) -> list[str]:
    """A source that gave no weights takes every arm that starts from it along."""
    lines = []
    for source, (how, why) in _gone_sources(model, runs, failures).items():
        names = _without_source(study, model, [source])
        who = f"the arms that start from it{f' ({_arms(names)})' if names else ''} have no result"
        lines.append(f"source training {source} {how}{f': {why}' if why else ''}; {who}.")
    return lines


def _first_line(text: object) -> str:
    """The first line of a message, without the full stop; empty for anything but text."""
    lines = text.strip().splitlines() if isinstance(text, str) else []
    return lines[0].rstrip(" .:") if lines else ""


def _machines(runs: pd.DataFrame) -> list[str]:
    """Runs of one study on different devices or versions of torch differ by more than their arms and seeds."""
    rows = arms.arm_runs(runs)
    parts = []
    for column, what in (("device", "devices"), ("torch", "versions of torch")):
        found = sorted({str(value) for value in rows[column].dropna() if value}) if column in rows else []
        if len(found) > 1:
            parts.append(f"{what} ({', '.join(found)})")
    if not parts:
        return []
    return [
        f"The runs come from different {phrases.listed(parts)}: their last digits, and rarely more, differ by that."
    ]


def _of(model: str, runs: pd.DataFrame) -> pd.DataFrame:
    rows = arms.arm_runs(runs)
    return rows[rows["model"] == model] if not rows.empty else rows


def _sources(model: str, runs: pd.DataFrame) -> list[str]:
    """A verdict over one set of source weights is a verdict about this set."""
    trained: dict[str, dict[str, None]] = {}  # the name of a source training, or of a file -> the arms that use it
    files: dict[str, dict[str, None]] = {}
    for run in _of(model, runs).to_dict("records"):
        name, source = (value if isinstance(value := run.get(key), str) else "" for key in ("weights", "source_run"))
        if name or source:
            group = trained if source else files
            group.setdefault(name.removeprefix("run:"), {})[str(run["arm"])] = None
    several = len(trained) + len(files) > 1
    lines = []
    if trained:
        who = [
            f"those of {_arms(list(users))} from another ({name})"
            if place
            else (f"the weights of {_arms(list(users))}" if several else "all transferred weights")
            + f" come from one source training{f' ({name})' if name else ''}"
            for place, (name, users) in enumerate(trained.items())
        ]
        lines.append(
            f"{phrases.listed(who)}: the interval does not hold the chance of that training, and another one could "
            "give another verdict."
        )
    if files:
        about = [
            f"{f'on {_arms(list(users))} ' if several else ''}is about one set of pretrained weights ({name})"
            for name, users in files.items()
        ]
        lines.append(f"the verdict {phrases.listed(about)}, not about pretraining in general.")
    return lines


def _lost(study: Mapping[str, Any], model: str, runs: pd.DataFrame, failures: Sequence[Mapping[str, Any]]) -> list[str]:
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
    elsewhere = _without_source(study, model, _gone_sources(model, runs, failures))  # said with their source
    failed = [
        failure
        for failure in failures
        if failure.get("model") == model and not _is_open(failure) and _role(failure) == "arm"
    ]
    failed = [failure for failure in failed if failure.get("arm") not in elsewhere]
    if failed:
        names = [f"{failure.get('arm', '?')}, seed {failure.get('seed', '?')}" for failure in failed]
        reasons = Counter(reason for failure in failed if (reason := _first_line(failure.get("reason"))))
        why = f": {reasons.most_common(1)[0][0]}" if reasons else ""
        more = f" (and {phrases.counted(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
        lines.append(f"{phrases.counted(len(failed), 'run')} failed and left no result ({_some(names)}){why}{more}.")
    return lines


def _levelling(study: Mapping[str, Any], model: str, runs: pd.DataFrame, history: pd.DataFrame) -> list[str]:
    """Arms that had not levelled off, or may not have; slow starters lose unfairly by that."""
    metric, margin = str(study.get("metric") or "auroc"), study.get("margin")
    found = plateaus.plateaus(runs, history, metric, float(margin)) if margin else {}
    told = {arm for (net, arm), one in found.items() if net == model and one.plateaued is not None}
    return [*plateaus.caveats(found, model, metric), *_best_at_the_end(model, runs, told)]


def _best_at_the_end(model: str, runs: pd.DataFrame, told: Collection[str]) -> list[str]:
    """Arms, but for those `told` of by their curves, whose best checkpoint is their last one."""
    rows = _of(model, runs)
    if not rows.empty:
        rows = rows[~rows["arm"].isin(told)]
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


_UNTUNED = (
    "Learning rates were not tuned, as in the papers: every arm was trained at the rate of the study file, and one "
    "that learns better at another rate is at a disadvantage (tune: in the study file)."
)


def _rates(study: Mapping[str, Any]) -> list[str]:
    """How the learning rate of each arm came about: one that is left at a poor rate loses unfairly."""
    if study.get("tune") == "none" and len(study.get("arms") or {}) > 1:
        return [_UNTUNED]
    found = study.get("rates") or ()
    if not found:
        return []
    several = len({one["model"] for one in found}) > 1
    names = [f"{one['model']} {one['arm']}" if several else str(one["arm"]) for one in found]
    grid = phrases.listed([phrases.trimmed(rate) for rate in sorted(found[0]["values"])])
    each = "; ".join(f"{name} {phrases.trimmed(one['rate'])}" for name, one in zip(names, found, strict=True))
    measure = phrases.metric_name(found[0]["monitor"])
    lines = [f"Each arm was trained at the learning rate of {grid} that was best in validation {measure}: {each}."]
    edge = [name for name, one in zip(names, found, strict=True) if one["at_the_edge"]]
    if edge:
        lines.append(
            f"The best learning rate is at the edge of those that were tried for {_arms(edge)}: a better one may lie "
            "beyond it."
        )
    return lines


def _from_statistics(comparisons: Sequence[ArmComparison]) -> list[str]:
    """The statistics' own caveats, each once, with the share of comparisons it applies to."""
    found: dict[str, list[ArmComparison]] = {}
    for row in comparisons:
        told = plateaus.notes(row.rising, row.comparison.metric)  # said with its network
        for text in dict.fromkeys(text for text in row.comparison.caveats if text not in told):
            found.setdefault(text, []).append(row)
    total, several = len(comparisons), len({row.model for row in comparisons}) > 1
    lines = []
    for text, rows in found.items():
        names = [f"{f'{row.model} ' if several else ''}{row.arm} {phrases.MINUS} {row.baseline}" for row in rows]
        where = f"in {len(rows)} of {total} comparisons ({_some(names, 4)}): " if len(rows) < total else ""
        lines.append(phrases.sentence(f"{where}{text}"))
    return lines


_FEW_PATIENTS = 30
"""Of 12 and of 20 patients intervals were simulated, and found too wide (docs/verdict.md)."""


def _few_patients(comparisons: Sequence[ArmComparison]) -> list[str]:
    """With few test patients an interval is cautious and lopsided, which looks like a mistake."""
    fewest = min((row.comparison.patients for row in comparisons), default=_FEW_PATIENTS)
    if fewest >= _FEW_PATIENTS:
        return []
    line = (
        f"{phrases.counted(fewest, 'test patient')}: the intervals of differences are wider than they need be, so a "
        "difference can be missed, and lopsided, as the worse an arm might be, the more its metric varies."
    )
    return [line]


def _arms(names: Sequence[str]) -> str:
    """Arms in a sentence: the first six of many."""
    return phrases.listed([*names[:6], f"{len(names) - 6} more"] if len(names) > 7 else names)


def _some(names: Sequence[str], most: int = 6) -> str:
    """The first few of many names.

    >>> _some(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return "; ".join([*names[:most], *more])
