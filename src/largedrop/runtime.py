"""What a process uses: how many threads of torch, and memory that the C library keeps."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

__all__ = ["keep_freed_memory", "one_thread"]


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of mallopt's parameters, from malloc.h of the GNU C library."""


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation, for the rest of the process.

    By default the GNU C library maps every block of more than 32 MB anew and gives it back when it is freed. A training
    step frees and takes the same activations again and again, and each time the kernel has to clear every page: at a
    batch of 96 images that took as long as the computation (docs/performance.md). The process then holds on to its peak
    memory until it ends.

    Returns:
        Whether it was done: False where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


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
