"""Leases on disks that are full, do not answer, or show a folder as it was: those of servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import unanswering
from tests.leases import foreign, names

from largedrop import lease as module
from largedrop.errors import BusyError
from largedrop.lease import holder_of, holding, take

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError(110, "timed out")])
def test_a_disk_that_does_not_answer_for_a_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any, error: OSError
) -> None:
    lease = taken(tmp_path)

    def utime(path: Path) -> None:
        raise error

    monkeypatch.setattr(os, "utime", utime)
    lease.renew()
    lease.check()


@pytest.mark.parametrize("ended", [True, False])
def test_what_cannot_be_given_back_is_taken_again_by_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any, ended: bool
) -> None:
    """As on NFS that is mounted ``soft``, whose server is away."""
    lease = taken(tmp_path)
    unanswering(monkeypatch, "unlink", "truncate")
    lease.give_back(ended=ended)
    monkeypatch.undo()
    taken(tmp_path)
    assert names(tmp_path) == [".lease-2"]


def test_an_old_list_of_a_folder_gives_no_second_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any
) -> None:
    """As of NFS, or of a process that was stopped between looking and taking."""
    for _ in range(3):
        taken(tmp_path).give_back(ended=False)
    holder = taken(tmp_path)
    assert names(tmp_path) == [".lease-4"]
    highest, old = module._highest, iter([2])
    monkeypatch.setattr(module, "_highest", lambda folder: next(old, None) or highest(folder))
    with pytest.raises(BusyError, match=r"is using"):
        take(tmp_path)
    assert names(tmp_path) == [".lease-4"]
    old = iter([3])
    with pytest.raises(BusyError, match=r"is using"):
        take(tmp_path)
    holder.check()


@pytest.mark.parametrize("call", ["write", "close"])
def test_a_full_disk_leaves_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """It is full when a file is written; on NFS that is said when it is closed."""
    close = os.close

    def full(descriptor: int, content: bytes = b"") -> int:
        if call == "close":
            close(descriptor)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        take(tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == []


def stale(*arguments: Any) -> Any:
    """As of NFS, where another machine has removed what this one had just opened."""
    raise OSError(116, "Stale file handle")


def test_a_lease_that_another_machine_removes_while_it_is_read_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any
) -> None:
    foreign(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", stale)
        assert holder_of(tmp_path) is None
        lease = taken(tmp_path)
    assert lease.path.name == ".lease-2"


def test_a_folder_that_another_machine_removes_while_it_is_listed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, first = os.scandir, iter([stale])
    monkeypatch.setattr(os, "scandir", lambda folder: next(first, scan)(folder))
    with holding(tmp_path / "work"):
        assert names(tmp_path / "work") == [".lease-1"]
    monkeypatch.setattr(os, "scandir", stale)
    with pytest.raises(FileNotFoundError):
        holder_of(tmp_path)


@pytest.mark.parametrize("ended", [True, False])
def test_a_lease_of_the_same_number_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any, ended: bool
) -> None:
    """While this process was away another took the folder and finished, and a third has begun again from 1."""
    lease = taken(tmp_path)
    theirs = foreign(tmp_path)
    before = theirs.stat().st_mtime_ns, theirs.read_bytes()
    lease.renew()
    with pytest.raises(BusyError, match="another process has taken"):
        lease.check()
    lease.give_back(ended=ended)
    assert (theirs.stat().st_mtime_ns, theirs.read_bytes()) == before


def test_numbers_that_begin_again_give_no_second_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: Any
) -> None:
    """Between looking and taking, who had it has finished, and another has begun again from 1."""
    taken(tmp_path).give_back(ended=False)
    theirs, real = tmp_path / ".lease-1", os.open

    def late(path: Path, *flags: int) -> int:
        if path.name == ".lease-2":
            theirs.unlink()
            monkeypatch.setattr(os, "open", real)
            taken(tmp_path)
        return real(path, *flags)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(BusyError, match=r"is using"):
        take(tmp_path)
    assert names(tmp_path) == [".lease-1"]
