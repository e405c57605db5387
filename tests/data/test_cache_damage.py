"""What the cache of decoded images survives: damaged files, and disks that are full or cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.stores import Store

from largedrop.data.cache import Opened
from largedrop.errors import UserError


def everything(opened: Opened) -> list[Any]:
    return [opened.images[index].tolist() for index in range(len(opened.images))]


@pytest.mark.parametrize("name", ["pixels.bin", "index.npy", "checks.npy", "entry.json"])
def test_a_changed_byte_is_never_another_image(store: Store, name: str) -> None:
    pixels = everything(store.open())
    (entry,) = store.entries
    content, refused = (entry / name).read_bytes(), []
    for place in np.linspace(0, len(content) - 1, 25).astype(int):
        (entry / name).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert everything(store.open()) == pixels
        except UserError as error:
            refused.append(str(error))
        assert everything(store.open()) == pixels
    said = f"the image cache {entry} was damaged; it is removed, and made again next time"
    assert refused == [said] * (25 if name == "pixels.bin" else 0)


def header(**change: Any) -> tuple[str, Callable[[bytes], bytes]]:
    return "entry.json", lambda content: json.dumps({**json.loads(content), **change}).encode()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "short pixels": ("pixels.bin", lambda content: content[:100]),
    "empty index": ("index.npy", lambda content: b""),
    "other index": ("index.npy", lambda content: content[:128] + bytes(len(content) - 128)),
    "bad header": ("entry.json", lambda content: b"[1, 2"),
    "newer format": header(format=99),
    "format that is text": header(format="1"),
    "no format": header(format=None),
    "no bound": header(bound="large"),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "no pixels.bin", "no index.npy"])
def test_a_damaged_entry_is_rebuilt(store: Store, decoded: list[str], damage: str) -> None:
    store.open()
    (entry,) = store.entries
    before = {path.name: path.read_bytes() for path in entry.iterdir()}
    if damage in DAMAGE:
        name, change = DAMAGE[damage]
        (entry / name).write_bytes(change(before[name]))
    else:
        (entry / damage.removeprefix("no ")).unlink()
    decoded.clear()
    images = store.open().images
    assert len(decoded) == 6
    store.check(images, 3)
    assert store.entries == [entry]
    assert {path.name: path.read_bytes() for path in entry.iterdir()} == before


def test_a_damaged_memory_of_digests_is_ignored(store: Store) -> None:
    first = store.open()
    (memory,) = (store.cache / "digests").iterdir()
    assert len(json.loads(memory.read_text())["files"]) == 6
    for content in ("", "[]", '{"format": 1, "files": [1]}', '{"format": 2}'):
        memory.write_text(content)
        assert store.open().digests == first.digests


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_for_real(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.mkdir

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        if self.parent.name.startswith(".building-"):
            (self / "pixels.bin").symlink_to("/dev/full")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert store.refusal() == store.unwritable("No space left on device")
    assert store.entries == []


@pytest.mark.parametrize("call", ["cache._append", "cache.os.fsync", "cache.np.save", "files.tempfile.mkstemp"])
def test_a_disk_that_is_full(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Some file systems say so only at the end."""

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"largedrop.{'data.' if call.startswith('cache') else ''}{call}", full)
        assert store.refusal() == store.unwritable("No space left on device")
    assert store.entries == []
    assert len(store.open().images) == 6


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_cache_on_a_read_only_disk_serves_what_it_has(
    store: Store, decoded: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = store.open()
    for path in (store.cache / "digests").iterdir():
        path.unlink()  # so that it would be written again
    decoded.clear()

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    # What root may do too, unlike on such a disk.
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("largedrop.files.tempfile.mkstemp", refuse)
    after = store.open()
    assert after.digests == before.digests
    np.testing.assert_array_equal(after.images[2], before.images[2])
    reason = {errno.EACCES: "Permission denied", errno.EROFS: "Read-only file system"}[number]
    assert store.refusal(9) == store.unwritable(reason)
    assert decoded == []


@pytest.mark.skipif(os.name != "posix", reason="an open file cannot be removed")
def test_an_entry_that_is_removed_while_it_is_open(store: Store, decoded: list[str]) -> None:
    images = store.open().images
    decoded.clear()
    shutil.rmtree(store.cache)
    for index, path in enumerate(store.paths):
        np.testing.assert_array_equal(images[index], np.asarray(Image.open(path)))
    again = store.open().images
    assert len(decoded) == 6
    np.testing.assert_array_equal(again[5], images[5])


def test_a_cache_that_cannot_be_created(store: Store) -> None:
    store.cache.touch()
    store.cache /= "below"
    assert store.refusal() == store.unwritable("Not a directory")


def test_digests_that_cannot_be_written_only_cost_time(store: Store) -> None:
    store.cache.mkdir()
    (store.cache / "digests").touch()
    assert len(store.open().images) == 6
