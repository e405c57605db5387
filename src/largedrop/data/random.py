"""Random streams that are a function of their purpose, seed and step, not of restarts or worker processes."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["generator", "torch_seed"]


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator whose stream depends on ``purpose`` and ``numbers`` (seed, step, …) alone.

    Philox is counter-based: each key has an independent stream, and making one costs microseconds.
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(purpose, numbers), "little")))


def torch_seed(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2⁶³) for ``torch.manual_seed``, a function of ``purpose`` and ``numbers`` alone."""
    return int.from_bytes(_digest(purpose, numbers)[:8], "little") >> 1


def _digest(purpose: str, numbers: tuple[int, ...]) -> bytes:
    return hashlib.blake2b(repr((purpose, *map(int, numbers))).encode(), digest_size=16).digest()
