"""The launchers by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.experiments.launchers import launch
from largedrop.experiments.launchers.worker import Request, Worker
from largedrop.experiments.preset import Preset
from largedrop.experiments.sweep import PlannedRun, SweepPlan
from largedrop.reporter import SILENT


def plan(*entries: PlannedRun) -> SweepPlan:
    preset: Any = Preset
    return SweepPlan(preset, "full", Path(), entries, 0.0, rough=True)


def test_nothing_is_started_where_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    launch("ray", Worker((), Path()), plan(), Request(), SILENT)


@pytest.mark.parametrize(
    ("name", "package", "text"),
    [
        ("ray", "ray", '--launcher ray needs Ray: pip install "largedrop[ray]"'),
        ("slurm", "submitit", '--launcher slurm needs submitit: pip install "largedrop[slurm]"'),
    ],
)
def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, config: Any, name: str, package: str, text: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    entry = PlannedRun(config, Path("none"), 1.0, 1, "new")
    assert refusal(launch, name, Worker((), Path()), plan(entry), Request(1), SILENT) == text
