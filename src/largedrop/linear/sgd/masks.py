"""Dropout masks as a function of (seed, step, rate), the same bits from torch on any device and from ``kernels``."""

from __future__ import annotations

import torch
from torch import Tensor

from ...data.random import torch_seed

__all__ = ["LEVELS", "dropped_levels", "kept", "mask_key"]


LEVELS = 2**16
"""A unit is dropped by 16 random bits, so rates are exact to 1/65536."""


def dropped_levels(rate: float) -> int:
    """By how many of the 65,536 values of 16 bits a unit is dropped; 1/(1 − λ) is taken of that rate."""
    return min(round(rate * LEVELS), LEVELS - 1)


def mask_key(seed: int, step: int) -> int:
    """What the masks of a step are drawn from."""
    return torch_seed("linear mask", seed, step)


def kept(keys: Tensor, rows: int, units: int, dropped: Tensor) -> Tensor:
    """Which units are kept under some masks, bool (masks, rows, units), on the device of ``keys``.

    Four units share a draw of 64 bits of splitmix64 (Steele, Lea & Flood, 2014) that begins at a key. What a lower rate
    drops a higher one drops too, so rates are compared on common random numbers.

    Args:
        keys: of each mask, from ``mask_key``, int64 (masks,).
        rows: of the batch.
        units: of the representation.
        dropped: for each mask, from ``dropped_levels``, int64 (masks,).
    """
    words = -(-units // 4)
    drawn = torch.arange(1, rows * words + 1, device=keys.device) * _signed(0x9E3779B97F4A7C15) + keys[:, None]
    drawn = (drawn ^ _shifted(drawn, 30)) * _signed(0xBF58476D1CE4E5B9)
    drawn = (drawn ^ _shifted(drawn, 27)) * _signed(0x94D049BB133111EB)
    drawn = (drawn ^ _shifted(drawn, 31)).view(-1, rows, words, 1)
    sixteenths = drawn >> torch.tensor([0, 16, 32, 48], device=keys.device) & 0xFFFF
    return (sixteenths.view(-1, rows, 4 * words) >= dropped[:, None, None])[..., :units]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    """A shift to the right that moves zeros in, as of unsigned numbers."""
    return values >> bits & (1 << 64 - bits) - 1
