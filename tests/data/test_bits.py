"""Pixel values of 10 or 12 bits in 16-bit files, which would be nearly black."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tests.helpers import TINY

import largedrop as ld
from largedrop.data.bits import Wide, bits_notes, bits_of, may_be_wide, wide
from largedrop.data.images import decode

SIDE = 32

Grey = npt.NDArray[np.uint16]


def values(top: int, seed: int = 0) -> Grey:
    """Noise that reaches ``top``."""
    found = np.random.default_rng(seed).integers(0, top + 1, (SIDE, SIDE)).astype(np.uint16)
    found[0, 0] = top
    return found


def colour_png(path: Path, top: int) -> None:
    """A PNG of 16 bits in each of three channels, which Pillow does not write."""
    pixels = np.stack([values(top, channel) for channel in range(3)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def make(root: Path, top: Callable[[str], int], suffix: str = "png") -> Path:
    for seed, (domain, name) in enumerate((domain, name) for domain in "abc" for name in ("cat", "dog")):
        folder = root / domain / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(values(top(domain), 10 * seed + number)).save(folder / f"{number}.{suffix}")
    return root


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1023, 10), (4000, 12), (16383, 14), (16384, 16), (65535, 16)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_values_are_scaled_by_what_the_largest_of_all_images_needs(
    tmp_path: Path, top: int, bits: int, suffix: str
) -> None:
    root = make(tmp_path / "data", lambda domain: top, suffix)
    Image.fromarray(values(top // 3)).save(root / "a" / "cat" / f"dark.{suffix}")
    data = ld.open_dataset(root, cache=tmp_path / "cache")
    assert data.bits == bits
    scale = 1 << (16 - bits)
    said = f"values of {bits} bits in 19 16-bit images (at most {top}): scaled by {scale}"
    assert data.notes == ((said,) if bits < 16 else ())
    for index, key in enumerate(data.keys):
        raw = np.asarray(Image.open(root / key)).astype(np.int64)
        np.testing.assert_array_equal(data.images[index][..., 1], (raw * scale + 128) // 257)
    if bits < 16:
        assert max(data.images[index].max() for index in range(len(data))) >= 15 * 16
    again = ld.open_dataset(root, cache=tmp_path / "cache")
    assert (again.bits, again.notes, again.fingerprint) == (data.bits, data.notes, data.fingerprint)


def test_another_dataset_where_the_values_have_other_bits(tmp_path: Path) -> None:
    root = make(tmp_path / "data", lambda domain: 1023)
    ten = ld.open_dataset(root, cache=tmp_path / "cache")
    Image.fromarray(values(4095)).save(root / "a" / "cat" / "0.png")
    twelve = ld.open_dataset(root, cache=tmp_path / "cache")
    assert (ten.bits, twelve.bits) == (10, 12)
    assert ten.images[1].max() == 255
    assert twelve.images[1].max() == 64


def test_domains_of_different_sensors_and_colour_are_said(tmp_path: Path) -> None:
    root = make(tmp_path / "data", lambda domain: 4095 if domain == "b" else 65535)
    colour_png(root / "c" / "cat" / "colour.png", 4095)
    colour_png(root / "a" / "cat" / "colour.png", 65535)
    assert ld.open_dataset(root, cache=tmp_path / "cache").notes == (
        "the 16-bit images of 'b' have values of 12 bits, of others of 16: they are darker",
        "16-bit colour images of 'c' have values of 12 bits, of which the upper 4 are read: they are dark; make them "
        "8-bit images",
    )


@pytest.mark.usefixtures("quick_heads")
def test_a_trained_model_takes_images_as_it_was_trained(tmp_path: Path) -> None:
    root = make(tmp_path / "data", lambda domain: 4095)
    data = ld.open_dataset(root, cache=tmp_path / "cache")
    run = ld.finetune(data, "c", output=tmp_path / "run", **{**TINY, "steps": 2})
    model = ld.load_model(run.model)
    path = root / "c" / "cat" / "0.png"
    assert model.spec.bits == model.transform.bits == 12
    inside = decode(path, bits=12)
    expected = model.transform(inside)
    np.testing.assert_array_equal(model.transform(path), expected)
    with Image.open(path) as image:
        np.testing.assert_array_equal(model.transform(image), expected)
    probabilities = model(expected[None]).detach().softmax(1)[0]
    (found,) = ld.predict(run.model, [str(path)], calibrated=False)
    assert found.top[0][1] == pytest.approx(float(probabilities.max()), abs=1e-5)
    other = ld.open_dataset(make(tmp_path / "other", lambda domain: 1023), cache=tmp_path / "cache")
    note = (
        "16-bit images: values of 10 bits here, by which they are read, and of 12 where a model was trained, by which "
        "`largedrop predict` reads them"
    )
    assert [note in ld.evaluate(run.model, each).notes for each in (other, data)] == [True, False]
    wide = make(tmp_path / "wide", lambda domain: 65535) / "c" / "cat" / "0.png"
    said = r"^its values reach \d+, those of the images before 4095 \(12 bits\)$"
    (refused,) = ld.predict(run.model, [str(wide)])
    assert refused.label is None
    assert re.match(said, refused.error or "")
    with Image.open(wide) as image, pytest.raises(ld.UserError, match=said):
        model.transform(image)
    dark = replace(model.spec, bits=16)
    assert "bits" not in dark.to_json()
    assert type(dark).from_json(model.spec.to_json()) == model.spec


def test_only_what_may_have_16_bits_is_read_for_it(tmp_path: Path) -> None:
    def start(kind: str, picture: Image.Image) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        return buffer.getvalue()[:32]

    grey, wide_grey = Image.new("L", (9, 9)), Image.fromarray(values(9))
    assert [may_be_wide(start("PNG", each)) for each in (grey, wide_grey)] == [False, True]
    assert not may_be_wide(start("JPEG", grey))
    assert may_be_wide(start("TIFF", grey))
    path = tmp_path / "image.tiff"
    grey.save(path)
    assert wide(path) is None
    path.write_bytes(path.read_bytes()[:20])
    assert wide(path) is None
    assert bits_of([]) == 16
    assert list(bits_notes({0: Wide(9, False)}, [0], ["a"])) == [
        "values of 8 bits in 1 16-bit image (at most 9): scaled by 256"
    ]
