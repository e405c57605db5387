"""Changes of colour on a batch of images in torch, on any device, with a factor for each image.

The same formulas as torchvision's ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``, ``adjust_hue`` and
``rgb_to_grayscale`` on floating-point images. ``kernels`` has them for the processor; these are what they are tested
against, and what runs where the pixels are on a GPU.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "BRIGHTNESS",
    "CONTRAST",
    "HUE",
    "LUMA",
    "SATURATION",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "apply_colour",
    "greyscale",
]


BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R 601-2), as in torchvision."""


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply images in [0, 1], (n, 3, height, width), by ``factor``, (n, 1, 1, 1), kept in [0, 1]."""
    return (images * factor).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images in [0, 1], (n, 3, height, width), with the mean of their grey by ``factor``, (n, 1, 1, 1).

    1 leaves them as they are, 0 leaves the mean; kept in [0, 1].
    """
    return torch.lerp(_luma(images).mean((2, 3), keepdim=True), images, factor).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images in [0, 1], (n, 3, height, width), with their grey by ``factor``, (n, 1, 1, 1).

    1 leaves them as they are, 0 leaves the grey; kept in [0, 1].
    """
    return torch.lerp(_luma(images), images, factor).clamp_(0, 1)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of images in [0, 1], (n, 3, height, width), by ``shift`` turns, (n, 1, 1, 1).

    With v the greatest and m the least of a pixel's channels, c = v − m its chroma and h ∈ [−1, 5] its hue in sixths of
    a turn, a channel becomes v − c g(k), k = h + n + 6 shift, where n is 5 for red, 3 for green, 1 for blue, and g, of
    period 6, is 1 between k = 1 and 3, 0 between 4 and 6, linear in between. That is g = clamp(2 − d, 0, 1) with d the
    distance from k to the next of 2, 2 ± 6, …. Let o be n − 8 + 6 shift, moved by multiples of 6 into [−5, 1); then
    h + o ∈ [−6, 6) and 3 − d = | |h + o| − 3 |. Multiplied by c, which needs no division (c h is a difference of two
    channels, plus 0, 2 or 4 c): v − clamp(| |c h + o c| − 3 c | − c, 0, c).
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = torch.where(value == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(value == red, green - blue, hue)
    result = torch.empty_like(images)
    for channel, sixths in enumerate((5, 3, 1)):
        offset = torch.remainder(6 * shift[:, 0] + (sixths + 3), 6) - 5
        less = torch.addcmul(hue, chroma, offset).abs_().sub_(chroma, alpha=3).abs_().sub_(chroma).clamp_(min=0)
        torch.sub(value, torch.minimum(less, chroma), out=result[:, channel])
    return result


def greyscale(images: Tensor) -> Tensor:
    """The grey of images, (n, 3, height, width), in all three channels."""
    return _luma(images).expand_as(images)


def apply_colour(
    batch: Tensor,
    factors: npt.NDArray[np.float64],
    order: npt.NDArray[np.int64],
    grey: npt.NDArray[np.bool_],
) -> Tensor:
    """Apply the changes that were drawn for each image, see ``augment.Draws``.

    Args:
        batch: in [0, 1], floating-point, (n, 3, height, width); left as it is.
        factors: brightness, contrast, saturation (1 leaves the image as it is) and hue shift (in turns), (n, 4).
        order: the order in which those four are applied, (n, 4).
        grey: whether the image is turned grey at last, (n,).

    Returns:
        as ``batch``, on its device.
    """
    adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    batch = batch.clone()

    def put(chosen: npt.NDArray[np.bool_], kind: int) -> None:
        positions = torch.from_numpy(np.flatnonzero(chosen)).to(batch.device)
        factor = torch.from_numpy(factors[chosen, kind]).to(batch).view(-1, 1, 1, 1)
        batch[positions] = adjustments[kind](batch[positions], factor)

    for place in range(order.shape[1]):
        for kind in range(len(adjustments)):
            put(order[:, place] == kind, kind)
    positions = torch.from_numpy(np.flatnonzero(grey)).to(batch.device)
    batch[positions] = greyscale(batch[positions])
    return batch


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]
