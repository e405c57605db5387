"""Workers as the jobs of a Slurm array, through submitit; one that nears its time limit saves and is queued again."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from ...errors import UserError
from .worker import Request, Worker

__all__ = ["SlurmWorkers"]

CLUSTER = "slurm"
"""Submitit's name for Slurm; its ``local`` starts the same jobs as processes."""

REQUEUES = 100_000
"""How often a job may be queued again after its time limit."""


class SlurmWorkers:
    """Workers as the jobs of an array; see ``follow.Workers``.

    Args:
        most: largest number of workers that would have a run.

    Raises:
        UserError: submitit is not installed, or there is no Slurm here.
    """

    def __init__(self, worker: Worker, request: Request, most: int) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError('--launcher slurm needs submitit: pip install "largedrop[slurm]"') from error
        if CLUSTER == "slurm" and shutil.which("sbatch") is None:
            raise UserError("--launcher slurm: this machine has no sbatch; run it where jobs are submitted")
        self.jobs = min(request.jobs or most, most)
        self._worker = worker
        self._jobs: list[Any] = []
        self._executor = submitit.AutoExecutor(
            folder=worker.log / "slurm", cluster=CLUSTER, slurm_max_num_timeout=REQUEUES
        )
        self._executor.update_parameters(
            name="largedrop",
            timeout_min=math.ceil(request.time_limit / 60),
            cpus_per_task=request.cpus,
            slurm_setup=[f"export OMP_NUM_THREADS={request.cpus}"],
            slurm_additional_parameters=dict(request.slurm),
            **({"gpus_per_node": math.ceil(request.gpus)} if request.gpus else {}),
        )

    def start(self, count: int) -> None:
        """See ``follow.Workers``."""
        try:
            with self._executor.batch():
                started = [self._executor.submit(_Job(self._worker)) for _ in range(count)]
        except Exception as error:
            said = str(error).strip().split("\n")[-1]
            raise UserError(f"--launcher slurm: sbatch refuses the jobs: {said}") from error
        self._jobs += started

    def alive(self) -> int:
        """See ``follow.Workers``."""
        if CLUSTER != "slurm":
            return sum(not job.done() for job in self._jobs)
        arrays = sorted({job.job_id.split("_")[0] for job in self._jobs})
        if not arrays:
            return 0
        asked = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={','.join(arrays)}"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return len(found.stdout.split())
        if "Invalid job id" in found.stderr:  # it has ended and was forgotten
            return 0
        return len(self._jobs)  # Slurm does not answer now, and its jobs go on

    def leave(self) -> str:
        """See ``follow.Workers``."""
        arrays = sorted({job.job_id.split("_")[0] for job in self._jobs})
        return f"the jobs go on (scancel {' '.join(arrays)} ends them, and they save)"

    def __enter__(self) -> SlurmWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass


@dataclass
class _Job:
    """What submitit calls, and calls again after it was queued again."""

    worker: Worker

    def __call__(self) -> int:
        """Work until there is nothing left; where the time limit nears, save, and have submitit queue this again."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler, which would not let the run be saved
        asked: list[FrameType | None] = []

        def save(number: int, frame: FrameType | None) -> None:
            asked.append(frame)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGUSR2, save)
        try:
            code = self.worker()
        finally:
            signal.signal(signal.SIGUSR2, requeue)
        if asked and callable(requeue):
            requeue(signal.SIGUSR2, asked[0])
        return code

    def checkpoint(self) -> Any:
        """What is queued again: the same, as the folder says what is left."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
