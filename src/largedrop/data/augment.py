"""The paper's training view, vectorised over the batch, with a different draw for each image.

Random resized crop (area 0.7 to 1.0, aspect 3/4 to 4/3), horizontal flip with probability 0.5, colour jitter of 0.3 in
brightness, contrast, saturation and hue in random order, greyscale with probability 0.1: the same distribution as
torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``, ``ColorJitter(0.3, 0.3, 0.3, 0.3)`` and
``RandomGrayscale(0.1)`` in the public code. The draws are a function of (seed, step, position in the batch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..threads import one_thread
from .random import generator
from .views import resize

__all__ = ["Draws", "adjust_hue", "augment", "draw", "training_view"]

AREA = (0.7, 1.0)
ASPECT = (3 / 4, 4 / 3)
JITTER = 0.3
GREYSCALE = 0.1
ATTEMPTS = 10
"""How many crops are drawn before the central one is taken, as in torchvision."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R 601-2), as in torchvision."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n images.

    Attributes:
        box: top, left, height, width of the crop, in pixels, (n, 4).
        flip: whether it is mirrored, (n,).
        factors: brightness, contrast, saturation (1 leaves the image as it is) and hue shift (in turns), (n, 4).
        order: the order in which those four are applied, (n, 4).
        grey: whether it is turned grey at last, (n,).
    """

    box: IntArray
    flip: npt.NDArray[np.bool_]
    factors: FloatArray
    order: IntArray
    grey: npt.NDArray[np.bool_]


def training_view(images: Sequence[npt.NDArray[np.uint8]], size: int, seed: int, step: int) -> Tensor:
    """Draw and apply the training views of a batch, see ``draw`` and ``augment``: float32, (n, 3, size, size)."""
    with one_thread():
        return augment(images, size, draw([(image.shape[0], image.shape[1]) for image in images], seed, step))


def draw(shapes: Sequence[tuple[int, int]], seed: int, step: int) -> Draws:
    """Draw the training views of a batch.

    Args:
        shapes: height and width of each image, in pixels.
        seed: of the run.
        step: of the run; together they fix the draws.
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


def augment(images: Sequence[npt.NDArray[np.uint8]], size: int, draws: Draws) -> Tensor:
    """Apply the draws.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: side of the result, in pixels.
        draws: of as many images.

    Returns:
        float32 in [0, 1], (n, 3, size, size).
    """
    pixels = torch.empty((len(images), 3, size, size), dtype=torch.uint8)
    for position, image in enumerate(images):
        top, left, height, width = draws.box[position]
        pixels[position] = resize(image[top : top + height, left : left + width], size)
    batch = pixels.to(torch.float32).mul_(1 / 255)
    flipped = torch.from_numpy(np.flatnonzero(draws.flip))
    batch[flipped] = batch[flipped].flip(-1)
    for place in range(4):
        for kind, adjust in enumerate((_brightness, _contrast, _saturation, adjust_hue)):
            chosen = np.flatnonzero(draws.order[:, place] == kind)
            if len(chosen):
                factor = torch.from_numpy(draws.factors[chosen, kind]).to(torch.float32).view(-1, 1, 1, 1)
                batch[torch.from_numpy(chosen)] = adjust(batch[torch.from_numpy(chosen)], factor)
    grey = torch.from_numpy(np.flatnonzero(draws.grey))
    batch[grey] = _luma(batch[grey]).expand(-1, 3, -1, -1)
    return batch


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


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``factor`` × images + (1 − ``factor``) × other, kept in [0, 1]."""
    return torch.lerp(other, images, factor).clamp_(0, 1)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images).mean((1, 2, 3), keepdim=True).expand_as(images), factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images).expand_as(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of images in [0, 1], (n, 3, height, width), by ``shift`` turns, (n, 1, 1, 1)."""
    red, green, blue = images.unbind(1)
    value, least = images.amax(1), images.amin(1)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = hue + 6 * shift[:, 0]
    result = torch.empty_like(images)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):  # f(n) = v − c·max(0, min(k, 4 − k, 1)), k = (n + h) mod 6
        k = torch.remainder(sixths + offset, 6)
        torch.sub(value, chroma * torch.minimum(k, 4 - k).clamp_(0, 1), out=result[:, channel])
    return result
