"""ReLU6 that keeps its output for the backward pass, which the next layer keeps anyway, instead of its input.

torch's ``hardtanh`` keeps its input: in place it has to copy it first, which costs a pass over the activation and as
much memory again. Its gradient can be told from the output alone: it is zero where that is 0 or 6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["relu6"]


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6), with the values and gradients of ``torch.nn.functional.relu6``."""
    result: Tensor = _ReLU6.apply(x, inplace)  # type: ignore[no-untyped-call]
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
