"""The gradients of a convolution on the processor, each by the fastest of the library's kernels.

The library's forward kernels are fast in every type and layout, but some of its backward kernels fall back to a
reference implementation that takes 10 to 100 times as long, and others are slower than a matrix product. Which of them
are was measured over shapes, types and instruction sets (``benchmarks/depthwise.py``, ``benchmarks/training_step.py``);
they are replaced by kernels that compute the same sums:

=================================  ====================================================================================
gradient                           instead of the library's own
=================================  ====================================================================================
depthwise, input                   the forward kernel with the kernels turned by half a turn; at a stride on the
                                   gradient with ``stride − 1`` zeros between its pixels
depthwise, weight, wider than 3    kernels at most 3 wide, each on the columns of the input that it reads
depthwise, weight, small maps      zeros around the input written out, where padding inside the kernel is slow
1 × 1, input                       one matrix product
dense, weight                      a matrix product for each of the kernel's pixels
bias                               a matrix product with ones
=================================  ====================================================================================

Where each of them is ahead depends on the type: ``Rules``. The choice depends on shapes and types alone, never on
timings at run time, so results stay reproducible.

One of the library's kernels is not slow but wrong, and is never asked (``is_faulty``): it writes beyond its memory.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Geometry",
    "Gradients",
    "Pads",
    "Rules",
    "gradients",
    "is_depthwise",
    "is_faulty",
    "padding_of",
    "rows_of",
    "rules_of",
]

Pads = tuple[int, int, int, int]

Pair = tuple[int, int]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of input, weight and bias."""


class Geometry(NamedTuple):
    """How a convolution moves over its input.

    Attributes:
        stride: vertical and horizontal stride, in pixels.
        pads: zeros at the left, right, top and bottom, in pixels; negative values crop.
        dilation: vertical and horizontal dilation, in pixels.
        groups: number of groups of channels.
    """

    stride: Pair
    pads: Pads
    dilation: Pair = (1, 1)
    groups: int = 1


class Rules(NamedTuple):
    """Which of the kernels above are ahead of the library's own in a type.

    Attributes:
        turned: whether the input gradient of a depthwise convolution is a forward convolution.
        largest_strided: the largest side of a map, in pixels, up to which a strided depthwise kernel wider than 3 is
            split for its weight gradient.
        product_pixels: the most pixels of a batch up to which the weight gradient of a 1 × 1 convolution is a product.
        bias_apart: whether the bias is a product of its own, because the library's weight kernel loses more time on it.
        keeps_zeros: whether an input that zeros are written around is kept with them; else they are written again,
            which costs a pass for the memory of one.
    """

    turned: bool
    largest_strided: float
    product_pixels: float
    bias_apart: bool
    keeps_zeros: bool


FEW_PIXELS = 4096
"""Up to this many pixels in a batch, a matrix product is the fastest gradient of a 1 × 1 convolution in every type."""

MANY_PIXELS = 40_000
"""Up to this many it is the fastest for the input where the convolution has fewer channels out than in."""

WIDEST = 3
"""Widest depthwise kernel whose weight gradient is fast in every type."""

SMALL_MAP = 6
"""Up to this side, in pixels, the library's own input gradient of a 3 × 3 depthwise kernel is as fast as any."""

SOUND_CHANNELS = 16
"""Fewest channels in for which the library's weight gradient of a strided 1 × 1 convolution keeps within its memory."""

_FLOAT32 = Rules(turned=False, largest_strided=10, product_pixels=inf, bias_apart=True, keeps_zeros=True)
_OTHERS = Rules(turned=True, largest_strided=inf, product_pixels=FEW_PIXELS, bias_apart=False, keeps_zeros=False)


def rules_of(kind: torch.dtype) -> Rules:
    """The rules for a type: those measured in float32, and in bfloat16 for all others."""
    return _FLOAT32 if kind == torch.float32 else _OTHERS


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> Gradients:
    """Gradients of input, weight and bias, where ``needed``, each by its fastest kernel.

    Args:
        gradient: of the output, (batch, channels out, height', width').
        x: input, (batch, channels, height, width), without the zeros around it.
        weight: kernels, (channels out, channels / groups, kernel height, kernel width).
        geometry: stride, pads, dilation and groups.
        needed: whether each of the three is wanted.
    """
    stride, pads, dilation, groups = geometry
    need_x, need_weight, need_bias = needed
    rules = rules_of(x.dtype)
    of_x = of_weight = of_bias = None
    if dilation == (1, 1) and is_depthwise(weight, groups):
        if need_x and rules.turned and not _is_plain(weight, x, stride, pads):
            of_x = _depthwise_input_gradient(gradient, weight, x, stride, pads)
        if need_weight and _is_split(weight, x, stride, pads, rules):
            of_weight, of_bias = _depthwise_weight_gradient(gradient, weight, x, stride, pads)
    elif dilation == (1, 1) and groups == 1:
        if need_x and _is_input_product(gradient, weight, geometry):
            of_x = _input_product(gradient, weight, x, stride)
        if need_weight and _is_weight_product(gradient, weight, geometry, rules):
            of_weight = _weight_product(gradient, weight, x, geometry)
    left = need_x and of_x is None, need_weight and of_weight is None
    if any(left):
        padded, padding = padding_of(x, pads)
        apart = rules.bias_apart and (groups == 1 or weight.shape[3] > WIDEST)
        with_bias = need_bias and left[1] and not apart
        found, library_weight, library_bias = _library(gradient, padded, weight, padding, geometry, (*left, with_bias))
        if found is not None:
            of_x = found if padded is x else F.pad(found, [-pad for pad in pads])
        of_weight = of_weight if library_weight is None else library_weight
        of_bias = of_bias if library_bias is None else library_bias
    if need_bias and of_bias is None:
        rows = rows_of(gradient)
        of_bias = (rows.new_ones(1, len(rows)) @ rows)[0]
    return of_x, of_weight, of_bias if need_bias else None


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel has its own kernel."""
    return groups == weight.shape[0] > 1 and weight.shape[1] == 1


def is_faulty(weight: Tensor, stride: Pair, groups: int) -> bool:
    """Whether the library's weight gradient may write beyond its memory, in any type but float32.

    Seen with torch 2.12 on a processor with AVX-512 BF16, in bfloat16: RepVGG and FastViT end the process at
    their first layer. With 16 channels or more, a stride of 1, or float32, glibc's checks of its memory find nothing.
    """
    few = weight.shape[1] < SOUND_CHANNELS
    return few and groups == 1 and weight.shape[2:] == (1, 1) and tuple(stride) != (1, 1)


def padding_of(x: Tensor, pads: Pads) -> tuple[Tensor, Pair]:
    """``x`` and the padding for the library's kernels; zeros are put around ``x`` where the padding is asymmetric."""
    left, right, top, bottom = pads
    if left == right >= 0 and top == bottom >= 0:
        return x, (top, left)
    return F.pad(x, pads), (0, 0)


def rows_of(x: Tensor) -> Tensor:
    """The pixels of all images in rows, (pixels, channels); a view where channels are last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _library(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: Pair, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> Gradients:
    """Gradients of input, weight and bias by the library's own kernels, where ``needed``.

    Its ``padding`` (downwards and to the right) takes the place of the geometry's pads.
    """
    stride, _, dilation, groups = geometry
    result: Gradients = torch.ops.aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, needed
    )
    return result


def _is_input_product(gradient: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    if weight.shape[2:] != (1, 1) or any(geometry.pads):
        return False
    pixels = gradient.numel() // gradient.shape[1]
    narrowing = weight.shape[0] < weight.shape[1]
    return geometry.stride != (1, 1) or pixels <= (MANY_PIXELS if narrowing else FEW_PIXELS)


def _input_product(gradient: Tensor, weight: Tensor, x: Tensor, stride: Pair) -> Tensor:
    count, channels, height, width = x.shape
    product = (rows_of(gradient) @ weight.flatten(1)).view(count, *gradient.shape[2:], channels)
    if stride != (1, 1):  # the pixels that are skipped have no gradient
        spread = product.new_zeros((count, height, width, channels))
        spread[:, :: stride[0], :: stride[1]] = product
        product = spread
    return product.permute(0, 3, 1, 2)


def _is_weight_product(gradient: Tensor, weight: Tensor, geometry: Geometry, rules: Rules) -> bool:
    pixels = gradient.numel() // gradient.shape[1]
    if weight.shape[2:] == (1, 1):
        return pixels <= rules.product_pixels or is_faulty(weight, geometry.stride, geometry.groups)
    # Copying the input once for each pixel of the kernel pays where few pixels have many channels.
    return pixels <= weight.shape[1] * (2 if geometry.stride == (1, 1) else 5)


def _weight_product(gradient: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """A product for each pixel of the kernel; the narrower side comes first, which is the faster order."""
    (down, across), pads = geometry.stride, geometry.pads
    rows = rows_of(gradient)
    source = F.pad(x, pads) if any(pads) else x
    height, width = gradient.shape[2:]
    parts = []
    for top in range(weight.shape[2]):
        for left in range(weight.shape[3]):
            reached = source[:, :, top : top + (height - 1) * down + 1 : down]
            read = rows_of(reached[..., left : left + (width - 1) * across + 1 : across])
            parts.append(rows.t() @ read if weight.shape[0] <= weight.shape[1] else (read.t() @ rows).t())
    return parts[0].contiguous().view_as(weight) if len(parts) == 1 else torch.stack(parts, 2).view_as(weight)


def _depthwise_input_gradient(gradient: Tensor, weight: Tensor, x: Tensor, stride: Pair, pads: Pads) -> Tensor:
    """Σ over taps of gradient × weight: a forward convolution of the gradient with the turned kernels."""
    count, channels, height, width = x.shape
    down, right = weight.shape[2] - 1, weight.shape[3] - 1  # pixels that a kernel reaches beyond its first
    before = down - pads[2], right - pads[0]
    turned = weight.flip(2, 3)
    if stride == (1, 1) and pads[0] == pads[1] <= right and pads[2] == pads[3] <= down:
        return F.conv2d(gradient, turned, None, 1, before, 1, channels)
    spread = gradient.new_zeros((count, height + down, width + right, channels))
    # Where a kernel reached into zeros only, its gradient reaches no pixel.
    first = [-(-max(-skipped, 0) // step) for skipped, step in zip(before, stride, strict=True)]
    source = gradient.permute(0, 2, 3, 1)[:, first[0] :, first[1] :]
    start = [skipped + step * index for skipped, step, index in zip(before, stride, first, strict=True)]
    target = spread[:, start[0] :: stride[0], start[1] :: stride[1]]
    rows, columns = min(source.shape[1], target.shape[1]), min(source.shape[2], target.shape[2])
    target[:, :rows, :columns] = source[:, :rows, :columns]
    return F.conv2d(spread.permute(0, 3, 1, 2), turned, None, 1, 0, 1, channels)


def _fits_inside(weight: Tensor, x: Tensor, stride: Pair, pads: Pads) -> tuple[bool, bool]:
    """Whether padding inside the library's weight kernel is fast, vertically and horizontally.

    It is for half a kernel, and for maps that are larger than it.
    """
    tall, wide = weight.shape[2:]
    height, width = x.shape[2:]
    left, right, top, bottom = pads
    vertical = top == bottom == tall // 2 and height >= max(tall, 2 + max(stride)) and (tall <= 5 or stride == (1, 1))
    return vertical, wide <= WIDEST and left == right <= wide // 2 and width >= 2 + max(stride)


def _is_plain(weight: Tensor, x: Tensor, stride: Pair, pads: Pads) -> bool:
    half = weight.shape[2:] == (3, 3) and all(pad == 1 for pad in pads)
    return half and stride == (1, 1) and max(x.shape[2:]) <= SMALL_MAP


def _is_split(weight: Tensor, x: Tensor, stride: Pair, pads: Pads, rules: Rules) -> bool:
    """Whether the weight gradient of a depthwise convolution is not the library's own, in one piece."""
    if weight.shape[3] > WIDEST:
        return stride == (1, 1) or max(x.shape[2:]) <= rules.largest_strided
    return padding_of(x, pads)[1] != (0, 0) and not all(_fits_inside(weight, x, stride, pads))


def _depthwise_weight_gradient(
    gradient: Tensor, weight: Tensor, x: Tensor, stride: Pair, pads: Pads
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias, the kernel's columns split into parts that have fast kernels."""
    channels, wide = weight.shape[0], weight.shape[3]
    width = x.shape[3]
    left, _, top, bottom = pads
    inside, whole = _fits_inside(weight, x, stride, pads)
    vertical = (0, 0) if inside else (top, bottom)
    parts, of_bias = [], None
    for start in range(0, wide, WIDEST):
        columns = min(WIDEST, wide - start)
        if whole:
            padding, sides = left, (0, 0)
        else:
            needed = (gradient.shape[3] - 1) * stride[1] + columns  # pixels that these columns read
            padding, sides = 0, (left - start, needed - width - left + start)
            if min(sides) <= -width:  # no pixel of a map this small reaches these columns
                parts.append(torch.zeros_like(weight[..., start : start + columns]))
                continue
        source = F.pad(x, (*sides, *vertical)) if any((*sides, *vertical)) else x
        chosen, pair = weight[..., start : start + columns], (top if inside else 0, padding)
        geometry = Geometry(stride, pads, groups=channels)
        _, part, total = _library(gradient, source, chosen, pair, geometry, (False, True, start == 0))
        assert part is not None
        parts.append(part)
        of_bias = total if start == 0 else of_bias
    return torch.cat(parts, 3) if len(parts) > 1 else parts[0], of_bias
