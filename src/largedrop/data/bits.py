"""How many bits the pixel values in 16-bit files have: many cameras write 10, 12 or 14 of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .formats import formats
from .images import opened, pillow_settings
from .inside import Place

__all__ = ["Wide", "bits_notes", "bits_of", "may_be_wide", "wide"]

BITS = (8, 10, 12, 14, 16)
"""Numbers of bits that sensors have; values are scaled by a power of two to 16."""


class Wide(NamedTuple):
    """What the values of a 16-bit image are.

    Attributes:
        largest: the largest value.
        colour: whether it is in colour: of that Pillow reads the upper eight bits, and ``largest`` is an upper bound.
    """

    largest: int
    colour: bool


def may_be_wide(start: bytes) -> bool:
    """Whether a file that begins with these bytes, at least 25, may have values of 16 bits: TIFF, and such a PNG."""
    return start[:4] in (b"II*\0", b"MM\0*") or (start[:4] == b"\x89PNG" and start[24:25] == b"\x10")


def wide(path: Place) -> Wide | None:
    """What the values of an image are, where they have 16 bits; None for other images and what cannot be read."""
    try:
        with pillow_settings(), opened(path) as file, Image.open(file, formats=formats()) as image:
            grey = image.mode == "I" or image.mode.startswith("I;16")
            if not grey and not any(";16" in str(tile[3]) for tile in image.tile):
                return None
            values = np.asarray(image)
            low, high = int(values.min()), int(values.max())
    except Exception:  # noqa: BLE001  # what is wrong with an image is told when it is decoded
        return None
    if not grey:
        return Wide(high << 8 | 255, colour=True)
    return Wide(high, colour=False) if low >= 0 and high < 1 << 16 else None


def bits_of(found: Iterable[Wide], colour: bool = False) -> int:
    """The bits of the grey (or ``colour``) values of images, one of ``BITS``; 16 where there are none."""
    largest = max((each.largest for each in found if each.colour == colour), default=(1 << 16) - 1)
    return next(bits for bits in BITS if largest < 1 << bits)


def bits_notes(found: Mapping[int, Wide], domain_ids: Sequence[int], domains: Sequence[str]) -> Iterator[str]:
    """Lines for people about 16-bit images whose values have fewer bits.

    Args:
        found: what the values are, by index of the image.
        domain_ids: index into ``domains`` of each image, (n,).
    """
    bits = bits_of(found.values())
    grey = [each.largest for each in found.values() if not each.colour]
    if bits < 16:
        many = f"{len(grey)} 16-bit image{'s'[: len(grey) != 1]} (at most {max(grey)})"
        yield f"values of {bits} bits in {many}: scaled by {1 << (16 - bits)}"
    for number, domain in enumerate(domains):
        own = [each for index, each in found.items() if domain_ids[index] == number]
        if (least := bits_of(own)) < bits:
            yield f"the 16-bit images of '{domain}' have values of {least} bits, of others of {bits}: they are darker"
        if (least := bits_of(own, colour=True)) < 16:
            yield (
                f"16-bit colour images of '{domain}' have values of {least} bits, of which the upper {least - 8} are "
                "read: they are dark; make them 8-bit images"
            )
