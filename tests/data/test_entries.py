"""Entries of the cache: where they lie, and that one is there whole or not at all."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop.data.entries import aside, building, cache_errors, cache_folder, install, pieces, sweep
from largedrop.errors import UserError


def load(entry: Path) -> str:
    """An entry of these tests is one file with a whole number."""
    text = (entry / "number").read_text()
    return str(int(text))


def built(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "number").write_text(text)
    return folder


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LARGEDROP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "largedrop"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "largedrop"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "largedrop"
    monkeypatch.setenv("LARGEDROP_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "largedrop"
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_a_finished_folder_takes_the_name(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    folder = built(aside(entry), "1")
    assert folder.parent == tmp_path
    assert folder != aside(entry)
    assert install(folder, entry, load) == "1"
    assert list(tmp_path.iterdir()) == [entry]


def test_an_entry_that_another_process_installed_meanwhile_is_taken(tmp_path: Path) -> None:
    entry = built(tmp_path / "entry", "1")
    folder = built(aside(entry), "2")
    assert install(folder, entry, load) == "1"
    assert load(folder) == "2"  # for its builder to remove


def test_an_entry_that_another_machine_installed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS remembers that there was none, until the folder is opened."""
    entry = built(tmp_path / "entry", "1")
    folder = built(aside(entry), "2")
    exists, scan, opened = Path.exists, os.scandir, list[Path]()
    monkeypatch.setattr(Path, "exists", lambda path: (path != entry or bool(opened)) and exists(path))
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path) or scan(path))
    assert install(folder, entry, load) == "1"
    assert opened == [tmp_path]


@pytest.mark.parametrize("damaged", ["x", ""])
def test_a_damaged_entry_gives_way(tmp_path: Path, damaged: str) -> None:
    entry = built(tmp_path / "entry", damaged)
    assert install(built(aside(entry), "2"), entry, load) == "2"
    assert list(tmp_path.iterdir()) == [entry]


def test_entries_that_are_damaged_again_and_again_end_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = built(tmp_path / "entry", "x")
    folder = built(aside(entry), "2")
    monkeypatch.setattr("largedrop.data.entries.shutil.rmtree", lambda path, **options: built(entry, "x"))
    assert refusal(install, folder, entry, load) == f"other processes keep replacing {entry}"


def test_what_killed_builds_left_is_removed_by_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe()

    def build() -> None:
        with building(tmp_path / "entry") as folder:
            (folder / "pixels").write_text("1")
            theirs.send("")
            signal.pause()

    process = context.Process(target=build)
    process.start()
    pipe.recv()
    with building(tmp_path / "other"):
        assert [path.name[:10] for path in tmp_path.iterdir()] == [".building-"] * 2
    assert len(list(tmp_path.iterdir())) == 1  # of the process, which builds on
    process.kill()
    process.join()
    with building(tmp_path / "entry"):
        assert len(list(tmp_path.iterdir())) == 1
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_machine_builds_is_left_alone(tmp_path: Path) -> None:
    """Nobody here can know whether its process lives, until its lease is old."""
    theirs = built(aside(tmp_path / "entry"), "1")
    lease = theirs / ".lease-1"
    lease.write_text(json.dumps({"host": "node7", "system": "another", "process": 12, "started": "34"}))
    for _ in range(2):
        sweep(tmp_path)
        assert load(theirs) == "1"
    for path in (*theirs.iterdir(), theirs):
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert not theirs.exists()


def test_the_cache_needs_no_locks_of_its_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that machines share have none (Lustre without ``flock``), or none that hold."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr("fcntl.lockf", none)
    with building(tmp_path / "entry") as folder:
        (folder / "number").write_text("1")
        assert install(folder, tmp_path / "entry", load) == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert [path.name for path in (tmp_path / "entry").iterdir()] == ["number"]


def test_what_nfs_kept_of_a_removed_entry_goes_once_nobody_uses_it(tmp_path: Path) -> None:
    """A file that a process has open stays, under another name, and so does its folder."""
    (kept := aside(tmp_path / "entry")).mkdir()
    (kept / ".nfs0001").touch()
    pieces(tmp_path / "entry").mkdir()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    (kept / ".nfs0001").unlink()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    away = built(tmp_path / "away", "1")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".building-link").symlink_to(away)
    os.utime(away, (0, 0))
    os.utime(away / "number", (0, 0))
    sweep(folder)
    assert list(folder.iterdir()) == []
    assert load(away) == "1"


def test_a_folder_that_cannot_be_renamed_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        install(tmp_path / "none", tmp_path / "entry", load)


def test_what_was_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    old, young, fresh = (built(aside(entry), "1") for _ in range(3))
    old_pieces, young_pieces = (built(pieces(tmp_path / name), "1") for name in ("old", "young"))
    kept = built(entry, "1")
    day = time.time() - 24 * 3600
    for folder in (old, old_pieces, kept):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (day - 60, day - 60))
    for folder in (young, young_pieces):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (day + 60, day + 60))
    os.utime(fresh, (day - 60, day - 60))  # but not the file in it
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([young, fresh, young_pieces, kept])


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    cause = OSError(errno.ENOSPC, "No space left on device")
    chained = UserError("cannot write pixels.bin")
    chained.__cause__ = cause
    for error in (cause, chained):
        with pytest.raises(UserError) as caught, cache_errors("the features", tmp_path):
            raise error
        assert str(caught.value) == (
            f"cannot write the features in {tmp_path}: No space left on device; "
            "set LARGEDROP_CACHE to a folder that can be written and has room"
        )
    with pytest.raises(UserError, match="other processes keep"), cache_errors("the features", tmp_path):
        raise UserError("other processes keep replacing it")
