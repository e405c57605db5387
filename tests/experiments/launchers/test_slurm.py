"""Jobs of Slurm: by submitit's local executor, and with squeue's answers. ``studies/launchers.py`` has a real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.presets import preset
from tests.helpers import assert_same_run, refusal

from largedrop.cli import main
from largedrop.experiments.launchers import slurm as module
from largedrop.experiments.launchers.slurm import SlurmWorkers
from largedrop.experiments.launchers.worker import Request, Worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmWorkers:
    """Two jobs of a Slurm that is not there."""

    class Job:
        def __init__(self, number: int) -> None:
            self.job_id = f"12_{number}"

    monkeypatch.setattr(shutil, "which", lambda name: name)
    found = SlurmWorkers(Worker((), tmp_path), Request(jobs=2), most=5)
    vars(found)["_jobs"] = [Job(0), Job(1)]
    return found


def test_a_sweep_by_submitit_has_the_bits_of_one_here(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(workers: SlurmWorkers, *arguments: object) -> None:
        """Also for their last moments, after the last run."""
        while workers.alive():
            time.sleep(0.05)

    monkeypatch.setattr(module, "CLUSTER", "local")
    monkeypatch.setattr(SlurmWorkers, "__exit__", wait)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here: the number of threads is in the last bits
    mine = preset(tmp_path, domains='"photo"')
    common = ["sweep", str(mine), "--data", str(toy), "--device", "cpu", "--precision", "float32"]
    slurm = ["--launcher", "slurm", "--jobs", "1", "--time-limit", "1h", "--slurm", "partition=none"]
    assert main([*common, "--output", str(tmp_path / "jobs"), *slurm]) == 0
    assert "report.md" in capsys.readouterr().out
    assert main([*common, "--output", str(tmp_path / "here")]) == 0
    runs = [path.name for path in (tmp_path / "here" / "runs").iterdir()]
    assert len(runs) == 2
    for name in runs:
        assert_same_run(tmp_path / "here" / "runs" / name, tmp_path / "jobs" / "runs" / name)


def test_the_parameters_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    request = Request(jobs=3, gpus=1.0, cpus=4, time_limit=5430.0, slurm={"partition": "gpu"})
    workers = SlurmWorkers(Worker((), tmp_path), request, most=2)
    assert workers.jobs == 2
    executor: Any = vars(workers)["_executor"]._executor
    assert executor.max_num_timeout == module.REQUEUES
    assert executor.parameters == {
        "job_name": "largedrop",
        "time": 91,
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "setup": ["export OMP_NUM_THREADS=4"],
        "additional_parameters": {"partition": "gpu"},
        **{name: value for name, value in executor.parameters.items() if name in ("ntasks_per_node", "nodes")},
    }


@pytest.mark.parametrize(
    ("code", "out", "error", "alive"),
    [
        (0, "12_0\n12_1\n", "", 2),
        (0, "", "", 0),
        (1, "", "slurm_load_jobs error: Invalid job id specified\n", 0),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller\n", 2),
    ],
)
def test_who_is_alive(
    workers: SlurmWorkers, monkeypatch: pytest.MonkeyPatch, code: int, out: str, error: str, alive: int
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, code, out, error)

    monkeypatch.setattr(subprocess, "run", run)
    assert workers.alive() == alive
    assert asked == [["squeue", "--noheader", "--array", "--format=%i", "--jobs=12"]]
    assert workers.leave() == "the jobs go on (scancel 12 ends them, and they save)"


def test_jobs_that_are_refused(workers: SlurmWorkers) -> None:
    class Refusing:
        def batch(self) -> Any:
            raise RuntimeError("sbatch: error: invalid partition\nsbatch: error: Batch job submission failed")

    vars(workers)["_executor"] = Refusing()
    assert refusal(workers.start, 1) == (
        "--launcher slurm: sbatch refuses the jobs: sbatch: error: Batch job submission failed"
    )


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert refusal(SlurmWorkers, Worker((), tmp_path), Request(1), 1) == (
        "--launcher slurm: this machine has no sbatch; run it where jobs are submitted"
    )


@pytest.fixture
def handlers() -> Iterator[list[str]]:
    """What is done at a signal, where SIGUSR2 is as submitit sets it."""
    done: list[str] = []
    numbers = (signal.SIGUSR2, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGUSR2, lambda number, frame: done.append("queued again"))
    yield done
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_job_that_nears_its_limit_saves_before_it_is_queued_again(handlers: list[str]) -> None:
    near = True

    def worker() -> int:
        signal.signal(signal.SIGTERM, lambda number, frame: handlers.append("saved"))
        if near:
            os.kill(os.getpid(), signal.SIGUSR2)
        return 2

    job = module._Job(worker)  # type: ignore[arg-type]
    assert job() == 2
    assert handlers == ["saved", "queued again"]
    assert job.checkpoint().function is job
    near = False
    assert job() == 2
    assert len(handlers) == 2


def test_a_worker_that_fails_is_not_queued_again(handlers: list[str]) -> None:
    def worker() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module._Job(worker)()  # type: ignore[arg-type]
    assert handlers == []
    os.kill(os.getpid(), signal.SIGUSR2)
    assert handlers == ["queued again"]
