from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from transfuse.errors import StoreError, TrainingError
from transfuse.training.checkpoint import (
    BEST,
    LAST,
    load_state,
    load_weights,
    save_state,
    save_weights,
    steps_of_checkpoint,
)

SETTINGS = {"learning rate": "0.1", "seed": "0"}


def state_of(number: float = 1.0) -> dict:
    return {"settings": SETTINGS, "model": {"w": torch.full((50,), number)}, "epochs": [{"step": 3, "x": float("nan")}]}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    assert load_state(folder, settings=SETTINGS) is None
    save_state(folder, state_of())
    loaded = load_state(folder, settings=SETTINGS)
    assert loaded is not None
    torch.testing.assert_close(loaded["model"], state_of()["model"], rtol=0, atol=0)
    assert loaded["epochs"][0]["step"] == 3
    assert [path.name for path in folder.iterdir()] == [LAST]


@pytest.mark.parametrize("keep", [0, 10, 60, 88, 120, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    save_state(tmp_path, state_of())
    content = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(content[:keep])
    with pytest.raises(TrainingError, match=r"last\.ckpt is damaged \(\d+ bytes, .* delete it and start this training"):
        load_state(tmp_path, settings=SETTINGS)
    assert steps_of_checkpoint(tmp_path) is None


def test_the_steps_of_a_checkpoint_are_those_of_its_last_validation(tmp_path: Path) -> None:
    assert steps_of_checkpoint(tmp_path) is None
    save_state(tmp_path, state_of())
    assert steps_of_checkpoint(tmp_path) == 3


def test_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, state_of())
    content = bytearray((tmp_path / LAST).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(TrainingError, match="is damaged"):
        load_state(tmp_path, settings=SETTINGS)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    save_state(tmp_path, {"settings": SETTINGS, "trap": Trap()})
    with pytest.raises(Exception, match="Weights only load failed"):
        load_state(tmp_path, settings=SETTINGS)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_another_training_is_refused_with_the_differences(tmp_path: Path) -> None:
    save_state(tmp_path, state_of())
    now = {"learning rate": "0.2", "seed": "0", "extra": "1"}
    message = (
        r"belongs to another training: extra was not set and is now 1; learning rate was 0\.1 and is now 0\.2\. "
        "Use the same settings, or another checkpoint_dir"
    )
    with pytest.raises(TrainingError, match=message):
        load_state(tmp_path, settings=now)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, state_of(1.0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = (
            r"last\.ckpt \(\d+\.\d MB\) cannot be written: No space left on device; free some space and start again"
        )
        with pytest.raises(StoreError, match=message):
            save_state(tmp_path, state_of(2.0))
        with pytest.raises(StoreError, match=r"best\.safetensors .* No space left on device"):
            save_weights(tmp_path, {"w": torch.zeros(3)}, step=1)
    loaded = load_state(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded["model"]["w"][0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_a_write_that_breaks_off_half_way_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    # the system itself refuses to write past 4 kB here
    save_state(tmp_path, state_of(1.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(StoreError, match="cannot be written: File too large"):
            save_state(tmp_path, {**state_of(2.0), "ballast": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    loaded = load_state(tmp_path, settings=SETTINGS)
    assert loaded is not None
    assert loaded["model"]["w"][0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


def test_a_folder_that_cannot_be_made_or_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"file/last\.ckpt .* cannot be written: .*; make the folder writable"):
        save_state(tmp_path / "file", state_of())
    (tmp_path / "folder" / LAST).mkdir(parents=True)
    with pytest.raises(StoreError, match=r"folder/last\.ckpt cannot be read: Is a directory"):
        load_state(tmp_path / "folder", settings=SETTINGS)


def test_best_weights_belong_to_their_step(tmp_path: Path) -> None:
    weights = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}
    save_weights(tmp_path, weights, step=30)
    torch.testing.assert_close(load_weights(tmp_path, step=30), weights, rtol=0, atol=0)
    with pytest.raises(TrainingError, match=r"those of step 20, but it is of step 30: delete .*last\.ckpt and start"):
        load_weights(tmp_path, step=20)
    (tmp_path / BEST).write_bytes((tmp_path / BEST).read_bytes()[:40])
    with pytest.raises(TrainingError, match=r"should hold the best weights so far"):
        load_weights(tmp_path, step=30)
    (tmp_path / BEST).unlink()
    with pytest.raises(TrainingError, match=r"should hold the best weights so far"):
        load_weights(tmp_path, step=30)
