"""The record of studies/working_point.py: which runs are collected, and by which a learning rate is chosen."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import largedrop as ld
from largedrop.files import write_json

ROOT = Path(__file__).parents[2]
REASON = "the run collapsed at step 30: its representation has shrunk to 9.7% of its first size"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    return importlib.import_module("working_point")


def ended(folder: Path, name: str, result: dict[str, Any] | None) -> Path:
    """A run's folder with its config, and its result if it has one."""
    run = folder / "runs" / name
    write_json(run / "config.json", {"lr": 1e-3})
    if result is not None:
        write_json(run / "result.json", result)
    return run


def test_finished_and_collapsed_runs_are_collected_once(module: Any, tmp_path: Path) -> None:
    scores = {"iid_accuracy": 1 / 3, "ood_accuracy": 0.25}
    study, sweep, record = tmp_path / "study", tmp_path / "sweep", tmp_path / "record.jsonl"
    ended(study, "good", {"methods": {"fine-tuning": scores}, "log": [{"step": 4, **scores, "seconds": 1.0}]})
    ended(study, "shrunk", None)
    write_json(study / "shrunk.failed", {"failed": REASON})
    ended(study, "full", None)
    write_json(study / "full.failed", {"failed": "the GPU has too little memory"})
    write_json(ended(sweep, "of-sweep", None) / "failure.json", {"kind": "collapsed", "reason": REASON, "trace": ""})
    ended(sweep, "in-work", None)
    for _ in range(2):
        module.collect([study, sweep], "a processor", record)
        lines = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
        assert sorted(line["run"] for line in lines) == ["good", "of-sweep", "shrunk"]
    by_name = {line["run"]: line for line in lines}
    assert by_name["good"]["methods"] == {"fine-tuning": {"iid_accuracy": 0.333333, "ood_accuracy": 0.25}}
    assert by_name["good"]["log"] == [{"step": 4, "iid_accuracy": 0.333333, "ood_accuracy": 0.25}]
    for name in ("shrunk", "of-sweep"):
        assert by_name[name] == {
            "run": name,
            "machine": "a processor",
            "config": {"lr": 1e-3},
            "failed": REASON,
        }


def test_a_rate_is_chosen_by_runs_with_the_same_head(module: Any, tmp_path: Path) -> None:
    data = ld.open_dataset("emoji")
    device, record = torch.device("cpu"), tmp_path / "record.jsonl"
    cells = [module.Cell("plain", None, 1, "noto", rates=(1e-4, 1e-3), head=head) for head in ("warm", "zero")]
    tried = [
        module.Cell("plain", lr, 0, "noto", rates=(1e-4, 1e-3), head=head)
        for head in ("warm", "zero")
        for lr in (1e-4, 1e-3)
    ]
    tasks = module.Cells([*tried, *cells], data, 32, device, tmp_path, record)
    assert tasks.config(cells[0], 1e-4).wise_ft
    assert not tasks.config(cells[1], 1e-4).wise_ft
    for cell in tried:
        config = tasks.config(cell, cell.lr)
        assert (config.head, config.lr) == (cell.head, cell.lr)
        # Fitted heads are best at the larger rate, heads of zeros at the smaller one.
        best = (cell.lr == 1e-3) == (cell.head == "warm")
        scores = {"iid_accuracy": 0.8 if best else 0.7, "ood_accuracy": 0.5}
        ended(tmp_path, config.run_name, {"methods": {"fine-tuning": scores}, "log": []})
    assert [tasks.chosen(cell) for cell in cells] == [1e-3, 1e-4]
    assert [config.lr for config, _ in (tasks.take(), tasks.take())] == [1e-3, 1e-4]
    assert tasks.take() is None
