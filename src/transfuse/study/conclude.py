"""From the files of finished runs to what a report shows: tables, comparisons, estimates, a recommendation."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transfuse.results import chance
from transfuse.results.arms import ArmComparison, ArmEstimate
from transfuse.results.causes import cause_pairs
from transfuse.results.cut_heads import Cuts, cuts_of, is_cut_sweep
from transfuse.results.cut_search import Search, read_search
from transfuse.results.data_size import DataSizes, data_sizes
from transfuse.results.network_sizes import Sizes, sizes
from transfuse.results.plateaus import plateaus, rising, withheld
from transfuse.results.recommend import Recommendation, recommend
from transfuse.results.search_answer import answered, is_no_cut
from transfuse.results.search_verdict import verdict_on
from transfuse.results.store import Store, Tables, replacing, write_table
from transfuse.specs import StudySpec, to_yaml
from transfuse.study.compared import compared
from transfuse.study.latencies import latencies
from transfuse.study.plan import Plan, analysis_status, status
from transfuse.study.tested import arm_of_predictions
from transfuse.study.tuning import choices

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.data import Dataset
    from transfuse.statistics.arm import Arm
    from transfuse.statistics.plateau import Plateau


class Conclusion(NamedTuple):
    """Everything a study has to say, ready for a report.

    Attributes:
        study: the study's settings as plain values, for the report.
        tables: runs, history, predictions, measurements.
        comparisons: every arm against the baseline, the study's pairs, and those that isolate a cause of the gain.
        estimates: the test metric of every arm.
        recommendation: what follows.
        notes: what must be said about the data.
        environment: versions and machine of the runs.
        failures: runs without a record, each with its `state` and `reason`.
        samples: sample images as (caption, PNG bytes).
        pictures: what the analyses drew: the names of the analysis, a caption, and a uint8 array.
        analyses: where every analysis stands: its names, `state` and `reason`, and the `notes` of its record.
        network_sizes: how small the network may be; None where all arms cost the same.
        data_sizes: the arms of each network over the number of training patients; none without `train_fractions`.
        searches: the searches over the cuts of each network, with the verdict on the test part.
        cuts: the networks cut at one block after the other, by head; none without `truncate: every`.
    """

    study: dict[str, Any]
    tables: Tables
    comparisons: list[ArmComparison]
    estimates: list[ArmEstimate]
    recommendation: Recommendation
    notes: list[str]
    environment: dict[str, Any]
    failures: list[dict[str, Any]]
    samples: list[tuple[str, bytes]]
    pictures: list[tuple[dict[str, Any], str, np.ndarray]]
    analyses: list[dict[str, Any]]
    network_sizes: Sizes | None
    data_sizes: list[DataSizes]
    searches: list[Search]
    cuts: list[Cuts]


def conclude(store: Store, plan: Plan) -> Conclusion:
    """Conclude a study from its files alone; neither data, networks nor torch are touched. Writes the tables.

    Only where the study asks for latencies and has not got them yet are its networks built, and timed.
    """
    study, rows, analyses = plan
    tables = store.tables(rows, analyses)
    for kind, frame in tables._asdict().items():
        if kind == "measurements" and not plan.analyses:
            continue
        write_table(store.study_folder(study.name) / "tables" / f"{kind}.parquet", frame)
    tested = _tested(study, tables, tables.runs["role"] == "arm")
    ends = plateaus(tables.runs, tables.history, study.metric, study.margin)
    comparisons = _comparisons(study, tested, ends)
    asked = dict.fromkeys((row["model"], row["arm"]) for row in rows if row["role"] == "arm")
    estimates = [_estimate(model, arm, tested.get((model, arm))) for model, arm in asked]
    notes = _notes(store, rows)
    failures = [
        {**found.row, "state": found.state, "reason": found.detail}
        for found in status(store, rows)
        if found.state not in ("finished", "diverged")
    ]
    plain = {**dataclasses.asdict(study), "seeds": list(study.seed_list), "confidence": 0.95, "spec": to_yaml(study)}
    plain["arms"] = _trained(study, rows)
    plain["data"] = {**plain["data"], **_data_facts(tables.runs)}
    plain["rates"] = [{**one._asdict(), "at_the_edge": one.at_the_edge} for one in choices(rows, store)]
    images = _images(tables.predictions)
    plain["analyses"] = [
        {**dataclasses.asdict(spec), "compared": compared(spec, images), "compares": spec.compares}
        for spec in study.analyses
    ]
    recommendation = recommend(
        plain, comparisons, estimates, runs=tables.runs, history=tables.history, notes=notes, failures=failures
    )
    low = chance.at_chance(estimates, chance.chance_level(study.metric, plain["data"]))
    searches = _searches(store, study, tested, ends, low)
    if searches:
        kept = is_no_cut(searches)
        rest = [row for row in comparisons if kept(row.model, row.arm) and kept(row.model, row.baseline)]
        beside = recommend(plain, rest, estimates, runs=tables.runs, history=tables.history) if rest else None
        recommendation = answered(recommendation, searches, beside)
    return Conclusion(
        plain,
        tables,
        comparisons,
        estimates,
        recommendation,
        notes,
        _environment(store, rows),
        failures,
        _read_samples(store, study.name),
        [(row, caption, array) for row in analyses for caption, array in store.pictures(row)],
        _analyses(store, analyses),
        sizes(
            {names: found.arm for names, found in tested.items()},
            tables.runs,
            study.margin,
            {names for names, end in ends.items() if end.plateaued is False},
            latencies(store, study, tables.runs),
        ),
        _data_sizes(study, tables, tested),
        searches,
        _cuts(study, tables, tested, plain["data"], comparisons),
    )


def _searches(
    store: Store,
    study: StudySpec,
    tested: Mapping[tuple[str, str], _Tested],
    ends: Mapping[tuple[str, str], Plateau],
    at_chance: Collection[tuple[str, str]],
) -> list[Search]:
    """What the searches found; none where the study does not search."""
    if study.search is None:
        return []
    arms = {names: one.arm for names, one in tested.items()}
    still = {names for names, end in ends.items() if end.plateaued is False}
    found = read_search(store.study_folder(study.name))
    return [dataclasses.replace(one, verdict=verdict_on(one, arms, still, at_chance)) for one in found]


def _trained(study: StudySpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the arms, without the cuts that a search did not choose."""
    asked = {row["arm"] for row in rows if row["role"] == "arm"}
    cuts = f"{study.search.arm}@" if study.search is not None else None
    return {
        arm: dataclasses.asdict(init)
        for arm, init in study.arms.items()
        if cuts is None or not arm.startswith(cuts) or arm in asked
    }


def _images(predictions: pd.DataFrame) -> dict[str, int]:
    """How many images each part of the study's data has, as far as a run has predicted them."""
    if predictions.empty:
        return {}
    first = predictions[predictions["run_id"] == predictions["run_id"].iloc[-1]]
    return {str(part): int(count) for part, count in first["part"].value_counts().items()}


def _analyses(store: Store, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where every analysis stands, and what it warned of."""
    found = []
    for one in analysis_status(store, rows):
        record = store.analyses.record(one.row["analysis_id"]) if one.state == "finished" else None
        notes = list(record.notes) if record is not None else []
        found.append({**one.row, "state": one.state, "reason": one.detail, "notes": notes})
    return found


def _notes(store: Store, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said about the data, the sources' after the target's and by name."""
    notes: dict[str, None] = {}
    for row in sorted(rows, key=lambda row: row["role"] == "source"):
        record = store.record(row["run_id"])
        for note in record.notes if record is not None and row["role"] != "size" else ():
            if row["role"] != "source":
                notes[note] = None
            elif note not in notes:
                notes[f"Source {row['arm']}: {note}"] = None
    return list(notes)


class _Tested(NamedTuple):
    """An arm on the test samples, which are in one order for all arms: its metric, resampled, and its seeds."""

    arm: Arm
    seeds: tuple[int, ...]


def _tested(study: StudySpec, tables: Tables, chosen: pd.Series, metric: str = "") -> dict[tuple[str, str], _Tested]:
    """Every arm that has predictions of the chosen runs, by network and label; each is resampled once for all uses."""
    if tables.predictions.empty:
        return {}
    found = {}
    names = tables.runs.loc[chosen, ["run_id", "model", "arm", "seed"]]
    test = tables.predictions[tables.predictions["part"] == "test"].merge(names, on="run_id")
    for (model, arm), group in test.groupby(["model", "arm"], sort=False):
        seeds = {int(str(number)): seed for number, seed in group.groupby("seed", sort=True)}
        tested = arm_of_predictions(list(seeds.values()), metric or study.metric, f"{model} · {arm}")
        found[str(model), str(arm)] = _Tested(tested, tuple(seeds))
    return found


def _comparisons(
    study: StudySpec, tested: Mapping[tuple[str, str], _Tested], ends: Mapping[tuple[str, str], Plateau]
) -> list[ArmComparison]:
    """Every pair of arms of every network that can be compared, with verdicts corrected for their number a network.

    Those with an arm whose training had not levelled off (`ends`) have no verdict, and do not count for the others.
    """
    from transfuse.statistics.comparison import compare_arms
    from transfuse.statistics.many import compare_all

    found = {
        (model, arm, other): compare_arms(tested[model, arm].arm, tested[model, other].arm, study.margin)
        for model in study.models
        for arm, other in _pairs(study, model)
        if (model, arm) in tested and (model, other) in tested
    }
    still = {names: rising(ends, names[0], names[1:]) for names in found}
    tests = {names: withheld(comparison, still[names]) for names, comparison in found.items()}
    families = [{names: tests[names] for names in tests if names[0] == model} for model in study.models]
    decided = {names: one for family in families for names, one in compare_all(family).items()}
    return [ArmComparison(*names, comparison, still[names]) for names, comparison in decided.items()]


def _pairs(study: StudySpec, model: str) -> list[tuple[str, str]]:
    """Each arm against the baseline, the study's own pairs, and those that split a network's gain into its causes.

    Each pair once, as it comes first: a pair and its mirror are the same comparison.
    """
    arms = {arm: dataclasses.asdict(init) for arm, init in study.arms.items()}
    causes = cause_pairs(arms, dataclasses.asdict(study.models[model]))
    found: dict[frozenset[str], tuple[str, str]] = {}
    for pair in (*((arm, study.baseline) for arm in study.arms if arm != study.baseline), *study.pairs, *causes):
        found.setdefault(frozenset(pair), pair)
    return list(found.values())


def _data_sizes(study: StudySpec, tables: Tables, tested: Mapping[tuple[str, str], _Tested]) -> list[DataSizes]:
    """Every network's arms over the number of training patients; the largest number is that of the verdict."""
    runs = tables.runs
    if not study.train_fractions or not tested:
        return []
    found: dict[tuple[str, str], dict[int, Arm]] = {}
    still: dict[tuple[str, str], list[int]] = {}
    for number, data in enumerate([*study.smaller_data, study.data]):
        own = runs["role"] == ("arm" if number == len(study.smaller_data) else "size")
        own &= np.isclose(runs["train_fraction"].astype(float), data.train_fraction)
        patients = {json.loads(facts)["patients"]["train"] for facts in runs.loc[own, "data"]}
        for name, one in (_tested(study, tables, own) if own.any() else {}).items():
            found.setdefault(name, {})[max(patients)] = one.arm
        ends = plateaus(runs[own].assign(role="arm"), tables.history, study.metric, study.margin) if own.any() else {}
        for name, end in ends.items():
            if end.plateaued is False:
                still.setdefault(name, []).append(max(patients))
    return [
        data_sizes(
            model,
            {arm: of for (net, arm), of in found.items() if net == model},
            study.baseline,
            study.margin,
            {arm: sizes for (net, arm), sizes in still.items() if net == model},
        )
        for model in study.models
        if any(net == model for net, _ in found)
    ]


def _cuts(
    study: StudySpec,
    tables: Tables,
    tested: Mapping[tuple[str, str], _Tested],
    data: Mapping[str, Any],
    comparisons: Sequence[ArmComparison],
) -> list[Cuts]:
    """Every network that is cut at one block after the other, in the study's metric and in AUROC and AUPRC."""
    from transfuse.statistics.comparison import estimate_arm
    from transfuse.study.measure import test_metrics

    arms = {arm: dataclasses.asdict(init) for arm, init in study.arms.items()}
    swept = [arm for arm in arms if is_cut_sweep(arm, arms[arm])]
    some = study.search is not None and study.search.strategy != "exhaustive"  # what a search chose is no sweep
    if not swept or not tested or some:
        return []
    chosen = (tables.runs["role"] == "arm") & tables.runs["arm"].isin(swept)
    found: dict[str, Mapping[tuple[str, str], _Tested]] = {study.metric: tested}
    for metric in ("auroc", "auprc"):
        if metric != study.metric and metric in test_metrics(data["task"], len(data["classes"])):
            found[metric] = _tested(study, tables, chosen, metric)
    estimates = {
        metric: {name: estimate_arm(one.arm) for name, one in of_arms.items() if name[1] in swept}
        for metric, of_arms in found.items()
    }
    return cuts_of(arms, estimates, tables.runs, comparisons)


def _estimate(model: str, arm: str, found: _Tested | None) -> ArmEstimate:
    from transfuse.statistics.comparison import estimate_arm

    if found is None:
        return ArmEstimate(model, arm, None, {})
    values = np.mean([part.points[:, 0] for part in found.arm.parts], axis=0)
    return ArmEstimate(model, arm, estimate_arm(found.arm), dict(zip(found.seeds, values.tolist(), strict=True)))


def _data_facts(runs: pd.DataFrame) -> dict[str, Any]:
    """Facts about the target data, from the first run that has ended."""
    if runs.empty or "data" not in runs:
        return {}
    own = runs[runs["role"] == "arm"]
    return json.loads(own["data"].iloc[0]) if len(own) else {}


def _environment(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The environment of the first run, and how many others there are."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        path = store.run_folder(row["run_id"]) / "environment.json"
        if path.exists():
            text = path.read_text(encoding="utf-8")
            content = {**json.loads(text), "threads_per_run": None}  # a source may well have other threads
            found.setdefault(json.dumps(content, sort_keys=True), json.loads(text))
    if not found:
        return {}
    first = next(iter(found.values()))
    return first if len(found) == 1 else {**first, "note": f"the runs come from {len(found)} different environments"}


def write_samples(store: Store, name: str, dataset: Dataset, *, per_class: int = 3, pixels: int = 128) -> None:
    """Keep a few images of every class for the report, about `pixels` wide: small ones enlarged without smoothing."""
    from PIL import Image

    folder = store.study_folder(name) / "samples"
    images = dataset.pixels()
    masks = dataset.masks() if dataset.info.task == "segmentation" else None
    index = []
    for number, label in enumerate(dataset.info.classes):
        target = np.asarray(dataset.targets)
        members = np.flatnonzero(target == number if target.ndim == 1 else target[:, number] == 1)[:per_class]
        for place, member in enumerate(members):
            pixel = np.asarray(images[member])
            values = pixel if dataset.white == 255 else (pixel * (255 / dataset.white)).astype(np.uint8)
            views = _views(values) if masks is None else [drawn(values, masks[member], number)]
            for view, flat in enumerate(views):
                picture = Image.fromarray(flat[0] if flat.shape[0] == 1 else np.moveaxis(flat, 0, -1))
                if picture.width > 1.5 * pixels:
                    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
                factor = max(1, round(pixels / picture.width))
                buffer = io.BytesIO()
                picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(
                    buffer, "PNG"
                )
                file = f"{number}_{place}_{view}.png" if view else f"{number}_{place}.png"
                with replacing(folder / file) as path:
                    path.write_bytes(buffer.getvalue())
                solid = " (of each volume the middle slice, and the brightest values along its depth)"
                if masks is not None:
                    solid = f" (of each volume the slice with most of {'all classes' if number == 0 else 'it'})"
                caption = str(label) if masks is None else f"{label}, outlined" if number else "images"
                index.append({"file": file, "caption": f"{caption}{solid if values.ndim == 4 else ''}"})
    with replacing(folder / "index.json") as path:
        path.write_text(json.dumps(index), encoding="utf-8")


def drawn(values: np.ndarray, mask: np.ndarray, number: int) -> np.ndarray:
    """An image (C, H, W) with the outline of a class of its mask; the background, class 0, has none.

    Of a volume (C, D, H, W) it is the slice that holds most of the class, for the background most of all others.
    """
    inside = mask == number if number else mask > 0
    if values.ndim == 4:
        middle = values.shape[1] // 2
        share = inside.sum(axis=(1, 2))
        at = middle if share[middle] == share.max() else int(share.argmax())
        values, inside = values[:, at], inside[at]
    return outlined(values, inside) if number else values


OUTLINE = (255, 210, 0)


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture (C, H, W) uint8 in colour, (3, H, W), with the outermost pixels of a mask (H, W) drawn on it.

    >>> outlined(np.zeros((1, 3, 3), np.uint8), np.ones((3, 3), bool))[0].tolist()
    [[255, 255, 255], [255, 0, 255], [255, 255, 255]]
    """
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge = mask & ~inside
    shown = np.repeat(image, 3, axis=0) if len(image) == 1 else image.copy()
    shown[:, edge] = np.array(OUTLINE, np.uint8)[:, None]
    return shown


def _views(values: np.ndarray) -> list[np.ndarray]:
    """An image (C, H, W) as it is; of a volume (C, D, H, W) the middle slice and the projection of its maxima."""
    return [values] if values.ndim == 3 else [values[:, values.shape[1] // 2], values.max(axis=1)]


def _read_samples(store: Store, name: str) -> list[tuple[str, bytes]]:
    folder = store.study_folder(name) / "samples"
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return [(entry["caption"], (folder / entry["file"]).read_bytes()) for entry in index]
    except (OSError, ValueError):
        return []
