"""Work too small to be shared between processor cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for the time of the block.

    Operations of a fraction of a millisecond gain nothing from a second core, and where another process is busy on that
    core they wait for it at every single one: 12 images' hue took 3 ms on one thread and 340 ms on two
    (docs/performance.md).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
