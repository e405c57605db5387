"""Workers of Ray: one node on this machine. studies/launchers.py has a cluster of three, and kills its parts."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from tests.experiments.presets import preset
from tests.helpers import assert_same_run, refusal

from largedrop.cli import main
from largedrop.experiments.launchers import ray as module
from largedrop.experiments.launchers.ray import RayWorkers
from largedrop.experiments.launchers.worker import Request, Worker, last_words


class Fake:
    """Ray without processes."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = resources
        self.given: dict[str, Any] = {}
        self.cancelled: list[int] = []
        self.down = 0

    def init(self, **options: Any) -> None:
        self.given |= options

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": each} for each in self.resources] + [{"Alive": False, "Resources": {}}]

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        self.given |= options

        class Task:
            made = 0

            def remote(self, worker: Worker) -> int:
                Task.made += 1
                return Task.made

        return lambda function: Task()

    def wait(self, refs: list[int], **options: Any) -> tuple[list[int], list[int]]:
        return refs[:1], refs[1:]

    def get(self, ref: int) -> int:
        raise RuntimeError("ray::_work()\nModuleNotFoundError: No module named 'largedrop'")

    def cancel(self, ref: int, force: bool) -> None:
        self.cancelled.append(ref)

    def shutdown(self) -> None:
        self.down += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    def install(*resources: dict[str, float]) -> Fake:
        found = Fake(*resources)
        monkeypatch.setitem(sys.modules, "ray", found)
        return found

    return install


def test_a_sweep_on_a_cluster_of_this_machine_has_the_bits_of_one_here(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = preset(tmp_path, domains='"photo"')
    common = ["sweep", str(mine), "--data", str(toy), "--device", "cpu", "--precision", "float32"]
    before = signal.getsignal(signal.SIGTERM)
    assert main([*common, "--output", str(tmp_path / "ray"), "--launcher", "ray", "--jobs", "1"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_initialized()
    assert "report.md" in capsys.readouterr().out
    assert main([*common, "--output", str(tmp_path / "here")]) == 0
    runs = [path.name for path in (tmp_path / "here" / "runs").iterdir()]
    assert len(runs) == 2
    for name in runs:
        assert_same_run(tmp_path / "here" / "runs" / name, tmp_path / "ray" / "runs" / name)


@pytest.mark.parametrize(
    ("resources", "request_", "jobs", "gpus"),
    [
        ([{"CPU": 8.0}], Request(), 8, 0.0),
        ([{"CPU": 8.0}], Request(jobs=3, cpus=2), 3, 0.0),
        ([{"CPU": 7.0}, {"CPU": 3.0}, {}], Request(cpus=2), 4, 0.0),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], Request(), 2, 1.0),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], Request(gpus=0.5), 4, 0.5),
        ([{"CPU": 3.0, "GPU": 2.0}], Request(gpus=0.5), 3, 0.5),
        ([{"CPU": 64.0, "GPU": 8.0}], Request(gpus=0.0), 20, 0.0),
    ],
)
def test_how_many_workers_there_are(
    fake: Callable[..., Fake],
    tmp_path: Path,
    resources: list[dict[str, float]],
    request_: Request,
    jobs: int,
    gpus: float,
) -> None:
    found = fake(*resources)
    with RayWorkers(Worker((), tmp_path), request_, most=20) as workers:
        assert workers.jobs == jobs
    assert found.given["num_gpus"] == gpus
    assert found.given["num_cpus"] == request_.cpus
    assert (found.given["max_retries"], found.given["address"]) == (0, "local")
    assert found.down == 1


def test_no_room_for_a_worker(fake: Callable[..., Fake], tmp_path: Path) -> None:
    found = fake({"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0})
    assert refusal(RayWorkers, Worker((), tmp_path), Request(cpus=16, address="auto"), 1) == (
        "no node of the Ray cluster at auto has 16 core(s) and 1 GPU(s) for a worker; --cpus and --gpus say what it "
        "gets"
    )
    assert found.down == 1


def test_workers_are_counted_and_asked_to_save(fake: Callable[..., Fake], tmp_path: Path) -> None:
    found = fake({"CPU": 4.0})
    workers = RayWorkers(Worker((), tmp_path), Request(), most=3)
    assert workers.alive() == 0
    workers.start(3)
    assert [workers.alive() for _ in range(2)] == [2, 1]
    assert workers.leave() == "the workers have saved their runs"
    assert found.cancelled == [3]
    assert last_words(tmp_path) == "RuntimeError: ModuleNotFoundError: No module named 'largedrop'"


def test_a_cluster_that_is_not_there_or_gone(
    fake: Callable[..., Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fake({"CPU": 4.0})

    def refuse(**options: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "init", refuse)
        assert refusal(RayWorkers, Worker((), tmp_path), Request(address="10.0.0.9:1"), 1) == (
            "the Ray cluster at 10.0.0.9:1 cannot be reached: Could not find any running Ray instance."
        )
    workers = RayWorkers(Worker((), tmp_path), Request(), most=3)
    workers.start(1)
    monkeypatch.setattr(module, "ANSWER", 0.05)
    monkeypatch.setattr(found, "nodes", lambda: time.sleep(0.3))
    assert refusal(workers.alive) == (
        "Ray on this machine does not answer any more; the same command goes on with what is left"
    )
