"""A cache without room for all images says so before it is full, and decodes the others when they are used."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import make_toy

from largedrop.data import Dataset, cache, open_dataset, remembered, room
from largedrop.data.cache import CachedImages, fetched
from largedrop.data.room import Room, room_for
from largedrop.data.views.batches import HostViews, open_views
from largedrop.errors import UserError
from largedrop.fast_paths import FastPaths, only
from largedrop.reporter import Reporter

EACH = 32 * 32 * 3
"""Bytes of a decoded image of the toy data."""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, as if written long ago; nothing is too small to be estimated."""
    monkeypatch.setattr(remembered, "GRANULARITY", -1.0)
    monkeypatch.setattr(room, "_LONG", 1e9)
    return make_toy(tmp_path / "images")


def limit(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    """Leave room for so many images of the toy data."""
    monkeypatch.setenv(room.LIMIT, f"{(count + 0.5) * EACH / room.SURE / 1e9:.9f}")


def opened(images: Path, tmp_path: Path) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return open_dataset(images, cache=tmp_path / "cache", note=said.append), said


def kept(data: Dataset) -> int:
    assert isinstance(data.images, CachedImages)
    return round(data.images.share * len(data))


def test_some_are_kept_and_all_are_the_same(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_dataset(images, cache=tmp_path / "other")
    limit(monkeypatch, 20)
    data, said = opened(images, tmp_path)
    assert len(said) == 1
    assert "the decoded images need about" in said[0]
    assert "of them are kept, the others are decoded whenever they are used, slower" in said[0]
    assert f"{room.LIMIT}=" in said[0]
    assert kept(data) == 20
    (pixels,) = (tmp_path / "cache" / "images").glob("*/pixels.bin")
    assert pixels.stat().st_size == 20 * EACH
    assert data.fingerprint == whole.fingerprint
    assert data.notes == (
        f"in the cache: {20 / len(data):.0%} of the images; the others are decoded when they are used",
    )
    for one, other in zip(fetched(data.images, np.arange(len(data))), whole.images, strict=True):  # type: ignore[call-overload]
        np.testing.assert_array_equal(one, other, strict=True)
    for domain in range(len(data.domains)):
        there = [data.images._index[index, 0] >= 0 for index in np.flatnonzero(data.domain_ids == domain)]  # type: ignore[attr-defined]
        assert 0 < sum(there) < len(there), "the images that are kept are spread over the domains"


def test_views_are_the_same(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_dataset(images, cache=tmp_path / "other")
    limit(monkeypatch, 5)
    data, _ = opened(images, tmp_path)
    spec, indices = SimpleNamespace(size=16, mean=(0.5,) * 3, std=(0.5,) * 3), np.arange(12)
    for views in ("training", "evaluation"):
        arguments: Any = (indices, spec, 0, 3) if views == "training" else (indices, spec)
        one, other = (getattr(HostViews(each), views)(*arguments) for each in (data, whole))
        assert torch.equal(one, other)


def test_it_is_opened_again_without_decoding(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 20)
    first, _ = opened(images, tmp_path)
    monkeypatch.setattr(cache, "_build", None)
    second, said = opened(images, tmp_path)
    assert said == []
    assert second.notes == first.notes
    assert kept(second) == 20
    np.testing.assert_array_equal(second.images[1], first.images[1])
    (file,) = (tmp_path / "cache" / "opened").iterdir()
    file.unlink()
    third, said = opened(images, tmp_path)
    assert (kept(third), len(said)) == (20, 1)
    again = pickle.loads(pickle.dumps(third.images))  # noqa: S301  # what a worker process gets
    np.testing.assert_array_equal(again[1], first.images[1])


def test_with_room_again_all_are_kept(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 20)
    opened(images, tmp_path)
    monkeypatch.delenv(room.LIMIT)
    (file,) = (tmp_path / "cache" / "opened").iterdir()
    file.unlink()
    data, said = opened(images, tmp_path)
    assert (kept(data), said) == (len(data), [])
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1


def test_without_any_room_all_are_decoded_when_they_are_used(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(room.LIMIT, "0.0000001")
    data, said = opened(images, tmp_path)
    assert (kept(data), len(said)) == (0, 1)
    assert data.images[0].shape == (32, 32, 3)


def test_an_image_that_changes_meanwhile_is_noticed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(room.LIMIT, "0.0000001")
    data, _ = opened(images, tmp_path)
    path = images / data.keys[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="has changed since the data were opened"):
        data.images[0]
    path.write_bytes(content)
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match="has changed since the data were opened"):
        fetched(data.images, np.array([3, 0]))
    data.images[3]


def test_other_datasets_take_room(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_dataset(images, cache=tmp_path / "cache")
    count = len(list(images.rglob("*.png")))
    limit(monkeypatch, count + 10)
    (images / "photo" / "red" / "note.png").write_bytes(next(images.rglob("*.png")).read_bytes())
    data, _ = opened(images, tmp_path)
    assert abs(kept(data) - 10) < 10


def test_a_full_disk_bounds_it_too(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room.RESERVE + 10 * EACH))
    data, (said,) = opened(images, tmp_path)
    assert kept(data) == 9
    assert f"GB are free for them in {tmp_path / 'cache' / 'images'}: " in said


def test_where_even_large_images_fit_nothing_is_estimated(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_LONG", 4)
    monkeypatch.setattr(room, "decode", None)
    assert room_for(list(images.rglob("*.png")), 32, tmp_path) == Room(1.0)


def test_a_limit_that_is_no_number_is_said(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(room.LIMIT, "10 GB")
    with pytest.raises(UserError, match="LARGEDROP_CACHE_GB is '10 GB', which is no number of gigabytes"):
        opened(images, tmp_path)


def test_on_a_gpu_views_are_made_on_the_processor(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Told(Reporter):
        def note(self, text: str) -> None:
            notes.append(text)

    limit(monkeypatch, 20)
    data, _ = opened(images, tmp_path)
    with only(FastPaths(resident=True)):
        assert isinstance(open_views(data, torch.device("cuda"), Told()), HostViews)
    assert notes == ["views are made on the processor: some images are decoded whenever they are used"]
