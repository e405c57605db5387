"""The cache of decoded images: what it returns, when it decodes, and what processes see of each other's."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.stores import Store, age

import largedrop
from largedrop.data import cache, digests
from largedrop.data.cache import CachedImages
from largedrop.data.images import decode
from largedrop.errors import UserError


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


def test_a_callback_that_raises_leaves_nothing(store: Store) -> None:

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.open(progress=progress)
    assert store.entries == []
