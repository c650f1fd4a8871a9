"""The model card of a trained network, made from the files of its run alone: neither data, network nor torch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from transfuse.errors import DataError
from transfuse.metrics import EVERY_METRIC
from transfuse.results import phrases
from transfuse.results.loading import WeightsFacts, loading
from transfuse.results.search_card import search_rows, search_warning, title_of_cut
from transfuse.results.store import RunRecord
from transfuse.specs import InitSpec

if TYPE_CHECKING:
    import pandas as pd

    from transfuse.results.cut_search import Search

# Of the normalisations that have a name, mean and standard deviation of images in [0, 1].
NORMALISATIONS = {
    ("imagenet", 3): ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("imagenet", 1): ((0.449,), (0.226,)),
    ("half", 3): ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("half", 1): ((0.5,), (0.5,)),
}
FITS = {"crop": "the central square", "pad": "padded with black", "squash": "squashed to a square"}


def model_card(
    record: RunRecord,
    spec: Mapping[str, Any],
    environment: Mapping[str, Any],
    predictions: pd.DataFrame,
    weights: WeightsFacts,
    *,
    licence: str | None = None,
    search: Search | None = None,
) -> str:
    """A model card as Markdown, with the front matter that the Hugging Face Hub reads (Mitchell et al. 2019).

    Args:
        record: of a finished run.
        spec: content of its `spec.json`: `identity` and `names`.
        environment: content of its `environment.json`.
        predictions: its predictions, of which the test part is measured.
        weights: facts about the file that the card describes.
        licence, search: see `export`.
    """
    data, identity = json.loads(record.facts["data"]), spec["identity"]
    network = spec["names"]["network"]
    results = _results(record, data, predictions)
    own = data["synthetic"] and not _drawn_from(spec)  # drawn by a program, and nobody else's weights in it
    licence = licence or (data["licence"].lower() if own else None)
    cut = title_of_cut(search) if search else _cut(identity["init"])
    said = f"`{licence}`" if licence else "not chosen yet: look at the licence of the data, then export with --licence"
    lines = [
        *_front_matter(weights, network, data, results, licence),
        f"# {network}{cut}, trained on {data['dataset']} at {data['image_size']} px",
        "",
        *_warnings(record, spec, data),
        *(search_warning(search) if search else ()),
        _what(record, spec, environment, data),
        "",
        *_table("Network", _network_rows(record, spec, weights, said)),
        *_table("Training data", _data_rows(data)),
        *_table("Preprocessing", _preprocessing_rows(identity["data"], data)),
        *_table("Training", _training_rows(record, identity, data, environment)),
        *(_table("How it was found", search_rows(search, identity["seed"])) if search else ()),
        "## Results on the test part",
        "",
        "| metric | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {title} | {phrases.number(value)} | {interval or '-'} |" for _, title, value, interval in results.rows),
        "",
        results.basis,
        "",
        *loading(network, identity, data, weights),
        *_limits(record, data),
        *_table("Provenance", _provenance_rows(record, weights, environment)),
    ]
    return "\n".join(lines).rstrip() + "\n"


class _Results(NamedTuple):
    """Rows of (name, title, value, interval in words), and what they rest on."""

    rows: list[tuple[str, str, float | None, str]]
    basis: str


def _cut(init: Mapping[str, Any]) -> str:
    """What was done to the network after it was created, for its title.

    >>> _cut({"truncate": "layer2"}), _cut({"slim": "layer1"}), _cut({"truncate": "all"}), _cut({})
    (', cut after layer2', ', at half width above layer1', '', '')
    """
    if init.get("truncate") not in (None, "all"):
        return f", cut after {init['truncate']}"
    return f", at half width above {init['slim']}" if init.get("slim") is not None else ""


def _results(record: RunRecord, data: Mapping[str, Any], predictions: pd.DataFrame) -> _Results:
    """The run's metrics; top-1, top-5 and what the run monitored with an interval."""
    from transfuse.statistics.comparison import estimate, estimate_arm
    from transfuse.statistics.counts import arm_of_counts

    test = predictions[predictions["part"] == "test"]
    if data["task"] == "segmentation":
        counts = np.stack(list(test["counts"])).reshape(1, len(test), -1, 3)
        rows, method = [], ""
        for name, value in record.metrics.items():
            found = estimate_arm(arm_of_counts(counts, test["patient_id"].to_numpy(), name, background=True))
            interval = (
                f"{phrases.number(found.low)} to {phrases.number(found.high)}" if math.isfinite(found.low) else ""
            )
            method = found.method if interval else method
            rows.append((name, f"{EVERY_METRIC[name].title}, mean of images", value, interval))
        return _Results(rows, _basis(test, method))
    target, scores = np.stack(list(test["target"])), np.stack(list(test["scores"]))
    target = target[:, 0].astype(np.int64) if target.shape[1] == 1 else target
    rows, method = [], ""
    several = data["task"] == "multiclass" and len(data["classes"]) > 5
    names = dict.fromkeys(["accuracy", *["top5"] * several, *record.metrics] if target.ndim == 1 else record.metrics)
    for name in names:
        title = "Top-1 accuracy" if name == "accuracy" and several else EVERY_METRIC[name].title
        value, interval = record.metrics.get(name), ""
        if name in ("accuracy", "top5", record.facts["monitor"]):
            try:
                found = estimate(target, scores[None], test["patient_id"].to_numpy(), name)
            except DataError:  # undefined on this test part: an empty cell, as in the record
                value = None
            else:
                value = found.value
                if math.isfinite(found.low):  # none where all resamples agree, as at a value of 1
                    interval, method = f"{phrases.number(found.low)} to {phrases.number(found.high)}", found.method
        rows.append((name, title, value, interval))
    return _Results(rows, _basis(test, method))


def _basis(test: pd.DataFrame, method: str) -> str:
    patients, images = len(set(test["patient_id"])), len(test)
    of = "" if patients == images else f" of {phrases.counted(patients, 'patient')}"
    basis = f"{phrases.counted(images, 'image')}{of}, none of which was trained on."
    return f"{basis} Interval: {method}." if method else basis


def _front_matter(
    weights: WeightsFacts, network: str, data: Mapping[str, Any], results: _Results, licence: str | None
) -> list[str]:
    measured = [
        {"type": name, "name": title, "value": round(value, 4)}
        for name, title, value, _ in results.rows
        if value is not None
    ]
    task = "image-segmentation" if data["task"] == "segmentation" else "image-classification"
    result = {
        "task": {"type": task},
        "dataset": {"type": data["dataset"], "name": data["dataset"], "split": "test"},
        "metrics": measured,
    }
    content = {
        **({"license": licence} if licence else {"license": "other", "license_name": "not-chosen-yet"}),
        "library_name": "transfuse",
        "pipeline_tag": task,
        "tags": [task, "transfuse", network, *["synthetic"] * data["synthetic"]],
        "datasets": [data["dataset"]],
        "metrics": [entry["type"] for entry in measured],
        "model-index": [{"name": Path(weights.name).stem, "results": [result]}],
    }
    return ["---", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def _drawn_from(spec: Mapping[str, Any]) -> str:
    """The pretrained weights that the training started from; empty where it started from random ones."""
    identity = spec["identity"]
    if identity["source_run"]:
        return f"`{spec['names']['weights']}` (the run {identity['source_run']})"
    if identity["weights_sha256"]:
        return f"`{spec['names']['weights']}` (sha256 {identity['weights_sha256']})"
    return ""


def _what(record: RunRecord, spec: Mapping[str, Any], environment: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    classes, things = phrases.counted(len(data["classes"]), "class", "classes"), _things(data)
    plain = {field.name: getattr(InitSpec(), field.name) for field in dataclasses.fields(InitSpec)}
    chosen = {
        key: value
        for key, value in spec["identity"]["init"].items()
        if (tuple(value) if isinstance(value, list) else value) != plain.get(key)
    }
    start = f"the weights {source}" if (source := _drawn_from(spec)) else "random weights"
    return (
        f"`{spec['names']['network']}` for {things} of {phrases.sides(data)} and {classes} ({data['task']}), "
        f"trained from {start}{f' with {_settings(chosen)}' if chosen else ''} by transfuse "
        f"{environment['versions']['transfuse']}."
    )


def _things(data: Mapping[str, Any]) -> str:
    return "volumes" if data.get("spatial_dims", 2) == 3 else "images"


def _warnings(record: RunRecord, spec: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    said = [f"> **{note}**\n" for note in record.notes if note.startswith("NEGATIVE CONTROL")]
    if data["synthetic"]:
        started = _drawn_from(spec)
        never = "" if started else " It has never seen a photograph and is no ImageNet network."
        said.append(
            f"> **SYNTHETIC DATA.** This network was trained on {data['source']}.{never} Nothing measured here is a "
            "fact about photographs or patients.\n"
        )
    return said


def _table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _network_rows(
    record: RunRecord, spec: Mapping[str, Any], weights: WeightsFacts, licence: str
) -> list[tuple[str, str]]:
    total, trained = record.facts["parameters"], record.facts["trained_parameters"]
    padding = spec["identity"]["model"].get("padding")
    return [
        ("architecture", f"`{spec['names']['network']}`" + (f", padding `{padding}`" if padding else "")),
        ("parameters", f"{total:,}" + (f", of which {trained:,} were trained" if trained != total else "")),
        ("file", f"`{weights.name}`, {weights.size / 1e6:.1f} MB, {len(weights.shapes)} tensors"),
        ("licence of the weights", licence),
    ]


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = ", ".join(data["classes"][:30]) + (", ..." if len(data["classes"]) > 30 else "")
    parts = [
        f"{part} {phrases.counted(data['images'][part], 'image')}"
        + (f" of {phrases.counted(patients, 'patient')}" if patients != data["images"][part] else "")
        for part, patients in data["patients"].items()
    ]
    return [
        ("data set", f"{data['dataset']}" + (" (**synthetic**)" if data["synthetic"] else "")),
        ("source", data["source"]),
        ("licence of the data", data["licence"]),
        ("parts", "; ".join(parts)),
        ("classes", f"{len(data['classes'])}, in the order of the outputs: {shown}"),
        ("fingerprint", f"`{data['fingerprint']}`"),
    ]


def _preprocessing_rows(settings: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    mean, std = normalisation(settings, data["channels"])
    return [
        ("size", f"{phrases.sides(data)}; oblong {_things(data)}: {FITS[settings['fit']]}"),
        ("channels", "RGB" if data["channels"] == 3 else str(data["channels"])),
        ("values", "scaled to 0 to 1, then less the mean, over the standard deviation"),
        ("mean", ", ".join(map(phrases.trimmed, mean))),
        ("standard deviation", ", ".join(map(phrases.trimmed, std))),
    ]


def normalisation(settings: Mapping[str, Any], channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation, one value a channel, of the `data` settings of a run's identity.

    >>> normalisation({"normalise": "half"}, 1)
    ((0.5,), (0.5,))
    """
    named = settings["normalise"]
    return NORMALISATIONS[named, channels] if isinstance(named, str) else (tuple(named[0]), tuple(named[1]))


def _training_rows(
    record: RunRecord, identity: Mapping[str, Any], data: Mapping[str, Any], environment: Mapping[str, Any]
) -> list[tuple[str, str]]:
    train, facts = identity["train"], record.facts
    of_task = {"multilabel": "sigmoid", "segmentation": "dice_ce"}.get(data["task"], "softmax")
    loss = train["loss"] if train["loss"] != "auto" else of_task
    at = f" ({phrases.number(facts['best_value'])} at step {facts['best_step']})"
    machine = environment["gpu"] or f"{environment['processor']}, {phrases.counted(facts['threads'], 'thread')}"
    return [
        ("optimiser", f"{train['optimizer']['name']}; {_settings(_of_optimizer(train['optimizer']))}"),
        ("schedule", f"{train['schedule']['name']}; {_settings(_of_schedule(train['schedule']))}".rstrip("; ")),
        ("batch", phrases.counted(train["batch_size"], "image")),
        ("length", f"{facts['epochs']:g} epochs, {phrases.counted(facts['steps'], 'step')}; {record.reason}"),
        ("loss", loss + (", classes balanced" if train["class_weights"] == "balanced" else "")),
        ("augmentation", train["augment"]),
        *([("patches", _of_patches(train))] if train.get("patch") else []),
        ("weights kept", f"those of the best validation {phrases.metric_name(facts['monitor'])}{at}"),
        ("seed", str(identity["seed"])),
        ("took", f"{phrases.duration(facts['train_seconds'])} on {facts['device']} ({machine})"),
    ]


def _of_patches(train: Mapping[str, Any]) -> str:
    sides = " x ".join(map(str, train["patch"]))
    share = train.get("patch_foreground", 0.5)
    return (
        f"{sides} voxels, {100 * share:g} % around a voxel of a class; whole volumes are predicted by windows of this "
        "size that overlap by half, weighted by a Gaussian"
    )


def _of_optimizer(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an optimiser that mean anything for it."""
    unused = {"name", *(("momentum", "nesterov") if optimizer["name"] != "sgd" else ())}
    usual = {"nesterov": False, "decay_1d": True}  # said only where they are otherwise
    return {
        name: value
        for name, value in optimizer.items()
        if name not in unused and value is not None and value is not usual.get(name)
    }


def _of_schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a schedule that mean anything for it."""
    kept = {"step": ("milestones", "milestone_unit", "factor"), "plateau": ("factor", "patience", "patience_unit")}
    names = [*kept.get(schedule["name"], ()), *(["warmup", "warmup_unit"] if schedule["warmup"] else [])]
    return {name: schedule[name] for name in names}


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return phrases.trimmed(value) if isinstance(value, float) else str(value)


USES = (
    "Meant for research on transfer: as weights to start another training from.",
    "Not made, tested or approved for diagnosis, or for any decision about a person.",
    "One training, one seed, one test part: other seeds, recipes and data may give something else.",
    "The classes are those of its training data; on anything else its probabilities mean nothing.",
)


def _limits(record: RunRecord, data: Mapping[str, Any]) -> list[str]:
    said = [*USES, *["Whether these weights help on real images, only a study can say."] * data["synthetic"]]
    # Notes name images and patients in brackets, and a card is for strangers.
    notes = [phrases.sentence(re.sub(r" \(.*\)", "", note, flags=re.S)) for note in record.notes]
    return ["## Intended use and limits", "", *(f"- {sentence}" for sentence in dict.fromkeys([*said, *notes])), ""]


def _provenance_rows(record: RunRecord, weights: WeightsFacts, environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return [
        ("sha256 of the weights", f"`{weights.sha256}`"),
        ("run", f"`{record.run_id}`"),
        ("versions", f"{versions}, Python {environment['python']}, {environment['system']}"),
    ]
