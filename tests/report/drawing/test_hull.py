"""The convex hull of a cloud."""

from __future__ import annotations

import numpy as np

from largedrop.report.drawing.hull import convex_hull


def test_hull_of_a_square_with_points_inside_and_on_its_edges() -> None:
    grid = np.stack(np.meshgrid(range(5), range(3)), -1).reshape(-1, 2)
    assert convex_hull(np.concatenate([grid, grid])).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
    assert convex_hull([[1, 1], [1, 1]]).tolist() == [[1, 1]]
    assert convex_hull([[0, 0], [2, 2], [1, 1]]).tolist() == [[0, 0], [2, 2]]
    assert convex_hull(np.empty((0, 2))).shape == (0, 2)


def test_hull_holds_every_point_and_its_corners_are_points() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 2))
    corners = convex_hull(points)
    assert {tuple(corner) for corner in corners} <= {tuple(point) for point in points}
    following = np.roll(corners, -1, axis=0)
    along, offsets = following - corners, points[:, None] - corners
    assert (along[:, 0] * offsets[..., 1] - along[:, 1] * offsets[..., 0] >= -1e-12).all()
    turns = np.roll(along, -1, axis=0)
    assert (along[:, 0] * turns[:, 1] - along[:, 1] * turns[:, 0] > 0).all()
