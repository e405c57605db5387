"""How many runs fit side by side: by memory and cores, from what finished runs say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Watch

from largedrop.config import make_config
from largedrop.experiments import packing
from largedrop.experiments.packing import Packing, fitting_jobs
from largedrop.experiments.tasks import Task
from largedrop.files import write_stored

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 cores, 10 GB of free memory, two GPUs with 80 and 40 GB."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(packing, "_free", lambda: 10_000_000_000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ((80, 40)[gpu] * 10**9, 0))


def finished(folder: Path, name: str = "", /, **memory: int) -> Path:
    content: dict[str, Any] = {"methods": {"fine-tuning": {"seconds": 1.0}}, "memory": memory}
    write_stored(folder / name / "result.json", content)
    return folder / name


def test_what_fits_by_the_largest_run(tmp_path: Path) -> None:
    found = [finished(tmp_path, "a", host=1_000_000_000), finished(tmp_path, "b", host=2_000_000_000)]
    assert fitting_jobs(found, CPU, 1) == (4, "4 side by side, by the memory; a run took up to 2 GB")


def test_one_for_each_core_at_most_and_one_at_least(tmp_path: Path) -> None:
    found = [finished(tmp_path, "a", host=1_000_000)]
    assert fitting_jobs(found, CPU, 1) == (16, "16 side by side, by the processor cores; a run took up to 0.001 GB")
    assert fitting_jobs([*found, finished(tmp_path, "b", host=90_000_000_000)], CPU, 3)[0] == 1


def test_on_gpus(tmp_path: Path) -> None:
    found = [finished(tmp_path, "a", host=500_000_000, device=13_300_000_000)]
    told = "a run took up to 0.5 GB, and 13 GB on the GPU"
    assert fitting_jobs(found, CUDA, 2) == (7, f"7 side by side, by the memory of the GPU; {told}")
    assert fitting_jobs(found, torch.device("cuda", 1), 1)[0] == 2


@pytest.mark.parametrize(("device", "memory"), [(CPU, {}), (CUDA, {"host": 1_000_000})])
def test_where_no_run_says_it(tmp_path: Path, device: torch.device, memory: dict[str, int]) -> None:
    said = "2 side by side, since no finished run says how much memory one takes"
    assert fitting_jobs([finished(tmp_path, "a", **memory)], device, 2) == (2, said)
    assert fitting_jobs([], device, 2) == (2, said)


def tasks_of(folder: Path, **settings: Any) -> list[Task]:
    """Three runs of a kind."""
    made = [make_config(data="d", fingerprint="f", test_domain="a", seed=seed, **settings) for seed in range(3)]
    return [(config, folder / config.run_name) for config in made]


@pytest.mark.parametrize(
    ("device", "otherwise", "took", "jobs", "by"),
    [
        (CPU, 1, {"host": 10**9}, [2, 9, 1], "memory"),
        (CUDA, 2, {"host": 10**6, "device": 5 * 10**9}, [4, 16, 1], "memory of the GPU"),
    ],
)
def test_each_kind_by_its_own_memory(
    tmp_path: Path, device: torch.device, otherwise: int, took: dict[str, int], jobs: list[int], by: str
) -> None:
    """Whether networks, sizes of images or masks differ; the first of a kind say what the others take."""
    small, large, masks = (tasks_of(tmp_path, **each) for each in ({}, {"size": 512}, {"masks": 16}))
    probes = tasks_of(tmp_path, fit="probe", optimizer="sgd", head="random")
    tasks = [*large, *small, *masks, *probes]
    notes: list[str] = []
    packing = Packing(tasks, device, otherwise, Watch(note=notes.append))
    left, found = tasks, []
    for own, share in ((large, 4), (small, 1), (masks, 8)):
        first, number = packing.next(left)
        assert (first, number) == (own[:otherwise], otherwise)
        for _, folder in first:
            finished(folder, **{name: share * size for name, size in took.items()})
        left = [task for task in left if task not in first]
        rest, number = packing.next(left)
        assert rest == own[otherwise:]
        found.append(number)
        left = [task for task in left if task not in rest]
    assert found == jobs
    assert packing.next(left) == (probes, 1)
    told = f"--jobs auto: tf_efficientnet_lite0 at 512 px: {jobs[0]} side by side, by the {by}; a run took up to "
    assert notes[0].startswith(told)


def test_a_kind_whose_runs_say_nothing_is_trained_at_once(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path)
    packing = Packing(tasks, CPU, 1, Watch())
    assert packing.next(tasks) == (tasks[:1], 1)
    assert packing.next(tasks[1:]) == (tasks[1:2], 1)  # the first has collapsed
    finished(tasks[1][1])
    assert packing.next(tasks[2:]) == (tasks[2:], 1)
