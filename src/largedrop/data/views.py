"""What a network sees of an image when it is evaluated: the whole image, resized to a square, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["evaluation_view", "normalise"]


def evaluation_view(images: Sequence[npt.NDArray[np.uint8]], size: int) -> Tensor:
    """Resize each image to ``size`` × ``size`` (bilinear with antialiasing, as Pillow and torchvision do it).

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: in pixels.

    Returns:
        uint8 (n, 3, size, size), channels last in memory.
    """
    result = torch.empty((len(images), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    for position, image in enumerate(images):
        result[position] = resize(image, size)
    return result


def resize(image: npt.NDArray[np.uint8], size: int) -> Tensor:
    """One RGB array (height, width, 3) to uint8 (3, size, size)."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # a copy: the cache is read-only
    if image.shape[:2] == (size, size):
        return pixels[0]
    # Channels last in memory, as the pixels lie, is what torch has its fast uint8 kernel for.
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale to [0, 1] where ``images`` are uint8, then subtract ``mean`` and divide by ``std`` channel by channel.

    Args:
        images: uint8 in [0, 255] or float in [0, 1], (n, 3, height, width).
        mean: of each channel.
        std: of each channel.

    Returns:
        float32 (n, 3, height, width), channels last in memory.
    """
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    factor = torch.tensor([scale / value for value in std], device=images.device).view(1, 3, 1, 1)
    offset = torch.tensor(
        [-average / value for average, value in zip(mean, std, strict=True)], device=images.device
    ).view(1, 3, 1, 1)
    return torch.addcmul(offset, images.to(torch.float32), factor).contiguous(memory_format=torch.channels_last)
