"""A worker: the command that takes the runs of a sweep that no other has, as it is given to other machines."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..._version import __version__
from ...config import PROTOCOL
from ...errors import UserError
from ...files import read_bytes
from ..sweep import SweepPlan

__all__ = ["Request", "Worker", "check_plan", "last_words", "plan_id"]


@dataclass(frozen=True)
class Request:
    """What is asked of a launcher.

    Attributes:
        jobs: number of workers; None for as many as there is room for.
        gpus: GPUs for each, or a share of one; None for one where there are any.
        cpus: processor cores for each, and so its threads.
        address: of a Ray cluster; None to start one on this machine.
        time_limit: of a job, in seconds.
        slurm: further options of sbatch.
    """

    jobs: int | None = None
    gpus: float | None = None
    cpus: int = 1
    address: str | None = None
    time_limit: float = 4 * 3600.0
    slurm: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Worker:
    """The command, called in a process of its own on whichever machine.

    Attributes:
        arguments: those of ``largedrop``.
        log: folder for what the process prints.
    """

    arguments: tuple[str, ...]
    log: Path

    def __call__(self) -> int:
        """Run the command as ``python -m largedrop`` in this process; returns its exit code.

        SIGTERM saves the run and ends the command, also before it has begun to train.
        """
        path = self.log / f"{socket.gethostname()}-{os.getpid()}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
            before, sys.argv = sys.argv, ["largedrop", *self.arguments]
            try:
                with _ending():
                    runpy.run_module("largedrop", run_name="__main__")
            except SystemExit as ended:
                return ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.argv = before
        return 0


@contextmanager
def _ending() -> Iterator[None]:
    """Within the block, SIGTERM is what Ctrl-C is, where the command has no better answer."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def plan_id(planned: SweepPlan) -> str:
    """What must be the same where a plan is made again: the version of the package, and the runs.

    Their names are digests of their configs: of the data, the weights, the precision and the protocol as well.
    """
    runs = sorted(entry.folder.name for entry in planned.entries)
    return f"{__version__}-{hashlib.sha256(json.dumps([PROTOCOL, runs]).encode()).hexdigest()[:12]}"


def check_plan(planned: SweepPlan, launched: str) -> None:
    """Check that a worker's plan is the one it was launched for.

    Args:
        launched: ``plan_id`` where it was launched.

    Raises:
        UserError: it is another.
    """
    here = plan_id(planned)
    if here == launched:
        return
    version = launched.rpartition("-")[0]
    if version and version != __version__:
        raise UserError(f"the sweep was launched by largedrop {version}, and this is {__version__}; install the same")
    raise UserError(
        f"--worker {launched}: here the preset, the data or the options give another plan ({here}) than where the "
        "sweep was launched; launch it again"
    )


def last_words(log: Path) -> str:
    """The last line that a worker has printed; empty where there is none."""
    written: list[tuple[float, Path]] = []
    for path in log.glob("*.log"):
        with suppress(OSError):  # a link to nothing
            written.append((path.stat().st_mtime, path))
    for _, path in sorted(written, reverse=True):
        lines: list[str] = []
        with suppress(OSError):  # a pipe, a folder
            lines = read_bytes(path).decode("utf-8", "replace").split("\n")
        for line in reversed(lines):
            if line.strip():
                return line.strip().removeprefix("largedrop: ")
    return ""
