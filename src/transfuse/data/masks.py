"""Masks: image files whose values are class indices, read, checked and brought to the size of their images.

A mask has the size of its image and one label a pixel, 0 being the background: grey values 0, 1, 2, ... or the indices
of a palette. 1-bit files and files of 0 and 255 hold two classes. An empty mask, all background, is a mask like any
other.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from transfuse.data.cache import key_of, locked, remember_facts, remembered_facts
from transfuse.data.files import ScannedFile, in_parallel, stamp_of, unchanged_bytes
from transfuse.data.images import BROKEN, decode, reason_of, square
from transfuse.data.records import Exclusion, ImageSource, listed
from transfuse.data.volumes import VolumeSource
from transfuse.errors import DataError

BACKGROUND = "background"
_MOST = 256  # classes that a stored mask (uint8) can hold


class MaskFacts(NamedTuple):
    """What is known of one mask file; `reason` says why it cannot be used ("" if it can, by itself)."""

    reason: str
    sha256: str
    height: int
    width: int
    values: tuple[int, ...]  # the labels in it, ascending


MISSING = MaskFacts("does not exist", "", 0, 0, ())
UNNAMED = MaskFacts("no mask is named for it", "", 0, 0, ())


class Masks(NamedTuple):
    """The masks of some images.

    Attributes:
        source: gives them as label maps.
        hashes: sha256 of each file.
        classes: names in the order of the labels.
        present: `(n, C)` float32, 1 where a class has a pixel in a mask.
        good: positions of the images whose masks can be used, in their order; all the above are of these.
        exclusions: the others, where it was asked to leave them out.
    """

    source: ImageSource | VolumeSource
    hashes: tuple[str, ...]
    classes: tuple[str, ...]
    present: np.ndarray
    good: list[int]
    exclusions: tuple[Exclusion, ...]


@dataclass(frozen=True)
class NamedMasks:
    """Mask files in the order of the samples, with the sha256 that each had when the data set was opened.

    Args:
        paths: of the files.
        sha256: of each.
        two: whether there are two classes, so that 255 is label 1.
    """

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    two: bool

    def contents(self) -> Iterator[bytes]:
        """The bytes of the files.

        Raises:
            DataError: a file is gone, or is another one than when the data set was opened.
        """
        for path, sha256 in zip(self.paths, self.sha256, strict=True):
            try:
                yield unchanged_bytes(path, sha256)
            except OSError as error:
                raise DataError(f"The mask {path} cannot be read: {error.strerror or error}.") from None
            except DataError as error:
                raise DataError(f"The mask {path} {error}.") from None

    def classes_of(self, labels: np.ndarray) -> np.ndarray:
        """Stored labels as class indices, uint8: of two classes all but 0 is 1."""
        return (labels > 0 if self.two else labels).astype(np.uint8)


class MaskFiles(NamedMasks):
    """Masks of images."""

    def arrays(self) -> Iterator[np.ndarray]:
        """The label maps `(H, W)`, uint8; DataError as `contents`."""
        return (self.classes_of(decode_labels(data)) for data in self.contents())


def decode_labels(data: bytes) -> np.ndarray:
    """The labels of an encoded mask, `(H, W)`, as they are stored: grey values, palette indices, 0 and 1 of 1 bit.

    Raises:
        DataError: the bytes are no image, the image is cut short, or it has colours.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
                return np.asarray(image).astype(np.uint8 if image.mode in ("1", "P") else np.int64)
            mode = image.mode
    except BROKEN as error:
        raise DataError(reason_of(error)) from None
    raise DataError(f"is in colour (mode {mode}); a mask holds one class index a pixel: save it grey or with a palette")


def square_labels(labels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Bring a label map `(H, W)` to `size` x `size` as `to_square` brings its image, each pixel its nearest label.

    >>> square_labels(np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8), 2, "squash").tolist()
    [[0, 1], [0, 1]]
    """
    labels = square(labels, fit)
    if labels.shape == (size, size):
        return labels
    return np.asarray(Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST))


def read_masks(
    paths: Sequence[Path | None],
    names: Sequence[str],
    images: Sequence[Path],
    files: Sequence[ScannedFile],
    where: str,
    *,
    classes: Sequence[str] = (),
    bad_images: str = "raise",
    cache: Path,
) -> Masks:
    """Look at the masks of some images: each is decoded once, and remembered.

    Args:
        paths: a mask for each image; None where none is named.
        names: sample ids.
        images: the images' files.
        files: what is known of these.
        where: what the message says they are of.
        classes: names in the order of the labels; without them: "background" and "foreground", or "class 1", ...
        bad_images: "raise", or "exclude" to leave out images whose mask cannot be used.
        cache: folder of the cache.

    Raises:
        DataError: masks that are missing, no images, of another size than their image, or with labels that no class
            has; all of them are listed at once.
    """
    there = [path for path in paths if path is not None]
    found = iter(scan_masks(there, cache))
    facts = [UNNAMED if path is None else next(found) for path in paths]
    problems: dict[int, str] = {}
    for i, (fact, image, file) in enumerate(zip(facts, images, files, strict=True)):
        if fact.reason:
            problems[i] = fact.reason
        elif wrong := _other_size(fact, image, file):
            problems[i] = wrong
    return usable_masks(MaskFiles, paths, names, facts, problems, where, classes=classes, bad_images=bad_images)


def usable_masks(
    kind: Callable[..., ImageSource | VolumeSource],
    paths: Sequence[Path | None],
    names: Sequence[str],
    facts: Sequence[MaskFacts],
    problems: dict[int, str],
    where: str,
    *,
    classes: Sequence[str],
    bad_images: str,
) -> Masks:
    """The masks of which nothing speaks against them, with their classes; arguments as of `read_masks`.

    Args:
        kind: what gives the label maps.
        paths: a mask for each image.
        names: sample ids.
        facts: what is known of each mask.
        problems: by position, what speaks against a mask; labels that no class has are added.
        where: what the message says they are of.
        classes: names in the order of the labels.
        bad_images: "raise" or "exclude".

    Raises:
        DataError: as `read_masks`.
    """
    names_of_classes, strange = _labels([fact for i, fact in enumerate(facts) if i not in problems], classes, where)
    for i, fact in enumerate(facts):
        if i not in problems and (unknown := strange(fact.values)):
            problems[i] = unknown
    if problems and (bad_images == "raise" or len(problems) == len(facts)):
        raise _unusable([f"{paths[i] or names[i]}: {problems[i]}" for i in sorted(problems)], where, kind is MaskFiles)
    good = [i for i in range(len(facts)) if i not in problems]
    two = len(names_of_classes) == 2
    present = np.zeros((len(good), len(names_of_classes)), np.float32)
    for row, i in enumerate(good):
        present[row, [int(value > 0) if two else value for value in facts[i].values]] = 1
    hashes = tuple(facts[i].sha256 for i in good)
    return Masks(
        kind(tuple(str(paths[i]) for i in good), hashes, two),
        hashes,
        names_of_classes,
        present,
        good,
        tuple(Exclusion(names[i], f"mask: {problems[i]}") for i in sorted(problems)),
    )


def scan_masks(paths: Sequence[Path], folder: Path) -> list[MaskFacts]:
    """Hash and decode mask files, or remember what they were when they had this size and time of change."""
    if not paths:
        return []
    store = folder / f"masks-{key_of(os.path.commonpath([os.path.abspath(path) for path in paths]))}.json"
    keys = [f"{os.path.abspath(path)}|{stamp}" if (stamp := stamp_of(path)) else "" for path in paths]
    known = remembered_masks(store, {key: path for key, path in zip(keys, paths, strict=True) if key}, _scan_one)
    return [known.get(key, MISSING) for key in keys]


def remembered_masks(store: Path, jobs: Mapping[str, Any], look: Callable[[Any], MaskFacts]) -> dict[str, MaskFacts]:
    """What is known of masks, by the key under which it is remembered in the file `store`.

    Args:
        store: in the cache.
        jobs: what to look at to know it, by its key, which holds all that decides it (path, size, time of change).
        look: looks; not asked where it is remembered. What could not be read at all is not remembered.
    """
    with locked(store):
        known = remembered_facts(store)
        todo = [key for key in jobs if key not in known]
        known |= zip(todo, in_parallel(look, [jobs[key] for key in todo]), strict=True)
        if todo:
            remember_facts(store, {key: row for key, row in known.items() if row[1]})
    found = {}
    for key in jobs:
        reason, sha256, height, width, values = known[key]
        found[key] = MaskFacts(reason, sha256, height, width, tuple(values))
    return found


def _scan_one(path: Path) -> MaskFacts:
    sha256 = ""
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        labels = decode_labels(data)
    except (DataError, OSError) as error:
        return MaskFacts(str(error), sha256, 0, 0, ())
    height, width = labels.shape
    return MaskFacts("", sha256, height, width, tuple(np.unique(labels).tolist()))


def _other_size(mask: MaskFacts, image: Path, file: ScannedFile) -> str:
    """What is wrong with the size of a mask; a photograph may be stored lying (EXIF), and its mask not."""
    size, own = (mask.height, mask.width), (file.facts.height, file.facts.width)
    if size == own or (size == own[::-1] and decode(image.read_bytes()).shape[:2] == size):
        return ""
    return f"has {mask.width} x {mask.height} pixels, and its image {own[1]} x {own[0]}"


class _Unknown(NamedTuple):
    """Says which labels of a mask no class has; empty if none."""

    known: frozenset[int]
    two: bool

    def __call__(self, values: Sequence[int]) -> str:
        if self.two and set(values) <= {0, 255}:
            return ""
        unknown = [value for value in values if value not in self.known]
        if not unknown:
            return ""
        expected = f"0 to {max(self.known)}" if self.known else "0, 1, 2, ..."
        labels = f"label {unknown[0]}" if len(unknown) == 1 else f"labels {listed(unknown, 5)}"
        return f"holds the {labels}; expected {expected}{', or 0 and 255' if self.two else ''}"


def _labels(facts: Sequence[MaskFacts], classes: Sequence[str], where: str) -> tuple[tuple[str, ...], _Unknown]:
    """The classes of masks, from their names or from the labels that occur, and what tells unknown labels."""
    found = {value for fact in facts for value in fact.values}
    if classes:
        return tuple(classes), _Unknown(frozenset(range(len(classes))), len(classes) == 2)
    count = next(value for value in range(_MOST + 1) if value not in found)
    if found and found <= {0, 255}:
        count = 2
    if found == {0}:
        raise DataError(
            f"{where}: all {len(facts)} masks are empty (label 0 alone), so there is nothing to segment. Cure: masks "
            "with pixels of a class, or other files."
        )
    two = count <= 2
    names = (BACKGROUND, "foreground") if two else (BACKGROUND, *(f"class {k}" for k in range(1, count)))
    return names, _Unknown(frozenset(range(2 if count == 1 else count)), two)


def _unusable(problems: Sequence[str], where: str, flat: bool) -> DataError:
    shown = "".join(f"\n  - {problem}" for problem in problems[:10])
    more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
    count = "1 mask" if len(problems) == 1 else f"{len(problems)} masks"
    wanted = "of the size of their images, as PNG (JPEG smears labels)" if flat else "on the voxels of their volumes"
    return DataError(
        f"{where}: {count} cannot be used:{shown}{more}\n"
        f"Cure: masks {wanted}, with the class index as value (0 for the "
        "background, 1, 2, ... without gaps; 255 for pixels to ignore is not supported), mask_classes with a name for "
        "each, or leave such images out by name and count with bad_images: exclude."
    )
