"""What an image's file says of it before its pixels: what ``images.decode`` has to undo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import PurePath

from PIL import Image

from .ahead import in_order
from .formats import formats, suffixes
from .images import PIXEL_LIMIT, BadImage, one_at_a_time, opened, pillow_settings
from .inside import Inside, Place

__all__ = ["ODDITIES", "oddities"]

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
}
"""How the files of a format are named; formats of many names are left out."""

_ORIENTATION = 0x0112

_CHECKS: dict[str, Callable[[Image.Image, str], bool]] = {
    "cmyk": lambda image, _: image.mode in ("CMYK", "YCCK"),
    "deep": lambda image, _: image.mode in ("I", "F") or image.mode.startswith("I;16"),
    "transparent": lambda image, _: image.has_transparency_data,
    "animated": lambda image, _: image.format != "MPO" and bool(getattr(image, "is_animated", False)),
    "turned": lambda image, _: image.getexif().get(_ORIENTATION, 1) in range(2, 9),
    "misnamed": lambda image, suffix: (
        suffix in suffixes() and suffix not in _SUFFIXES.get(image.format or "", (suffix,))
    ),
}

ODDITIES = tuple(_CHECKS)
"""What can be odd of a file: colours for print, more than 8 bits, transparency, frames, orientation, its suffix."""


def oddities(places: Sequence[Place]) -> Iterator[tuple[str, ...]]:
    """Which of ``ODDITIES`` each image has, in order; none where its header cannot be read."""
    with pillow_settings(), closing(in_order(_oddities, places)) as found:
        yield from found


def _oddities(place: Place) -> tuple[str, ...]:
    suffix = PurePath(place.name if isinstance(place, Inside) else place).suffix.lower()
    try:
        with opened(place) as file, Image.open(file, formats=formats()) as image, one_at_a_time(image):
            if image.width * image.height > PIXEL_LIMIT:  # a PNG is loaded, as its orientation may follow the pixels
                return ()
            return tuple(name for name, check in _CHECKS.items() if check(image, suffix))
    except BadImage:
        return ()
    except Exception:  # noqa: BLE001  # Pillow raises anything at malformed headers; decoding says what is wrong
        return ()
