"""A list of image files as a source of images: scanned once, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from transfuse.data.cache import key_of, locked, remember_facts, remembered_facts
from transfuse.data.images import EXTENSIONS, ImageFacts, dark_note, decode, inspect_image, white_level
from transfuse.data.records import Exclusion
from transfuse.errors import DataError

VOLUMES = (".nii", ".nii.gz")  # of NIfTI
_AHEAD = 4  # files a thread that are read before they are asked for: large images, so few
T = TypeVar("T")


class ScannedFile(NamedTuple):
    """What is known of one image file; `reason` says why it cannot be used ("" if it can, as far as is known)."""

    reason: str
    sha256: str
    facts: ImageFacts
    maximum: int  # the largest value, -1 while the file has not been decoded


@dataclass(frozen=True)
class ImageFiles:
    """Image files in the order of the samples, with the sha256 that each had when the data set was opened."""

    paths: tuple[str, ...]
    sha256: tuple[str, ...]

    def arrays(self) -> Iterator[np.ndarray]:
        """The decoded images; goes on after a bad file to list all of them in one DataError."""
        problems: list[str] = []
        for path, result in zip(
            self.paths, in_parallel(_decode_unchanged, list(zip(self.paths, self.sha256, strict=True))), strict=True
        ):
            if isinstance(result, str):
                problems.append(f"{path}: {result}")
            elif not problems:
                yield result
        if problems:
            raise unreadable(problems)


def unreadable(problems: Sequence[str]) -> DataError:
    """The error that lists up to ten of the image files that cannot be used, with the cure."""
    shown = "".join(f"\n  - {problem}" for problem in problems[:10])
    more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
    count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
    return DataError(
        f"{count} cannot be used:{shown}{more}\n"
        "Cure: replace the files, or leave them out by name and count with bad_images: exclude."
    )


def usable_files(
    paths: Sequence[Path], sample_ids: Sequence[str], bad_images: str, folder: Path
) -> tuple[list[int], list[ScannedFile], tuple[Exclusion, ...]]:
    """Scan files: which positions can be used, what is known of those, and what was left out.

    With bad_images="exclude" every file is decoded once (and remembered), so that what is left out is known before
    anything is split. With "raise" only headers are read here; files cut short are found when pixels are decoded.

    Raises:
        DataError: with bad_images="raise", files are missing or are no images; or nothing is left.
    """
    scanned = scan(paths, folder, verify=bad_images == "exclude")
    bad = [i for i, file in enumerate(scanned) if file.reason]
    if bad and (bad_images == "raise" or len(bad) == len(paths)):
        raise unreadable([f"{paths[i]}: {scanned[i].reason}" for i in bad])
    good = [i for i, file in enumerate(scanned) if not file.reason]
    return good, [scanned[i] for i in good], tuple(Exclusion(sample_ids[i], scanned[i].reason) for i in bad)


def scan(paths: Sequence[Path], folder: Path, *, verify: bool) -> list[ScannedFile]:
    """Hash the files and read their headers; decode them too if `verify`, or for the maximum of 16-bit ones."""
    if not paths:
        return []
    store = folder / f"files-{key_of(os.path.commonpath([os.path.abspath(path) for path in paths]))}.json"
    with locked(store):
        known = remembered_facts(store)
        stamps = [stamp_of(path) for path in paths]
        keys = [f"{os.path.abspath(path)}|{stamp}" for path, stamp in zip(paths, stamps, strict=True)]
        todo = [i for i, key in enumerate(keys) if stamps[i] and not _enough(known.get(key), verify)]
        for i, file in zip(todo, in_parallel(_scan_one, [(paths[i], verify) for i in todo]), strict=True):
            known[keys[i]] = file
        if todo:
            remember_facts(store, known)
    missing = ScannedFile("does not exist", "", ImageFacts(1, 1, 1, 8, False, False), -1)
    return [_restored(known[key]) if stamp else missing for key, stamp in zip(keys, stamps, strict=True)]


def stamp_of(path: Path) -> str:
    """Size and time of change of a file; empty if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}|{status.st_mtime_ns}"


def _restored(row: Sequence) -> ScannedFile:
    return ScannedFile(row[0], row[1], ImageFacts(*row[2]), row[3])


def _enough(row: object, verify: bool) -> bool:
    if not isinstance(row, list) or len(row) != 4:
        return False
    if not row[1]:
        return False  # it could not be read at all (permissions, a network drive): that may have been mended
    return bool(row[0]) or row[3] >= 0 or not verify


def _scan_one(job: tuple[Path, bool]) -> ScannedFile:
    path, verify = job
    facts, maximum, sha256 = ImageFacts(1, 1, 1, 8, False, False), -1, ""
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        facts = inspect_image(data)
        if verify or facts.bits == 16:
            maximum = int(decode(data).max())
    except (DataError, OSError) as error:
        return ScannedFile(str(error), sha256, facts, maximum)
    return ScannedFile("", sha256, facts, maximum)


def _decode_unchanged(job: tuple[str, str]) -> np.ndarray | str:
    try:
        return decode(unchanged_bytes(*job))
    except FileNotFoundError:
        return "does not exist"
    except (DataError, OSError) as error:
        return str(error)


def unchanged_bytes(path: str | Path, sha256: str) -> bytes:
    """The content of a file that must be what it was when the data set was opened.

    Raises:
        DataError: it has another sha256 now; the message says all but which file it is.
        OSError: it is gone, or cannot be read.
    """
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError("has changed since the data set was opened; open it again")
    return data


def in_parallel(function: Callable[..., T], jobs: Sequence) -> Iterator[T]:
    """Results in order, a few threads (Pillow and hashing release the interpreter lock), bounded memory."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) >= workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def channels_and_white(files: Sequence[ScannedFile]) -> tuple[int, int]:
    """Native channels (3 as soon as one file has colour) and the value of white of a list of files."""
    deep = [file.maximum for file in files if file.facts.bits == 16]
    white = white_level(max(deep)) if deep else 255
    return max(file.facts.channels for file in files), white


def median_side(files: Sequence[ScannedFile], fit: str) -> int:
    """The median over files of the side, in stored pixels, of the square that `fit` makes of an image."""
    side = max if fit == "pad" else min
    return int(np.median([side(file.facts.height, file.facts.width) for file in files]))


def file_notes(
    files: Sequence[ScannedFile], exclusions: Sequence[Exclusion], fit: str, names: Sequence[str] = ()
) -> tuple[str, ...]:
    """The sentences that a report must show about these files; `names` are their sample ids."""
    facts, notes, total = [file.facts for file in files], [], len(files)
    if exclusions:
        shown = "; ".join(f"{item.sample_id}: {item.reason}" for item in exclusions[:3])
        notes.append(
            f"{len(exclusions)} of {total + len(exclusions)} samples were left out "
            f"({shown}{'; ...' if len(exclusions) > 3 else ''})."
        )
    colour = sum(fact.channels == 3 for fact in facts)
    if 0 < colour < total:
        notes.append(
            f"{colour} of {total} images are in colour, the others grey; grey ones were repeated over three channels."
        )
    deep = sum(fact.bits == 16 for fact in facts)
    if deep:
        maximum = max(file.maximum for file in files)
        notes.append(
            f"{deep} of {total} images have 16 bits, with values up to {maximum}: "
            f"depth is kept, and {channels_and_white(files)[1]} counts as white."
        )
        maxima = [file.maximum for file in files if file.facts.bits == 16]
        named = [name for name, file in zip(names, files, strict=False) if file.facts.bits == 16]
        notes += dark_note(maxima, named)
    alpha = sum(fact.alpha for fact in facts)
    if alpha:
        notes.append(f"{alpha} of {total} images have an alpha channel: they were put on black.")
    reduced = sum(fact.reduced for fact in facts)
    if reduced:
        notes.append(f"{reduced} of {total} images have 16 bits a colour channel and were read at 8.")
    oblong = [
        1 - min(fact.height, fact.width) / max(fact.height, fact.width) for fact in facts if fact.height != fact.width
    ]
    if oblong:
        what = {
            "crop": f"the central square was kept ({100 * np.mean(oblong):.0f} % of the area was dropped, on average)",
            "pad": "black was added to make them square",
            "squash": "they were squashed to a square",
        }[fit]
        notes.append(f"{len(oblong)} of {total} images are not square: {what}.")
    return tuple(notes)


def image_files_below(folder: Path) -> list[Path]:
    """All image files and volumes below a folder, sorted by path; hidden files and folders are passed over."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.name.lower().endswith((*EXTENSIONS, *VOLUMES)) and not hidden:
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
