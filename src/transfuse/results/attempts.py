"""Attempts at a run: whose turn it is, a folder to work in, and publication by one rename.

::

    OUT/attempts/<run_id>/   claim-000001      who is at it; the file's time is its last heartbeat
                             work-<token>/     the files so far; the next one takes them over with the claim
                             failure.json      what went wrong at the last attempt

All it asks of a file system is that one of several processes creates a file and that a folder is renamed as a whole, so
that machines may share a folder of results over NFS. A process that stopped for so long that it lost its claim finds
its folder gone, and what it writes is never published.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfuse.errors import StoreError

HEARTBEAT = 15.0
"""Seconds between the signs of life of a claim."""

EXPIRY = 180.0
"""Seconds without one after which a claim may be taken over: longer than NFS shows an old time, which is a minute."""

_POLL = 0.5
"""Seconds between two looks at the claim of another process, each of which asks the file server for its time."""

_CHECKPOINT = Path("checkpoints") / "last.ckpt"


class AttemptLost(StoreError):
    """Another process has taken this attempt over, because this one gave no sign of life for too long."""


@dataclass
class Attempt:
    """A claim that this process holds.

    Attributes:
        home: the folder of all attempts at the run.
        claim: the file that says so.
        token: what tells it from every other claim.
    """

    home: Path
    claim: Path
    token: str
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        """To work in; what earlier attempts left is there already."""
        return self.home / f"work-{self.token}"

    @property
    def is_held(self) -> bool:
        """Whether no other process has taken over."""
        return _read(self.claim).get("token") == self.token

    def check(self) -> None:
        """Raise where another process has taken over.

        Raises:
            AttemptLost: it has.
        """
        if not self.is_held:
            raise AttemptLost(f"{self.folder} was taken over by another process, as this one stood still for too long")

    def publish(self, to: Path) -> None:
        """Rename the folder to `to`, in the place of what is there; it is seen whole or not at all.

        Raises:
            AttemptLost: another process has taken over; nothing is published.
        """
        aside = self.home / f"old-{self.token}"
        to.parent.mkdir(parents=True, exist_ok=True)
        self.check()
        try:
            while True:
                try:
                    os.rename(self.folder, to)
                    break
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                    os.rename(to, aside)
        except FileNotFoundError:
            raise AttemptLost(f"{self.folder} was taken over by another process before it was published") from None
        for left in (*self.home.glob("old-*"), *self.home.glob("work-*")):
            shutil.rmtree(left, ignore_errors=True)
        (self.home / "failure.json").unlink(missing_ok=True)

    def release(self) -> None:
        """Give the claim up; what has been done so far stays for the next one."""
        self._ended.set()
        if self.is_held:
            self.claim.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there may be files so far, or others who wait
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        with contextlib.suppress(OSError):
            self.home.rmdir()

    def beat(self, every: float) -> None:
        """Show that this process is alive, until the attempt ends or is lost."""

        def go_on() -> None:
            while not self._ended.wait(every) and self.is_held:
                with contextlib.suppress(OSError):
                    os.utime(self.claim)  # without a time: that of the file server

        threading.Thread(target=go_on, name=f"claim of {self.home.name}", daemon=True).start()


def claim(
    home: Path, waiting: Callable[[], None] = lambda: None, *, heartbeat: float = HEARTBEAT, expiry: float = EXPIRY
) -> Attempt:
    """Take the next attempt at a run; one that another process is at is waited for.

    Args:
        home: the folder of its attempts.
        waiting: called once if another process is at it.
        heartbeat, expiry: in seconds.
    """
    told, token = False, secrets.token_hex(8)
    while True:
        with contextlib.suppress(FileExistsError):  # it goes whenever nobody is at it, between two looks too
            home.mkdir(parents=True, exist_ok=True)
        before = _newest(home)
        seen = {} if before is None else _read(before)
        if before is not None and _is_alive(before, seen, expiry):
            if not told:
                waiting()
                told = True
            time.sleep(_POLL)
            continue
        ours = home / f"claim-{1 if before is None else int(before.name[6:]) + 1:06d}"
        try:
            with ours.open("x", encoding="utf-8") as file:
                json.dump({"token": token, **_whoami()}, file)
        except (FileExistsError, FileNotFoundError):  # another one was faster, or has just finished and tidied up
            continue
        if before is not None and before.exists() and _read(before) != seen:  # a new claim by an old name
            ours.unlink(missing_ok=True)
            continue
        attempt = Attempt(home, ours, token)
        attempt.beat(heartbeat)
        for old in home.glob("claim-*"):
            if old.name < ours.name:
                old.unlink(missing_ok=True)
        _take_over(attempt)
        return attempt


def is_claimed(home: Path, *, expiry: float = EXPIRY) -> bool:
    """Whether some process is at the run now."""
    newest = _newest(home)
    return newest is not None and _is_alive(newest, _read(newest), expiry)


def left_behind(home: Path) -> Path | None:
    """The folder with the files so far of an attempt that did not end, the one that came furthest."""
    works = [path for path in home.glob("work-*") if path.is_dir()]
    return max(works, key=_progress, default=None)


def _take_over(attempt: Attempt) -> None:
    """Move the files of earlier attempts to this one: from here on, nobody else writes to them."""
    while (left := left_behind(attempt.home)) is not None:
        try:
            os.rename(left, attempt.folder)
        except FileNotFoundError:  # it has just been published, or tidied up
            continue
        break
    attempt.folder.mkdir(exist_ok=True)
    for part in attempt.folder.glob(".*.part"):  # of a process that was killed while it wrote
        part.unlink(missing_ok=True)


def _progress(work: Path) -> tuple[bool, float]:
    try:
        return True, (work / _CHECKPOINT).stat().st_mtime
    except OSError:
        return False, 0.0


def _newest(home: Path) -> Path | None:
    return max(home.glob("claim-*"), key=lambda path: path.name, default=None)


def _read(path: Path) -> dict[str, Any]:
    """What a claim says; empty where it is gone, or has just been created."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(path: Path, content: dict[str, Any], expiry: float) -> bool:
    """Whether the process of a claim lives: known at once on the same machine, else by its heartbeat."""
    us = _whoami()
    if content.get("machine") == us["machine"] and _started(content.get("pid")) != content.get("started"):
        return False
    try:
        beat = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return _now(path.parent) - beat < expiry


def _now(folder: Path) -> float:
    """The time by the clock that dates the files of a folder: the server's, if it is one of a network."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # not ours to write in
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@functools.cache
def _machine() -> str:
    """This machine since it was started, and the numbering of processes that holds here (containers have their own)."""
    known = [platform.node()]
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(known)


def _whoami() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: Any) -> str | None:
    """When a process of this machine was started, `""` where the system does not say; None if there is none."""
    if not isinstance(pid, int):
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except (OSError, IndexError):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
