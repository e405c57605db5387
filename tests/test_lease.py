"""Leases: one process at a time, whatever dies, sleeps or has another clock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.leases import foreign, names

from largedrop import lease as module
from largedrop.errors import BusyError
from largedrop.lease import Holder, holder_of, holding, is_left, settle, take

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")

ALONE = f"""
import sys, types
package = types.ModuleType("largedrop")
package.__path__ = [{str(Path(module.__file__).parent)!r}]
sys.modules["largedrop"] = package
from pathlib import Path
from largedrop.errors import BusyError
from largedrop.lease import take, holder_of
"""
"""The start of a script that imports leases without torch."""


class Clock:
    """Seconds as they are told to processes; ``sleep`` lets them pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", type("time", (), {"monotonic": lambda: clock.now, "sleep": clock.sleep}))
    return clock


def lapse(folder: Path, clock: Clock) -> None:
    """Look at a lease of another machine until it has lapsed."""
    for _ in range(10):
        clock.sleep(module.LAPSES / 10 + 0.1)
        holder_of(folder)


def test_a_lease_is_one_process_s_until_it_is_given_back(tmp_path: Path, taken: Any) -> None:
    lease = taken(tmp_path)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(holder_of(tmp_path)) == me
    for _ in range(2):
        with pytest.raises(BusyError) as caught:
            take(tmp_path)
        assert str(caught.value) == f"another process is using {tmp_path} ({me})"
    lease.give_back(ended=False)
    assert holder_of(tmp_path) is None
    assert names(tmp_path) == [".lease-1"]
    taken(tmp_path).give_back(ended=False)
    assert names(tmp_path) == [".lease-2"]
    taken(tmp_path).give_back(ended=True)
    assert names(tmp_path) == []


def test_two_ways_to_a_folder_are_one(tmp_path: Path, taken: Any) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    taken(tmp_path / "link")
    with pytest.raises(BusyError):
        take(tmp_path / "real")


def test_many_processes_race_and_one_at_a_time_has_it(tmp_path: Path) -> None:
    """Each adds one to a number in a file, which two at once would lose; some are killed with the lease in their hands.

    A killed process has added nothing: it dies between the lease and the number.
    """
    (tmp_path / "run").mkdir()
    (tmp_path / "number").write_text("0")
    script = ALONE + (
        "import os, signal, time, random\n"
        "me, done, root = int(sys.argv[1]), 0, Path(sys.argv[2])\n"
        "print('ready', flush=True); sys.stdin.read(1)\n"
        "while done < 20:\n"
        "    try: lease = take(root / 'run')\n"
        "    except BusyError: time.sleep(random.random() / 1000); continue\n"
        "    if me % 4 == 3 and done == 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    number = int((root / 'number').read_text())\n"
        "    (root / 'number').write_text(str(number + 1))\n"
        "    done += 1\n"
        "    lease.give_back(ended=False)\n"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(8)
    ]
    for process in racing:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    codes = []
    for process in racing:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    for process in racing:
        process.communicate(timeout=60)
        codes.append(process.returncode)
    assert codes == [0, 0, 0, -signal.SIGKILL] * 2
    assert (tmp_path / "number").read_text() == str(6 * 20 + 2 * 5)
    assert len(names(tmp_path / "run")) == 1


def test_a_dead_process_s_lease_is_free_at_once_and_a_stopped_one_s_is_not(tmp_path: Path, taken: Any) -> None:
    script = ALONE + "take(Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        process.send_signal(signal.SIGSTOP)
        os.utime(tmp_path / ".lease-1", (0, 0))
        with pytest.raises(BusyError, match=rf"\(process {process.pid} on "):
            take(tmp_path)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        taken(tmp_path)  # although it is still a zombie
    assert names(tmp_path) == [".lease-2"]


def test_a_number_that_another_process_has_since_is_no_holder(tmp_path: Path, taken: Any) -> None:
    mine = module._myself()
    content = {"host": mine.host, "system": mine.system, "process": mine.process, "started": "1"}
    (tmp_path / ".lease-1").write_text(json.dumps(content))
    taken(tmp_path)


def test_another_machine_s_lease_lapses_when_it_was_seen_unchanged_for_long(
    tmp_path: Path, clock: Clock, taken: Any
) -> None:
    path = foreign(tmp_path)
    for step in range(40):  # whatever its clock says, it is renewed
        os.utime(path, (1e9 + step, 1e9 + step))
        assert str(holder_of(tmp_path)) == "process 12 on node7"
        clock.sleep(module.LAPSES - 1)
    with pytest.raises(BusyError, match=r"\(process 12 on node7\)$"):
        take(tmp_path)
    lapse(tmp_path, clock)
    lease = taken(tmp_path)
    assert names(tmp_path) == [".lease-2"]
    assert lease.path.name == ".lease-2"


def test_waiting_until_it_is_known_whether_another_machine_lives(tmp_path: Path, clock: Clock) -> None:
    path = foreign(tmp_path)
    began = clock.now
    notes: list[str] = []
    settle(tmp_path, lambda: False, notes.append)
    assert notes == [f"process 12 on node7 may be using {tmp_path}: looking for up to two minutes whether it is"]
    assert clock.now - began == pytest.approx(module.LAPSES, abs=2)
    assert holder_of(tmp_path) is None
    os.utime(path)
    began = clock.now
    looks = iter(range(100))

    def third_look() -> bool:
        if next(looks) == 2:
            os.utime(path, (1e9, 1e9))
        return False

    settle(tmp_path, third_look)
    assert clock.now - began == pytest.approx(3)
    assert str(holder_of(tmp_path)) == "process 12 on node7"
    began = clock.now
    settle(tmp_path, lambda: True)
    assert clock.now == began


@pytest.mark.parametrize("content", [b"", b"\0\0", b"[]", b'{"host": 3}', b'{"host":"a","system":"b","process":"c"}'])
def test_a_lease_that_nobody_can_read_is_somebody_s_until_it_lapses(
    tmp_path: Path, clock: Clock, taken: Any, content: bytes
) -> None:
    (tmp_path / ".lease-1").write_bytes(content)
    with pytest.raises(BusyError, match=r"is using .* \(another process\)$"):
        take(tmp_path)
    lapse(tmp_path, clock)
    taken(tmp_path)


def test_a_lease_is_renewed_by_a_thread_that_ends_with_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any
) -> None:
    monkeypatch.setattr(module, "RENEWED", 0.01)
    lease = taken(tmp_path)
    os.utime(lease.path, (0, 0))
    deadline = time.monotonic() + 10
    while lease.path.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    lease.check()
    lease.give_back(ended=True)
    while any(thread.name == "largedrop-leases" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_was_too_slow_learns_that_another_has_the_folder(tmp_path: Path, clock: Clock, taken: Any) -> None:
    slow = taken(tmp_path)
    slow.check()
    foreign(tmp_path, 2)
    slow.path.unlink()
    slow.check()  # nothing has been looked at yet
    clock.sleep(module.LAPSES)  # as where the process was stopped: its thread has not run
    with pytest.raises(BusyError, match=r"another process has taken .*, which this one left alone for too long"):
        slow.check()
    slow.give_back(ended=False)
    assert names(tmp_path) == [".lease-2"]


def test_a_server_that_was_away_costs_nobody_a_lease(tmp_path: Path, clock: Clock) -> None:
    """Its holder could not renew it either; it lapses by looks that were answered."""
    foreign(tmp_path)
    for _ in range(4):
        assert holder_of(tmp_path) is not None
        clock.sleep(1)
    clock.sleep(10 * module.LAPSES)
    assert holder_of(tmp_path) is not None
    for _ in range(int(module.LAPSES - module.BLIND - 5)):
        clock.sleep(1)
        assert holder_of(tmp_path) is not None
    clock.sleep(module.BLIND)
    assert holder_of(tmp_path) is None


def test_where_processes_cannot_be_told_apart_their_leases_lapse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, taken: Any
) -> None:
    monkeypatch.setattr(module, "_started", lambda process: None)
    monkeypatch.setattr(module, "_now", lambda: clock.now)
    taken(tmp_path)
    assert holder_of(tmp_path) is not None
    lapse(tmp_path, clock)
    assert holder_of(tmp_path) is None
    assert Holder().lives is None


def test_one_at_a_time_holds_a_folder_that_each_leaves_empty(tmp_path: Path) -> None:
    """What each does in it needs no lock: a number in a file, which two at once would lose."""
    folder, number, said = tmp_path / "work", tmp_path / "number", list[str]()
    number.write_text("0")

    def add() -> None:
        for _ in range(20):
            with holding(folder, lambda error: said.append(str(error))):
                count = int(number.read_text())
                time.sleep(0.001)
                number.write_text(str(count + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.read_text() == "80"
    assert {text.partition(" (")[0] for text in said} == {f"another process is using {folder}"}
    assert len(said) <= 80
    assert names(tmp_path) == ["number"]


def test_a_held_folder_is_given_back_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), holding(tmp_path / "work"):
        raise KeyError
    assert names(tmp_path) == []
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    with holding(tmp_path / "kept"):
        assert names(tmp_path / "kept") == [".lease-1", "file"]
    assert names(tmp_path / "kept") == ["file"]
    with pytest.raises(FileNotFoundError), holding(tmp_path / "none" / "work"):
        pass


def test_what_is_left_has_a_lease_that_nobody_holds(tmp_path: Path, clock: Clock, taken: Any) -> None:
    assert not is_left(tmp_path)  # it never had one
    lease = taken(tmp_path)
    assert not is_left(tmp_path)
    lease.give_back(ended=False)
    assert is_left(tmp_path)
    foreign(tmp_path, 2)
    assert not is_left(tmp_path)
    lapse(tmp_path, clock)
    assert is_left(tmp_path)
