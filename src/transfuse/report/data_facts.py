"""What a report says about the data: the facts that matter, in plain words and in a reader's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfuse.report.tables import facts
from transfuse.results import phrases

# What a study file need not say; a value equal to it is no news.
DEFAULTS: dict[str, Any] = {
    "root": None,
    "size": 64,
    "channels": None,
    "count": None,
    "seed": 0,
    "image_column": None,
    "label_columns": (),
    "patient_column": None,
    "part_column": None,
    "uncertain_labels": "refuse",
    "blank_labels": "ignore",
    "mask_column": None,
    "mask_classes": (),
    "observer": None,
    "task": None,
    "bad_images": "raise",
    "duplicates": "note",
    "permute_labels": False,
    "normalise": "imagenet",
    "fit": "crop",
    "window": None,
    "split_seed": 0,
    "fractions": (0.64, 0.16, 0.2),
    "official_split": True,
    "train_fraction": 1.0,
}
PARTS = {"train": "training", "val": "validation", "test": "test"}
TASKS = {
    "binary": "two classes",
    "multiclass": "one of several classes",
    "ordinal": "classes in an order (grades)",
    "multilabel": "any number of labels an image",
    "segmentation": "one class a pixel (masks)",
}
NORMALISATIONS = {"imagenet": "ImageNet's mean and spread", "half": "scaled to \N{MINUS SIGN}1 to 1"}
DUPLICATES = {"raise": "refused", "drop": "dropped from the earlier part"}
UNCERTAIN = {"positive": "positive (U-Ones)", "negative": "negative (U-Zeros)", "ignore": "unlabelled (U-Ignore)"}
FITS = {"pad": "padded with black", "squash": "squashed", "crop": "cropped to the centre"}
COLUMNS = {
    "image_column": "image",
    "label_columns": "label",
    "patient_column": "patient",
    "part_column": "part",
    "mask_column": "mask",
}


def lines(data: Mapping[str, Any], counted: Mapping[str, tuple[int, int]] | None = None) -> list[tuple[str, str]]:
    """The data's facts as labelled lines; a setting at its default, and what is said already, is left out.

    Args:
        data: the settings of the study's data and what the runs recorded about them; any key may be missing, and one
            that is not known here is shown as it is.
        counted: images and patients of a part, where `data` does not hold them.

    >>> lines({"name": "phantom", "size": 64, "image_size": 64, "fit": "crop", "normalise": "half", "synthetic": True})
    [('data set', 'phantom, synthetic'), ('images', '64 × 64 pixels'), ('pixel values', 'scaled to −1 to 1')]
    """
    rest = {key: value for key, value in data.items() if key != "root"}
    known = [*_identity(rest), *_images(rest), *_parts(rest, counted or {}), *_settings(rest)]
    licence, fingerprint = rest.pop("licence", None), rest.pop("fingerprint", None)
    other = facts({key: value for key, value in rest.items() if not (key in DEFAULTS and _is_default(key, value))})
    known += other
    if licence:
        known.append(("licence", str(licence)))
    if fingerprint:
        known.append(("fingerprint of images and labels", str(fingerprint)[:12]))
    return known


def _is_default(key: str, value: Any) -> bool:
    default = DEFAULTS[key]
    return bool((tuple(value) if isinstance(value, list) else value) == default)


def _changed(rest: dict[str, Any], key: str) -> Any:
    """Take a setting; None where it is missing or at its default."""
    value = rest.pop(key, None)
    return None if value is None or _is_default(key, value) else value


def _identity(rest: dict[str, Any]) -> list[tuple[str, str]]:
    asked = str(rest.pop("name", None) or "")
    name = str(rest.pop("dataset", None) or asked)
    synthetic = ", synthetic" if rest.pop("synthetic", False) else ""
    found = [("data set", f"{name}{synthetic}")] if name else []
    if asked not in (name, ""):
        found.append(("read from", asked))
    if source := rest.pop("source", None):
        found.append(("origin", str(source)))
    classes, task = rest.pop("classes", None), rest.pop("task", None)
    if task:
        found.append(("task", TASKS.get(str(task), str(task))))
    if classes:
        listed = "; ".join(map(str, classes)) if isinstance(classes, Sequence) and not isinstance(classes, str) else ""
        found.append(
            (phrases.counted(len(classes), "class", "classes") if listed else "classes", listed or str(classes))
        )
    if _changed(rest, "permute_labels"):
        found.append(("labels", "permuted over patients: a negative control"))
    return found


def _images(rest: dict[str, Any]) -> list[tuple[str, str]]:
    asked = rest.pop("size", None)
    side, channels = rest.pop("image_size", None) or asked, rest.pop("channels", None)
    dims = rest.pop("spatial_dims", 2)
    parts = [phrases.sides({"image_size": side, "spatial_dims": dims}, " × ")] if side else []
    if channels:
        parts.append({1: "grey", 3: "colour"}.get(channels, phrases.counted(channels, "channel")))
    found = [("volumes" if dims == 3 else "images", ", ".join(parts))] if parts else []
    normalise = rest.pop("normalise", None)
    if isinstance(normalise, str):
        found.append(("pixel values", NORMALISATIONS.get(normalise, normalise)))
    elif normalise:
        mean, spread = normalise
        found.append(("pixel values", f"mean {_numbers(mean)}, spread {_numbers(spread)} taken out"))
    if fit := _changed(rest, "fit"):
        found.append(("oblong images", FITS.get(str(fit), str(fit))))
    if window := _changed(rest, "window"):
        low, high = (phrases.trimmed(float(value)) for value in window)
        found.append(("window of values", f"{low} to {high}"))
    return found


def _numbers(values: Any) -> str:
    return ", ".join(phrases.trimmed(float(value)) for value in values)


def _parts(rest: dict[str, Any], counted: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    images = rest.pop("images") if isinstance(rest.get("images"), Mapping) else {}
    patients = rest.pop("patients") if isinstance(rest.get("patients"), Mapping) else {}
    known = rest.pop("patients_known", True)
    found = []
    for part in dict.fromkeys([*PARTS, *images, *counted]):
        number, people = images.get(part), patients.get(part)
        if number is None and part in counted:
            number, people = counted[part]
        if number is not None:
            of = "" if people is None else f" of {phrases.counted(people, 'patient')}"
            of = of if known else ", patients unknown"
            found.append((f"{PARTS.get(part, part)} part", f"{phrases.counted(number, 'image')}{of}"))
    return found


def _settings(rest: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings of the study file that somebody changed."""
    found = []
    if fractions := _changed(rest, "fractions"):
        shares = " / ".join(f"{100 * share:g} %" for share in fractions)
        found.append(("shares of the patients", f"{shares} (training / validation / test)"))
    if _changed(rest, "official_split") is False:
        found.append(("the data's own split", "not used"))
    if (seed := _changed(rest, "split_seed")) is not None:
        found.append(("seed of the split", str(seed)))
    if (share := _changed(rest, "train_fraction")) is not None:
        found.append(("used of the training patients", f"{100 * share:g} %"))
    if duplicates := _changed(rest, "duplicates"):
        found.append(("identical images in two parts", DUPLICATES.get(str(duplicates), str(duplicates))))
    if _changed(rest, "bad_images"):
        found.append(("unreadable images", "left out"))
    if unsure := _changed(rest, "uncertain_labels"):
        found.append(("uncertain labels (\N{MINUS SIGN}1)", UNCERTAIN.get(str(unsure), str(unsure))))
    if _changed(rest, "blank_labels"):
        found.append(("labels without a value", "negative"))
    if (count := _changed(rest, "count")) is not None:
        found.append(("images drawn", f"{count:,}"))
    if (seed := _changed(rest, "seed")) is not None:
        found.append(("seed of the data", str(seed)))
    if names := _changed(rest, "mask_classes"):
        found.append(("classes of the masks, by value", "; ".join(map(str, names))))
    if observer := _changed(rest, "observer"):
        found.append(("masks drawn by", f"the {observer} observer"))
    columns = [(what, _changed(rest, key)) for key, what in COLUMNS.items()]
    named = [f"{what}: {name if isinstance(name, str) else ', '.join(name)}" for what, name in columns if name]
    if named:
        found.append(("columns of the table", "; ".join(named)))
    return found
