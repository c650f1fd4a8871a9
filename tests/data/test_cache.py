from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from transfuse.data.cache import cache_folder, key_of, remember_facts, remembered, remembered_facts, shared_pixels
from transfuse.errors import StoreError

SHAPE, TYPE = (5, 1, 8, 8), np.dtype(np.uint8)


def images() -> Iterator[np.ndarray]:
    return (np.full(SHAPE[1:], i, TYPE) for i in range(SHAPE[0]))


def never() -> Iterator[np.ndarray]:
    raise AssertionError("rendered again")


def test_rendered_once_read_only_and_mapped(tmp_path: Path) -> None:
    pixels = shared_pixels(tmp_path / "a.npy", SHAPE, TYPE, images)
    assert isinstance(pixels, np.memmap)
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], range(5))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1
    np.testing.assert_array_equal(shared_pixels(tmp_path / "a.npy", SHAPE, TYPE, never), pixels)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:60], lambda data: b"", lambda data: b"x" * 500]
)
def test_damaged_files_are_rebuilt(tmp_path: Path, damage) -> None:
    path = tmp_path / "a.npy"
    shared_pixels(path, SHAPE, TYPE, images)
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(shared_pixels(path, SHAPE, TYPE, images)[:, 0, 0, 0], range(5))


def test_a_failing_render_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(SHAPE[1:], TYPE)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        shared_pixels(tmp_path / "a.npy", SHAPE, TYPE, broken)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.npy.x1y2z3").write_bytes(b"half")
    (tmp_path / "b.npy.x1y2z3").write_bytes(b"another file's")
    shared_pixels(tmp_path / "a.npy", SHAPE, TYPE, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.npy.lock", "b.npy.x1y2z3"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the size of files fails in the same call as a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = (400, 1, 64, 64)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(
            StoreError, match=r"a\.npy cannot be written: .*Cure: free some space, or name another folder by cache="
        ):
            shared_pixels(tmp_path / "a.npy", big, TYPE, lambda: (np.zeros(big[1:], TYPE) for _ in range(big[0])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_an_impossible_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be written.*TRANSFUSE_CACHE"):
        cache_folder(tmp_path / "file" / "cache")


def test_the_folder_comes_from_argument_variable_or_home(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    assert cache_folder(None) == cache
    monkeypatch.delenv("TRANSFUSE_CACHE")
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "transfuse"


def _slow_render(path: Path) -> int:
    def render() -> Iterator[np.ndarray]:
        with (path.parent / "renders.txt").open("a") as log:
            log.write("x")
        time.sleep(0.3)
        return images()

    return int(shared_pixels(path, SHAPE, TYPE, render).sum())


def test_several_processes_render_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_slow_render, [tmp_path / "a.npy"] * 2, chunksize=1)
    assert sums == [640, 640]
    assert (tmp_path / "renders.txt").read_text() == "x"


def test_small_arrays_and_facts(tmp_path: Path) -> None:
    built = remembered(tmp_path / "a.npz", lambda: {"x": np.arange(3), "names": np.array(["a", "ö"])})
    again = remembered(tmp_path / "a.npz", lambda: {"x": np.zeros(1)})
    np.testing.assert_array_equal(again["x"], built["x"])
    assert again["names"].tolist() == ["a", "ö"]
    (tmp_path / "a.npz").write_bytes(b"PK damaged")
    assert remembered(tmp_path / "a.npz", lambda: {"x": np.zeros(1)})["x"].tolist() == [0]
    assert remembered_facts(tmp_path / "f.json") == {}
    remember_facts(tmp_path / "f.json", {"a": [1]})
    assert remembered_facts(tmp_path / "f.json") == {"a": [1]}
    (tmp_path / "f.json").write_text("{")
    assert remembered_facts(tmp_path / "f.json") == {}


def test_keys_depend_on_every_part() -> None:
    keys = {key_of("a", 64, 1), key_of("a", 64, 3), key_of("a", 32, 1), key_of("b", 64, 1), key_of("a", 64, None)}
    assert len(keys) == 5
    assert key_of("a", 64, 1) in keys
