"""``open_dataset``: which opener a source goes to."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers import refusal

import largedrop.data
from largedrop.data import Dataset, Split, open_dataset
from largedrop.errors import UserError


@pytest.fixture
def emoji_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that happens to be called emoji, in the current directory."""
    for domain in ("a", "b"):
        for name in ("x", "y"):
            for number in range(2):
                path = tmp_path / "emoji" / domain / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 10), (number, 0, 0)).save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "emoji"


def test_public_names() -> None:
    assert largedrop.data.__all__ == ["SOURCES", "Dataset", "Split", "list_dataset", "open_dataset"]


def test_emoji_is_the_embedded_dataset(emoji_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = object()
    module = types.SimpleNamespace(load_emoji=lambda: embedded)
    monkeypatch.setitem(sys.modules, "largedrop.data.emoji", module)
    assert open_dataset("emoji") is embedded


@pytest.mark.parametrize("source", ["./emoji", "emoji/", Path("emoji")])
def test_a_folder_called_emoji(emoji_folder: Path, source: str | Path) -> None:
    data = open_dataset(source, bound=5)
    assert isinstance(data, Dataset)
    assert data.name == "emoji"
    assert data.domains == ("a", "b")
    assert data.images[1].shape == (5, 6, 3)
    assert isinstance(data.split("b", 0), Split)


def test_options_arrive(emoji_folder: Path, tmp_path: Path) -> None:
    (emoji_folder / "a" / "x" / "2.png").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    with pytest.raises(UserError, match=r"^1 of 9 images cannot be decoded"):
        open_dataset(emoji_folder)
    data = open_dataset(
        emoji_folder, skip_bad_images=True, cache=tmp_path / "other", progress=lambda *done: calls.append(done)
    )
    assert data.skipped == ("a/x/2.png: the file is empty",)
    assert calls[-1] == (9, 9)
    assert (tmp_path / "other" / "images").is_dir()


def test_an_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(open_dataset, "emojy") == (
        "there is no folder emojy; did you mean 'emoji', the dataset that comes with largedrop?"
    )
