"""Depthwise convolution whose gradients each take the fastest kernel the CPU has for them.

The forward kernels are fast in every type, but some backward kernels fall back to a slow reference implementation:
in bfloat16 the gradient of the input at stride 2 and the gradient of the weights of kernels of 5 and more take 10 to
100 times as long as in float32 (measured over the layers of EfficientNet-Lite0 by ``benchmarks/depthwise.py``). There
the operands are cast to float32 first, which is exact; the result is rounded back once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["depthwise_conv2d"]


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Convolve each channel with its own kernel.

    Args:
        x: (batch, channels, height, width).
        weight: (channels, 1, kernel height, kernel width), of the same type as ``x``.
        bias: (channels,) or None.
        stride: in pixels.
        padding: zeros on each side, in pixels.

    Returns:
        (batch, channels, height', width'), as ``torch.nn.functional.conv2d`` with ``groups=channels``.
    """
    result: Tensor = _Depthwise.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
    return result


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        low = gradient.dtype in (torch.bfloat16, torch.float16)
        slow_x = low and max(ctx.stride) > 1
        slow_weight = low and max(weight.shape[2:]) > 3
        wide = gradient.float() if (slow_x and need_x) or (slow_weight and need_weight) else gradient

        def kernel(cast: bool, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            operands = (wide, x.float(), weight.float()) if cast else (gradient, x, weight)
            result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                *operands, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], x.shape[1], mask
            )
            return result

        gradient_x = kernel(slow_x, [True, False, False])[0].to(x.dtype) if need_x else None
        gradient_weight = kernel(slow_weight, [False, True, False])[1].to(weight.dtype) if need_weight else None
        total = torch.float32 if low else gradient.dtype
        gradient_bias = gradient.sum((0, 2, 3), dtype=total).to(gradient.dtype) if need_bias else None
        return gradient_x, gradient_weight, gradient_bias, None, None
