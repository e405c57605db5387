"""The convex hull of a cloud of points in the plane, for the outlines of figure 2."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import UserError

__all__ = ["convex_hull"]


FloatArray = npt.NDArray[np.float64]


def convex_hull(points: npt.ArrayLike) -> FloatArray:
    """The corners of the convex hull, anticlockwise from the leftmost (of several, the lowest).

    Quickhull discards most of a million points in a few vectorised passes; a monotone chain over the corners that are
    left removes those that lie on an edge.

    Args:
        points: (n, 2), finite.

    Returns:
        (m, 2): no corner twice and none on an edge; one or two where all points are equal or on a line, none of none.

    Raises:
        UserError: another shape, or values that are not finite.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise UserError(f"a hull wants points of shape (n, 2), not {array.shape}")
    if not np.isfinite(array).all():
        raise UserError("a hull wants finite points")
    if len(array) == 0:
        return array
    first, last = array[_extreme(array, 1)], array[_extreme(array, -1)]
    corners = [first, *_outside(array, first, last), last, *_outside(array, last, first)]
    return _chain(np.unique(corners, axis=0))


def _extreme(points: FloatArray, sign: int) -> int:
    """The leftmost (``sign`` 1) or rightmost (−1) point; of several, the lowest or the highest."""
    across = sign * points[:, 0]
    tied = np.flatnonzero(across == across.min())
    return int(tied[(sign * points[tied, 1]).argmin()])


def _outside(points: FloatArray, start: FloatArray, end: FloatArray) -> list[FloatArray]:
    """Corners to the right of the line from ``start`` to ``end``, in that order."""
    corners: list[FloatArray] = []
    waiting = [(points, start, end)]
    while waiting:
        points, start, end = waiting.pop()
        distance = -_cross(start, end, points)
        beyond = distance > 0
        if not beyond.any():
            continue
        points, distance = points[beyond], distance[beyond]
        corner = points[int(distance.argmax())]
        corners.append(corner)
        waiting += [(points, start, corner), (points, corner, end)]
    return corners


def _chain(points: FloatArray) -> FloatArray:
    """Andrew's monotone chain over sorted points without duplicates."""
    if len(points) < 3:
        return points
    halves: list[list[FloatArray]] = []
    for half in (points, points[::-1]):
        kept: list[FloatArray] = []
        for point in half:
            while len(kept) > 1 and _cross(kept[-2], kept[-1], point[None])[0] <= 0:
                kept.pop()
            kept.append(point)
        halves.append(kept[:-1])
    return np.array([*halves[0], *halves[1]])


def _cross(start: FloatArray, end: FloatArray, points: FloatArray) -> FloatArray:
    """Twice the signed area of (start, end, point): positive where the point is to the left."""
    along = end - start
    offsets = points - start
    return np.asarray(along[0] * offsets[:, 1] - along[1] * offsets[:, 0], dtype=np.float64)
