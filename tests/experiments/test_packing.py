"""How many runs fit side by side: by memory and cores, from what finished runs say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from largedrop.experiments import packing
from largedrop.experiments.packing import fitting_jobs
from largedrop.files import write_stored

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 cores, 10 GB of free memory, two GPUs with 80 and 40 GB."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(packing, "_free", lambda: 10_000_000_000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ((80, 40)[gpu] * 10**9, 0))


def finished(folder: Path, name: str, **memory: int) -> None:
    content: dict[str, Any] = {"methods": {"fine-tuning": {"seconds": 1.0}}, "memory": memory}
    write_stored(folder / name / "result.json", content)


def test_what_fits_by_the_largest_run(tmp_path: Path) -> None:
    finished(tmp_path, "a", host=1_000_000_000)
    finished(tmp_path, "b", host=2_000_000_000)
    assert fitting_jobs(tmp_path, CPU, 1) == (4, "--jobs auto: 4, by the memory; a run took up to 2 GB")


def test_one_for_each_core_at_most_and_one_at_least(tmp_path: Path) -> None:
    finished(tmp_path, "a", host=1_000_000)
    assert fitting_jobs(tmp_path, CPU, 1) == (16, "--jobs auto: 16, by the processor cores; a run took up to 0.001 GB")
    finished(tmp_path, "b", host=90_000_000_000)
    assert fitting_jobs(tmp_path, CPU, 3)[0] == 1


def test_on_gpus(tmp_path: Path) -> None:
    finished(tmp_path, "a", host=500_000_000, device=13_300_000_000)
    told = "a run took up to 0.5 GB, and 13 GB on the GPU"
    assert fitting_jobs(tmp_path, CUDA, 2) == (7, f"--jobs auto: 7, by the memory of the GPU; {told}")
    assert fitting_jobs(tmp_path, torch.device("cuda", 1), 1)[0] == 2


@pytest.mark.parametrize(("device", "memory"), [(CPU, {}), (CUDA, {"host": 1_000_000})])
def test_where_no_run_says_it(tmp_path: Path, device: torch.device, memory: dict[str, int]) -> None:
    finished(tmp_path, "a", **memory)
    said = "--jobs auto: 2, since no finished run says how much memory one takes"
    assert fitting_jobs(tmp_path, device, 2) == (2, said)
    assert fitting_jobs(tmp_path / "none", device, 2) == (2, said)
