"""The embedded emoji: counts, splits, files, and what happens to damaged ones."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from largedrop.data import emoji
from largedrop.data.dataset import Dataset
from largedrop.errors import UserError

Pixels = npt.NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[2]
DOMAINS = ("noto", "twemoji", "fluent-3d", "fluent-high-contrast", "openmoji")
COUNTS = {
    "clothing": 41,
    "electronics_music": 57,
    "face": 106,
    "food_drink": 84,
    "hand": 42,
    "mammal": 64,
    "office_paper": 58,
    "other_animal": 58,
    "person": 68,
    "place": 51,
    "plant_produce": 63,
    "sky_weather": 44,
    "sport_game": 44,
    "vehicle": 51,
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return emoji.load_emoji()


@pytest.fixture(scope="module")
def pixels(data: Dataset) -> Pixels:
    return np.stack([data.images[index] for index in range(len(data))])


def test_counts(data: Dataset) -> None:
    assert data.name == "emoji"
    assert data.domains == DOMAINS
    assert data.classes == tuple(sorted(COUNTS))
    assert len(data) == len(data.images) == 831 * 5
    for domain in DOMAINS:
        indices = data.indices(domain)
        assert len(indices) == 831
        assert Counter(data.classes[label] for label in data.labels[indices]) == COUNTS
    assert data.skipped == ()
    for array in (data.labels, data.domain_ids, data.groups):
        assert array.shape == (4155,)
        assert array.dtype == np.int64


def test_images_are_read_only(data: Dataset) -> None:
    assert data.images.bound >= 4096
    for index in (0, 830, 831, 4154, -1):
        image = data.images[index]
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0, 0] = 0


def test_classes_and_keys_are_those_of_the_labels(data: Dataset) -> None:
    labels = json.loads((ROOT / "tools" / "emoji-labels.json").read_text(encoding="utf-8"))
    assert set(data.classes) == set(labels["subgroups"])
    expected = [f"{domain}/{entry['class']}/{entry['hexcode']}" for domain in DOMAINS for entry in labels["emoji"]]
    assert list(data.keys) == expected
    assert len(set(data.keys)) == len(data)
    for key, domain, label in zip(data.keys, data.domain_ids, data.labels, strict=True):
        assert key.startswith(f"{data.domains[domain]}/{data.classes[label]}/")


def test_a_group_is_one_emoji_in_every_style(data: Dataset) -> None:
    for group in range(831):
        members = np.flatnonzero(data.groups == group)
        assert sorted(data.domain_ids[members]) == [0, 1, 2, 3, 4]
        assert len(set(data.labels[members])) == 1
        assert len({data.keys[index].rsplit("/", 1)[1] for index in members}) == 1


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("seed", [0, 7])
def test_no_emoji_is_on_both_sides_of_the_split(data: Dataset, domain: str, seed: int) -> None:
    split = data.split(domain, seed)
    trained = {int(group) for indices in split.train for group in data.groups[indices]}
    held_out = {int(group) for group in data.groups[split.iid]}
    assert trained
    assert held_out
    assert not trained & held_out
    assert len(trained | held_out) == 831
    assert len(split.iid) == 4 * len(held_out)
    assert set(data.labels[split.iid]) == set(range(14))


def test_the_background_is_white(data: Dataset, pixels: Pixels) -> None:
    corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    white = np.all(corners >= 250, axis=-1)
    for domain in DOMAINS:
        assert white[data.indices(domain)].mean() > 0.95


def test_no_image_is_empty(pixels: Pixels) -> None:
    ink = [float((image[::2, ::2].min(axis=-1) < 240).mean()) for image in pixels]
    assert min(ink) > 0.02


def test_line_art_is_black_on_white(data: Dataset, pixels: Pixels) -> None:
    art = pixels[data.indices("fluent-high-contrast")].astype(np.int16)
    assert (art.max(axis=-1) - art.min(axis=-1)).max() <= 12  # what lossy compression leaves of pure grey
    assert (art.min(axis=(1, 2, 3)) < 20).all()
    middle = ((art > 50) & (art < 200)).mean()
    assert middle < 0.1


def test_styles_differ(data: Dataset, pixels: Pixels) -> None:
    styles = [pixels[data.indices(domain), ::4, ::4].astype(np.float32) for domain in DOMAINS]
    for first in range(5):
        for second in range(first):
            assert np.abs(styles[first] - styles[second]).mean() > 25


def test_the_same_emoji_look_more_alike_than_others(data: Dataset, pixels: Pixels) -> None:
    """A shifted or shuffled style would not match the other ones emoji by emoji."""
    thumbs = pixels.reshape(5, 831, 16, 8, 16, 8, 3).mean(axis=(3, 5, 6))
    for style in range(1, 5):
        same = np.abs(thumbs[style] - thumbs[0]).mean()
        others = np.abs(thumbs[style] - np.roll(thumbs[0], 100, axis=0)).mean()
        assert same < 0.92 * others


def test_two_loads_are_equal(data: Dataset, pixels: Pixels) -> None:
    again = emoji.load_emoji()
    assert again.fingerprint == data.fingerprint == hashlib.sha256(emoji._FILE.read_bytes()).hexdigest()
    assert all(np.array_equal(again.images[index], image) for index, image in enumerate(pixels))


def test_size_and_licences() -> None:
    folder = emoji._FILE.parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 10_000_000
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for licence in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"):
        assert licence in attribution
        assert (folder / "LICENSES" / f"{licence}.txt").stat().st_size > 1000
    for domain in DOMAINS:
        assert f"`{domain}`" in attribution


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1000], lambda content: b"", lambda content: content + b" "]
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    copy = tmp_path / "emoji.bin"
    copy.write_bytes(damage(emoji._FILE.read_bytes()))
    monkeypatch.setattr(emoji, "_FILE", copy)
    with pytest.raises(UserError, match=r"are damaged .*; install largedrop again$") as caught:
        emoji.load_emoji()
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji, "_FILE", tmp_path / "emoji.bin")
    with pytest.raises(UserError, match=r"^cannot read the embedded emoji .*No such file.*; install largedrop again$"):
        emoji.load_emoji()


def test_pillow_without_webp_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    with pytest.raises(UserError, match="without WebP"):
        emoji.load_emoji()
