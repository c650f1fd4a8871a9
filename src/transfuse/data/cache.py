"""The cache: pixels at their final size as a memory-mapped file that all processes share, and facts about files.

Everything here can be deleted at any time; it is rebuilt. Files are written beside their final name and renamed,
so a half-written file is never read; a lock lets the first of several processes do the work for all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from transfuse.errors import StoreError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
VERSION = 1  # part of every key: raise it when the same input would give other pixels


def cache_folder(cache: str | Path | None) -> Path:
    """The folder to cache in: `cache`, else $TRANSFUSE_CACHE, else ~/.cache/transfuse; created if it is not there."""
    folder = Path(cache or os.environ.get("TRANSFUSE_CACHE") or Path.home() / ".cache" / "transfuse").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    return folder


def key_of(*parts: object) -> str:
    """A name for a cache file: 32 hexadecimal digits that depend on all parts (numbers, texts, None)."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:32]


def pixel_type(white: int) -> np.dtype:
    """The type of stored pixels: uint8 if white is 255, else uint16."""
    return np.dtype(np.uint8 if white == 255 else np.uint16)


def pixel_file(folder: Path, image_hashes: Sequence[str], size: int, channels: int, fit: str, white: int) -> Path:
    """The cache file of these images at this size: other labels on the same images share it."""
    return folder / f"pixels-{key_of(list(image_hashes), size, channels, fit, white)}.npy"


def mask_file(folder: Path, hashes: Sequence[str], shape: Sequence[int], fit: str, classes: int) -> Path:
    """The cache file of these masks at this size."""
    return folder / f"masks-{key_of(list(hashes), list(shape), fit, classes)}.npy"


def shared_pixels(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, render: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """The pixels of a cache file as a read-only memory map; rendered first if the file is missing or damaged.

    Args:
        path: the .npy file.
        shape: `(N, C, H, W)`.
        dtype: uint8 or uint16.
        render: gives the N images `(C, H, W)` in order; called at most once, by one process at a time.
    """
    pixels = _open_pixels(path, shape, dtype)
    if pixels is None:
        with locked(path):
            pixels = _open_pixels(path, shape, dtype)  # another process may have written it meanwhile
            if pixels is None:
                write_pixels(path, shape, dtype, render())
                pixels = _open_pixels(path, shape, dtype)
    if pixels is None:
        raise StoreError(f"{path} was written and cannot be read back. Is the disk sound? Cure: another cache folder.")
    return pixels


def _open_pixels(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, cut short, or not an array
        return None
    return pixels if pixels.shape == shape and pixels.dtype == dtype else None


def write_pixels(path: Path, shape: tuple[int, ...], dtype: np.dtype, images: Iterable[np.ndarray]) -> None:
    """Write images `(C, H, W)` one by one as one .npy file of `shape`, under its name only when it is complete.

    Raises:
        StoreError: the disk is full or the folder cannot be written; no half file is left.
    """
    remove_stale(path)
    with written(path, need=math.prod(shape) * dtype.itemsize) as file:
        npy_header(file, shape, dtype)
        for image in images:
            # Plain writes: a full disk is an OSError here, but kills the process when a memory map is written.
            file.write(np.ascontiguousarray(image, dtype=dtype).data)


def remove_stale(path: Path) -> None:
    """Delete what a process that was killed had written of a file; the caller holds its lock."""
    for stale in path.parent.glob(f"{path.name}.*"):
        if stale.suffix != ".lock":
            stale.unlink(missing_ok=True)


def npy_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Begin a .npy file whose numbers are written after this, in C order."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def remembered(path: Path, build: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Small arrays by name from an .npz cache file; built and written first if the file is missing or damaged."""
    arrays = _open_arrays(path)
    if arrays is None:
        with locked(path):
            arrays = _open_arrays(path)
            if arrays is None:
                arrays = dict(build())
                with written(path) as file:
                    np.savez(file, allow_pickle=False, **arrays)
    return arrays


def _open_arrays(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays.items())
    except Exception:  # whatever a damaged zip file raises: it is rebuilt
        return None


def remembered_facts(path: Path) -> dict[str, Any]:
    """A JSON object from the cache; empty if the file is missing or damaged."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def remember_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object to the cache."""
    with written(path) as file:
        file.write(json.dumps(facts).encode())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a cache file; other processes wait."""
    try:
        lock = FileLock(path.with_name(path.name + ".lock"))
        lock.acquire()
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def written(path: Path, need: int = 0) -> Iterator[IO[bytes]]:
    """A file to write to that gets its name when the block ends without an error, and vanishes otherwise."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    except OSError as error:
        raise _cannot_write(path, error, need) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise _cannot_write(path, error, need) from error
        raise


def _cannot_write(path: Path, error: OSError, need: int = 0) -> StoreError:
    needed = f" ({need / 1e6:.0f} MB are needed)" if need else ""
    return StoreError(
        f"The cache file {path} cannot be written: {error.strerror or error}{needed}. "
        "Cure: free some space, or name another folder by cache= or the environment variable TRANSFUSE_CACHE."
    )
