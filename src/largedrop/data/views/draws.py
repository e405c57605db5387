"""The random numbers of the paper's training view, drawn for each image of a batch.

Random resized crop (area 0.7 to 1.0, aspect 3/4 to 4/3), horizontal flip with probability 0.5, colour jitter of 0.3 in
brightness, contrast, saturation and hue in random order, greyscale with probability 0.1: the same distribution as
torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``, ``ColorJitter(0.3, 0.3, 0.3, 0.3)`` and
``RandomGrayscale(0.1)`` in the public code. The draws are a function of (seed, step, index in the batch).

``host`` applies the draws on the processor, ``device`` on a GPU that holds the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..random import generator
from .colour import HUE

__all__ = ["Draws", "draw", "largest_crop"]

AREA = (0.7, 1.0)

ASPECT = (3 / 4, 4 / 3)

JITTER = 0.3

GREYSCALE = 0.1

ATTEMPTS = 10
"""Number of crops that are drawn before the central one is taken, as in torchvision."""

FloatArray = npt.NDArray[np.float64]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """The draws for each of n images.

    Attributes:
        box: top, left, height, width of the crop, in pixels, (n, 4).
        flip: whether the image is mirrored, (n,).
        factors: factors of brightness, contrast and saturation (1 is the identity), and hue shift (in turns), (n, 4).
        order: order in which the four changes of colour are applied, (n, 4).
        grey: whether the image is converted to greyscale at the end, (n,).
    """

    box: IntArray
    flip: npt.NDArray[np.bool_]
    factors: FloatArray
    order: IntArray
    grey: npt.NDArray[np.bool_]


def draw(shapes: Sequence[tuple[int, int]], seed: int, step: int) -> Draws:
    """Draw the training views of a batch.

    Args:
        shapes: height and width of each image, in pixels.
        seed: the run's seed.
        step: the run's step; the draws are a function of both.
    """
    rng = generator("augment", seed, step)
    count = len(shapes)
    box = _crops(np.asarray(shapes, dtype=np.float64).reshape(count, 2), rng)
    flip = rng.random(count) < 0.5
    factors = 1 + (2 * rng.random((count, 4)) - 1) * JITTER
    factors[:, HUE] -= 1
    order = np.argsort(rng.random((count, 4)), axis=1)
    grey = rng.random(count) < GREYSCALE
    return Draws(box, flip, factors, order, grey)


def largest_crop(shapes: IntArray) -> tuple[int, int]:
    """The largest height and width, in pixels, that a crop of one of these images may have.

    By its aspect a crop is at most 4/3 as long as the image's other side; rounding adds less than 2 pixels.

    Args:
        shapes: height and width of each image, in pixels, (n, 2).
    """
    sides = np.minimum(shapes, np.ceil(shapes[:, ::-1] * ASPECT[1]) + 2).max(axis=0, initial=1)
    return int(sides[0]), int(sides[1])


def _crops(shapes: FloatArray, rng: np.random.Generator) -> IntArray:
    """The first of ``ATTEMPTS`` random boxes that lies inside each image, or the largest central one of a valid
    aspect.
    """
    height, width = shapes[:, :1], shapes[:, 1:]
    uniform = rng.random((4, len(shapes), ATTEMPTS))
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * uniform[0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect = np.exp(low + (high - low) * uniform[1])
    wide, tall = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = np.argmax(fits, axis=1)
    rows = np.arange(len(shapes))
    wide, tall = wide[rows, first], tall[rows, first]
    top = np.floor(uniform[2][rows, first] * (height[:, 0] - tall + 1))
    left = np.floor(uniform[3][rows, first] * (width[:, 0] - wide + 1))
    box = np.stack([top, left, tall, wide], axis=1)
    for row in np.flatnonzero(~fits.any(axis=1)):
        box[row] = _central(*shapes[row])
    return box.astype(np.int64)


def _central(height: float, width: float) -> tuple[float, float, float, float]:
    ratio = width / height
    tall = height if ratio >= ASPECT[0] else round(width / ASPECT[0])
    wide = width if ratio <= ASPECT[1] else round(height * ASPECT[1])
    return (height - tall) // 2, (width - wide) // 2, tall, wide
