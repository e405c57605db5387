"""Cards and matrices of pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from largedrop.report.images import Matrix, thumbnail


def test_a_matrix_has_a_row_for_each_class_with_images() -> None:
    counts = np.array([[0, 3, 1], [0, 0, 0], [2, 0, 2]])
    found = Matrix.of("day", ("cat", "dog", "yak"), ("ant", "cat", "yak"), counts)
    assert found.heads == ("ant", "cat", "yak")
    assert found.rows == (
        ("cat", (("·", 0, False), ("3", 75, True), ("1", 25, False))),
        ("yak", (("2", 50, False), ("·", 0, False), ("2", 50, True))),
    )


def test_a_thumbnail_keeps_the_shape_of_the_image() -> None:
    found = Image.open(io.BytesIO(base64.b64decode(thumbnail(np.zeros((20, 60, 3), np.uint8), 64))))
    assert found.size == (64, 64)
    pixels = np.asarray(found)
    assert pixels[32, 32].max() < 10
    assert pixels[3, 32].min() > 200
