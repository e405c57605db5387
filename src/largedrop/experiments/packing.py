"""How many runs fit side by side on this machine, by the memory that finished ones took."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .measured import measured, spread

__all__ = ["fitting_jobs"]

USED = 0.9
"""Share of the free memory that runs may take."""

CONTEXT = 700_000_000
"""Memory of a GPU that each process takes besides what torch reserves, in bytes."""


def fitting_jobs(runs: Path, device: torch.device, otherwise: int) -> tuple[int, str]:
    """The number of runs that fit side by side, and a line that says why.

    It is what the memory has room for, of the host and of each GPU, at the most that any of the finished runs in a
    folder took, and at most one for each processor core.

    Args:
        runs: folder of runs, of which some are read.
        device: device of the runs; a GPU without a number stands for all.
        otherwise: the number where no finished run says what it took.
    """
    finished = sorted(path.parent for path in runs.glob("*/result.json"))
    found = [each for each in map(measured, spread(finished)) if each is not None]
    host = max((each.host for each in found if each.host), default=0)
    reserved = max((each.device for each in found if each.device), default=0)
    on_gpu = device.type == "cuda"
    free = _free()
    if not host or not free or (on_gpu and not reserved):
        return otherwise, f"--jobs auto: {otherwise}, since no finished run says how much memory one takes"
    rooms = {"processor cores": os.cpu_count() or 1, "memory": int(USED * free / host)}
    told = f"{host / 1e9:.2g} GB"
    if on_gpu:
        gpus = range(torch.cuda.device_count()) if device.index is None else [device.index]
        rooms["memory of the GPU"] = sum(
            int(USED * torch.cuda.mem_get_info(gpu)[0] / (reserved + CONTEXT)) for gpu in gpus
        )
        told += f", and {reserved / 1e9:.2g} GB on the GPU"
    least = min(rooms, key=lambda name: rooms[name])
    return max(1, rooms[least]), f"--jobs auto: {max(1, rooms[least])}, by the {least}; a run took up to {told}"


def _free() -> int:
    """Free memory of the host, in bytes; 0 where it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
