"""``largedrop doctor``: its report is kept where training finds it, shown, and written where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import complaint

from largedrop.cli import main
from largedrop.experiments import doctor
from largedrop.fast_paths import FORMAT, chosen_paths, machine_key, report_file
from largedrop.files import read_json

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the doctor finds, in an empty cache."""
    apart = {"loss": 1e-6, "weights": 1e-4, "same_bits": False}
    time = {"size": 96, "images": 32, "plain_ms": 40.0, "ms": 20.0, "ratio": 2.0}
    found: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine_key(CPU),
        "precision": "float32",
        "tolerances": {"float32": {"loss": 1e-3, "weights": 0.01}, "bfloat16": {"loss": 0.1, "rounding": 1.5}},
        "paths": [
            {"paths": ["folded"], "agrees": True, "ratio": 2.0, "float32": apart, "times": [time]},
            {"paths": ["kernels"], "agrees": False, "ratio": 0.0, "failed": "RuntimeError: no [kernel]"},
        ],
        "chosen": [
            {"images": None, "size": None, "sets": [["folded"]]},
            {"images": 32, "size": 96, "sets": []},
        ],
        "runs": [{"paths": ["folded"], "held_bytes": [1 << 20] * 3, "again_apart": 0.0, "resumed_apart": 2e-3}],
        "problems": [],
    }
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "examine", lambda device, data, reporter: found)
    return found


def test_the_report_is_kept_and_shown(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--device", "cpu", "--output", str(tmp_path / "mine.json")]) == 0
    said = capsys.readouterr().out
    for line in (
        "1e-06, 1e-04",
        "20 for 40 ms: 2.00",
        "kernels: RuntimeError: no [kernel]",
        "three runs by folded leave 1.0, 1.0, 1.0 MiB in memory",
        "the same config again: the same bits",
        "cut, and gone on: weights up to 0.002 apart",
        "fast paths chosen: folded\n  for steps like 32 images of 96 px: none\n",
        str(tmp_path / "mine.json"),
        str(report_file(CPU)),
    ):
        assert line in said
    assert read_json(tmp_path / "mine.json") == read_json(report_file(CPU)) == report
    assert "checksum" in json.loads((tmp_path / "mine.json").read_text())
    assert chosen_paths(CPU).paths.names == ["folded"]


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "doctor", "--device", "cpu", "--output", tmp_path)
    assert said == f"--output {tmp_path} is a folder; name a file in it, such as {tmp_path / 'doctor.json'}"
    assert not report_file(CPU).exists()


def test_what_is_wrong_ends_with_2(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report["problems"].append("each run leaves memory")
    said = complaint(capsys, "doctor", "--device", "cpu")
    assert said == "something is wrong with this device or this version: each run leaves memory"
    assert report_file(CPU).is_file()
