"""A folder is read again only where something in it has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import make_toy

from largedrop import data as module
from largedrop.data import open_dataset, remembered, sources
from largedrop.data.dataset import Dataset
from largedrop.data.folder import list_images
from largedrop.data.remembered import stamp_of


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, as if written long ago."""
    monkeypatch.setattr(remembered, "GRANULARITY", -1.0)
    return make_toy(tmp_path / "images")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed."""
    found: list[str] = []
    real = list_images
    monkeypatch.setattr(sources, "list_images", lambda path: found.append(str(path)) or real(path))
    return found


def same(first: Dataset, second: Dataset) -> None:
    """Both are the same in every part, types and order included."""
    for each in fields(Dataset):
        one, other = (getattr(data, each.name) for data in (first, second))
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, strict=True)
        elif each.name != "images":
            assert (one, type(one)) == (other, type(other)), each.name
    assert all(np.array_equal(a, b) for a, b in zip(first.images, second.images, strict=True))  # type: ignore[call-overload]


def test_a_folder_is_listed_once(images: Path, tmp_path: Path, listed: list[str]) -> None:
    (images / "photo" / "red" / "notes.txt").write_text("x")
    first, second = (open_dataset(images, cache=tmp_path / "cache") for _ in range(2))
    assert len(listed) == 1
    same(first, second)
    assert second.notes == ("passed over: 1 other file: 1 .txt",)
    split, other = (data.split("ink", 0) for data in (first, second))
    np.testing.assert_array_equal(split.iid, other.iid)


def test_each_way_of_opening_is_remembered_by_itself(images: Path, tmp_path: Path, listed: list[str]) -> None:
    ways: list[dict[str, Any]] = [{}, {"bound": 16}, {"classes": "common"}, {"group_pattern": "(.)[.]"}]
    first = [open_dataset(images, cache=tmp_path / "cache", **way) for way in ways]
    assert len(listed) == len(ways)
    for way, data in zip(ways, first, strict=True):
        same(open_dataset(images, cache=tmp_path / "cache", **way), data)
    assert len(listed) == len(ways)
    assert len({data.fingerprint for data in first}) == 2
    assert len({data.images.bound for data in first}) == 2


def swap(images: Path) -> None:
    """Replace an image by another of the same size, with its time of change."""
    a, b = sorted((images / "photo").rglob("*.png"))[:2]
    status = a.stat()
    content = b.read_bytes()
    a.write_bytes((content + bytes(status.st_size))[: status.st_size])
    os.utime(a, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: list[Callable[[Path], Any]] = [
    lambda images: next((images / "photo").rglob("*.png")).unlink(),
    lambda images: shutil.copy(next((images / "photo").rglob("*.png")), next((images / "ink").iterdir()) / "z.png"),
    lambda images: next((images / "photo").rglob("*.png")).rename(next((images / "photo").iterdir()) / "z.png"),
    lambda images: next((images / "photo").iterdir()).rename(images / "photo" / "z"),
    lambda images: (images / "photo").rename(images / "z"),
    lambda images: (images / "photo" / "note.txt").write_text("x"),
    swap,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(images: Path, change: Callable[[Path], Any]) -> None:
    before = stamp_of(images)
    assert before == stamp_of(images) != ""
    change(images)
    assert stamp_of(images) not in ("", before)


def test_what_no_list_shows_changes_nothing(images: Path) -> None:
    before = stamp_of(images)
    (images / ".DS_Store").write_text("x")
    (images / "photo" / ".thumbs").mkdir()
    assert stamp_of(images) == before


def test_a_changed_folder_is_listed_again(images: Path, tmp_path: Path, listed: list[str]) -> None:
    first = open_dataset(images, cache=tmp_path / "cache")
    CHANGES[1](images)
    second = open_dataset(images, cache=tmp_path / "cache")
    assert (len(listed), len(second)) == (2, len(first) + 1)


def test_links_that_lead_back_end(images: Path) -> None:
    (images / "photo" / "again").symlink_to(images)
    assert stamp_of(images)
    (images / "photo" / "broken.png").symlink_to(images / "gone")
    assert stamp_of(images) == ""


def test_what_has_just_changed_is_not_remembered(
    images: Path, tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "GRANULARITY", 1e6)
    for _ in range(2):
        open_dataset(images, cache=tmp_path / "cache")
    assert len(listed) == 2
    assert not (tmp_path / "cache" / "opened").exists()


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda content: b"",
    lambda content: content[:2],
    lambda content: content[: len(content) // 2],
    lambda content: content.replace(b"photo/red", b"photo/rod"),
]


@pytest.mark.parametrize("damage", [*DAMAGES, None])
def test_what_is_damaged_is_made_anew(
    images: Path, tmp_path: Path, listed: list[str], damage: Callable[[bytes], bytes] | None
) -> None:
    first = open_dataset(images, cache=tmp_path / "cache")
    if damage is None:
        shutil.rmtree(tmp_path / "cache" / "images")
    else:
        (file,) = (tmp_path / "cache" / "opened").iterdir()
        file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        same(first, open_dataset(images, cache=tmp_path / "cache"))
    assert len(listed) == 2


def test_a_given_split_is_read_each_time(images: Path, tmp_path: Path, listed: list[str]) -> None:
    data = open_dataset(images, cache=tmp_path / "cache")
    table = tmp_path / "split.csv"
    table.write_text("key,split\n" + "".join(f"{key},train\n" for key in data.keys))
    for _ in range(2):
        assert open_dataset(images, cache=tmp_path / "cache", split=table).parts is not None
    assert len(listed) == 3
    assert module.open_dataset(images, cache=tmp_path / "cache").parts is None


def test_a_folder_whose_table_names_images_elsewhere_is_not_remembered(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = remembered.Remembered(images, tmp_path / "cache", {})
    data = open_dataset(images, cache=tmp_path / "other")
    inside = sorted(images.rglob("*.png"))
    for places in ([*inside, tmp_path / "elsewhere.png"], [*inside, images / ".." / "elsewhere.png"]):
        written.write(data, places)
        assert written.read() is None
    written.write(data, [*inside, images / "a..b.png"])
    assert written.read() is not None


def test_a_cache_that_cannot_be_written_costs_time_only(images: Path, tmp_path: Path, listed: list[str]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "opened").write_text("a file")
    for _ in range(2):
        open_dataset(images, cache=tmp_path / "cache")
    assert len(listed) == 2
