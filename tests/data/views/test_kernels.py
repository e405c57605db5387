"""The compiled kernels against torchvision's functions on tensors, image by image, and what they leave on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.helpers import CHANGES, resized_crop
from torch import Tensor
from torchvision.transforms.v2 import functional as V

import largedrop
from largedrop.data.views.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION
from largedrop.data.views.host import render, resize

Image = npt.NDArray[np.uint8]
LEVEL = 1 / 255


def noise(height: int, width: int) -> Image:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)


def one(
    image: Image,
    size: int,
    order: tuple[int, ...] = (),
    factors: tuple[float, ...] = (1, 1, 1, 0),
    box: tuple[int, int, int, int] | None = None,
    flip: bool = False,
    grey: bool = False,
) -> Tensor:
    """One view, in [0, 1]: (3, size, size)."""
    boxes = np.array([box or (0, 0, *image.shape[:2])])
    orders = np.array([order], dtype=np.int64)
    flips, greys = np.array([flip]), np.array([grey])
    return render([image], size, (0, 0, 0), (1, 1, 1), boxes, flips, orders, np.array([factors], float), greys)[0]


SHAPES = [
    (32, 32),
    (32, 400),
    (400, 32),
    (96, 97),
    (128, 128),
    (227, 227),
    (150, 333),
    (64, 65),
    (7, 5),
    (1, 1),
    (1, 90),
]


@pytest.mark.parametrize("size", [1, 5, 32, 96, 224])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_resizing_is_torchs_to_the_bit(height: int, width: int, size: int) -> None:
    """Weights are integers and intermediate results bytes, as in torch, so nothing is left to rounding."""
    image = noise(height, width)
    levels = one(image, size) * 255
    assert float((levels - levels.round()).abs().max()) < 1e-4
    assert torch.equal(levels.round().to(torch.uint8), resize(image, size))


def test_resizing_enormous_images() -> None:
    for image in (noise(20, 9000), noise(9000, 20)):
        assert torch.equal((one(image, 3) * 255).round().to(torch.uint8), resize(image, 3))


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize(
    "box",
    [(0, 0, 60, 80), (3, 5, 1, 70), (59, 0, 1, 80), (3, 79, 50, 1), (7, 11, 1, 1), (10, 20, 32, 32), (1, 2, 59, 78)],
)
@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_cut_resized_and_mirrored(box: tuple[int, int, int, int], size: int, flip: bool) -> None:
    image = noise(60, 80)
    expected = resized_crop(torch.from_numpy(image).permute(2, 0, 1), box, size)
    expected = V.horizontal_flip(expected) if flip else expected
    view = one(image, size, box=box, flip=flip)
    torch.testing.assert_close(view, expected.float() / 255, rtol=0, atol=1e-6)


def special() -> dict[str, Image]:
    """Images of 33 × 33 with all corners of the colour cube, one colour, grey, and colours almost grey."""
    cube = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, 8).T
    grey = np.random.default_rng(2).integers(0, 256, (33, 33, 1))
    near = np.clip(grey + np.random.default_rng(3).integers(-1, 2, (33, 33, 3)), 0, 255)
    plain: dict[str, Any] = {"black": 0, "white": 255, "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    images = {name: np.zeros((33, 33, 3)) + value for name, value in plain.items()}
    images |= {"cube": cube[np.arange(33 * 33) % 8].reshape(33, 33, 3), "grey": np.repeat(grey, 3, axis=2)}
    return {name: image.astype(np.uint8) for name, image in (images | {"near grey": near}).items()} | {
        "noise": noise(33, 33)
    }


@pytest.mark.parametrize("name", special())
@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        *(
            (kind, factor)
            for kind in (BRIGHTNESS, CONTRAST, SATURATION)
            for factor in (0.0, 0.3, 0.7, 1.0, 1.3, 3.0, 9.0)
        ),
        *((HUE, shift) for shift in (-0.5, -1 / 3, -0.3, -1e-5, 0.0, 1e-5, 1 / 6, 0.3, 0.5)),
    ],
)
def test_each_change_alone_is_torchvisions(name: str, kind: int, factor: float) -> None:
    image = special()[name]
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[kind] = factor
    expected = CHANGES[kind](torch.from_numpy(image).permute(2, 0, 1).float() / 255, factor)
    view = one(image, 33, order=(kind,), factors=tuple(factors))
    torch.testing.assert_close(view, expected, rtol=0, atol=2e-5)
    assert float(view.min()) >= 0
    assert float(view.max()) <= 1


@pytest.mark.parametrize("order", list(permutations(range(4))))
@pytest.mark.parametrize("factors", [(0.7, 1.3, 1.3, 0.3), (1.3, 0.7, 0.7, -0.3), (1.2, 1.25, 0.8, -0.07)])
def test_every_order_is_torchvisions_within_one_grey_level(order: tuple[int, ...], factors: tuple[float, ...]) -> None:
    for name, image in special().items():
        expected = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        for kind in order:
            expected = CHANGES[kind](expected, factors[kind])
        assert float((one(image, 33, order, factors) - expected).abs().max()) < LEVEL, name
        expected = V.rgb_to_grayscale(expected, 3)
        assert float((one(image, 33, order, factors, grey=True) - expected).abs().max()) < LEVEL, name


def test_large_views_are_in_many_chunks_and_have_one_mean() -> None:
    """Of 24 to 1100 pixels in a row: a chunk is of many rows, or of one."""
    image = noise(50, 70)
    image[:20] //= 4
    for size in (24, 33, 97, 1100):
        expected = V.adjust_contrast(resize(image, size).float() / 255, 0.2)
        view = one(image, size, order=(CONTRAST,), factors=(1, 0.2, 1, 0))
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_what_is_compiled_is_kept() -> None:
    from largedrop.data.views import kernels

    assert list(Path(kernels.view.stats.cache_path).glob("kernels.view-*.nbi"))  # type: ignore[attr-defined]


def test_where_nothing_can_be_kept_a_warning_says_so() -> None:
    from numba import types

    from largedrop.data.views import kernels

    names: dict[str, Callable[[npt.NDArray[np.int64]], None]] = {}
    exec("def double(numbers): numbers[0] *= 2", names)  # of no file, so numba finds no place for it
    with pytest.warns(RuntimeWarning, match="kernels cannot be cached, so every process compiles them: cannot cache"):
        compiled = kernels._outer(types.int64[::1])(names["double"])
    numbers = np.array([21])
    compiled(numbers)
    assert numbers.tolist() == [42]


def test_numba_is_not_imported_before_an_image_is_augmented() -> None:
    script = """
import sys, largedrop, largedrop.cli, largedrop.data.views.draws, largedrop.data.views.host
largedrop.data.views.draws.draw([(40, 50)], 0, 0)
largedrop.cli.main(["--help"])
print("numba" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(largedrop.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "False"
