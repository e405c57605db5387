"""How many runs fit side by side on this machine, by the memory that finished ones of their kind took."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ..config import Config
from ..reporter import Reporter
from ..runs.content import is_finished
from .measured import measured, spread
from .pace import kind_of
from .tasks import Task

__all__ = ["Packing", "fitting_jobs"]

USED = 0.9
"""Share of the free memory that runs may take."""

CONTEXT = 700_000_000
"""Memory of a GPU that each process takes besides what torch reserves, in bytes."""


class Packing:
    """Which runs of a sweep are trained next, and how many of them side by side.

    Runs of a kind are trained together, and as many side by side as fit by what finished ones of that kind took. Of a
    kind of which none is finished a few are trained first, to know.

    Args:
        tasks: all runs of the sweep, also the finished ones.
        device: device of the runs; a GPU without a number stands for all.
        otherwise: the number side by side where no finished run says what it took.
        reporter: receives a note about each number.
    """

    def __init__(self, tasks: Iterable[Task], device: torch.device, otherwise: int, reporter: Reporter) -> None:
        self._device, self._otherwise, self._reporter = device, otherwise, reporter
        self._folders: dict[object, list[Path]] = {}
        for config, folder in tasks:
            self._folders.setdefault(_kind_of(config), []).append(folder)

    def next(self, tasks: Sequence[Task]) -> tuple[list[Task], int]:
        """The first of ``tasks`` and those of its kind, or some of them, and how many go side by side."""
        kind = _kind_of(tasks[0][0])
        own = [task for task in tasks if _kind_of(task[0]) == kind]
        if own[0][0].fit != "all":  # which are trained together, in one process
            return own, 1
        finished = [folder for folder in self._folders[kind] if is_finished(folder)]
        if not finished:
            return own[: self._otherwise], self._otherwise
        jobs, why = fitting_jobs(finished, self._device, self._otherwise)
        self._reporter.note(f"--jobs auto: {own[0][0].model} at {own[0][0].size} px: {why}")
        return own, jobs


def _kind_of(config: Config) -> tuple[object, ...]:
    """The key of runs that need about as much memory; linear fits have one."""
    return (*kind_of(config), config.batch, config.masks, config.objective) if config.fit == "all" else ()


def fitting_jobs(finished: Sequence[Path], device: torch.device, otherwise: int) -> tuple[int, str]:
    """The number of runs that fit side by side, and a line that says why.

    It is what the memory has room for, of the host and of each GPU, at the most that any of the finished runs took, and
    at most one for each processor core.

    Args:
        finished: folders of finished runs, of which some are read.
        device: device of the runs; a GPU without a number stands for all.
        otherwise: the number where no finished run says what it took.
    """
    found = [each for each in map(measured, spread(finished)) if each is not None]
    host = max((each.host for each in found if each.host), default=0)
    reserved = max((each.device for each in found if each.device), default=0)
    on_gpu = device.type == "cuda"
    free = _free()
    if not host or not free or (on_gpu and not reserved):
        return otherwise, f"{otherwise} side by side, since no finished run says how much memory one takes"
    rooms = {"processor cores": os.cpu_count() or 1, "memory": int(USED * free / host)}
    told = f"{host / 1e9:.2g} GB"
    if on_gpu:
        gpus = range(torch.cuda.device_count()) if device.index is None else [device.index]
        rooms["memory of the GPU"] = sum(
            int(USED * torch.cuda.mem_get_info(gpu)[0] / (reserved + CONTEXT)) for gpu in gpus
        )
        told += f", and {reserved / 1e9:.2g} GB on the GPU"
    least = min(rooms, key=lambda name: rooms[name])
    jobs = max(1, rooms[least])
    return jobs, f"{jobs} side by side, by the {least}; a run took up to {told}"


def _free() -> int:
    """Free memory of the host, in bytes; 0 where it is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
