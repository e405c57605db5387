"""Sweeps of which runs or processes fail, collapse or find no memory."""

from __future__ import annotations

import json
import multiprocessing
import os
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
from largedrop.experiments.sweep import Sweep, begin_sweep, run_sweep
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


def blocked(folder: Path, what: str) -> None:
    """Something else with the name of what a run writes."""
    if what == "file":
        folder.write_text("mine")
    elif what == "loop":
        folder.symlink_to(folder)
    elif what == "link":
        (folder / "outputs").parent.mkdir()
        (folder / "outputs").symlink_to(folder.parent.parent, target_is_directory=True)
    else:
        (folder / what / "mine").mkdir(parents=True)


WAYS = ["file", "loop", "link", ".lease-1", "config.json", "log.json", "failure.json", "best.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize("what", WAYS)
def test_what_is_in_the_way_of_one_run_leaves_the_others_alone(what: str, data: ld.Dataset, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, settings="steps = 1\neval_every = 1")
    folder = plan.entries[0].folder
    begin_sweep(data, plan)
    folder.parent.mkdir()
    blocked(folder, what)
    told: list[str] = []
    result = run_sweep(data, plan, device=CPU, reporter=Watch(failed=lambda config, reason: told.append(reason)))
    assert [config for config, _ in result.broken] == [plan.entries[0].config]
    assert result.trained == [entry.config for entry in plan.entries[1:]]
    assert [reason for _, reason in result.broken] == told
    assert str(folder) in told[0]
    assert "\n" not in told[0]
    assert report_sweep(plan)


def test_what_is_in_the_way_of_a_linear_fit_leaves_the_others_alone(data: ld.Dataset, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, settings="fit = 'probe'\nsteps = 1\neval_every = 1")
    begin_sweep(data, plan)
    blocked(plan.entries[0].folder, "final.safetensors")
    blocked(plan.entries[1].folder, ".lease-1")
    result = run_sweep(data, plan, device=CPU)
    assert {config for config, _ in result.broken} == {entry.config for entry in plan.entries[:2]}
    assert result.trained == [entry.config for entry in plan.entries[2:]]


def test_a_damaged_config_of_a_finished_run_is_written_again(data: ld.Dataset, tmp_path: Path) -> None:
    def swept() -> Sweep:
        return run_sweep(data, planned(data, tmp_path, rates="0"), device=CPU)

    first, second = swept().trained
    stored = [tmp_path / "out" / "runs" / config.run_name / "config.json" for config in (first, second)]
    whole = stored[0].read_bytes()
    stored[0].write_text("{")
    assert not swept().broken
    assert stored[0].read_bytes() == whole
    for path in stored:
        path.write_text("{")
    (stored[1].parent / "best.safetensors").unlink()  # which says whose the folder is
    assert [config for config, _ in swept().broken] == [second]


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
