"""Activations and pooling that save for the backward pass only tensors that the adjacent layers save anyway.

torch's ``hardtanh`` saves its input; in place it has to copy it first, which costs a pass over the activation and as
much memory again. Its gradient follows from the output alone: it is zero where the output is 0 or 6.

torch's ``max_pool2d`` keeps the index of each maximum, in 8 bytes for each pixel of the output: a quarter as large as
everything else that a ResNet's stem keeps. Finding the indices again takes the time of one forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["max_pool", "relu6"]


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6), with the values and gradients of ``torch.nn.functional.relu6``."""
    result: Tensor = _ReLU6.apply(x, inplace)  # type: ignore[no-untyped-call]
    return result


def max_pool(x: Tensor, layer: nn.MaxPool2d) -> Tensor:
    """``layer(x)`` of ``x``, (batch, channels, height, width), with the same values and gradients.

    On a GPU the layer itself: there its time counts for more than the memory of its indices.
    """
    result: Tensor
    if x.device.type != "cpu":
        result = type(layer).forward(layer, x)
        return result
    geometry = tuple(_pair(each) for each in (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
    result = _MaxPool.apply(x, geometry, layer.ceil_mode)  # type: ignore[no-untyped-call]
    return result


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        output = x.clamp_(0, 6) if inplace else x.clamp(0, 6)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, output, 0, 6), None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: tuple[list[int], ...], ceil: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.geometry = kernel, stride, padding, dilation, _ = *geometry, ceil
        return F.max_pool2d(x, kernel, stride, padding, dilation, ceil)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        _, indices = torch.ops.aten.max_pool2d_with_indices(x, *ctx.geometry)
        of_x = torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *ctx.geometry, indices)
        return of_x, None, None


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
