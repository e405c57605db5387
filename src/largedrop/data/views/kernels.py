"""Kernels, compiled by numba, that make one image's normalised view on the processor.

Crop, resize, mirror, change colours, normalise: an image goes through the caches once, rather than the batch through
the memory a dozen times. The resizing has the bits of torch's uint8 kernel (bilinear with antialiasing), colours have
the formulas of ``colour``, in float32.

Importing this module imports numba and compiles, 5 to 10 seconds the first time; so it is only imported where the
first image is needed. The result is kept next to this file, in ``__pycache__``, or where that cannot be written in the
user's cache folder (``NUMBA_CACHE_DIR`` overrides both), and read back in half a second. Where neither can be written
a warning says so, and every process compiles for itself.

All that is compiled is in this one file, because numba looks at no other to see whether what it kept is out of date.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from .colour import BRIGHTNESS, CONTRAST, HUE, LUMA, SATURATION

__all__ = ["scratch_memory", "view"]

Function = TypeVar("Function", bound=Callable[..., Any])

Bytes = npt.NDArray[np.uint8]

Words = npt.NDArray[np.uint64]
"""Words of eight bytes, the unit in which bytes are transposed."""

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

STRIP = 64
"""Rows of the source that are resized to the new width together."""

CHUNK = 1024
"""About how many pixels change colour together: three planes of float32 that fit into the first cache."""

TAPS = 4
"""Weights are padded with zeros to a multiple of this."""

_ZERO, _ONE, _TWO, _THREE, _FOUR = (np.float32(value) for value in range(5))
_LEVEL = np.float32(1 / 255)
_RED, _GREEN, _BLUE = (np.float32(weight) for weight in LUMA)
_HALVES, _QUARTERS, _EIGHTHS = np.uint64(32), np.uint64(16), np.uint64(8)
_LOW_HALF, _LOW_QUARTERS, _LOW_EIGHTHS = (np.uint64(m) for m in (2**32 - 1, 0x0000FFFF0000FFFF, 0x00FF00FF00FF00FF))

_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}  # no fastmath: results would depend on the processor


def _inner(function: Function) -> Function:
    """Compile as a part of its caller."""
    return cast(Function, numba.njit(**_OPTIONS)(function))


def _outer(*signature: Any) -> Callable[[Function], Function]:
    """Compile at definition, or load the kernel from numba's cache."""

    def compiled(function: Function) -> Function:
        try:
            return cast(Function, numba.njit(types.void(*signature), cache=True, **_OPTIONS)(function))
        except (OSError, RuntimeError) as error:  # an error of the function itself comes again below
            warnings.warn(
                f"the compiled image kernels cannot be cached, so every process compiles them: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return cast(Function, numba.njit(types.void(*signature), **_OPTIONS)(function))

    return compiled


@_inner
def _swap(upper: Any, lower: Any, shift: Any, mask: Any) -> Any:
    """Exchange the high parts of one word with the low parts of another."""
    differ = ((upper >> shift) ^ lower) & mask
    return upper ^ (differ << shift), lower ^ differ


@_inner
def _transpose(source: Words, target: Words) -> None:
    """Transpose a matrix of bytes: (8 m, n) words to (8 n, m) words, in blocks of 8 × 8 bytes."""
    for m in range(source.shape[0] // 8):
        for n in range(source.shape[1]):
            i, j = 8 * m, 8 * n
            a, b, c, d = source[i, n], source[i + 1, n], source[i + 2, n], source[i + 3, n]
            e, f, g, h = source[i + 4, n], source[i + 5, n], source[i + 6, n], source[i + 7, n]
            a, e = _swap(a, e, _HALVES, _LOW_HALF)
            b, f = _swap(b, f, _HALVES, _LOW_HALF)
            c, g = _swap(c, g, _HALVES, _LOW_HALF)
            d, h = _swap(d, h, _HALVES, _LOW_HALF)
            a, c = _swap(a, c, _QUARTERS, _LOW_QUARTERS)
            b, d = _swap(b, d, _QUARTERS, _LOW_QUARTERS)
            e, g = _swap(e, g, _QUARTERS, _LOW_QUARTERS)
            f, h = _swap(f, h, _QUARTERS, _LOW_QUARTERS)
            a, b = _swap(a, b, _EIGHTHS, _LOW_EIGHTHS)
            c, d = _swap(c, d, _EIGHTHS, _LOW_EIGHTHS)
            e, f = _swap(e, f, _EIGHTHS, _LOW_EIGHTHS)
            g, h = _swap(g, h, _EIGHTHS, _LOW_EIGHTHS)
            target[j, m], target[j + 1, m], target[j + 2, m], target[j + 3, m] = a, b, c, d
            target[j + 4, m], target[j + 5, m], target[j + 6, m], target[j + 7, m] = e, f, g, h


@_inner
def _weights(length: int, size: int) -> Any:
    """The triangle filter of each new pixel, in integers, as torch and Pillow make it for uint8.

    Returns:
        first source pixel of each (size,), how many (size,), weights (size, a multiple of ``TAPS``), and their bits: a
        sum of weights × bytes is shifted right by that.
    """
    scale = length / size
    support = max(scale, 1.0)
    most = TAPS * ((2 * math.ceil(support) + TAPS) // TAPS)
    first, count = np.empty(size, np.int64), np.empty(size, np.int64)
    share, weight = np.zeros((size, most)), np.empty((size, most), np.int32)
    greatest = 0.0
    for i in range(size):
        centre = scale * (i + 0.5)
        first[i] = max(int(centre - support + 0.5), 0)
        count[i] = min(min(int(centre + support + 0.5), length) - first[i], most)
        total = 0.0
        for k in range(count[i]):
            share[i, k] = max(0.0, 1.0 - abs((k + first[i] - centre + 0.5) / support))
            total += share[i, k]
        for k in range(count[i]):
            share[i, k] /= total
            greatest = max(greatest, share[i, k])
    bits = 0
    while bits < 22 and int(0.5 + greatest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    for i in range(size):
        for k in range(most):
            weight[i, k] = int(0.5 + share[i, k] * (1 << bits))
    return first, count, weight, np.int32(bits)


@_inner
def _sum(rows: Bytes, at: int, step: int, weight: Ints, count: int, target: Ints, half: Any, bits: Any) -> None:
    """A weighted sum of ``count`` rows of bytes (``at``, ``at`` + ``step``, …), as integers in [0, 255]."""
    for j in range(target.shape[0]):
        target[j] = half
    for k in range(0, count, TAPS):
        s, t, u, v = weight[k], weight[k + 1], weight[k + 2], weight[k + 3]
        a = at + step * k
        b, c, d = a + step, a + 2 * step, a + 3 * step
        for j in range(target.shape[0]):
            low = s * np.int32(rows[a, j]) + t * np.int32(rows[b, j])
            target[j] += low + u * np.int32(rows[c, j]) + v * np.int32(rows[d, j])
    for j in range(target.shape[0]):
        target[j] >>= bits


@_inner
def _narrow(
    image: Bytes, box: Longs, size: int, flip: bool, rows: Words, columns: Words, strip: Words, planes: Words
) -> None:
    """Resize the box to its new width, mirror it, and take the channels apart: into ``planes``, bytes (3, rows, size).

    A strip of the image is transposed, so that neighbours in memory are rows, which all have the same weights.
    """
    top, left, height, width = box
    first, count, weight, bits = _weights(width, size)
    half = np.int32(1 << (bits - 1))
    row_bytes, column_bytes, strip_bytes = rows.view(np.uint8), columns.view(np.uint8), strip.view(np.uint8)
    side = strip.shape[0] // 3
    sums = np.empty(STRIP, np.int32)
    for start in range(0, height, STRIP):
        for j in range(min(STRIP, height - start)):
            source = image[top + start + j, 3 * left : 3 * (left + width)]
            for i in range(source.shape[0]):
                row_bytes[j, i] = source[i]
        _transpose(rows, columns)
        for x in range(size):
            to = size - 1 - x if flip else x
            for channel in range(3):
                at = 3 * first[x] + channel
                target = strip_bytes[channel * side + to]
                if count[x] <= 2:
                    v, w = weight[x, 0], weight[x, 1]
                    for j in range(STRIP):
                        low = v * np.int32(column_bytes[at, j])
                        target[j] = (half + low + w * np.int32(column_bytes[at + 3, j])) >> bits
                else:
                    _sum(column_bytes, at, 3, weight[x], count[x], sums, half, bits)
                    for j in range(STRIP):
                        target[j] = sums[j]
        for channel in range(3):
            _transpose(strip[channel * side : (channel + 1) * side], planes[channel, start : start + STRIP])


@_inner
def _clamp(value: Any) -> Any:
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@_inner
def _contrast(red: Floats, green: Floats, blue: Floats, factor: Any, mean: Any) -> None:
    """Spread the values around ``mean``; around zero that is a change of brightness."""
    other = (_ONE - factor) * mean
    for i in range(red.shape[0]):
        red[i] = _clamp(red[i] * factor + other)
        green[i] = _clamp(green[i] * factor + other)
        blue[i] = _clamp(blue[i] * factor + other)


@_inner
def _saturation(red: Floats, green: Floats, blue: Floats, factor: Any) -> None:
    rest = _ONE - factor
    for i in range(red.shape[0]):
        other = rest * (_RED * red[i] + _GREEN * green[i] + _BLUE * blue[i])
        red[i] = _clamp(red[i] * factor + other)
        green[i] = _clamp(green[i] * factor + other)
        blue[i] = _clamp(blue[i] * factor + other)


@_inner
def _turned(value: Any, chroma: Any, hue: Any, offset: Any) -> Any:
    """One channel; ``colour.adjust_hue`` derives it."""
    less = abs(abs(hue + offset * chroma) - _THREE * chroma) - chroma
    less = less if less > _ZERO else _ZERO
    return value - (less if less < chroma else chroma)


@_inner
def _hue(red: Floats, green: Floats, blue: Floats, shift: float) -> None:
    to_red = np.float32((6 * shift + 8) % 6 - 5)
    to_green = np.float32((6 * shift + 6) % 6 - 5)
    to_blue = np.float32((6 * shift + 4) % 6 - 5)
    for i in range(red.shape[0]):
        r, g, b = red[i], green[i], blue[i]
        value = r if r > g else g
        value = value if value > b else b
        least = r if r < g else g
        least = least if least < b else b
        chroma = value - least
        hue = _TWO * chroma + (b - r) if value == g else _FOUR * chroma + (r - g)
        hue = g - b if value == r else hue
        red[i] = _turned(value, chroma, hue, to_red)
        green[i] = _turned(value, chroma, hue, to_green)
        blue[i] = _turned(value, chroma, hue, to_blue)


@_inner
def _adjust(red: Floats, green: Floats, blue: Floats, kinds: Longs, factors: Doubles) -> None:
    """Apply the changes of colour except contrast, in the order of ``kinds``."""
    for kind in kinds:
        if kind == BRIGHTNESS:
            _contrast(red, green, blue, np.float32(factors[kind]), _ZERO)
        elif kind == SATURATION:
            _saturation(red, green, blue, np.float32(factors[kind]))
        elif kind == HUE:
            _hue(red, green, blue, factors[kind])


@_inner
def _finish(
    red: Floats, green: Floats, blue: Floats, grey: bool, scale: Floats, offset: Floats, result: Floats
) -> None:
    """Convert to greyscale where ``grey``, normalise, and interleave the channels: (pixels, 3)."""
    if grey:
        for i in range(red.shape[0]):
            red[i] = _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
        green, blue = red, red
    by_red, by_green, by_blue = scale
    to_red, to_green, to_blue = offset
    for i in range(red.shape[0]):
        result[i, 0] = red[i] * by_red + to_red
        result[i, 1] = green[i] * by_green + to_green
        result[i, 2] = blue[i] * by_blue + to_blue


def _layout(height: int, width: int, size: int) -> tuple[int, int, int, tuple[int, int, int, int, int]]:
    """Sizes of the memory for a box of ``height`` × ``width``.

    Returns:
        words in a row of the box; ``size`` rounded up to whole words; rows of the planes; words of each scratch array.
    """
    words, side, tall = -(-3 * width // 8), -(-size // 8) * 8, -(-height // STRIP) * STRIP + TAPS
    columns = (8 * words + 3 * TAPS) * (STRIP // 8)
    return words, side, tall, (STRIP * words, columns, 3 * side * (STRIP // 8), 3 * tall * (side // 8), 2 * size * size)


_compiled_layout = _inner(_layout)


@_outer(
    types.Array(types.uint8, 2, "C", readonly=True),
    *(types.int64[::1], types.int64, types.boolean, types.int64[::1], types.float64[::1], types.boolean),
    *(types.float32[::1], types.float32[::1], types.uint64[::1], types.float32[:, ::1]),
)
def view(
    image: Bytes,
    box: Longs,
    size: int,
    flip: bool,
    order: Longs,
    factors: Doubles,
    grey: bool,
    scale: Floats,
    offset: Floats,
    scratch: Words,
    result: Floats,
) -> None:
    """Crop, resize, mirror, change colours, turn grey, normalise. Nothing is checked, and the GIL is not held.

    Contrast needs the mean of the whole image before it. So what comes before is done chunk by chunk as the rows come
    out of the resizing, and the rest in a second pass; in the first where there is no contrast.

    Args:
        image: red, green, blue of each pixel, (height, 3 width).
        box: top, left, height, width of the crop, in pixels, (4,).
        size: side of the view, in pixels.
        flip: whether the image is mirrored.
        order: kinds of the changes of colour, in their order, each at most once.
        factors: factor of each kind, (4,).
        grey: whether the image is converted to greyscale at the end.
        scale: per-channel factor of values in [0, 1], (3,).
        offset: per-channel offset, added after ``scale``, (3,).
        scratch: memory from ``scratch_memory``, not used by another thread.
        result: receives the view, (size², 3).
    """
    words, side, tall, lengths = _compiled_layout(box[2], box[3], size)
    ends = np.cumsum(np.array(lengths))
    rows = scratch[: ends[0]].reshape(STRIP, words)
    columns = scratch[ends[0] : ends[1]].reshape(-1, STRIP // 8)
    strip = scratch[ends[1] : ends[2]].reshape(3 * side, STRIP // 8)
    planes = scratch[ends[2] : ends[3]].reshape(3, tall, side // 8)
    pixels = scratch[ends[3] : ends[4]].view(np.float32).reshape(4, size * size)
    _narrow(image, box, size, flip, rows, columns, strip, planes)
    first, count, weight, bits = _weights(box[2], size)
    half = np.int32(1 << (bits - 1))
    plane_bytes = planes.view(np.uint8)
    sums = np.empty(size, np.int32)
    before = len(order)
    for index in range(len(order)):
        if order[index] == CONTRAST:
            before = index
    chunk = size * max(1, CHUNK // size)
    greys = np.zeros(chunk, np.float32)  # a sum for each position in a chunk, since adding up a chunk is slow
    for start in range(0, size * size, chunk):
        end = min(start + chunk, size * size)
        for y in range(start // size, end // size):
            for channel in range(3):
                target = pixels[channel, y * size : (y + 1) * size]
                source = plane_bytes[channel, :, :size]
                at = first[y]
                if count[y] <= 2:
                    v, w = weight[y, 0], weight[y, 1]
                    for x in range(size):
                        low = v * np.int32(source[at, x])
                        target[x] = np.float32((half + low + w * np.int32(source[at + 1, x])) >> bits) * _LEVEL
                else:
                    _sum(source, at, 1, weight[y], count[y], sums, half, bits)
                    for x in range(size):
                        target[x] = np.float32(sums[x]) * _LEVEL
        red, green, blue = pixels[0, start:end], pixels[1, start:end], pixels[2, start:end]
        _adjust(red, green, blue, order[:before], factors)
        if before == len(order):
            _finish(red, green, blue, grey, scale, offset, result[start:end])
        else:
            for i in range(red.shape[0]):
                greys[i] += _RED * red[i] + _GREEN * green[i] + _BLUE * blue[i]
    if before < len(order):
        total = 0.0
        for i in range(chunk):
            total += float(greys[i])
        mean, factor = np.float32(total / (size * size)), np.float32(factors[CONTRAST])
        for start in range(0, size * size, chunk):
            end = min(start + chunk, size * size)
            red, green, blue = pixels[0, start:end], pixels[1, start:end], pixels[2, start:end]
            _contrast(red, green, blue, factor, mean)
            _adjust(red, green, blue, order[before + 1 :], factors)
            _finish(red, green, blue, grey, scale, offset, result[start:end])


def scratch_memory(boxes: Longs, size: int) -> Words:
    """Scratch memory for ``view``, large enough for each of the boxes, given by height and width, (n, 2)."""
    return np.empty(max(sum(_layout(height, width, size)[3]) for height, width in boxes.tolist()), np.uint64)
