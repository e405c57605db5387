"""Parts of pages: cards with an image, and confusion matrices."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from .html import embedded

__all__ = ["Card", "Matrix", "thumbnail"]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix for a page: heads of the columns, and rows of a name and cells (text, shade in %, right)."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, int, bool], ...]], ...]

    @classmethod
    def of(cls, title: str, classes: Sequence[str], predicted: Sequence[str], counts: npt.NDArray[np.int64]) -> Matrix:
        """A matrix with a row for each class that there are images of.

        Args:
            classes: names of the rows.
            predicted: names of the columns.
            counts: number of images, (rows, columns).
        """
        rows = [
            (
                classes[label],
                tuple(
                    (str(count) if count else "·", round(100 * count / int(row.sum())), name == classes[label])
                    for name, count in zip(predicted, row.tolist(), strict=True)
                ),
            )
            for label, row in enumerate(counts)
            if row.sum()
        ]
        return cls(title, tuple(predicted), tuple(rows))


@dataclass(frozen=True)
class Card:
    """An image with two lines below, and the name of its file."""

    jpeg: str
    name: str
    first: str
    second: str


def thumbnail(pixels: npt.NDArray[np.uint8], side: int = 128) -> str:
    """An image in a square of ``side`` pixels, as JPEG for a page's ``data:`` address."""
    image = ImageOps.pad(Image.fromarray(np.ascontiguousarray(pixels)), (side, side), color="#e8e6e1")
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return embedded(buffer.getvalue())
