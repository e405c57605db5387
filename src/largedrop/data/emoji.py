"""The embedded dataset: 831 Unicode emoji, each drawn in five styles.

The file is made by tools/build_emoji.py: one line of JSON, then 260 WebP sheets of 16 drawings each. Sheets load faster
than 4155 separate WebP files, which spend more time on setting a decoder up than on pixels; tools/README.md has the
measurement.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from ..errors import UserError
from .dataset import Dataset, Images

__all__ = ["load_emoji"]

_FILE = Path(__file__).parent / "embedded" / "emoji.bin"

_SHA256 = "f18165a40e9743068bbde1c44b595fa425222c676308faae3007ef158a997509"

_UNSHRUNK = 1 << 16
"""Larger than any drawing, as none was shrunk: a network may take them enlarged to any size."""


class _Pictures:
    """``Images`` over one array (n, height, width, 3), which is made read-only."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        pixels.flags.writeable = False
        self.pixels = pixels
        self.bound = _UNSHRUNK

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        picture: npt.NDArray[np.uint8] = self.pixels[index]
        return picture

    def __reduce__(self) -> tuple[Any, ...]:
        # Decoding takes a worker process less time than receiving 204 MB.
        return _decoded_again, ()


def _decoded_again() -> Images:
    return load_emoji().images


def load_emoji() -> Dataset:
    """The embedded dataset: 831 emoji of 14 classes in 5 styles, 4155 images of 128 × 128 pixels, decoded (204 MB).

    The domains are the styles ``noto``, ``twemoji``, ``fluent-3d``, ``fluent-high-contrast`` and ``openmoji``. A group
    is one emoji in all styles, so the i.i.d. split goes by emoji and not by image: the same emoji occurs in every
    style, and a held-out image whose twin in another style was trained on would measure memory.

    What the two scores mean follows from that. An i.i.d. image shows an emoji that was never trained on, in a style
    that was. An o.o.d. image shows a style that was never trained on, but most of its emoji (those not held out) were
    trained on in the other styles: the shift is one of style, not of content. So i.i.d. and o.o.d. scores differ in
    both respects, and an o.o.d. score here says nothing about new content in a new style.

    Two of the styles are Microsoft's and share their outlines: with ``fluent-high-contrast`` as test domain, the same
    drawings in colour (``fluent-3d``) are trained on, and the other way round.

    Raises:
        UserError: the data file is missing or damaged, or this Pillow cannot read WebP.
    """
    content = _content()
    if not features.check("webp"):
        raise UserError("this Pillow was built without WebP, which the emoji need; install Pillow from its wheel")
    line, _, sheets = content.partition(b"\n")
    header: dict[str, Any] = json.loads(line)
    emoji: list[dict[str, str]] = header["emoji"]
    styles: list[str] = header["styles"]
    classes = sorted({entry["class"] for entry in emoji})
    labels = [classes.index(entry["class"]) for entry in emoji]
    return Dataset(
        name="emoji",
        classes=tuple(classes),
        domains=tuple(styles),
        labels=np.tile(np.array(labels, dtype=np.int64), len(styles)),
        domain_ids=np.repeat(np.arange(len(styles), dtype=np.int64), len(emoji)),
        groups=np.tile(np.arange(len(emoji), dtype=np.int64), len(styles)),
        keys=tuple(f"{style}/{entry['class']}/{entry['hexcode']}" for style in styles for entry in emoji),
        images=_Pictures(_decoded(header, sheets)),
        fingerprint=hashlib.sha256(content).hexdigest(),
    )


def _content() -> bytes:
    """The data file.

    Raises:
        UserError: it cannot be read, or is not the one that this version was released with.
    """
    try:
        content = _FILE.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the embedded emoji {_FILE}: {error.strerror}; install largedrop again") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise UserError(
            f"the embedded emoji {_FILE} are damaged (SHA-256 {digest[:12]}…, expected {_SHA256[:12]}…); "
            "install largedrop again"
        )
    return content


def _decoded(header: dict[str, Any], sheets: bytes) -> npt.NDArray[np.uint8]:
    """Cut the drawings out of their sheets: (styles × emoji, size, size, 3)."""
    size, cell, rows, columns = (int(header[key]) for key in ("size", "cell", "rows", "columns"))
    lengths: list[int] = header["sheets"]
    count = len(header["emoji"])
    margin = (cell - size) // 2
    per_style = len(lengths) // len(header["styles"])
    pixels = np.empty((len(header["styles"]) * count, size, size, 3), dtype=np.uint8)

    def decode(index: int, end: int) -> None:
        with Image.open(io.BytesIO(sheets[end - lengths[index] : end]), formats=["WEBP"]) as image:
            grid = np.asarray(image)
        style, sheet = divmod(index, per_style)
        first = sheet * rows * columns
        for number in range(first, min(first + rows * columns, count)):
            row, column = divmod(number - first, columns)
            top, left = row * cell + margin, column * cell + margin
            pixels[style * count + number] = grid[top : top + size, left : left + size]

    _keep_small_blocks()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(decode, range(len(lengths)), accumulate(lengths)))  # list: raises what a thread raised
    return pixels


def _keep_small_blocks() -> None:
    """Let the C library reuse the buffers of one sheet for the next; decoding takes 0.4 s with this, 1.2 s without.

    By default glibc gives every block above 128 KB back to the system, and the next one comes page by page again. It
    raises that limit to the size of the largest such block that was freed, up to 32 MiB, so one is freed here; it is
    never touched and thus costs nothing. Elsewhere this does nothing.
    """
    np.empty(31 << 20, dtype=np.uint8)
