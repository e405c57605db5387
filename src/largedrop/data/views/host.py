"""Training and evaluation views, made on the processor.

The training view is the image cropped, mirrored and changed in colour by ``draws``, the evaluation view the whole
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
    """Draw and apply the training views of a batch, normalised: ``draw``, then ``augment``."""
    return augment(images, size, draw([(image.shape[0], image.shape[1]) for image in images], seed, step), mean, std)


def augment(
    images: Sequence[npt.NDArray[np.uint8]],
    size: int,
    draws: Draws,
    mean: Sequence[float] = (0, 0, 0),
    std: Sequence[float] = (1, 1, 1),
) -> Tensor:
    """The training views of ``images`` under ``draws``, on the processor.

    Args, result and errors are those of ``render``.

    Raises:
        ValueError: also where an order is not a permutation of the four changes, or there are not n draws.
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
        size: side of the views, in pixels.

    Returns:
        uint8 (n, 3, size, size), channels last in memory.
    """
    result = torch.empty((len(images), 3, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    for index, image in enumerate(images):
        result[index] = resize(image, size)
    return result


def evaluation_batch(
    images: Sequence[npt.NDArray[np.uint8]], size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The evaluation views of images, normalised: ``normalise(evaluation_view(images, size), mean, std)``, faster.

    Args, result and errors are those of ``render``.
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
    """Crop, resize, mirror, change colours and normalise on the processor.

    The images are distributed over as many threads as torch uses; the result does not depend on their number. The first
    call may compile for some seconds, see ``kernels``.

    Args:
        images: RGB arrays (height, width, 3), of any sizes.
        size: side of the views, in pixels.
        mean: per-channel mean, subtracted from inputs in [0, 1].
        std: per-channel standard deviation, by which the centred inputs are divided.
        box, flip, factors, grey: as in ``Draws``.
        order: kinds of the changes of colour, in their order, each at most once, (n, changes).

    Returns:
        float32 (n, 3, size, size), channels last in memory.

    Raises:
        ValueError: an image is not uint8 RGB, a box is not inside its image, ``size`` is not positive, ``mean`` or
            ``std`` has not three values, or ``factors`` not four for each image.
    """
    if size < 1:
        raise ValueError(f"the size must be positive, not {size}")
    if not len(mean) == len(std) == 3:
        raise ValueError(f"mean and std must have three values each, not {len(mean)} and {len(std)}")
    for image, (top, left, height, width) in zip(images, box.tolist(), strict=True):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
        inside = top + height <= image.shape[0] and left + width <= image.shape[1]
        if min(top, left) < 0 or min(height, width) < 1 or not inside:
            raise ValueError(f"the crop {(top, left, height, width)} is not inside an image of {image.shape[:2]}")
    # Copies that are writable and contiguous, as the kernels need them.
    boxes, orders = (np.array(array, dtype=np.int64, order="C") for array in (box, order))
    changes = np.array(factors, dtype=np.float64, order="C")
    if changes.shape != (len(images), 4):
        raise ValueError(f"factors must be ({len(images)}, 4), not {changes.shape}")
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
    indices = itertools.count()  # a free thread takes the next image

    def work() -> None:
        scratch = kernels.scratch_memory(boxes[:, 2:], size)
        while (i := next(indices)) < len(images):
            pixels = np.ascontiguousarray(images[i]).reshape(len(images[i]), -1)
            mirrored, greyed = bool(flip[i]), bool(grey[i])
            kernels.view(
                *(pixels, boxes[i], size, mirrored, orders[i], changes[i], greyed, scale, offset, scratch, target[i])
            )

    workers = min(torch.get_num_threads(), len(images))
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    return views


def resize(image: npt.NDArray[np.uint8], size: int) -> Tensor:
    """Resize one RGB array (height, width, 3) to uint8 (3, size, size)."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # a copy: the cache is read-only
    if image.shape[:2] == (size, size):
        return pixels[0]
    # torch's fast uint8 kernel needs channels last in memory, which the pixels have.
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale uint8 images to [0, 1]; subtract the mean and divide by the standard deviation of each channel.

    Args:
        images: uint8 in [0, 255] or float in [0, 1], (n, 3, height, width).
        mean: per-channel mean, subtracted from inputs in [0, 1].
        std: per-channel standard deviation, by which the centred inputs are divided.

    Returns:
        float32 (n, 3, height, width), channels last in memory.
    """
    scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
    factor = torch.tensor([scale / by for by in std], device=images.device).view(3, 1, 1)
    offset = torch.tensor([-average / by for average, by in zip(mean, std, strict=True)], device=images.device)
    offset = offset.view(3, 1, 1)
    return torch.addcmul(offset, images.to(torch.float32), factor).contiguous(memory_format=torch.channels_last)
