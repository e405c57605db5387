"""What files say of themselves."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from largedrop.data import headers, images
from largedrop.data.headers import ODDITIES, oddities
from largedrop.data.inside import Inside


def make(folder: Path) -> dict[str, Path]:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = {name: folder / name for name in ("plain.jpg", "grey.png", "palette.gif", "cmyk.jpg", "deep.png")}
    noise.save(paths["plain.jpg"])
    noise.convert("L").save(paths["grey.png"])
    noise.convert("P").save(paths["palette.gif"])
    noise.convert("CMYK").save(paths["cmyk.jpg"])
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(paths["deep.png"])
    more = {
        name: folder / name for name in ("clear.png", "film.gif", "turned.jpg", "is_png.jpg", "broken.png", "gone.png")
    }
    noise.convert("RGBA").save(more["clear.png"])
    noise.save(more["film.gif"], save_all=True, append_images=[noise.rotate(90)])
    noise.save(more["turned.jpg"], exif=exif)
    noise.save(more["is_png.jpg"], format="PNG")
    more["broken.png"].write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    return paths | more


EXPECTED = {
    "plain.jpg": (),
    "grey.png": (),
    "palette.gif": (),
    "cmyk.jpg": ("cmyk",),
    "deep.png": ("deep",),
    "clear.png": ("transparent",),
    "film.gif": ("animated",),
    "turned.jpg": ("turned",),
    "is_png.jpg": ("misnamed",),
    "broken.png": (),
    "gone.png": (),
}


def test_each_oddity_is_seen_and_no_other(tmp_path: Path) -> None:
    paths = make(tmp_path)
    found = dict(zip(paths, oddities([*paths.values()]), strict=True))
    assert found == EXPECTED
    assert {name for names in EXPECTED.values() for name in names} == {*ODDITIES}


def test_large_files_are_loaded_one_at_a_time_and_what_decoding_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, alone, load = make(tmp_path), [], PngImageFile.load

    def watched(image: PngImageFile) -> object:
        alone.append(images._large_lock.locked())
        return load(image)

    monkeypatch.setattr(PngImageFile, "load", watched)
    assert list(oddities([paths["grey.png"]])) == [()]
    monkeypatch.setattr(images, "_LARGE", 399)
    assert list(oddities([paths["grey.png"]])) == [()]
    assert alone == [False, True]  # a PNG is loaded for its orientation
    monkeypatch.setattr(headers, "PIXEL_LIMIT", 399)
    assert list(oddities([paths["clear.png"], paths["turned.jpg"]])) == [(), ()]
    assert alone == [False, True]


@pytest.mark.parametrize("name", ["clear.png", "is_png.jpg"])
def test_inside_a_larger_file(tmp_path: Path, name: str) -> None:
    path = make(tmp_path)[name]
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(path, name)
    with tarfile.open(tmp_path / "all.tar") as archive:
        (member,) = archive.getmembers()
    inside = Inside(tmp_path / "all.tar", name, member.offset_data, member.size)
    assert [*oddities([inside])] == [EXPECTED[name]]
