"""Images in a device's memory, and their views computed there, a batch at a time, without synchronisation.

The views equal those of ``host.augment`` and ``host.evaluation_view``: the same draws, made on the host as a function
of (seed, step), and the same pixels. Resizing is done as torch's uint8 kernel on the processor does it: the triangle
filter's weights are rounded to 16-bit fixed point, and the rows are resized and rounded to whole grey levels before the
columns are. Sums of whole numbers do not depend on their order, so the result is the processor's bit for bit, whatever
else is in the batch, and no setting for matrix products (TF32) can change it.

A filter reads few pixels: two or three in each direction where 227 pixels become 224. So each direction is a short
loop over those, with one gather of the whole batch in each round. How many rounds there are follows from the largest
crop: in an evaluation of the batch, in training of all images, since a CUDA graph does the same at each step. By its
aspect a crop is hardly longer than its image's shorter side, so that a panorama makes no batch slow. Every shape is
known on the host, nothing is read back, and nothing is copied from pageable memory, so that a CUDA graph can hold all
of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import UserError
from ..dataset import Images, IntArray
from .colour import apply_colour
from .draws import Draws, largest_crop

__all__ = [
    "ResidentImages",
    "crop_resize",
    "device_evaluation_batch",
    "pack_draws",
    "packed_training_batch",
    "pinned",
    "to_device",
]

STAGING = 64 << 20
"""Bytes of each of the two buffers that pixels pass through on their way to the device."""

KEPT, KEPT_SHARE = 6 << 30, 1 / 4
"""Bytes of the device's memory, and share of it, that images leave to training: the larger of the two. ResNet-50 with
batches of 96 images of 224 pixels needs about 3 GiB besides CUDA's own."""

SCRATCH = 1 << 30
"""Bytes that resizing may use at once; a batch that needs more is resized in parts of a fixed size."""

SCRATCH_PER_PIXEL = 8 + 3 + 2 * 3 * 4
"""Bytes for each pixel of the rows being resized: its index, its three bytes, and two int32 sums per channel."""

LONG = 4
"""Images of an evaluation batch that are so many times longer than its median image are resized by themselves."""

GIB = 1 << 30

PRECISION, LARGEST_SHIFT = 15, 22
"""Bits of a weight in fixed point, and the largest shift by which it is scaled, as in torch's kernel."""


class ResidentImages:
    """The pixels of all images, one after the other, in a device's memory.

    Attributes:
        pixels: RGB, row by row, uint8 (3 × pixels in all,).
        index: first pixel, height and width of each image, int64 (images, 3), on the device.
        shapes: height and width of each image, int64 (images, 2), on the host.
        crop: the largest height and width of a training crop, in pixels.
        device: device of the pixels.
    """

    def __init__(self, images: Images, device: torch.device, sharing: int = 1) -> None:
        """Copy the images to the device.

        Args:
            sharing: number of processes that do so, which divide between them what is left to training and the rest.

        Raises:
            UserError: the images need more than the free memory less what is left to training.
        """
        count = len(images)
        shapes = [images[index].shape[:2] for index in range(count)]
        self.shapes: npt.NDArray[np.int64] = np.array(shapes, dtype=np.int64).reshape(count, 2)
        self.crop = largest_crop(self.shapes)
        areas = self.shapes.prod(axis=1)
        total = 3 * int(areas.sum())
        room = _room(device, sharing)
        if room is not None and total > room:
            raise _no_room(total, room, device)
        starts = np.cumsum(areas) - areas
        try:
            self.pixels = torch.empty(total, dtype=torch.uint8, device=device)
            self.index = torch.from_numpy(np.column_stack([starts, self.shapes])).to(device)
            _upload(images, self.pixels)
        except torch.cuda.OutOfMemoryError:
            raise _no_room(total, 0, device) from None
        self.device = self.pixels.device

    def __len__(self) -> int:
        return len(self.shapes)


@torch.no_grad()
def device_evaluation_batch(
    resident: ResidentImages, indices: IntArray, size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The evaluation views of a batch: ``host.evaluation_batch`` from images in the device's memory.

    Args:
        indices: indices of the batch's images, (n,), on the host.
        size: side of the views, in pixels.
        mean: per-channel mean, subtracted from inputs in [0, 1].
        std: per-channel standard deviation, by which the centred inputs are divided.

    Returns:
        float32 (n, 3, size, size), channels last in memory, on the device.

    Raises:
        ValueError: an index is out of range.
    """
    _check_indices(resident, indices)
    longest = resident.shapes[indices].max(axis=1, initial=1)
    long = longest > LONG * np.median(longest) if len(indices) else longest > 0
    if long.any():  # by themselves, since each round is one of the whole batch
        result = torch.empty((len(indices), 3, size, size), device=resident.device, memory_format=torch.channels_last)
        for part in (np.flatnonzero(~long), np.flatnonzero(long)):
            views = device_evaluation_batch(resident, np.asarray(indices)[part], size, mean, std)
            result.index_copy_(0, to_device(torch.from_numpy(part), resident.device), views)
        return result
    chosen = to_device(torch.from_numpy(np.asarray(indices, dtype=np.int64)), resident.device)
    sides = resident.index[chosen, 1:]
    boxes = torch.cat([torch.zeros_like(sides), sides], dim=1)
    tallest, widest = resident.shapes[indices].max(axis=0, initial=1)
    return _normalised(crop_resize(resident, chosen, boxes, size, (int(tallest), int(widest))), 1 / 255, mean, std)


def pack_draws(resident: ResidentImages, indices: IntArray, draws: Draws) -> Tensor:
    """Indices and draws of a training batch in one tensor on the host, for ``packed_training_batch``.

    Returns:
        index, box (4), flip, factors (4), order (4), grey: float64 (n, 15), exact for whole numbers below 2⁵³.

    Raises:
        ValueError: an index is out of range, or a crop is not inside its image or larger than ``resident.crop``.
            Checked on the host, since on the device a wrong index ends the process with an assertion or reads another
            image's pixels.
    """
    _check_indices(resident, indices)
    corner, sides = draws.box[:, :2], draws.box[:, 2:]
    outside = (corner < 0) | (sides < 1) | (corner + sides > resident.shapes[indices])
    if outside.any():
        row = int(np.flatnonzero(outside.any(axis=1))[0])
        height, width = resident.shapes[indices[row]].tolist()
        raise ValueError(f"crop {draws.box[row].tolist()} is not inside image {int(indices[row])}, {height} × {width}")
    if (sides > resident.crop).any():
        raise ValueError(f"a crop of {sides.max(axis=0).tolist()} pixels is larger than {list(resident.crop)}")
    columns = [indices, draws.box, draws.flip, draws.factors, draws.order, draws.grey]
    return torch.from_numpy(np.column_stack([np.asarray(column, dtype=np.float64) for column in columns]))


@torch.no_grad()
def packed_training_batch(
    resident: ResidentImages, packed: Tensor, size: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """The training views of a batch: ``host.augment`` of images in the device's memory, normalised.

    A CUDA graph can record it, with ``packed`` as the graph's input.

    Args and result are those of ``device_evaluation_batch``, with ``packed`` from ``pack_draws``, on the device.
    """
    whole = packed.to(torch.int64)
    levels = crop_resize(resident, whole[:, 0], whole[:, 1:5], size, resident.crop, packed[:, 5] != 0)
    views = levels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    views = apply_colour(views, packed[:, 6:10].to(torch.float32), whole[:, 10:14], packed[:, 14] != 0)
    return _normalised(views, 1.0, mean, std)


@torch.no_grad()
def crop_resize(
    resident: ResidentImages,
    indices: Tensor,
    boxes: Tensor,
    size: int,
    largest: tuple[int, int],
    flip: Tensor | None = None,
) -> Tensor:
    """Cut a box out of each image and resize it (bilinear with antialiasing), as torch's uint8 kernel does.

    Args:
        indices: indices of the images, int64 (n,), on the device; not checked, since that would synchronise.
        boxes: top, left, height, width of each crop, in pixels, int64 (n, 4); not checked either.
        size: side of the result, in pixels.
        largest: the largest height and width of a box, in pixels; larger ones give no error, but wrong views.
        flip: whether each image is mirrored, bool (n,); None for no mirroring.

    Returns:
        uint8 (n, 3, size, size), channels last in memory.
    """
    entries = resident.index[indices]
    corner = entries[:, 0] + boxes[:, 0] * entries[:, 2] + boxes[:, 1]
    tallest, widest = largest
    across = _filter(boxes[:, 3], size, widest, flip)
    down = _filter(boxes[:, 2], size, tallest, None)
    rows = torch.minimum(torch.arange(tallest, device=indices.device), boxes[:, 2:3] - 1)
    rows = corner[:, None] + rows * entries[:, 2:3]
    result = torch.empty((len(indices), size, size, 3), dtype=torch.uint8, device=indices.device)
    part = max(1, SCRATCH // (max(tallest, size) * size * SCRATCH_PER_PIXEL))
    for start in range(0, len(indices), part):
        chosen = slice(start, start + part)
        narrow = _resized_across(resident.pixels.view(-1, 3), rows[chosen], *(each[chosen] for each in across))
        result[chosen] = _resized_down(narrow, *(each[chosen] for each in down))
    return result.permute(0, 3, 1, 2)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host; to a GPU from pinned memory, so that the host does not wait for it.

    torch keeps the pinned block until the copy is done.
    """
    return pinned(tensor, device).to(device, non_blocking=True)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the host in memory from which a GPU copies by itself, whatever the thread's current GPU is."""
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # else a new thread would wake the first one
        return tensor.pin_memory()


def _normalised(images: Tensor, scale: float, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``host.normalise`` without its copies from the host: the constants are filled in by kernels."""

    def channels(values: Iterable[float]) -> Tensor:
        return torch.cat([torch.full((1, 1, 1, 1), value, device=images.device) for value in values], dim=1)

    factor = channels(scale / deviation for deviation in std)
    offset = channels(-average / deviation for average, deviation in zip(mean, std, strict=True))
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=torch.channels_last)
    return torch.addcmul(offset, images.to(torch.float32), factor, out=result)


def _resized_across(pixels: Tensor, rows: Tensor, sources: Tensor, weights: Tensor, shift: Tensor) -> Tensor:
    """Resize rows that start at pixels ``rows``, (n, height): uint8 (n, height, size, 3)."""
    shape = (*rows.shape, sources.shape[1], 3)
    total = torch.zeros(shape, dtype=torch.int32, device=rows.device)
    for tap in range(sources.shape[2]):
        read = rows[:, :, None] + sources[:, None, :, tap]
        total += pixels.index_select(0, read.flatten()).view(shape) * weights[:, None, :, tap, None]
    return _levels(total, shift.view(-1, 1, 1, 1))


def _resized_down(images: Tensor, sources: Tensor, weights: Tensor, shift: Tensor) -> Tensor:
    """Resize the columns of uint8 images (n, height, size, 3): uint8 (n, size, size, 3)."""
    count, height, size, _ = images.shape
    rows = images.view(count * height, size * 3)
    first = height * torch.arange(count, device=images.device)[:, None]
    total = torch.zeros((count, size, size * 3), dtype=torch.int32, device=images.device)
    for tap in range(sources.shape[2]):
        read = first + sources[:, :, tap]
        total += rows.index_select(0, read.flatten()).view(total.shape) * weights[:, :, tap, None]
    return _levels(total, shift.view(-1, 1, 1)).view(count, size, size, 3)


def _levels(total: Tensor, shift: Tensor) -> Tensor:
    """Fixed point to the nearest grey level; ``total`` is overwritten."""
    return total.add_(torch.ones_like(shift) << (shift - 1)).bitwise_right_shift_(shift).clamp_(0, 255).to(torch.uint8)


def _filter(length: Tensor, size: int, longest: int, flip: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The triangle filter that resizes ``length`` ≤ ``longest`` pixels, (n,), to ``size``.

    Computed in float64 and rounded to fixed point, as in torch's uint8 kernel. A mirrored image has its outputs in
    reverse order.

    Returns:
        Index of each pixel that an output reads, int64 (n, size, taps); weights, int32 (n, size, taps); and the shift
        by which the weights are scaled, in bits, int32 (n,).
    """
    output = torch.arange(size, device=length.device).expand(len(length), size)
    if flip is not None:
        output = torch.where(flip[:, None], size - 1 - output, output)
    scale = length[:, None].to(torch.float64) / size
    support = scale.clamp(min=1)
    centre = scale * (output + 0.5)
    first = (centre - support + 0.5).to(torch.int64).clamp_(min=0)
    last = torch.minimum((centre + support + 0.5).to(torch.int64), length[:, None]) - 1
    taps = int(2 * max(longest / size, 1.0)) + 1
    sources = first[..., None] + torch.arange(taps, device=length.device)
    weights = (1 - ((sources - centre[..., None] + 0.5) / support[..., None]).abs()).clamp_(min=0)
    weights.masked_fill_(sources > last[..., None], 0.0)
    weights /= weights.sum(dim=-1, keepdim=True)
    # The largest weight must stay below 2¹⁵: each shift at which it does is one more bit.
    one = torch.ones((), dtype=torch.int64, device=length.device)
    powers = one << torch.arange(1, LARGEST_SHIFT + 1, device=length.device)
    shift = ((0.5 + weights.amax((1, 2))[:, None] * powers).floor() < 1 << PRECISION).sum(dim=1)
    fixed = (weights * (one << shift)[:, None, None] + 0.5).to(torch.int32)
    return torch.minimum(sources, last[..., None]), fixed, shift.to(torch.int32)


def _check_indices(resident: ResidentImages, indices: IntArray) -> None:
    if len(indices) and not 0 <= int(np.min(indices)) <= int(np.max(indices)) < len(resident):
        raise ValueError(f"indices must be from 0 to {len(resident) - 1}, not {np.min(indices)} to {np.max(indices)}")


def _room(device: torch.device, sharing: int) -> int | None:
    """Bytes that the images of one of ``sharing`` processes may take on a GPU; None on the processor.

    The others may have taken theirs already, or not yet: so it is a share of the whole memory, and of the free memory
    all but a share of what is left to training.
    """
    if device.type != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info(device.index)  # torch 2.4 refuses a device without a number
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    kept = max(KEPT, int(KEPT_SHARE * whole))
    return max(0, min((whole - kept) // sharing, free - kept // sharing))


def _no_room(needed: int, room: int, device: torch.device) -> UserError:
    return UserError(
        f"the images need {needed / GIB:.1f} GiB in the memory of {device}, where {room / GIB:.1f} GiB are free for "
        "them; opened with a smaller bound they need less (open_dataset(…, bound=…))"
    )


def _upload(images: Images, target: Tensor) -> None:
    """Copy images one after the other into ``target``, through two buffers that are filled and sent in turn.

    One large copy from pinned memory takes a fraction of the time of one copy per image, and while one buffer is
    copied the other is filled.
    """
    cuda, length = target.device.type == "cuda", min(STAGING, len(target))
    buffers = [torch.empty(length, dtype=torch.uint8, pin_memory=cuda) for _ in range(2)]
    sent: list[torch.cuda.Event | None] = [None, None]
    done = filled = current = 0

    def send() -> None:
        nonlocal done, filled, current
        target[done : done + filled].copy_(buffers[current][:filled], non_blocking=True)
        if cuda:
            sent[current] = torch.cuda.current_stream(target.device).record_event()
        done, filled, current = done + filled, 0, 1 - current
        if (event := sent[current]) is not None:
            event.synchronize()

    for number in range(len(images)):
        rest = images[number].reshape(-1)
        while len(rest):
            piece, rest = rest[: length - filled], rest[length - filled :]
            buffers[current].numpy()[filled : filled + len(piece)] = piece
            filled += len(piece)
            if filled == length:
                send()
    send()
    if cuda:
        torch.cuda.current_stream(target.device).synchronize()
