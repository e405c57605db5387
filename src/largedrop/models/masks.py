"""Several dropout masks for each example at once, drawn so that each unit is kept in nearly the same number of them.

At rate λ the gradient's noise by the mask is λ/(1−λ) times as strong as the signal: nine times at 0.9. The masks act on
the representation, behind all that is expensive, so K masks for each example cost next to nothing, and the mean of
their K losses has the same expectation as one (multi-sample dropout: Inoue, 2019, arXiv 1905.09788; here the masks are
stratified over the K).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["MOST", "draw_masks", "several_masks"]

MOST = 1024
"""Largest number of masks."""

LEVELS = 2**15
"""Number of values of a draw, to whose inverse rates are exact; with the sign bit they fill 16 bits."""

WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by size in bytes."""


def draw_masks(shape: torch.Size, rate: float, masks: int, device: torch.device) -> tuple[Tensor, float]:
    """Draw ``masks`` masks for each entry of ``shape``, from torch's global generator of the device.

    Each entry has a uniform draw u and a stride s coprime with K; mask k keeps it where (u + k·s/K) mod 1 < 1 − λ. So
    each mask alone is ordinary dropout, independent between entries, and an entry is kept in ⌊K(1−λ)⌋ or ⌈K(1−λ)⌉ of
    the K masks: in exactly one where K = 10 and λ = 0.9. That leaves no or little noise in what is linear in the masks;
    the strides keep two entries from being kept together in many masks or in none. Strides are rounded down to
    multiples of 1/32768, so where K is no power of two the counts may be others: at K = 10 for less than one entry in a
    thousand, at K = 1000 they are 78 to 105 where they should be 100.

    Args:
        shape: shape of what is masked.
        rate: dropout rate λ in [0, 1), rounded to a multiple of 1/32768.
        masks: number K of masks, from 1 to ``MOST``.

    Returns:
        int16 (masks, *shape) with all bits set where the entry is kept and none where it is dropped; and the factor of
        what is kept, the inverse of the share that is kept.
    """
    kept = max(1, round((1 - rate) * LEVELS))
    count = shape.numel()
    drawn = torch.empty(-(-count // 2), dtype=torch.int64, device=device).random_(-(2**63), None).view(torch.int16)
    first, chosen = drawn[:count].view(shape), drawn[-count:].view(shape)
    strides = _strides(masks, device)
    index = (chosen.bitwise_and(LEVELS - 1).int() * len(strides)).bitwise_right_shift_(15)
    stride = strides.index_select(0, index.flatten()).view(shape)
    moved = torch.arange(masks, dtype=torch.int16, device=device).view(-1, *[1] * len(shape)) * stride
    # (u + k s/K) mod 1 − (1 − λ), whose sign bit then fills all bits; comparisons would take several times as long.
    return moved.add_(first).bitwise_and_(LEVELS - 1).sub_(kept).bitwise_right_shift_(15), LEVELS / kept


@lru_cache(maxsize=16)
def _strides(masks: int, device: torch.device) -> Tensor:
    """The strides, in levels: kept, since a copy from the host cannot be recorded in a CUDA graph."""
    coprime = [number * LEVELS // masks for number in range(masks) if math.gcd(number, masks) == 1]
    return torch.tensor(coprime, dtype=torch.int16, device=device)


def several_masks(representation: Tensor, rate: float, masks: int) -> Tensor:
    """``masks`` times the representation under dropout, each with a mask of its own; see ``draw_masks``.

    Args:
        representation: (batch, …), of a floating point type.
        rate: dropout rate λ in [0, 1).
        masks: number K of masks.

    Returns:
        (masks · batch, …): all examples under the first mask, then all under the second, and so on; so labels are
        ``labels.repeat(masks)``. Differentiable once.
    """
    result: Tensor = _Masked.apply(representation, rate, masks)  # type: ignore[no-untyped-call]
    return result


class _Masked(torch.autograd.Function):
    """m ⊙ x / (1 − λ) for all masks; the masks are applied to the bits of the numbers, in one pass."""

    @staticmethod
    def forward(ctx: Any, representation: Tensor, rate: float, masks: int) -> Tensor:
        kept, factor = draw_masks(representation.shape, rate, masks, representation.device)
        kept = kept.to(WHOLE[representation.element_size()])
        ctx.save_for_backward(kept)
        ctx.factor = factor
        scaled = (representation * factor).view(kept.dtype)
        return (kept & scaled).view(representation.dtype).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        of_kept = kept & gradient.contiguous().view(kept.dtype).view(kept.shape)
        return of_kept.view(gradient.dtype).sum(0) * ctx.factor, None, None
