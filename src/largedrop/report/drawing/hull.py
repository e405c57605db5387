"""The convex hull of a cloud of points in the plane, for the outlines of figure 2."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["convex_hull"]

FloatArray = npt.NDArray[np.float64]


def convex_hull(points: npt.ArrayLike) -> FloatArray:
    """The corners of the convex hull, anticlockwise from the leftmost (of several, the lowest).

    Quickhull: it discards most of a million points in a few vectorised passes.

    Args:
        points: finite coordinates, (n, 2).

    Returns:
        (m, 2), without repeated corners or points on an edge; m is 1 or 2 where all points are equal or on a line.
    """
    array = np.asarray(points, dtype=np.float64)
    if len(array) == 0:
        return array
    left, right = array[array[:, 0] == array[:, 0].min()], array[array[:, 0] == array[:, 0].max()]
    first, last = left[left[:, 1].argmin()], right[right[:, 1].argmax()]
    if (first == last).all():
        return np.array([first])
    return np.array([first, *_corners(array, first, last), last, *_corners(array, last, first)])


def _corners(points: FloatArray, start: FloatArray, end: FloatArray) -> list[FloatArray]:
    """The corners to the right of the line from ``start`` to ``end``, in that order."""
    along, offsets = end - start, points - start
    distance = along[1] * offsets[:, 0] - along[0] * offsets[:, 1]
    points, distance = points[distance > 0], distance[distance > 0]
    if len(points) == 0:
        return []
    farthest = points[distance == distance.max()]
    corner = farthest[(farthest @ along).argmax()]  # in a tie, the last along the line
    return [*_corners(points, start, corner), corner, *_corners(points, corner, end)]
