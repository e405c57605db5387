"""The masks of ``masks.kept``, and lists of what they keep, compiled by numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .vectors import Floats, Ints, Longs, Places, compiled_once

__all__ = ["draw", "gather", "mask", "pack", "thin", "turn"]


_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

_S30, _S27, _S31, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(1)


@compiled_once
def draw(key: np.uint64, drawn: npt.NDArray[np.uint64]) -> None:
    """The random numbers of a step's mask, as ``masks.kept`` draws them; written to ``drawn``, (rows × words,)."""
    for word in range(len(drawn)):
        mixed = key + np.uint64(word + 1) * _STEP
        mixed = (mixed ^ (mixed >> _S30)) * _FIRST
        mixed = (mixed ^ (mixed >> _S27)) * _SECOND
        drawn[word] = mixed ^ (mixed >> _S31)


@compiled_once
def mask(x: Floats, units: int, drawn: Places, dropped: int, masked: Floats) -> None:
    """The features of a step with zeros for what a rate drops.

    Args:
        x: of the batch, (rows, at least taps × units).
        units: of a representation.
        drawn: the random numbers, four to a word, (rows, at least units).
        dropped: 65536 times the dropout rate.
        masked: written, of the shape of ``x``.
    """
    least, nothing = np.uint16(dropped), x.dtype.type(0)
    for row in range(len(x)):
        for start in range(0, x.shape[1] // units * units, units):
            source, target, values = x[row, start : start + units], masked[row, start : start + units], drawn[row]
            for unit in range(units):
                entry = source[unit]  # read in any case: without a branch this is done for many units at once
                target[unit] = entry if values[unit] >= least else nothing


@compiled_once
def gather(drawn: Places, dropped: int, units: int, row_starts: Longs, row_places: Places, values: Places) -> None:
    """Which units are kept in a step, row by row; the units that ``masks.kept`` keeps.

    Args:
        drawn: the random numbers, as for ``mask``.
        dropped: 65536 times the dropout rate.
        units: of a representation.
        row_starts: written, where each row's kept units begin, (rows + 1,).
        row_places: written, the kept units of each row, ascending, room for rows × units + 1.
        values: written, the random numbers of these, room as for ``row_places``.
    """
    rows = len(drawn)
    least, count = np.uint16(dropped), np.uint64(0)  # without a sign no index is looked at twice
    for row in range(rows):
        row_starts[row] = count
        for unit in range(units):
            value = drawn[row, unit]
            row_places[count] = unit
            values[count] = value
            count += np.uint64(value >= least)
    row_starts[rows] = count


@compiled_once
def thin(
    dropped: int,
    row_starts: Longs,
    row_places: Places,
    values: Places,
    thinned_starts: Longs,
    thinned_places: Places,
    thinned_values: Places,
) -> None:
    """What a higher rate keeps of what a lower one keeps.

    Args:
        dropped: 65536 times the higher rate.
        row_starts: of the lower rate, as ``gather`` writes them.
        row_places: likewise.
        values: likewise.
        thinned_starts: written, of the higher rate.
        thinned_places: likewise.
        thinned_values: likewise.
    """
    least, count = np.uint16(dropped), np.uint64(0)
    for row in range(len(row_starts) - 1):
        thinned_starts[row] = count
        for place in range(np.uint64(row_starts[row]), np.uint64(row_starts[row + 1])):
            thinned_places[count] = row_places[place]
            thinned_values[count] = values[place]
            count += np.uint64(values[place] >= least)
    thinned_starts[len(row_starts) - 1] = count


@compiled_once
def turn(row_starts: Longs, row_places: Places, unit_starts: Longs, unit_places: Places, order: Ints) -> None:
    """From the kept units of each row to the rows in which each unit is kept.

    Args:
        row_starts: as ``gather`` writes them.
        row_places: likewise.
        unit_starts: written, where each unit's rows begin, (units + 1,).
        unit_places: written, the rows in which each unit is kept, ascending, room as for ``row_places``.
        order: written, where each of these is in ``row_places``, room as for ``row_places``.
    """
    rows, units = len(row_starts) - 1, len(unit_starts) - 1
    ends = np.zeros(units, np.uint64)
    for place in range(np.uint64(row_starts[rows])):
        ends[row_places[place]] += _ONE
    total = np.uint64(0)
    for unit in range(units):
        unit_starts[unit] = total
        total += ends[unit]
        ends[unit] = np.uint64(unit_starts[unit])
    unit_starts[units] = total
    for row in range(rows):
        for place in range(np.uint64(row_starts[row]), np.uint64(row_starts[row + 1])):
            end = ends[row_places[place]]
            unit_places[end] = row
            order[end] = place
            ends[row_places[place]] = end + _ONE


@compiled_once
def pack(x: Floats, units: int, row_starts: Longs, row_places: Places, packed: Floats) -> None:
    """The features that are kept in a step.

    Args:
        x: of the batch, (rows, at least taps × units).
        units: of a representation.
        row_starts: as ``gather`` writes them.
        row_places: likewise.
        packed: written, each tap's in the order of ``row_places``, (taps, as much room).
    """
    for row in range(len(x)):
        for tap in range(len(packed)):
            for place in range(np.uint64(row_starts[row]), np.uint64(row_starts[row + 1])):
                packed[tap, place] = x[row, np.uint64(tap * units) + row_places[place]]
