"""What finished runs took, time and memory, as their results say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..files import parse_json, read_bytes

__all__ = ["ENOUGH", "Measured", "measured", "spread"]

ENOUGH = 50
"""Number of finished runs of a kind whose results are read."""

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Measured:
    """What a run took.

    Attributes:
        seconds: its time.
        host: the largest memory of its process without what it shares with others, in bytes; None where unknown.
        device: the largest memory that it reserved on its GPU, in bytes; None where unknown, or without a GPU.
    """

    seconds: float
    host: int | None
    device: int | None


def measured(folder: Path) -> Measured | None:
    """What the run in a folder took; None where it is not finished, or its result cannot be read."""
    with suppress(OSError, UserError, KeyError, TypeError, AttributeError, StopIteration):
        result = parse_json(read_bytes(folder / "result.json"), "result.json", without="log")
        seconds = next(iter(result["methods"].values()))["seconds"]
        memory = result.get("memory", {})
        if isinstance(seconds, (int, float)) and 0 <= seconds < math.inf:
            return Measured(float(seconds), _bytes(memory.get("host")), _bytes(memory.get("device")))
    return None


def _bytes(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def spread(entries: Sequence[Entry], most: int = ENOUGH) -> Sequence[Entry]:
    """At most ``most`` of the entries, evenly spaced.

    >>> spread(range(7), 3)
    range(0, 6, 2)
    """
    return entries[:: max(1, len(entries) // most)][:most]
