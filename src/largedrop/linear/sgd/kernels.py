"""Steps of SGD on a group of linear models that read the same batches under the same masks, compiled by numba.

Two passes do nearly all the work: x̃ W for the logits and x̃ᵀ E for the gradients. Both add up rows of a table, each
times a number, and keep the sums in registers (``vectors.over_columns``). At high rates they go over lists of what is
kept, so that what dropout removes costs nothing; at low rates over everything, for several rows at once. Every column,
that is one class of one setting, is summed by itself in a fixed order, so its bits do not depend on what is trained
beside it.

Importing this module imports numba. What it compiles when first called is kept next to this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .vectors import LANES, Floats, Ints, Longs, Places, compiled_once, descend, exponential, over_columns, part_of

__all__ = ["train"]


_TILE = 128
"""Units whose rows of a table, up to 64 columns wide, stay in a core's first cache while all of a batch reads them."""

_CHUNK = 12
"""Units whose gradients are made together."""

_add_packed, _add_turned, _add_dense = (over_columns(*form) for form in (("packed", 1), ("turned", 1), ("dense", 12)))


@part_of
def _errors(
    logits: Floats, at: int, bias: Floats, scale: Any, label: int, settings: int, classes: int, one: Any
) -> None:
    """From x̃ W of an image without its factor to softmax − onehot, in place."""
    for setting in range(settings):
        start = setting * classes
        most = scale * logits[at + start] + bias[start]
        for place in range(start, start + classes):
            value = scale * logits[at + place] + bias[place]
            logits[at + place] = value
            most = max(most, value)
        for place in range(start, start + classes):
            logits[at + place] -= most
    for start in range(0, len(bias), LANES):
        exponential(logits, at + start)
    for setting in range(settings):
        start = at + setting * classes
        total = logits[start]
        for place in range(start + 1, start + classes):
            total += logits[place]
        share = one / total
        for place in range(start, start + classes):
            logits[place] *= share
        logits[start + label] -= one
    for place in range(at + settings * classes, at + len(bias)):
        logits[place] = one - one


@part_of
def _aligned(count: int, like: Floats) -> Floats:
    """An array that begins with a line of the cache, as blocks that cross lines take twice as long to load."""
    whole = np.empty(count + LANES, like.dtype)
    away = -whole.ctypes.data % (LANES * whole.itemsize) // whole.itemsize
    return whole[away : away + count]


@compiled_once
def train(
    x: Floats,
    width: int,
    labels: Longs,
    row_starts: Longs,
    row_places: Places,
    unit_starts: Longs,
    unit_places: Places,
    order: Ints,
    dense: bool,
    scale: Floats,
    taps: int,
    settings: int,
    classes: int,
    factors: Floats,
    rate: Floats,
    decay: Floats,
    momentum: Any,
    adapt: bool,
    head: tuple[Floats, Floats, Floats, Floats],
    adapted: tuple[Floats, Floats, Floats],
) -> None:
    """Some steps of SGD on all settings of a group. Nothing is checked, and the GIL is not held.

    Columns are classes within settings, (settings × classes,) and padding up to ``columns``. Kept units are listed
    as by ``drawing``, for each step apart.

    Args:
        x: the batches' features without their factor. If ``dense`` (steps × rows × width,), a row's taps side by side
            and then padding; else what is kept, in the order of ``row_places``, (steps × taps × room,).
        width: of a row of ``x``, or the room for a tap of a step.
        labels: (steps, rows).
        row_starts: where each row's kept units begin, (steps, rows + 1).
        row_places: the kept units of each row, ascending, (steps × room,).
        unit_starts: where each unit's kept rows begin, (steps, units + 1).
        unit_places: the rows in which each unit is kept, ascending, (steps × room,).
        order: where each of these is in ``row_places``, (steps × room,).
        dense: whether what is dropped is multiplied as zeros; then there are no lists.
        scale: 1/(1 − λ), (1,).
        taps: of the network, each (units,) wide.
        settings: in the group.
        classes: of the problem.
        factors: of the learning rate in each step, (steps,).
        rate: learning rate of each column, (columns,).
        decay: L2 coefficient of each column, (columns,).
        momentum: of SGD, as the type of ``x``.
        adapt: whether v is trained.
        head: V (units × columns,), its momentum, b (columns,), its momentum; changed.
        adapted: v (taps × units × settings,), its momentum, and V ⊙ v (taps × units × columns,); changed.
            Without ``adapt`` the last is V itself and the others are empty.
    """
    weight, weight_velocity, bias, bias_velocity = head
    v, v_velocity, table = adapted
    steps, rows = labels.shape
    columns, units = len(bias), unit_starts.shape[1] - 1
    one = scale.dtype.type(1)
    factor = scale[0]
    errors, gradient = _aligned(rows * columns, scale), _aligned(columns, scale)
    chunk = _aligned(_CHUNK * taps * columns, scale)
    for step in range(steps):
        here = 0 if dense else step * width
        kept, turned, places = row_places[here:], order[here:], unit_places[here:]
        errors[:] = 0
        for tap in range(taps):
            origin = tap * units * columns
            if dense:
                at = step * rows * width + tap * units
                for first in range(0, units, _TILE):
                    last = min(first + _TILE, units)
                    _add_dense(x, at, width, 1, order, row_places, first, last, table, origin, columns, errors, 0,
                               columns, rows)  # fmt: skip
                continue
            at = (step * taps + tap) * width
            for row in range(rows):
                _add_packed(x, at, 0, 0, turned, kept, row_starts[step, row], row_starts[step, row + 1], table, origin,
                            columns, errors, row * columns, 0, 1)  # fmt: skip
        for row in range(rows):
            _errors(errors, row * columns, bias, factor, labels[step, row], settings, classes, one)
        gradient[:] = 0
        for row in range(rows):
            for column in range(columns):
                gradient[column] += errors[row * columns + column]
        for column in range(columns):
            gradient[column] /= rows
        for block in range(0, columns, LANES):
            descend(bias, bias_velocity, block, gradient, block, rate, decay, block, factors[step], momentum)
        whole = factor / rows
        for place in range(rows * columns):
            errors[place] *= whole
        for unit in range(units):
            if unit % _CHUNK == 0:
                chunk[:] = 0
                together = min(_CHUNK, units - unit)
                for tap in range(taps):
                    if dense:
                        at = step * rows * width + tap * units + unit
                        _add_dense(x, at, 1, width, order, row_places, 0, rows, errors, 0, columns, chunk,
                                   tap * columns, taps * columns, together)  # fmt: skip
                        continue
                    at = (step * taps + tap) * width
                    for near in range(together):
                        first, last = unit_starts[step, unit + near], unit_starts[step, unit + near + 1]
                        _add_turned(x, at, 0, 0, turned, places, first, last, errors, 0, columns, chunk,
                                    (near * taps + tap) * columns, 0, 1)  # fmt: skip
            begin = unit % _CHUNK * taps * columns
            if not adapt:
                for block in range(0, columns, LANES):
                    at = unit * columns + block
                    descend(
                        weight, weight_velocity, at, chunk, begin + block, rate, decay, block, factors[step], momentum
                    )
                continue
            gradient[:] = 0
            for tap in range(taps):
                at = (tap * units + unit) * settings
                for setting in range(settings):
                    coefficient = v[at + setting]
                    total = one - one
                    for place in range(setting * classes, (setting + 1) * classes):
                        entry = chunk[begin + tap * columns + place]
                        gradient[place] += coefficient * entry
                        total += weight[unit * columns + place] * entry
                    place = setting * classes
                    moved = momentum * v_velocity[at + setting] + (total + decay[place] * coefficient)
                    v_velocity[at + setting] = moved
                    v[at + setting] = coefficient - factors[step] * rate[place] * moved
            for block in range(0, columns, LANES):
                at = unit * columns + block
                descend(weight, weight_velocity, at, gradient, block, rate, decay, block, factors[step], momentum)
            for tap in range(taps):
                for setting in range(settings):
                    coefficient = v[(tap * units + unit) * settings + setting]
                    for place in range(setting * classes, (setting + 1) * classes):
                        product = coefficient * weight[unit * columns + place]
                        table[(tap * units + unit) * columns + place] = product
