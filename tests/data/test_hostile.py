"""A corpus of hostile files: each is opened right or named with its reason, and none hangs or fills the memory."""

from __future__ import annotations

import functools
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, features

from largedrop.data import images, open_dataset
from largedrop.data.images import BadImage, decode

Pixels = npt.NDArray[np.uint8]

SIDE = 48

RAMP: Pixels = np.stack(np.broadcast_arrays(*np.ogrid[0:240:5, 0:240:5], np.int64(90)), axis=2).astype(np.uint8)
"""(48, 48, 3): red falls with the rows, green with the columns."""


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(RAMP)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WHOLE: dict[str, bytes] = {
    "jpg": encoded("JPEG", quality=95),
    "progressive.jpg": encoded("JPEG", quality=95, progressive=True),
    "png": encoded("PNG"),
    "gif": encoded("GIF"),
    "webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", lossless=True),
    "tiff": encoded("TIFF"),
    "lzw.tiff": encoded("TIFF", compression="tiff_lzw"),
    "bmp": encoded("BMP"),
}


def cuts(kind: str, content: bytes) -> Iterator[int]:
    """Where a file is cut: in and after its signature, at every tenth, and at its last bytes."""
    yield from {1, 3, 8, 12, 20, *(len(content) * tenth // 10 for tenth in range(1, 10)), len(content) - 20}
    yield from (len(content) - 8, len(content) - 2, len(content) - 1)
    if kind == "png":
        at = 8
        while at < len(content):
            (length,) = struct.unpack(">I", content[at : at + 4])
            yield from (at + 4, at + 8, at + 8 + length, at + 12 + length)
            at += 12 + length
    if kind == "jpg":
        at = 2
        while content[at + 1] != 0xDA:
            yield from (at, at + 3)
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield from (at, at + 2, at + 12, at + 14)


TRUNCATED = {
    f"{at}-of-{name}": (name, content[:at])
    for name, content in WHOLE.items()
    for at in sorted(set(cuts(name, content)))
    if at < len(content)
}

GREY16 = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) * 28).astype(np.uint16)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", quality=95, exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    return encoded(
        kind, frames[0], save_all=True, append_images=frames[1:], **{"WEBP": {"lossless": True}}.get(kind, {})
    )


def one_pixel(mode: str, colour: Any, kind: str = "PNG") -> bytes:
    return encoded(kind, Image.new(mode, (1, 1), colour))


RIGHT: dict[str, tuple[bytes, Callable[[Pixels], bool]]] = {
    **{
        name: (content, functools.partial(lambda most, found: near(found, RAMP, most), 60 if name == "gif" else 12))
        for name, content in WHOLE.items()
    },
    "png.jpg": (WHOLE["png"], lambda found: near(found, RAMP)),
    "jpg.png": (WHOLE["jpg"], lambda found: near(found, RAMP, 12)),
    "webp.gif": (WHOLE["lossless.webp"], lambda found: near(found, RAMP)),
    "cmyk.jpg": (
        encoded("JPEG", Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), quality=95),
        lambda found: near(found, (254, 0, 0), 6),
    ),
    "ycbcr.tiff": (encoded("TIFF", Image.fromarray(RAMP).convert("YCbCr")), lambda found: near(found, RAMP, 8)),
    "lab.tiff": (encoded("TIFF", Image.new("LAB", (9, 9), (255, 128, 128))), lambda found: near(found, 255, 3)),
    "16-bit.png": (encoded("PNG", Image.fromarray(GREY16)), lambda found: near(found[..., 0], (GREY16 + 128.0) // 257)),
    "16-bit.tiff": (
        encoded("TIFF", Image.fromarray(GREY16)),
        lambda found: near(found[..., 0], (GREY16 + 128.0) // 257),
    ),
    "1-bit.png": (encoded("PNG", Image.new("1", (SIDE, SIDE), 1)), lambda found: near(found, 255)),
    "palette.png": (encoded("PNG", Image.fromarray(RAMP).quantize(16)), lambda found: near(found, RAMP, 60)),
    "grey-and-alpha.png": (encoded("PNG", Image.new("LA", (9, 9), (0, 0))), lambda found: near(found, 255)),
    "rgba.png": (encoded("PNG", Image.new("RGBA", (9, 9), (0, 0, 0, 0))), lambda found: near(found, 255)),
    "float.tiff": (encoded("TIFF", Image.new("F", (9, 9), 0.5)), lambda found: near(found, 128, 1)),
    **{
        f"animated.{kind.lower()}": (animated(kind), lambda found: near(found, (255, 0, 0), 2))
        for kind in ("GIF", "PNG", "WEBP", "TIFF")
    },
    **{
        f"turned-{orientation}.jpg": (
            turned(orientation),
            functools.partial(lambda way, found: near(found, UPRIGHT[way](RAMP), 12), orientation),
        )
        for orientation in range(1, 9)
    },
    "turned-0.jpg": (turned(0), lambda found: near(found, RAMP, 12)),
    "turned-99.jpg": (turned(99), lambda found: near(found, RAMP, 12)),
    "1x1.png": (one_pixel("RGB", (1, 2, 3)), lambda found: found.tolist() == [[[1, 2, 3]]]),
    "1x1.jpg": (one_pixel("L", 77, "JPEG"), lambda found: near(found, 77, 2)),
    "1x1.webp": (one_pixel("RGB", (255, 255, 255), "WEBP"), lambda found: near(found, 255, 2)),
    "5000x1.png": (encoded("PNG", Image.new("RGB", (5000, 1), "red")), lambda found: found.shape == (1, 5000, 3)),
    "1x5000.jpg": (encoded("JPEG", Image.new("RGB", (1, 5000), "red")), lambda found: found.shape == (5000, 1, 3)),
    "after-the-end.jpg": (WHOLE["jpg"] + b"rubbish" * 99, lambda found: near(found, RAMP, 12)),
    "after-the-end.png": (WHOLE["png"] + b"rubbish" * 99, lambda found: near(found, RAMP)),
    "no-profile.png": (encoded("PNG", icc_profile=b"no profile"), lambda found: near(found, RAMP)),
    "broken-exif.jpg": (encoded("JPEG", quality=95, exif=b"Exif\0\0rubbish"), lambda found: near(found, RAMP, 12)),
    "comment.jpg": (encoded("JPEG", quality=95, comment=b"\x1b[31m\0" * 50), lambda found: near(found, RAMP, 12)),
}

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}

BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"not an image\n" * 99, "not an image of a known format"),
    "page.png": (b"<!DOCTYPE html><title>404 Not Found</title>", "not an image of a known format"),
    "archive.png": (b"PK\x03\x04" + bytes(99), "not an image of a known format"),
    "postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image of a known format"),
    "zeros.png": (bytes(9999), "not an image of a known format"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not an image of a known format"),
    "large.png": (png(100_000, 100_000, 8, 2, b""), "larger than 500 megapixels"),
    "wide.png": (png(2**31 - 1, 1, 1, 0, b""), "larger than 500 megapixels"),
    "no-rows.png": (png(9, 9, 8, 2, b""), ""),
    "no-size.png": (png(0, 0, 8, 2, b""), ""),
    "no-colour.png": (png(9, 9, 8, 7, b""), ""),
    "no-palette.png": (png(9, 9, 8, 3, b"rubbish"), ""),
    "rubbish.png": (png(9, 9, 8, 2, b"rubbish"), ""),
    "text-bomb.png": (
        png(9, 9, 8, 2, b"", chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
        "",
    ),
    "signature.gif": (b"GIF89a", ""),
    "no-frame.gif": (WHOLE["gif"][:13] + b";", ""),
    "signature.tiff": (b"II*\0\x08\0\0\0\0\0", ""),
    "circle.tiff": (b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8), ""),
    "signature.bmp": (b"BM" + bytes(60), ""),
    "grey.pgm": (b"P5 9 9 255\n123", ""),
    "plain.ppm": (b"P3 9 9 255\n" + b"9 " * 9, ""),
}


def near(found: Pixels, expected: Any, most: float = 0) -> bool:
    return bool(np.abs(found.astype(np.float64) - expected).max() <= most)


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """No file may take long: a hang ends in an error."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def verdict(path: Path, bound: int | None = None) -> Pixels | str:
    """The pixels, or the reason in one line."""
    try:
        return decode(path, bound)
    except BadImage as error:
        reason = error.reason
    assert reason
    assert "\n" not in reason
    return reason


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_the_corpus_is_large() -> None:
    assert len(TRUNCATED) + len(RIGHT) + len(BAD) >= 120 + len(WHOLE)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_file_gives_all_its_pixels_or_a_reason(tmp_path: Path, kind: str) -> None:
    whole = verdict(written(tmp_path, kind, WHOLE[kind]))
    assert isinstance(whole, np.ndarray)
    outcomes = []
    for name, (original, content) in TRUNCATED.items():
        if original == kind:
            found = verdict(written(tmp_path, f"{name}.jpg", content))
            outcomes.append(isinstance(found, str))
            assert isinstance(found, str) or np.array_equal(found, whole), name
    assert sum(outcomes) > 10


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_odd_and_right_is_opened(tmp_path: Path, name: str) -> None:
    if name == "ycbcr.tiff" and "avif" not in features.modules:
        pytest.skip("Pillow before 11.3 calls it truncated")
    content, check = RIGHT[name]
    path = written(tmp_path, name, content)
    found = verdict(path)
    assert not isinstance(found, str), found
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert check(found)
    small = verdict(path, 8)
    assert isinstance(small, np.ndarray)
    assert min(small.shape[:2]) == min(8, *found.shape[:2])


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_named(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    found = verdict(written(tmp_path, name, content))
    assert isinstance(found, str)
    assert found.startswith(reason)


def test_a_22000_pixel_square_of_one_bit_takes_no_gigabytes(tmp_path: Path) -> None:
    """Half a gigabyte as Pillow holds it, where RGB would be two."""
    side = 22_000
    press = zlib.compressobj(1)
    rows = [b"\0" + (b"\xff" if row < side // 2 else b"\0") * (side // 8) for row in (0, side - 1)]
    packed = b"".join([*(press.compress(rows[row >= side // 2]) for row in range(side)), press.flush()])
    path = written(tmp_path, "square.png", png(side, side, 1, 0, packed))
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom largedrop.data.images import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pixels = decode(Path(sys.argv[1]), 320)\n"
        "print(*pixels.shape, pixels[150].min(), pixels[170].max(),\n"
        "      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(images.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, env=environment, check=True
    )
    *found, kilobytes = map(int, done.stdout.split())
    assert found == [320, 320, 3, 255, 0]
    assert kilobytes < 700_000


def test_a_tiff_that_has_not_all_of_its_rows(tmp_path: Path) -> None:
    """Pillow would give 0 for those that are not there, and 128 million of them take gigabytes."""
    content = bytearray(encoded("TIFF", Image.new("F", (8, 8), 2.5)))
    rows = content.index(struct.pack("<HHII", 257, 4, 1, 8)) + 8  # ImageLength
    content[rows : rows + 4] = struct.pack("<I", 16_000_000)
    with pytest.raises(BadImage, match="not all of the 8 × 16000000 pixels that it says it has"):
        decode(written(tmp_path, "a.tif", bytes(content)))


NAMES = [
    "new\nline.png",
    "-rf.png",
    " space .png",
    "tab\t.png",
    "'quote\".png",
    "$HOME `id` %s {0} \\.png",
    "[bold]a[red].png",
    "#1, 50 %; & <b>.png",
    "北京.png",
    "e\u0301\u202e.png",
    "👨‍👩‍👧.PNG",
    "con.png.png",
    "a..png",
    "n" * 251 + ".png",
]


@pytest.mark.skipif(os.name != "posix", reason="needs links, pipes and any names")
def test_a_dataset_with_links_pipes_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    for domain in ("a", "b"):
        for label in ("x", "y"):
            (root / domain / label).mkdir(parents=True)
            written(root / domain / label, "plain.png", WHOLE["png"])
    odd = root / "a" / "x"
    for name in NAMES:
        written(odd, name, WHOLE["png"])
    with open(os.fsencode(odd) + b"/\xff\xfe.png", "wb") as file:
        file.write(WHOLE["png"])
    bad = {
        "fifo.png": lambda path: os.mkfifo(path),
        "zero.png": lambda path: path.symlink_to("/dev/zero"),
        "nowhere.png": lambda path: path.symlink_to("nowhere"),
        "itself.png": lambda path: path.symlink_to("itself.png"),
        "empty.png": lambda path: path.touch(),
        "half.png": lambda path: path.write_bytes(WHOLE["png"][:100]),
        "text.png": lambda path: path.write_bytes(BAD["text.jpg"][0]),
    }
    for name, make in bad.items():
        make(root / "b" / "y" / name)
    (odd / "linked.png").symlink_to(odd / "plain.png")
    (odd / "folder.png").mkdir()
    written(odd / "folder.png", "inside.png", WHOLE["png"])
    (odd / "up").symlink_to(root)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(root / "b" / "y")  # a socket's path may have some 100 bytes
        listening.bind("socket.png")
        data = open_dataset(root, skip_bad_images=True, cache=tmp_path / "cache")
    assert len(data) == 4 + len(NAMES) + 1 + 2
    assert sorted(line.split(":")[0] for line in data.skipped) == sorted(f"b/y/{name}" for name in (*bad, "socket.png"))
    reasons = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in data.skipped}
    assert reasons["b/y/fifo.png"] == reasons["b/y/zero.png"] == reasons["b/y/socket.png"] == "not a regular file"
    assert reasons["b/y/empty.png"] == "the file is empty"
    assert all(np.array_equal(data.images[index], RAMP) for index in range(len(data)))
