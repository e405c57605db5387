"""Resources of the process: torch's threads, its largest memory, and freed memory that the C library keeps."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

__all__ = ["forget_peak", "free_memory", "keep_freed_memory", "one_thread", "peak_memory", "without_collector"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""mallopt's parameters, from malloc.h of the GNU C library."""


@cache
def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation, for the rest of the process.

    By default the GNU C library maps a block of more than 32 MB at each allocation and unmaps it when it is freed. Each
    training step allocates and frees the same activations, and every time the kernel has to clear every page: at a
    batch of 96 images that took as long as the computation (docs/performance.md). The process then keeps its peak
    memory until it ends.

    Returns:
        Whether the setting was made: False with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def free_memory() -> None:
    """Free what only reference cycles keep, and give the GPU's cached memory back, before a failed run is tried again.

    To be called where no exception is being handled, since its traceback keeps the variables of every function.
    """
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def forget_peak(device: torch.device) -> None:
    """Let ``peak_memory`` be that from now on."""
    with suppress(OSError):  # elsewhere than on Linux it is that since the process began, or unknown
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int]:
    """The largest memory since ``forget_peak``, in bytes: ``host``, of the process, without files in memory, which
    processes share (Linux alone tells); ``device``, reserved on a GPU.
    """
    found = {}
    with suppress(OSError, KeyError, ValueError):
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
        sizes = {name: text.split() for name, _, text in (line.partition(":") for line in lines)}
        peak, files, shared = (int(sizes[name][0]) for name in ("VmHWM", "RssFile", "RssShmem"))
        found["host"] = max(0, peak - files - shared) * 1024
    if device.type == "cuda":
        found["device"] = torch.cuda.max_memory_reserved(device)
    return found


@contextmanager
def without_collector() -> Iterator[None]:
    """Within the block Python does not look for reference cycles.

    Millions of objects that stay make it look through all of them again and again, for nothing where work makes hardly
    any cycles.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread within the block.

    Operations of a fraction of a millisecond gain nothing from a second core, and wait at each of them where another
    process uses that core: the hue of 12 images took 3 ms on one thread and 340 ms on two (docs/performance.md).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
