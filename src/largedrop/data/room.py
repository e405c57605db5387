"""How many of a dataset's decoded images the cache has room for, estimated before any is decoded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .images import BadImage, decode
from .inside import Place

__all__ = ["LIMIT", "Room", "room_for"]

LIMIT = "LARGEDROP_CACHE_GB"
"""Environment variable: the most that decoded images may take in the cache, of all datasets together, in gigabytes."""

RESERVE = 1 << 30
"""Bytes that are left free on the cache's disk."""

SAMPLE = 64
"""Number of images that are decoded to estimate the size of all."""

SURE = 0.9
"""Share of the room that an estimate may fill."""

_LONG = 4
"""An image with sides of 1 to this or less is no surprise: where even such images fit, nothing is estimated."""


class Room(NamedTuple):
    """Room for decoded images.

    Attributes:
        share: share of the images for which there is room, at most 1.
        text: a line that says so, where it is less than 1.
    """

    share: float
    text: str = ""


def room_for(paths: Sequence[Place], bound: int, folder: Path, own: str = "") -> Room:
    """What share of images has room in the cache.

    Args:
        paths: where the images are.
        bound: largest length of an image's shorter side, in pixels.
        folder: folder of the cache's entries.
        own: name of an entry in it that does not count.

    Raises:
        UserError: ``LIMIT`` is no number.
    """
    room, why = _room(folder, own)
    if len(paths) * 3 * bound * bound * _LONG < SURE * room:
        return Room(1.0)
    step = max(1, len(paths) // SAMPLE)
    sizes = [size for path in paths[::step][:SAMPLE] if (size := _size(path, bound))]
    needed = len(paths) * sum(sizes) / max(1, len(sizes))
    if needed <= SURE * room:
        return Room(1.0)
    share = SURE * max(0, room) / needed
    told = f"the decoded images need about {needed / 1e9:.3g} GB, and {why}"
    return Room(share, f"{told}: {share:.0%} of them are kept, the others are decoded whenever they are used, slower")


def _room(folder: Path, own: str) -> tuple[float, str]:
    """Bytes for further entries, and what bounds them."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free - RESERVE
    room, why = float(max(0, free)), f"{max(0, free) / 1e9:.3g} GB are free for them in {folder}"
    chosen = os.environ.get(LIMIT)
    if not chosen:
        return room, why
    try:
        limit = float(chosen) * 1e9
    except ValueError as error:
        raise UserError(f"{LIMIT} is '{chosen}', which is no number of gigabytes") from error
    entries = folder.glob("*/pixels.bin")
    left = max(0.0, limit - sum(path.stat().st_size for path in entries if path.parent.name != own))
    return min((room, why), (left, f"{LIMIT}={chosen} leaves {left / 1e9:.3g} GB"))


def _size(path: Place, bound: int) -> int:
    """Bytes of a decoded image; 0 where it cannot be decoded."""
    try:
        return decode(path, bound).nbytes
    except BadImage:
        return 0
