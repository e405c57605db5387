"""Changes of colour of a batch of images in torch, on any device, with one factor for each image.

The same formulas as torchvision's ``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``, ``adjust_hue`` and
``rgb_to_grayscale`` on floating-point images. ``device`` uses them where the pixels are in a GPU's memory; ``kernels``
has the same formulas compiled for the processor.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BRIGHTNESS", "CONTRAST", "HUE", "LUMA", "SATURATION", "adjust_hue", "apply_colour", "greyscale"]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the grey value (ITU-R 601-2), as in torchvision."""


@torch.no_grad()
def apply_colour(images: Tensor, factors: Tensor, order: Tensor, grey: Tensor) -> Tensor:
    """Apply the changes of colour that were drawn for each image, each operation on the whole batch.

    No shape depends on the draws and nothing is indexed, so a CUDA graph can hold it. Brightness, contrast and
    saturation all blend an image with another (black, its mean grey, its grey), and a factor of 1 leaves it exactly as
    it is. So what an image does before its hue is turned fits into three blends, and what it does after into three
    more, and the hue, the slowest of the four, is turned only once.

    Args:
        images: float32 in [0, 1], (n, 3, height, width); not modified.
        factors: factors of brightness, contrast and saturation (1 is the identity), and hue shift (in turns), float32
            (n, 4).
        order: order in which the four changes are applied, int64 (n, 4).
        grey: whether each image is converted to greyscale at the end, bool (n,).

    Returns:
        float32 in [0, 1], (n, 3, height, width).
    """
    turn = (order == HUE).to(torch.int32).argmax(dim=1)
    for step in (0, 1, 2):
        images = _blended(images, factors, order[:, step], turn > step)
    images = adjust_hue(images, factors[:, HUE].view(-1, 1, 1, 1))
    for step in (1, 2, 3):
        images = _blended(images, factors, order[:, step], turn < step)
    return torch.where(grey.view(-1, 1, 1, 1), greyscale(images), images)


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
    """The grey value of images, (n, 3, height, width), in all three channels."""
    return _luma(images).expand_as(images)


def _blended(images: Tensor, factors: Tensor, kind: Tensor, active: Tensor) -> Tensor:
    """Apply operation ``kind``, (n,), not ``HUE``, to the images that are ``active``, (n,)."""
    factor = factors.gather(1, kind[:, None])[:, 0].masked_fill(~active, 1.0).view(-1, 1, 1, 1)
    kind = kind.view(-1, 1, 1, 1)
    luma = _luma(images)
    other = torch.where(kind == CONTRAST, luma.mean((1, 2, 3), keepdim=True), luma)
    other.masked_fill_(kind == BRIGHTNESS, 0.0)
    return torch.lerp(other.expand_as(images), images, factor).clamp_(0, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]
