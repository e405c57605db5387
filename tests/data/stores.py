"""Image files with a cache for them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from largedrop.data.cache import CachedImages, Opened, open_images
from largedrop.errors import UserError

SIZES = [(8, 8), (12, 9), (30, 20), (9, 16), (8, 8), (21, 10)]


class Store:
    """Six PNG files of noise, not changed lately, and a cache for them."""

    def __init__(self, root: Path) -> None:
        self.cache, folder = root / "cache", root / "data"
        folder.mkdir()
        rng = np.random.default_rng(0)
        self.paths = [folder / f"{number}.png" for number in range(len(SIZES))]
        self.keys = [path.name for path in self.paths]
        for path, (width, height) in zip(self.paths, SIZES, strict=True):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
            age(path)

    def open(self, bound: int = 320, **options: Any) -> Opened:
        return open_images(self.keys, self.paths, bound=bound, cache=self.cache, **options)

    def refusal(self, bound: int = 320) -> str:
        with pytest.raises(UserError) as caught:
            self.open(bound)
        return str(caught.value)

    def unwritable(self, reason: str) -> str:
        tail = "set LARGEDROP_CACHE to a folder that can be written and has room"
        return f"cannot write the image cache in {self.cache}: {reason}; {tail}"

    @property
    def entries(self) -> list[Path]:
        return sorted((self.cache / "images").iterdir())

    def check(self, images: CachedImages, index: int) -> None:
        np.testing.assert_array_equal(images[index], np.asarray(Image.open(self.paths[index])))


def age(path: Path, seconds: float = 100) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))
