"""The masks of ``masks.kept`` as lists of what is kept, compiled by numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .kernels import compiled_once

__all__ = ["draw"]

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@compiled_once
def draw(
    keys: npt.NDArray[np.uint64],
    dropped: int,
    rows: int,
    units: int,
    row_starts: Longs,
    row_places: Ints,
    unit_starts: Longs,
    unit_places: Ints,
) -> None:
    """Which units are kept in some steps, row by row and unit by unit; the units that ``masks.kept`` keeps.

    Args:
        keys: of the masks of each step, (steps,).
        dropped: 65536 times the dropout rate.
        rows: of a batch.
        units: of a representation.
        row_starts: written, as for ``train``, (steps, rows + 1).
        row_places: written, room for steps × rows × units.
        unit_starts: written, (steps, units + 1).
        unit_places: written, room as for ``row_places``.
    """
    words = (units + 3) // 4
    drawn = np.empty(words, np.uint64)
    sixteenths = drawn.view(np.uint16)
    ends = np.empty(units, np.int64)
    count = 0
    for step in range(len(keys)):
        start = count
        ends[:] = 0
        for row in range(rows):
            row_starts[step, row] = count
            for word in range(words):
                mixed = keys[step] + np.uint64(row * words + word + 1) * _STEP
                mixed = (mixed ^ (mixed >> _S30)) * _FIRST
                mixed = (mixed ^ (mixed >> _S27)) * _SECOND
                drawn[word] = mixed ^ (mixed >> _S31)
            for unit in range(units):
                row_places[count] = unit
                count += sixteenths[unit] >= dropped
        row_starts[step, rows] = count
        for place in range(start, count):
            ends[row_places[place]] += 1
        total = start
        for unit in range(units):
            unit_starts[step, unit] = total
            total += ends[unit]
            ends[unit] = unit_starts[step, unit]
        unit_starts[step, units] = total
        for row in range(rows):
            for place in range(row_starts[step, row], row_starts[step, row + 1]):
                unit = row_places[place]
                unit_places[ends[unit]] = row
                ends[unit] += 1
