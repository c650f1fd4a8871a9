"""Checkpoints: written whole or not at all, verified when read, and read without running any code in them.

A folder holds `last.ckpt` (everything an exact resume needs) and `best.safetensors` (the best weights so far).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from transfuse.errors import StoreError, TrainingError

LAST, BEST = "last.ckpt", "best.safetensors"

TOTAL_STEPS = "total steps"
"""The one setting in which two trainings may differ that share a checkpoint."""

# First line of last.ckpt; the second is the sha256 of what follows, which is torch's zip format.
_MAGIC = b"transfuse checkpoint 1\n"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and lists and dictionaries of them) to `folder/last.ckpt`.

    Raises:
        StoreError: the disk is full or the folder cannot be written; an earlier checkpoint is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    body = buffer.getbuffer()
    _write(folder / LAST, _MAGIC, hashlib.sha256(body).hexdigest().encode() + b"\n", body)


def load_state(folder: Path, *, settings: Mapping[str, str]) -> dict[str, Any] | None:
    """The state of `folder/last.ckpt`; None where there is none.

    Args:
        folder: of the checkpoint.
        settings: what the training at hand is; a checkpoint's own `settings` must say the same, but for a smaller
            number of `total steps`: a longer training goes on from a shorter one.

    Raises:
        TrainingError: the file is damaged, or the checkpoint belongs to another training.
        StoreError: the file cannot be read.
    """
    state = _state_of(folder / LAST)
    if state is None:
        return None
    theirs = state["settings"]
    if shorter_than(theirs, settings):
        theirs = {**theirs, TOTAL_STEPS: settings[TOTAL_STEPS]}
    differences = [
        f"{name} was {theirs.get(name, 'not set')} and is now {settings.get(name, 'not set')}"
        for name in sorted({*theirs, *settings})
        if theirs.get(name) != settings.get(name)
    ]
    if differences:
        raise TrainingError(
            f"the checkpoint {folder / LAST} belongs to another training: {'; '.join(differences)}. "
            "Use the same settings, or another checkpoint_dir"
        )
    return state


def steps_of_checkpoint(folder: Path) -> int | None:
    """How many steps the training had taken at the checkpoint in `folder`; None where none can be read."""
    try:
        state = _state_of(folder / LAST)
    except (StoreError, TrainingError):
        return None  # `load_state` says what is wrong with it
    return None if state is None else int(state["epochs"][-1]["step"])


def _state_of(path: Path) -> dict[str, Any] | None:
    """What a checkpoint holds, None where there is none; raises as `load_state` for one that cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise StoreError(f"the checkpoint {path} cannot be read: {problem.strerror}") from problem
    digest, _, body = content.removeprefix(_MAGIC).partition(b"\n")
    if not content.startswith(_MAGIC) or hashlib.sha256(body).hexdigest().encode() != digest:
        raise TrainingError(
            f"the checkpoint {path} is damaged ({len(content)} bytes, its checksum does not fit): "
            "delete it and start this training again from its first step"
        )
    state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    return state


def shorter_than(theirs: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether the training with the settings `theirs` takes fewer steps than that with the settings `ours`."""
    return int(theirs.get(TOTAL_STEPS, 0)) < int(ours.get(TOTAL_STEPS, 0))


def save_weights(folder: Path, weights: Mapping[str, Tensor], *, step: int) -> None:
    """Write a state dict of contiguous tensors, and the step it is from, to `folder/best.safetensors`.

    Raises:
        StoreError: the disk is full or the folder cannot be written; an earlier file is untouched.
    """
    _write(folder / BEST, safetensors.torch.save(dict(weights), metadata={"step": str(step)}))


def load_weights(folder: Path, *, step: int) -> dict[str, Tensor]:
    """The state dict of `folder/best.safetensors`, which must be that of `step`.

    Raises:
        TrainingError: the file is missing, damaged, or of another step.
    """
    path = folder / BEST
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("step")
            if found == str(step):
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            problem = f"it is of step {found}"
    except (OSError, safetensors.SafetensorError) as error:
        problem = str(error)
    raise TrainingError(
        f"{path} should hold the best weights so far, those of step {step}, but {problem}: "
        f"delete {folder / LAST} and start this training again from its first step"
    )


def _write(path: Path, *chunks: bytes | memoryview) -> None:
    # a reader sees the old file or the new one, never a part: write beside it, flush to disk, rename
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        size = sum(len(chunk) for chunk in chunks) / 1e6
        cure = "free some space" if problem.errno in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
        raise StoreError(
            f"{path} ({size:.1f} MB) cannot be written: {problem.strerror or problem}; {cure} and start again. "
            "What was there before is untouched, and the training goes on from it"
        ) from problem


def _flush_folder(folder: Path) -> None:
    # so that the rename itself survives a power cut; not every system can open a folder
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
