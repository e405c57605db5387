"""Convolution on the processor with the fastest kernel for each of its gradients.

The library's forward kernels are fast in every type and layout, but some of its backward kernels fall back to a
reference implementation that takes 10 to 100 times as long. Which of them do was measured over shapes
(``benchmarks/depthwise.py``), and each is replaced by fast kernels that compute the same sums:

=========================================  ============================================================================
gradient                                   instead
=========================================  ============================================================================
depthwise, input, stride 1, 5 × 5          the forward kernel with the kernels turned by half a turn
depthwise, input, greater strides          the same, on the gradient with ``stride − 1`` zeros between its pixels
depthwise, weight, wider than 3            kernels at most 3 wide, each on the columns of the input that it reads
depthwise, weight, small maps              zeros around the input written out, where padding inside the kernel is slow
1 × 1, weight, few pixels                  one matrix product
=========================================  ============================================================================

The choice depends on shapes and types alone, never on timings at run time, so results stay reproducible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Geometry", "conv2d", "folded_conv2d", "is_depthwise"]

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


WIDEST = 3
"""Widest kernel whose weight gradient is fast."""

FEW_PIXELS = 4096
"""Up to this many pixels in a batch, a matrix product is the fastest weight gradient of a 1 × 1 convolution."""


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``torch.nn.functional.conv2d`` of ``x`` with zeros around it; differentiable once.

    Args:
        x: input, (batch, channels, height, width).
        weight: kernels, (channels out, channels / groups, kernel height, kernel width), in the type of ``x``.
        bias: bias, (channels out,), or None.
        geometry: stride, pads, dilation and groups.

    Returns:
        (batch, channels out, height', width').
    """
    result: Tensor = _Convolution.apply(x, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return result


def folded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    statistics: tuple[Tensor, Tensor],
    geometry: Geometry,
    activation: str = "none",
) -> Tensor:
    """A convolution, the frozen batch norm after it and an activation, as one convolution on the processor.

    Differentiable once.

    With W' = W·γ/σ and b' = β + (c − μ)·γ/σ, the gradients are ∂W = ∂W'·γ/σ, ∂β = ∂b', ∂c = ∂b'·γ/σ and
    ∂γ = (Σ ∂W'·W + ∂b'·(c − μ))/σ, which takes half as many passes over the weights as autograd.

    Args:
        x: input, (batch, channels, height, width), in the type of the computation.
        weight: W, (channels out, channels / groups, kernel height, kernel width).
        bias: c, (channels out,), or None for zeros.
        scale: γ, (channels out,).
        shift: β, (channels out,).
        statistics: μ and 1/σ, (channels out,) each.
        geometry: stride, pads, dilation and groups.
        activation: ``none``, ``relu`` or ``relu6``.
    """
    result: Tensor = _Folded.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, scale, shift, *statistics, geometry, activation
    )
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        # The unpadded input is the output of the layer before, which is kept anyway.
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _forward(x, weight, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_gradients(gradient, x, weight, ctx.geometry, ctx.needs_input_grad[:3]), None


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        mean: Tensor,
        inverse: Tensor,
        geometry: Geometry,
        activation: str,
    ) -> Tensor:
        factor = scale * inverse
        offset = -mean if bias is None else bias - mean
        kernel = (weight * factor[:, None, None, None]).to(x.dtype)
        ctx.geometry, ctx.activation = geometry, activation
        output = _forward(x, kernel, torch.addcmul(shift, offset, factor).to(x.dtype), geometry, activation)
        # An activation's gradient follows from its output, which the next layer keeps anyway.
        kept = () if activation == "none" else (output,)
        ctx.save_for_backward(x, weight, kernel, factor, offset, inverse, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kernel, factor, offset, inverse, *kept = ctx.saved_tensors
        if kept:
            gradient = _ACTIVATIONS[ctx.activation].backward(gradient, *kept)
        need_x, *needed = ctx.needs_input_grad[:5]
        any_other = any(needed)
        of_x, of_kernel, of_sum = _gradients(gradient, x, kernel, ctx.geometry, (need_x, any_other, any_other))
        of_weight = of_bias = of_scale = of_shift = None
        if of_kernel is not None and of_sum is not None:
            of_shift = of_sum.to(weight.dtype)
            of_bias = of_shift * factor if needed[1] else None
            of_weight = of_kernel * factor[:, None, None, None]
            of_scale = torch.addcmul((of_kernel * weight).sum((1, 2, 3)), of_shift, offset) * inverse
        return of_x, of_weight, of_bias, of_scale, of_shift, *[None] * 4


@dataclass(frozen=True)
class _Activation:
    """An activation: its name and scalars in the library's fused kernel, in-place forward, and backward."""

    name: str
    scalars: tuple[float, ...]
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


_ACTIVATIONS = {
    "relu": _Activation("relu", (), torch.relu_, lambda gradient, y: torch.ops.aten.threshold_backward(gradient, y, 0)),
    "relu6": _Activation(
        "hardtanh",
        (0.0, 6.0),
        lambda x: x.clamp_(0, 6),
        lambda gradient, y: torch.ops.aten.hardtanh_backward(gradient, y, 0, 6),
    ),
}


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str = "none") -> Tensor:
    stride, pads, dilation, groups = geometry
    padded, padding = _padding(x, pads)
    if activation == "none":
        return F.conv2d(padded, weight, bias, stride, padding, dilation, groups)
    follower = _ACTIVATIONS[activation]
    if x.dtype in _FUSED and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # The same bits in the convolution's own pass; a separate pass takes a fifth of a forward pass's time.
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            padded, weight, bias, padding, stride, dilation, groups, follower.name, follower.scalars, ""
        )
        return fused
    return follower.forward(F.conv2d(padded, weight, bias, stride, padding, dilation, groups))


_FUSED = (torch.float32, torch.bfloat16)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needed: tuple[bool, bool, bool]
) -> Gradients:
    """Gradients of input, weight and bias, where ``needed``, each by its fastest kernel."""
    stride, pads, dilation, groups = geometry
    need_x, need_weight, need_bias = needed
    of_x = of_weight = of_bias = None
    small = is_depthwise(weight, groups) and dilation == (1, 1)
    if small and not _has_fast_kernels(weight, x, stride, pads):
        if need_x:
            of_x = _depthwise_input_gradient(gradient, weight, x, stride, pads)
        if need_weight:
            of_weight, of_bias = _depthwise_weight_gradient(gradient, weight, x, stride, pads)  # both in one pass
    elif _is_product(weight, gradient, stride, pads, groups):
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        if need_x:
            of_x = (rows @ weight.flatten(1)).view(*x.shape[:1], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
        if need_weight:
            of_weight = (rows.t() @ x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])).view_as(weight)
    else:
        padded, padding = _padding(x, pads)
        of_x, of_weight, of_bias = _library(gradient, padded, weight, padding, geometry, needed)
        if of_x is not None and padded is not x:
            of_x = F.pad(of_x, [-pad for pad in pads])
    if need_bias and of_bias is None:
        of_bias = gradient.permute(0, 2, 3, 1).reshape(-1, weight.shape[0]).sum(0)
    return of_x, of_weight, of_bias if need_bias else None


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether each channel has its own kernel."""
    return groups == weight.shape[0] > 1 and weight.shape[1] == 1


def _padding(x: Tensor, pads: Pads) -> tuple[Tensor, Pair]:
    """``x`` and the padding for the library's kernels; zeros are put around ``x`` where the padding is asymmetric."""
    left, right, top, bottom = pads
    if left == right >= 0 and top == bottom >= 0:
        return x, (top, left)
    return F.pad(x, pads), (0, 0)


def _is_product(weight: Tensor, gradient: Tensor, stride: Pair, pads: Pads, groups: int) -> bool:
    plain = weight.shape[2:] == (1, 1) and groups == 1 and stride == (1, 1) and not any(pads)
    return plain and gradient.numel() // gradient.shape[1] <= FEW_PIXELS


def _has_fast_kernels(weight: Tensor, x: Tensor, stride: Pair, pads: Pads) -> bool:
    """Whether the library's own kernels are fast for all gradients of a depthwise convolution."""
    half = all(pad == 1 for pad in pads) and weight.shape[2:] == (3, 3)
    return half and stride == (1, 1) and min(x.shape[2:]) >= 3


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


def _depthwise_weight_gradient(
    gradient: Tensor, weight: Tensor, x: Tensor, stride: Pair, pads: Pads
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias, the kernel's columns split into parts that have fast kernels."""
    channels, _, tall, wide = weight.shape
    height, width = x.shape[2:]
    left, right, top, bottom = pads
    # Padding inside the kernel is fast for half a kernel, and for maps that are larger than it.
    inside = top == bottom == tall // 2 and height >= max(tall, 2 + max(stride)) and (tall <= 5 or stride == (1, 1))
    whole = wide <= WIDEST and left == right <= wide // 2 and width >= 2 + max(stride)
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
