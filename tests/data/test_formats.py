"""Which formats are opened, and what is told of the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.helpers import refusal

from largedrop.data import formats
from largedrop.data.folder import images_below
from largedrop.data.images import decode
from largedrop.data.passed_over import PassedOver


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """What is installed is asked anew in each test, and after it."""
    opener = Image.OPEN.pop("HEIF", None)
    for function in (formats.suffixes, formats.formats):
        function.cache_clear()
    yield
    for function in (formats.suffixes, formats.formats):
        function.cache_clear()
    Image.OPEN.pop("HEIF", None)
    if opener is not None:
        Image.OPEN["HEIF"] = opener


def test_without_the_package_heic_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert ".heic" not in formats.suffixes()
    assert "HEIF" not in formats.formats()
    for suffix in (".heic", ".heif", ".hif"):
        assert formats.advice_for(suffix) == 'pip install "largedrop[heic]" opens .heic'
    assert formats.advice_for(".jxl") == ""
    assert formats.suffixes() >= {".jpg", ".png", ".tif", ".webp"}
    assert not formats.suffixes() & {".jxl", ".svg", ".eps", ".dng"}


def test_without_its_decoder_avif_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    assert ".avif" not in formats.suffixes()
    assert formats.advice_for(".avif") == "Pillow 11.3 or later opens .avif"


def test_with_the_package_heic_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin for four bytes and the pixels of a square stands for that of pillow-heif."""

    class Plugin(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (2, 2)
            self.tile = [("raw", (0, 0, 2, 2), 4, "RGB")]  # type: ignore[list-item, unused-ignore]

    def register(**options: bool) -> None:
        Image.register_open("HEIF", Plugin, lambda start: start[:4] == b"heic")

    package = ModuleType("pillow_heif")
    package.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(formats, "find_spec", lambda name: package)
    assert ".heic" in formats.suffixes()
    path = tmp_path / "a.HEIC"
    path.write_bytes(b"heic" + bytes([255, 0, 0] * 4))
    passed = PassedOver()
    assert images_below(tmp_path, passed) == [path]
    assert list(passed.notes()) == []
    assert decode(path)[0, 0].tolist() == [255, 0, 0]
    path.write_bytes(b"rubbish")
    assert refusal(decode, path) == f"{path}: not an image of a known format"


def test_heic_by_the_package_itself(tmp_path: Path) -> None:
    package = pytest.importorskip("pillow_heif")
    pixels = np.full((64, 48, 3), (200, 30, 90), np.uint8)
    path = tmp_path / "a.heic"
    package.from_pillow(Image.fromarray(pixels)).save(path, quality=90)
    assert ".heic" in formats.suffixes()
    found = decode(path)
    assert found.shape == (64, 48, 3)
    assert np.abs(found.astype(int) - pixels).max() < 8
    path.write_bytes(path.read_bytes()[:-300])
    assert refusal(decode, path).startswith(f"{path}: ")
