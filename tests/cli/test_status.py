"""``largedrop sweep --status``: tables, JSON, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import one_line

from largedrop.cli import main
from largedrop.experiments.stored_plan import StoredRun, store_plan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store_plan(tmp_path, "mine", {"preset": "mine", "title": "Mine", "scale": "full"}, [StoredRun("a", "", 10, 0, 1.0)])
    return tmp_path


def test_as_a_table_and_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The command line of the sweep with --status at its end: what is not needed is not looked at.
    for arguments in ([], ["mine", "--data", "nowhere"]):
        assert main(["sweep", *arguments, "--output", str(folder), "--status"]) == 0
        assert "0 of 1" in capsys.readouterr().out
    assert main(["sweep", "--output", str(folder), "--status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["plans"][0]["new"], found["problems"]) == (str(folder), 1, [])


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, "sweep", "--status") == "--status is of the runs in a folder: name it with --output"
    assert one_line(capsys, "sweep", "mine", "--json") == "--json goes with --status"
    assert one_line(capsys, "sweep", "--status", "--output", folder / "runs") == f"no folder {folder / 'runs'}"
