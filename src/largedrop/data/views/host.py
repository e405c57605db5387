"""Training and evaluation views, made on the processor.

The training view is the image cropped, mirrored and changed in colour as ``draws`` says, the evaluation view the whole
image; both are resized to a square and normalised, by the compiled ``kernels``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import Draws, draw

__all__ = ["augment", "evaluation_batch", "evaluation_view", "normalise", "training_batch"]


def training_batch(
    images: Sequence[npt.NDArray[np.uint8]],
    size: int,
    seed: int,
    step: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Draw and apply the training views of a batch, normalised; see ``draw`` and ``augment``.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: side of the result, in pixels.
        seed: of the run.
        step: of the run; together they fix the draws.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides the difference.

    Returns:
        float32 (n, 3, size, size), channels last in memory.

    Raises:
        ValueError: an image is not RGB in bytes, ``size`` is not positive, or ``mean`` or ``std`` has not three values.
    """
    return augment(images, size, draw([(image.shape[0], image.shape[1]) for image in images], seed, step), mean, std)


def augment(
    images: Sequence[npt.NDArray[np.uint8]],
    size: int,
    draws: Draws,
    mean: Sequence[float] = (0, 0, 0),
    std: Sequence[float] = (1, 1, 1),
) -> Tensor:
    """Apply the draws, on the processor.

    The images are shared between as many threads as torch uses; the result does not depend on their number. The first
    call may compile for some seconds, see ``kernels``.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: side of the result, in pixels.
        draws: of as many images.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides the difference.

    Returns:
        float32, in [0, 1] before ``mean`` and ``std``, (n, 3, size, size), channels last in memory.

    Raises:
        ValueError: an image is not RGB in bytes, a crop does not lie in its image, an order is not one of the four
            changes, ``size`` is not positive, there are not as many draws as images, or ``mean`` or ``std`` has not
            three values.
    """
    if len(draws.box) != len(images):
        raise ValueError(f"{len(draws.box)} draws for {len(images)} images")
    if not (np.sort(draws.order, axis=1) == np.arange(4)).all():
        raise ValueError("the order of the changes must have each of 0, 1, 2 and 3 once")
    return render(images, size, mean, std, draws.box, draws.flip, draws.order, draws.factors, draws.grey)


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


def evaluation_batch(
    images: Sequence[npt.NDArray[np.uint8]], size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The evaluation views of some images, normalised: ``normalise(evaluation_view(images, size), mean, std)``, faster.

    The images are shared between as many threads as torch uses; the result does not depend on their number.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: in pixels.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides the difference.

    Returns:
        float32 (n, 3, size, size), channels last in memory.

    Raises:
        ValueError: an image is not RGB in bytes, ``size`` is not positive, or ``mean`` or ``std`` has not three values.
    """
    count = len(images)
    box = np.array([(0, 0, *image.shape[:2]) for image in images], dtype=np.int64).reshape(count, 4)
    never, none = np.zeros(count, dtype=np.bool_), np.empty((count, 0), dtype=np.int64)
    return render(images, size, mean, std, box, never, none, np.ones((count, 4)), never)


def render(
    images: Sequence[npt.NDArray[np.uint8]],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    box: npt.NDArray[np.int64],
    flip: npt.NDArray[np.bool_],
    order: npt.NDArray[np.int64],
    factors: npt.NDArray[np.float64],
    grey: npt.NDArray[np.bool_],
) -> Tensor:
    """Crop, resize, mirror, change colours and normalise on the processor, with torch's number of threads.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: side of the result, in pixels.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divides the difference.
        box: top, left, height, width of the crop, in pixels, (n, 4).
        flip: whether an image is mirrored, (n,).
        order: changes of colour in the order in which they are made, each at most once; (n, changes).
        factors: of the four changes, see ``draws.Draws``; (n, 4).
        grey: whether an image is turned grey at last, (n,).

    Returns:
        float32 (n, 3, size, size), channels last in memory.

    Raises:
        ValueError: an image is not RGB in bytes, a box does not lie in its image, ``size`` is not positive, ``mean``
            or ``std`` has not three values, or an image has not four factors.
    """
    if size < 1:
        raise ValueError(f"the size must be positive, not {size}")
    if not len(mean) == len(std) == 3:
        raise ValueError(f"expected the mean and deviation of three channels, not {len(mean)} and {len(std)}")
    for image, (top, left, height, width) in zip(images, box.tolist(), strict=True):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"not an RGB image of bytes: {image.dtype} {image.shape}")
        inside = top + height <= image.shape[0] and left + width <= image.shape[1]
        if min(top, left) < 0 or min(height, width) < 1 or not inside:
            raise ValueError(f"the crop {(top, left, height, width)} is not in an image of {image.shape[:2]}")
    # Copies that can be written to, and lie as the kernels need them.
    boxes, orders = np.array(box, dtype=np.int64, order="C"), np.array(order, dtype=np.int64, order="C")
    changes = np.array(factors, dtype=np.float64, order="C")
    if changes.shape != (len(images), 4):
        raise ValueError(f"expected four factors for each of {len(images)} images, not {changes.shape}")
    result = torch.empty((len(images), size * size, 3), dtype=torch.float32, device="cpu")
    views = result.view(len(images), size, size, 3).permute(0, 3, 1, 2)
    if not len(images):
        return views
    from . import kernels

    scale, offset = (
        np.array(numbers, dtype=np.float32)
        for numbers in zip(*((1 / by, -average / by) for average, by in zip(mean, std, strict=True)), strict=True)
    )
    target = result.numpy()
    positions = itertools.count()  # whoever is free takes the next image

    def work() -> None:
        scratch = kernels.scratch_memory(boxes[:, 2:], size)
        while (i := next(positions)) < len(images):
            pixels = np.ascontiguousarray(images[i]).reshape(len(images[i]), -1)
            mirrored, greyed = bool(flip[i]), bool(grey[i])
            kernels.view(
                *(pixels, boxes[i], size, mirrored, orders[i], changes[i], greyed, scale, offset, scratch, target[i])
            )

    workers = min(torch.get_num_threads(), len(images))
    if workers == 1:
        work()
    else:
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work) for _ in range(workers)]:
                done.result()
    return views


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
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divides the difference.

    Returns:
        float32 (n, 3, height, width), channels last in memory.
    """
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    factor = torch.tensor([scale / value for value in std], device=images.device).view(1, 3, 1, 1)
    offset = torch.tensor(
        [-average / value for average, value in zip(mean, std, strict=True)], device=images.device
    ).view(1, 3, 1, 1)
    return torch.addcmul(offset, images.to(torch.float32), factor).contiguous(memory_format=torch.channels_last)
