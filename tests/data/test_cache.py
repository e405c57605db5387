"""The cache of decoded images: what it returns, when it decodes, and what it survives."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import largedrop
from largedrop.data import cache, digests
from largedrop.data.cache import CachedImages, Opened, open_images
from largedrop.data.images import decode
from largedrop.errors import UserError

SIZES = [(8, 8), (12, 9), (30, 20), (9, 16), (8, 8), (21, 10)]


class Store:
    """Six PNG files of noise, not changed lately, and a cache for them."""

    def __init__(self, root: Path) -> None:
        self.cache, folder = root / "cache", root / "data"
        folder.mkdir()
        rng = np.random.default_rng(0)
        self.paths = [folder / f"{number}.png" for number in range(len(SIZES))]
        self.keys = [path.name for path in self.paths]
        for path, (width, height) in zip(self.paths, SIZES, strict=True):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
            age(path)

    def open(self, bound: int = 320, **options: Any) -> Opened:
        return open_images(self.keys, self.paths, bound=bound, cache=self.cache, **options)

    def refusal(self, bound: int = 320) -> str:
        with pytest.raises(UserError) as caught:
            self.open(bound)
        return str(caught.value)

    def unwritable(self, reason: str) -> str:
        tail = "set LARGEDROP_CACHE to a folder that can be written and has room"
        return f"cannot write the image cache in {self.cache}: {reason}; {tail}"

    @property
    def entries(self) -> list[Path]:
        return sorted((self.cache / "images").iterdir())

    def check(self, images: CachedImages, index: int) -> None:
        np.testing.assert_array_equal(images[index], np.asarray(Image.open(self.paths[index])))


def everything(opened: Opened) -> list[Any]:
    return [opened.images[index].tolist() for index in range(len(opened.images))]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded while a test runs."""
    names: list[str] = []
    real = decode
    monkeypatch.setattr(cache, "decode", lambda path, bound: names.append(path.name) or real(path, bound))
    return names


def age(path: Path, seconds: float = 100) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_images_are_what_the_files_hold(store: Store) -> None:
    opened = store.open()
    assert len(opened.images) == 6
    assert opened.kept == (0, 1, 2, 3, 4, 5)
    assert opened.skipped == ()
    assert opened.images.bound == 320
    for index, path in enumerate(store.paths):
        image = opened.images[index]
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
        assert not image.flags.writeable
        assert type(image) is np.ndarray
        assert image.dtype == np.uint8
    np.testing.assert_array_equal(opened.images[-1], opened.images[5])
    with pytest.raises(IndexError):
        opened.images[6]


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


def test_bound_is_a_part_of_the_entry(store: Store) -> None:
    small = store.open(10).images
    assert [small[index].shape[:2] for index in range(6)] == [(8, 8), (9, 12), (10, 15), (16, 9), (8, 8), (10, 21)]
    assert small.bound == 10
    assert store.open().images[2].shape == (20, 30, 3)
    assert len(store.entries) == 2
    assert store.refusal(0) == "the bound on an image's shorter side must be at least 1 pixel, not 0"


def test_the_second_time_nothing_is_decoded_or_read(
    store: Store, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    first = store.open(progress=lambda *done: calls.append(done))
    assert sorted(decoded) == store.keys
    assert calls == [(number, 6) for number in range(1, 7)]
    decoded.clear()
    monkeypatch.setattr(digests, "opened", lambda path: pytest.fail(f"{path} was read"))
    second = store.open(progress=lambda *done: calls.append(done))
    assert decoded == []
    assert len(calls) == 6
    assert second.digests == first.digests
    np.testing.assert_array_equal(second.images[3], first.images[3])


def test_a_changed_file_is_seen_and_a_touched_one_is_the_same(store: Store, decoded: list[str]) -> None:
    first = store.open()
    decoded.clear()
    age(store.paths[0], 50)
    assert store.open().digests == first.digests
    assert decoded == []
    Image.new("RGB", (8, 8), "red").save(store.paths[0])
    age(store.paths[0], 40)
    second = store.open()
    assert sorted(decoded) == store.keys
    assert second.digests[0] != first.digests[0]
    assert second.digests[1:] == first.digests[1:]
    assert second.images[0][0, 0].tolist() == [255, 0, 0]


def test_a_file_replaced_with_its_size_and_time_kept_is_seen(store: Store) -> None:
    path = store.paths[0]
    for colour in ("red", "blue", "lime"):  # written in place, and as another file of that name
        Image.new("RGB", (8, 8), colour).save(path, "BMP")
        age(path, 1000)
        kept = path.stat()
        store.open()
        other = path.with_name("other")
        Image.new("RGB", (8, 8), "white").save(other, "BMP")
        os.utime(other, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        if colour == "blue":
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
        else:
            other.replace(path)
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (kept.st_size, kept.st_mtime_ns)
        assert store.open().images[0][0, 0].tolist() == [255, 255, 255]


def test_a_file_changed_just_now_is_digested_again(store: Store) -> None:
    now = time.time() - 0.5  # the sizes and the times are the same, as on a file system that counts whole seconds
    Image.new("RGB", (8, 8), "red").save(store.paths[0], "BMP")
    os.utime(store.paths[0], (now, now))
    assert store.open().images[0][0, 0].tolist() == [255, 0, 0]
    Image.new("RGB", (8, 8), "blue").save(store.paths[0], "BMP")
    os.utime(store.paths[0], (now, now))
    assert store.open().images[0][0, 0].tolist() == [0, 0, 255]


def test_a_file_that_changes_while_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decode

    def change(path: Path, bound: int) -> Any:
        store.paths[2].write_bytes(b"other")
        return real(path, bound)

    monkeypatch.setattr(cache, "decode", change)
    with pytest.raises(UserError, match=r"\.png changed while it was being read; open the data again"):
        store.open()
    assert store.entries == []


def test_bad_images_are_all_named(store: Store, decoded: list[str]) -> None:
    store.paths[1].write_bytes(b"")
    store.paths[4].write_bytes(b"rubbish")
    for attempt in range(2):
        assert store.refusal() == (
            "2 of 6 images cannot be decoded; --skip-bad-images (skip_bad_images=True) skips them:\n"
            f"  {store.paths[1]}: the file is empty\n"
            f"  {store.paths[4]}: not an image of a known format"
        )
        assert len(decoded) == 5, attempt  # only the first time; the empty file not even then
    opened = store.open(skip_bad_images=True)
    assert len(decoded) == 5
    assert opened.kept == (0, 2, 3, 5)
    assert len(opened.images) == len(opened.digests) == 4
    assert opened.skipped == ("1.png: the file is empty", "4.png: not an image of a known format")
    np.testing.assert_array_equal(opened.images[1], np.asarray(Image.open(store.paths[2])))


def test_ten_bad_images_are_listed_and_the_rest_counted(store: Store) -> None:
    store.paths = [store.cache.with_name(f"{number:02}.jpg") for number in range(12)]
    store.keys = [path.name for path in store.paths]
    for path in store.paths:
        path.write_bytes(b"rubbish")
    lines = store.refusal().splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("12 of 12 images cannot be decoded; ")
    assert lines[10] == f"  {store.paths[9]}: not an image of a known format"
    assert lines[11] == "  … and 2 more"
    opened = store.open(skip_bad_images=True)
    assert (len(opened.images), opened.kept, len(opened.skipped)) == (0, (), 12)


def test_another_pillow_judges_bad_images_anew(
    store: Store, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.paths[1].write_bytes(b"rubbish")
    store.open(skip_bad_images=True)
    decoded.clear()
    monkeypatch.setattr("PIL.__version__", "99.0")
    store.open(skip_bad_images=True)
    assert len(decoded) == 6


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


def test_images_are_not_copied_to_worker_processes(store: Store) -> None:
    images = store.open().images
    pickled = pickle.dumps(images)
    assert len(pickled) < 1000
    copy = pickle.loads(pickled)  # noqa: S301  # our own
    assert isinstance(copy, CachedImages)
    np.testing.assert_array_equal(copy[2], images[2])


BUILD = """
import sys, time
from pathlib import Path
from largedrop.data.cache import open_images

folder, cache, wait = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
paths = sorted(folder.iterdir())

def progress(done, total):
    if done == 3:
        print("half", flush=True)
        time.sleep(wait)

images = open_images([path.name for path in paths], paths, bound=320, cache=cache, progress=progress).images
print(len(images), int(sum(int(images[index].sum()) for index in range(len(images)))), flush=True)
"""


def start(folder: Path, cache: Path, wait: float) -> subprocess.Popen[str]:
    source = Path(next(iter(largedrop.__path__))).parent
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-W", "error", "-c", BUILD, str(folder), str(cache), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_build_is_never_used_and_is_cleaned_up_by_the_next(store: Store, decoded: list[str]) -> None:
    with start(store.paths[0].parent, store.cache, 60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    (left,) = store.entries
    assert left.name.startswith(".building-")
    assert (left / "entry" / "pixels.bin").stat().st_size > 0
    images = store.open().images
    assert len(decoded) == 6
    store.check(images, 5)
    assert len(store.entries) == 1
    # One of before there were leases: its process might still be at it, but where there is nothing in it.
    left.mkdir()
    store.open(8)
    assert left not in store.entries
    left.mkdir()
    (left / "pixels.bin").touch()
    store.open(9)
    assert left in store.entries
    for path in (*left.iterdir(), left):
        age(path, 25 * 3600)
    store.open(10)
    assert left not in store.entries
    assert len(store.entries) == 4


def test_two_processes_build_the_same_entry_at_once(store: Store) -> None:
    processes = [start(store.paths[0].parent, store.cache, 0.5) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    total = sum(int(np.asarray(Image.open(path)).astype(int).sum()) for path in store.paths)
    assert outputs == [f"half\n6 {total}\n"] * 2
    assert len(store.entries) == 1


def test_the_second_to_finish_uses_what_the_first_made(store: Store) -> None:
    winner = []

    def progress(done: int, total: int) -> None:
        if done == total:
            winner.append(store.open().images)

    images = store.open(progress=progress).images
    np.testing.assert_array_equal(images[4], winner[0][4])
    assert len(store.entries) == 1


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


def test_an_entry_of_another_version_is_left_to_it(
    store: Store, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.open()
    (entry,) = store.entries
    decoded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_FORMAT", cache._FORMAT + 1)
        with pytest.raises(ValueError, match="is damaged"):
            CachedImages(entry)
        images = store.open().images
        assert len(decoded) == 6
        store.check(images, 3)
    assert len(store.entries) == 2
    assert len(store.open().images) == 6
    assert len(decoded) == 6


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


def test_a_callback_that_raises_leaves_nothing(store: Store) -> None:

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.open(progress=progress)
    assert store.entries == []
