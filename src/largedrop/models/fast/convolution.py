"""Convolution on the processor, folded with the batch norm and the activation after it, differentiable once.

Its forward pass is the library's; its gradients are those of ``models/fast/gradients.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .gradients import MANY_PIXELS, Geometry, Pads, gradients, padding_of, rows_of, rules_of

__all__ = ["conv2d", "folded_conv2d"]


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
        x, ctx.geometry, ctx.crop = _kept(x, geometry)
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias, ctx.geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, *others = gradients(gradient, x, weight, ctx.geometry, ctx.needs_input_grad[:3])
        return _cropped(of_x, ctx.crop), *others, None


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
        x, ctx.geometry, ctx.crop = _kept(x, geometry)
        ctx.activation = activation
        output = _forward(x, kernel, torch.addcmul(shift, offset, factor).to(x.dtype), ctx.geometry, activation)
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
        of_x, of_kernel, of_sum = gradients(gradient, x, kernel, ctx.geometry, (need_x, any_other, any_other))
        of_weight = of_bias = of_scale = of_shift = None
        if of_kernel is not None and of_sum is not None:
            of_shift = of_sum.to(weight.dtype)
            of_bias = of_shift * factor if needed[1] else None
            of_weight = of_kernel * factor[:, None, None, None]
            of_scale = torch.addcmul((of_kernel * weight).sum((1, 2, 3)), of_shift, offset) * inverse
        return _cropped(of_x, ctx.crop), of_weight, of_bias, of_scale, of_shift, *[None] * 4


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


def _kept(x: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry, Pads | None]:
    """What is kept of the input for the gradients: it and its geometry, with zeros around it (and where) or without.

    Without, it is the output of the layer before, which is kept anyway.
    """
    padded, _ = padding_of(x, geometry.pads) if rules_of(x.dtype).keeps_zeros else (x, (0, 0))
    return (x, geometry, None) if padded is x else (padded, geometry._replace(pads=(0, 0, 0, 0)), geometry.pads)


def _cropped(of_x: Tensor | None, pads: Pads | None) -> Tensor | None:
    return of_x if of_x is None or pads is None else F.pad(of_x, [-pad for pad in pads])


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str = "none") -> Tensor:
    stride, pads, dilation, groups = geometry
    follower = _ACTIVATIONS.get(activation)
    if _is_product(x, weight, geometry):
        name, scalars = (follower.name, follower.scalars) if follower else ("none", ())
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows_of(x), weight.flatten(1), bias, name, scalars, "")
        count, (height, width), out = x.shape[0], x.shape[2:], weight.shape[0]
        # No view: one that a function returns must not be changed in place by the layer after it.
        shape, strides = (count, out, height, width), (height * width * out, 1, width * out, out)
        return product.new_empty(0).set_(product.untyped_storage(), 0, shape, strides)
    padded, padding = padding_of(x, pads)
    if follower is None:
        return F.conv2d(padded, weight, bias, stride, padding, dilation, groups)
    if x.dtype in _FUSED and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        # The same bits in the convolution's own pass; a separate pass takes a fifth of a forward pass's time.
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            padded, weight, bias, padding, stride, dilation, groups, follower.name, follower.scalars, ""
        )
        return fused
    return follower.forward(F.conv2d(padded, weight, bias, stride, padding, dilation, groups))


_FUSED = (torch.float32, torch.bfloat16)


def _is_product(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the library's matrix product is faster than its 1 × 1 convolution, which it is in bfloat16 with AMX."""
    plain = weight.shape[2:] == (1, 1) and geometry == Geometry((1, 1), (0, 0, 0, 0))
    few = x.numel() // x.shape[1] <= MANY_PIXELS
    return plain and few and x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
