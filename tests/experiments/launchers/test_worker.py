"""A worker: its command, its plan, and what it leaves in its log."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

import largedrop as ld
from largedrop.config import Config
from largedrop.experiments.launchers import worker as module
from largedrop.experiments.launchers.worker import Worker, check_plan, last_words, plan_id
from largedrop.experiments.preset import Preset
from largedrop.experiments.sweep import PlannedRun, SweepPlan


def plan(config: Config, *seeds: int) -> SweepPlan:
    configs = [replace(config, seed=seed) for seed in seeds]
    entries = tuple(PlannedRun(one, Path("x", one.run_name), 1.0, 1, "new") for one in configs)
    preset: Any = Preset
    return SweepPlan(preset, "full", Path("x"), entries, 0.0, rough=True)


def test_the_command_runs_here_and_prints_into_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert Worker(("--version",), tmp_path / "workers")() == 0
    assert Worker(("sweep", "nothing.toml"), tmp_path / "workers")() == 2
    (log,) = (tmp_path / "workers").iterdir()
    first, second = log.read_text().splitlines()
    assert first == f"largedrop {ld.__version__}"
    assert second.startswith("largedrop: ")
    assert last_words(tmp_path / "workers") == second.removeprefix("largedrop: ")
    assert capfd.readouterr() == ("", "")
    assert sys.argv[0] != "largedrop"


def test_sigterm_ends_a_command_that_is_not_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def command(name: str, run_name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runpy, "run_module", command)
    with pytest.raises(KeyboardInterrupt):
        Worker((), tmp_path)()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_of_another_plan_or_version_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = plan_id(plan(config, 0, 1))
    check_plan(plan(config, 1, 0), launched)  # the order is no part of it
    here = plan_id(plan(config, 0))
    assert refusal(check_plan, plan(config, 0), launched) == (
        f"--worker {launched}: here the preset, the data or the options give another plan ({here}) than where the "
        "sweep was launched; launch it again"
    )
    monkeypatch.setattr(module, "__version__", "9.1")
    assert refusal(check_plan, plan(config, 0, 1), launched) == (
        f"the sweep was launched by largedrop {ld.__version__}, and this is 9.1; install the same"
    )
    assert refusal(check_plan, plan(config, 0, 1), "x").startswith("--worker x: here the preset, the data or ")


def test_without_a_log_there_are_no_last_words(tmp_path: Path) -> None:
    assert last_words(tmp_path) == ""
    (tmp_path / "gone.log").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "folder.log").mkdir()
    assert last_words(tmp_path) == ""
    (tmp_path / "a.log").write_text("\n\n")
    assert last_words(tmp_path) == ""
