"""How the process gives memory back to the operating system: in a training loop, better not at all."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

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
