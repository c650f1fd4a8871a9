"""Attempts at a run: one holder, what it leaves is taken over, and nothing is published twice or in part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transfuse.results import attempts
from transfuse.results.attempts import Attempt, AttemptLost, claim, is_claimed, left_behind

HOLD = """
import sys, time
from pathlib import Path
from transfuse.results.attempts import claim
held = claim(Path(sys.argv[1]))
(held.folder / "checkpoints").mkdir()
(held.folder / "checkpoints" / "last.ckpt").write_text("step 10")
print(held.token, flush=True)
time.sleep(600)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "attempts" / "abc"


@pytest.fixture
def holder(home: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts another process that holds the run, and waits until it does."""

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(home)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    return start


def elsewhere(held: Attempt, seconds_ago: float) -> None:
    """Make a claim one of another machine, whose last heartbeat was so long ago."""
    content = {**json.loads(held.claim.read_text()), "machine": "another"}
    held._ended.set()
    held.claim.write_text(json.dumps(content))
    then = time.time() - seconds_ago
    os.utime(held.claim, (then, then))


def test_a_run_is_held_worked_at_and_published_whole(home: Path, tmp_path: Path) -> None:
    held = claim(home)
    assert is_claimed(home)
    assert held.is_held
    (held.folder / "record.json").write_text("{}")
    held.publish(tmp_path / "runs" / "abc")
    held.release()
    assert [path.name for path in (tmp_path / "runs" / "abc").iterdir()] == ["record.json"]
    assert not home.exists()
    assert not is_claimed(home)


def test_what_is_there_is_replaced_as_a_whole(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "runs" / "abc"
    for text in ("first", "second"):
        held = claim(home)
        (held.folder / text).write_text(text)
        held.publish(target)
        held.release()
    assert [path.name for path in target.iterdir()] == ["second"]


def test_one_who_gives_up_leaves_the_files_so_far_to_the_next(home: Path) -> None:
    first = claim(home)
    (first.folder / "half").write_text("half")
    (first.folder / ".half.0a.part").write_text("cut o")
    first.release()
    assert left_behind(home) == first.folder
    second = claim(home)
    assert [path.name for path in second.folder.iterdir()] == ["half"]
    assert not first.folder.exists()
    second.release()


def test_one_who_did_nothing_leaves_nothing(home: Path) -> None:
    claim(home).release()
    assert not home.exists()


def test_the_claim_of_a_killed_process_is_taken_over_at_once(
    home: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    process = holder()
    assert is_claimed(home)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_claimed(home)
    held = claim(home, lambda: pytest.fail("waited for a dead process"))
    assert (held.folder / "checkpoints" / "last.ckpt").read_text() == "step 10"
    held.release()


def test_a_zombie_holds_nothing(home: Path, holder: Callable[[], subprocess.Popen[str]]) -> None:
    process = holder()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    assert not is_claimed(home)
    process.communicate()


def test_a_living_process_is_waited_for_and_that_is_said_once(home: Path) -> None:
    said: list[int] = []
    first = claim(home)
    threading.Timer(0.5, first.release).start()
    second = claim(home, lambda: said.append(1))
    assert said == [1]
    second.release()


def test_a_claim_of_another_machine_lasts_as_long_as_its_heartbeat(home: Path) -> None:
    held = claim(home)
    elsewhere(held, seconds_ago=30)
    assert is_claimed(home, expiry=60)
    assert not is_claimed(home, expiry=10)


def test_heartbeats_keep_a_claim(home: Path) -> None:
    held = claim(home, heartbeat=0.05)
    os.utime(held.claim, (1, 1))
    deadline = time.monotonic() + 30
    while held.claim.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.release()


def test_a_clock_that_is_wrong_expires_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = claim(home)
    content = {**json.loads(held.claim.read_text()), "machine": "another"}
    held.claim.write_text(json.dumps(content))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a machine that thinks it is 2096
    assert is_claimed(home)


def test_one_who_lost_the_claim_cannot_publish(home: Path, tmp_path: Path) -> None:
    late = claim(home)
    (late.folder / "mine").write_text("late")
    elsewhere(late, seconds_ago=1000)
    taker = claim(home)
    assert not late.is_held
    late.folder.mkdir()  # as writing a file there does
    (late.folder / "mine").write_text("later")
    with pytest.raises(AttemptLost, match="taken over by another process"):
        late.check()
    with pytest.raises(AttemptLost):
        late.publish(tmp_path / "runs" / "abc")
    assert not (tmp_path / "runs" / "abc").exists()
    late.release()
    assert taker.is_held
    assert (taker.folder / "mine").read_text() == "late"
    taker.publish(tmp_path / "runs" / "abc")
    assert (tmp_path / "runs" / "abc" / "mine").read_text() == "late"
    taker.release()
    assert not home.exists()


def test_a_folder_that_goes_between_check_and_rename_is_not_published(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = claim(home)
    monkeypatch.setattr(Attempt, "check", lambda self: late.folder.rename(home / "work-of-the-next"))
    with pytest.raises(AttemptLost, match="before it was published"):
        late.publish(tmp_path / "runs" / "abc")
    assert not (tmp_path / "runs" / "abc").exists()


def test_a_new_claim_by_an_old_name_is_left_to_its_holder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One who has seen a dead claim, and slept while another took over, ended, and a third began."""
    dead = claim(home)
    elsewhere(dead, seconds_ago=1000)
    judged, alive = [], attempts._is_alive

    def sleep_after_judging(path: Path, content: dict[str, object], expiry: float) -> bool:
        found = alive(path, content, expiry)
        if not judged:
            judged.append(found)
            dead.claim.write_text(json.dumps({**attempts._whoami(), "token": "the third"}))
        return found

    monkeypatch.setattr(attempts, "_is_alive", sleep_after_judging)
    threading.Timer(0.5, dead.claim.unlink).start()
    waited: list[int] = []
    held = claim(home, lambda: waited.append(1))
    assert judged == [False]
    assert waited == [1]
    held.release()


def test_a_claim_that_is_just_being_written_counts(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "claim-000001").write_text("")
    assert is_claimed(home)


COUNT = """
import sys, time
from pathlib import Path
from transfuse.results import attempts
attempts._POLL = 0.005
home, tally = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(15):
    held = attempts.claim(home)
    inside = tally / "inside"
    inside.touch(exist_ok=False)  # fails if another one is inside
    time.sleep(0.001)
    inside.unlink()
    with (tally / "count").open("a") as file:
        file.write("x")
    held.release()
"""


def test_of_many_processes_one_at_a_time_holds_it(home: Path, tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(home), str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "count").read_text() == "x" * 60
