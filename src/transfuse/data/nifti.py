"""NIfTI files (.nii, .nii.gz) as volumes: turned to one orientation, with the size of their voxels.

Axes are delivered as (D, H, W) = from the feet to the head, from the front to the back, from the patient's right to the
left: a slice `volume[d]` looks as radiologists see it. An oblique scan is turned by whole quarter turns only. Values
are mapped to [0, 1], stored in 16 bits: between the percentiles `PERCENTILES` of the volume, or within a window of
values (such as Hounsfield units) that is asked for; what lies outside is 0 or 1.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transfuse.data.cache import key_of, locked, remember_facts, remembered_facts
from transfuse.data.files import VOLUMES, unchanged_bytes, unreadable
from transfuse.data.records import Exclusion
from transfuse.data.volumes import Volume, box_of, is_isotropic
from transfuse.errors import DataError, ExtraNotInstalled, TransfuseError

PERCENTILES = (0.5, 99.5)
WHITE = 65535
Window = tuple[float, float]


class ScannedVolume(NamedTuple):
    """What is known of one file; `reason` says why it cannot be used ("" if it can, as far as is known)."""

    reason: str
    sha256: str
    shape: tuple[int, int, int] = (1, 1, 1)  # as delivered: (D, H, W)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    verified: bool = False  # its values were read


def is_nifti(name: str | Path) -> bool:
    """Whether a file's name is that of a NIfTI file.

    >>> is_nifti("scan.nii.gz"), is_nifti("scan.nii"), is_nifti("scan.npz")
    (True, True, False)
    """
    return str(name).lower().endswith(VOLUMES)


@dataclass(frozen=True)
class NiftiFiles:
    """NIfTI files in the order of the samples, with the sha256 that each had when the data set was opened."""

    paths: tuple[str, ...]
    sha256: tuple[str, ...]
    window: Window | None = None

    def volumes(self) -> Iterator[Volume]:
        """The volumes, uint16, one in memory at a time; goes on after a bad file to list all in one DataError."""
        problems: list[str] = []
        for path, sha256 in zip(self.paths, self.sha256, strict=True):
            try:
                volume = decode_nifti(unchanged_bytes(path, sha256))
            except (DataError, OSError) as error:
                problems.append(f"{path}: {'does not exist' if isinstance(error, FileNotFoundError) else error}")
                continue
            if not problems:
                yield Volume(to_grey(volume.voxels, self.window), volume.spacing)
        if problems:
            raise unreadable(problems)


def decode_nifti(data: bytes) -> Volume:
    """The content of a NIfTI file: float32 values as scaled by the file, turned as the head of this module says.

    Raises:
        DataError: no NIfTI file, not three dimensions, colours, an unusable header, or values that are not finite.
    """
    try:
        image, spacing = _turned(data)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except TransfuseError:
        raise
    except Exception as error:  # nibabel has a dozen, of no common family
        raise DataError(_reason(error)) from None
    bad = int((~np.isfinite(voxels)).sum())
    if bad:
        raise DataError(f"{bad} of {voxels.size} voxels are NaN or infinite; replace them, by the value of air")
    return Volume(voxels.reshape(voxels.shape[:3]).transpose(2, 1, 0), spacing)


def inspect_nifti(data: bytes) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """The shape (D, H, W) and the sides of a voxel in mm, without reading the values; DataError as `decode_nifti`."""
    image, spacing = oriented(data)
    width, height, depth = image.shape[:3]
    return (depth, height, width), spacing


def oriented(data: bytes) -> tuple[Any, tuple[float, float, float]]:
    """nibabel's image, with axes to the left, the back and the head (W, H, D), and the sides of a voxel (D, H, W).

    Raises:
        DataError: as `decode_nifti`, but for the values, which are not read yet.
    """
    try:
        return _turned(data)
    except TransfuseError:
        raise
    except Exception as error:  # nibabel has a dozen, of no common family
        raise DataError(_reason(error)) from None


def _turned(data: bytes) -> tuple[Any, tuple[float, float, float]]:
    """The image, in nibabel's order (W, H, D), with axes to the left, the back, the head; and the spacing (D, H, W)."""
    nib = _nibabel()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    two = data[344:348] not in (b"n+1\0", b"ni1\0") and data[4:7] in (b"n+2", b"ni2")
    image = (nib.Nifti2Image if two else nib.Nifti1Image).from_bytes(data)
    shape = tuple(image.shape)
    if image.get_data_dtype().fields is not None or np.issubdtype(image.get_data_dtype(), np.complexfloating):
        raise DataError(f"holds values of the type {image.get_data_dtype()}; expected one real number a voxel")
    if len(shape) < 3 or any(count != 1 for count in shape[3:]):
        raise DataError(
            f"has {len(shape)} dimensions {shape}; expected three. Save one volume a file (a time point, or a mean)"
        )
    if min(shape[:3]) < 2:
        raise DataError(f"is a single slice, of shape {shape}; expected a volume. Save it as an image")
    spacing = [float(width) for width in image.header.get_zooms()[:3]]
    if not all(np.isfinite(width) and width > 0 for width in spacing):
        raise DataError(f"says that its voxels measure {spacing} mm; expected three positive numbers. Mend its header")
    orientation = nib.orientations.io_orientation(image.affine)
    if not np.isfinite(orientation).all() or not np.isfinite(image.affine).all():
        raise DataError("has an affine matrix that does not tell how its axes lie. Mend its header (sform, qform)")
    turn = nib.orientations.ornt_transform(orientation, nib.orientations.axcodes2ornt(("L", "P", "S")))
    image = image.as_reoriented(turn)
    width, height, depth = (float(one) for one in image.header.get_zooms()[:3])
    return image, (depth, height, width)


def _nibabel() -> Any:
    try:
        import nibabel
    except ModuleNotFoundError:
        raise ExtraNotInstalled("nibabel", needed_for="reading NIfTI files", extra="3d") from None
    return nibabel


def _reason(error: Exception) -> str:
    return f"cannot be read as NIfTI ({str(error).strip() or type(error).__name__})"


def to_grey(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Values as 16 bits: `window`, or else the percentiles `PERCENTILES`, become 0 and 65535.

    Where the percentiles coincide, as in a mask of few voxels, the smallest and largest value stand for them; a volume
    of one value becomes 0.

    >>> to_grey(np.array([-1000.0, 0.0, 20.0, 100.0, 3000.0]), (0.0, 100.0)).tolist()
    [0, 0, 13107, 65535, 65535]
    """
    low, high = np.percentile(values, PERCENTILES) if window is None else window
    if low == high:
        low, high = values.min(), values.max()
    scaled = (values - np.float32(low)) * np.float32(1 / (high - low) if high > low else 0)
    return np.rint(scaled.clip(0, 1) * WHITE).astype(np.uint16)


def usable_volumes(
    paths: Sequence[Path], sample_ids: Sequence[str], bad_images: str, folder: Path
) -> tuple[list[int], list[ScannedVolume], tuple[Exclusion, ...]]:
    """Scan files: which positions can be used, what is known of those, and what was left out.

    As `files.usable_files`: with bad_images="exclude" all values are read once (and remembered).

    Raises:
        DataError: with bad_images="raise", files are missing or are no volumes; or nothing is left.
        ExtraNotInstalled: nibabel is missing.
    """
    _nibabel()
    store = folder / f"volumes-{key_of(os.path.commonpath([os.path.abspath(path) for path in paths]))}.json"
    scanned = []
    with locked(store):
        known = remembered_facts(store)
        before = len(known)
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                scanned.append(ScannedVolume("does not exist", ""))
                continue
            key = f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}|{bad_images == 'exclude'}"
            if not isinstance(known.get(key), list) or not known[key][1]:
                known[key] = _scan(path, verify=bad_images == "exclude")
            reason, sha256, shape, spacing, verified = known[key]
            scanned.append(ScannedVolume(reason, sha256, tuple(shape), tuple(spacing), verified))
        if len(known) > before:
            remember_facts(store, known)
    bad = [i for i, file in enumerate(scanned) if file.reason]
    if bad and (bad_images == "raise" or len(bad) == len(paths)):
        raise unreadable([f"{paths[i]}: {scanned[i].reason}" for i in bad])
    good = [i for i, file in enumerate(scanned) if not file.reason]
    return good, [scanned[i] for i in good], tuple(Exclusion(sample_ids[i], scanned[i].reason) for i in bad)


def _scan(path: Path, *, verify: bool) -> ScannedVolume:
    sha256 = ""
    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        shape, spacing = inspect_nifti(data)
        if verify:
            decode_nifti(data)
    except (DataError, OSError) as error:
        return ScannedVolume(str(error), sha256)
    return ScannedVolume("", sha256, shape, spacing, verify)


def median_side(files: Sequence[ScannedVolume], fit: str) -> int:
    """The median over files of the side of the cube that `fit` makes of a volume, in its own smallest voxels."""
    sides = []
    for file in files:
        extents = [count * width for count, width in zip(file.shape, file.spacing, strict=True)]
        sides.append((max if fit == "pad" else min)(extents) / min(file.spacing))
    return int(np.median(sides))


def volume_notes(
    files: Sequence[ScannedVolume], exclusions: Sequence[Exclusion], *, fit: str, window: Window | None, size: int
) -> tuple[str, ...]:
    """The sentences that a report must show about these files: what became of their values, shapes and voxels."""
    notes, total = [], len(files)
    if exclusions:
        shown = "; ".join(f"{item.sample_id}: {item.reason}" for item in exclusions[:3])
        more = "; ..." if len(exclusions) > 3 else ""
        notes.append(f"{len(exclusions)} of {total + len(exclusions)} samples were left out ({shown}{more}).")
    low, high = PERCENTILES
    notes.append(
        f"Values from {window[0]:g} to {window[1]:g} became 0 to 1; what lies outside was clipped."
        if window is not None
        else f"In each volume the values between its {low} % and {high} % percentiles became 0 to 1 (for a window of "
        "values, as of a CT: window: [low, high])."
    )
    uneven = [file for file in files if not is_isotropic(file.spacing)]
    if uneven:
        worst = max(uneven, key=lambda file: max(file.spacing) / min(file.spacing)).spacing
        text = " x ".join(f"{width:.3g}" for width in worst)
        done = "fit: squash ignores that" if fit == "squash" else "they were resampled to cubes"
        notes.append(f"{len(uneven)} of {total} volumes have voxels that are no cubes (up to {text} mm): {done}.")
    left = [_share_left(file) for file in files]
    if min(left) < 0.995:
        what = {
            "crop": f"the central one was kept ({100 * (1 - np.mean(left)):.0f} % of the space dropped, on average)",
            "pad": "black was added to make them so",
            "squash": "they were squashed to one",
        }[fit]
        notes.append(f"{sum(share < 0.995 for share in left)} of {total} volumes are no cubes: {what}.")
    sides = [_side(file, fit) / size for file in files]
    if fit != "squash" and max(sides) > 1.05 * min(sides):
        notes.append(
            f"Volumes show cubes of different size, so a voxel as delivered measures {min(sides):.3g} to "
            f"{max(sides):.3g} mm: lengths cannot be compared between them."
        )
    return tuple(notes)


def _side(file: ScannedVolume, fit: str) -> float:
    """Of the cube, in mm."""
    start, stop = box_of(file.shape, file.spacing, fit)[0]
    return (stop - start) * file.spacing[0]


def _share_left(file: ScannedVolume) -> float:
    """How much of a volume lies in its largest central cube."""
    boxes = box_of(file.shape, file.spacing, "crop")
    return float(np.prod([(stop - start) / count for (start, stop), count in zip(boxes, file.shape, strict=True)]))
