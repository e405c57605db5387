"""Sweeps of which runs or processes fail, collapse or find no memory."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.presets import CPU, planned, varied
from tests.helpers import Networks, Watch
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import CollapseError, UserError
from largedrop.experiments import runner
from largedrop.experiments.sweep import run_sweep
from largedrop.report.sweep import report_sweep
from largedrop.runs.run import Run
from largedrop.training.loop import train
from largedrop.training.step import TrainingStep

pytestmark = pytest.mark.usefixtures("quick_heads")
LONG = "steps = 12\neval_every = 3"


def test_each_attempt_begins_without_the_networks_of_those_before(
    data: ld.Dataset, tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TrainingStep._compute

    def fragile(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if len(networks.made) in (2, 3):
            raise RuntimeError("cuDNN is tired")
        loss, size = compute(self, inputs, labels)
        return loss * (float("nan") if len(networks.made) == 1 else 1), size

    monkeypatch.setattr(TrainingStep, "_compute", fragile)
    result = run_sweep(data, planned(data, tmp_path), device=CPU)
    assert (len(result.collapsed), len(result.broken), len(result.trained)) == (1, 1, 2)
    assert networks.before == [0] * 5


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_fails_is_tried_once_more(
    data: ld.Dataset, tmp_path: Path, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [times]

    def fragile(config: Config, *arguments: Any, **options: Any) -> Run:
        if config.dropout == 0.9 and config.test_domain == "photo" and left[0]:
            left[0] -= 1
            raise RuntimeError("cuDNN is tired")
        return train(config, *arguments, **options)

    monkeypatch.setattr(runner, "train", fragile)
    plan = planned(data, tmp_path)
    told: list[str] = []
    done: list[float] = []
    result = run_sweep(
        data, plan, device=CPU, reporter=Watch(failed=lambda config, text: told.append(text), advance=done.append)
    )
    first = "RuntimeError: cuDNN is tired; it is resumed once"
    if times == 1:
        assert told == [first]
        assert result.trained == [entry.config for entry in plan.entries]
        assert result.broken == []
    else:
        assert told == [first, "RuntimeError: cuDNN is tired; it is given up"]
        assert varied(result.trained) == [(0, 1e-4, "photo", 0.0), (0, 1e-4, "ink", 0.0), (0, 1e-4, "ink", 0.9)]
        ((config, trace),) = result.broken
        assert (config.dropout, config.test_domain) == (0.9, "photo")
        assert "in fragile" in trace
    assert result.collapsed == []


def test_a_collapsed_run_is_recorded_and_the_others_go_on(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Config] = []

    def fragile(config: Config, *arguments: Any, **options: Any) -> Run:
        begun.append(config)
        if config.dropout == 0.9:
            raise CollapseError("the run collapsed at step 21")
        return train(config, *arguments, **options)

    monkeypatch.setattr(runner, "train", fragile)
    plan = planned(data, tmp_path)
    result = run_sweep(data, plan, device=CPU)
    assert begun == [entry.config for entry in plan.entries]  # and none of them twice
    assert [(config.test_domain, text) for config, text in result.collapsed] == [
        ("photo", "the run collapsed at step 21"),
        ("ink", "the run collapsed at step 21"),
    ]
    assert len(result.trained) == 2
    assert report_sweep(plan)
    assert json.loads((plan.report / "report.json").read_text())["runs"] == 2


def test_a_run_that_finds_no_memory_is_recorded_and_the_others_go_on(
    data: ld.Dataset, tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = TrainingStep._compute

    def fragile(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if len(networks.made) == 2:
            raise MemoryError
        return compute(self, inputs, labels)

    monkeypatch.setattr(TrainingStep, "_compute", fragile)
    plan = planned(data, tmp_path)
    told: list[str] = []
    result = run_sweep(data, plan, device=CPU, reporter=Watch(failed=lambda config, text: told.append(text)))
    assert networks.before == [0] * 4
    assert len(result.trained) == 3
    assert result.broken == [(plan.entries[1].config, told[0])]
    assert len(told) == 1
    assert told[0].endswith("needs more memory than cpu has free; a smaller --batch or --size needs less")


def test_a_users_mistake_ends_the_sweep(data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Run:
        raise UserError("cannot write it")

    monkeypatch.setattr(runner, "train", broken)
    with pytest.raises(UserError, match=r"^cannot write it$"):
        run_sweep(data, planned(data, tmp_path), device=CPU)


def test_an_error_that_is_no_runs_is_raised(data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no views")

    monkeypatch.setattr(runner, "open_views", broken)
    with pytest.raises(RuntimeError, match="no views"):
        run_sweep(data, planned(data, tmp_path), device=CPU)


def test_a_process_that_dies_is_replaced(data: ld.Dataset, tmp_path: Path, quick_processes: None) -> None:
    plan = planned(data, tmp_path, settings=LONG, rates="0.9")
    killed: list[int] = []
    told: list[str] = []

    def progress(done: float) -> None:
        if not killed:
            (process, *_) = multiprocessing.active_children()
            process.kill()
            killed.append(process.pid or 0)

    result = run_sweep(
        data, plan, device=CPU, jobs=2, reporter=Watch(advance=progress, failed=lambda config, text: told.append(text))
    )
    assert len(killed) == len(told) == 1
    assert told[0].startswith("a training process has died (out of memory?)")
    assert told[0].endswith("; it is resumed once")
    assert sorted(config.run_name for config in result.trained) == sorted(
        entry.config.run_name for entry in plan.entries
    )
    assert result.broken == []
