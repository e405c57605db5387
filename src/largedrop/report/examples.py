"""A sheet of example images: a row for each domain, a column for each class."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from ..data.dataset import Dataset

__all__ = ["Examples", "example_grid"]

_GAP = 4


@dataclass(frozen=True)
class Examples:
    """A sheet of images.

    Attributes:
        png: equal square cells, as PNG.
        domains: domain of each row.
        classes: class of each column.
    """

    png: bytes
    domains: tuple[str, ...]
    classes: tuple[str, ...]


def example_grid(dataset: Dataset, columns: int = 8, size: int = 72) -> Examples:
    """Draw one image of each class for each domain, always the same.

    Where a group spans several domains, a column shows the same group in every row, so that rows differ by domain
    only. Of many classes, ``columns`` evenly spaced ones are shown. A cell is empty where a domain lacks the class.

    Args:
        dataset: the dataset.
        columns: largest number of classes to show.
        size: side of a cell, in pixels, of which 4 are a transparent gap.
    """
    spaced = np.linspace(0, len(dataset.classes) - 1, min(columns, len(dataset.classes)))
    labels = [round(float(label)) for label in spaced]
    sheet = Image.new("RGBA", (size * len(labels), size * len(dataset.domains)))
    for column, label in enumerate(labels):
        for row, index in enumerate(_picks(dataset, label)):
            if index is not None:
                image = Image.fromarray(np.ascontiguousarray(dataset.images[index]))
                cell = ImageOps.fit(image, (size - _GAP, size - _GAP), Image.Resampling.LANCZOS)
                sheet.paste(cell, (column * size + _GAP // 2, row * size + _GAP // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return Examples(buffer.getvalue(), dataset.domains, tuple(dataset.classes[label] for label in labels))


def _picks(dataset: Dataset, label: int) -> list[int | None]:
    """An image of class ``label`` for each domain: of the group in most domains, else the first in random order."""
    rng = np.random.Generator(np.random.Philox(key=[0, label]))
    shuffled = rng.permutation(np.flatnonzero(dataset.labels == label))
    spread: dict[int, set[int]] = {}
    for index in shuffled:
        spread.setdefault(int(dataset.groups[index]), set()).add(int(dataset.domain_ids[index]))
    widest = max(spread, key=lambda group: len(spread[group]), default=None)
    picks: list[int | None] = []
    for domain in range(len(dataset.domains)):
        mine = shuffled[dataset.domain_ids[shuffled] == domain]
        shared = mine[dataset.groups[mine] == widest] if widest is not None else mine
        picks.append(int(shared[0]) if len(shared) else int(mine[0]) if len(mine) else None)
    return picks
