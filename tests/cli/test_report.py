"""``largedrop report`` over runs that the other commands left."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.helpers import FAST, one_line

from largedrop.cli import main

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Path:
    """Two learning rates × two rates of dropout × two test domains, and one run of them missing."""
    folder = tmp_path_factory.mktemp("runs")
    for lr in ("1e-3", "1e-2"):
        arguments = ["compare", str(toy), "--test-domains", "ink,oil", "--dropout", "0,0.5", "--output"]
        assert main([*arguments, str(folder / lr), *FAST, "--steps", "2", "--lr", lr]) == 0
    (lost,) = (folder / "1e-2" / "runs").glob("*-oil-d0.5-*")
    (lost / "result.json").unlink()
    return folder


def test_a_report_has_every_format_and_names_what_is_missing(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "7 runs of toy0; written:" in said
    assert "unfinished" in said
    written = {path.name for path in tmp_path.iterdir()}
    assert {"report.md", "table.csv", "report.json", "table.tex"} <= written
    assert {"clouds.png", "clouds.svg"} <= written
    text = (tmp_path / "report.md").read_text()
    assert "## Missing runs" in text
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["runs"], content["selection"]) == (7, "iid")
    assert content["dataset"]["domains"].keys() >= {"ink", "oil"}
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"fine-tuning", "ensemble", "weight-average", "linear-probe"}


def test_formats_are_those_that_were_asked_for(runs: Path, tmp_path: Path) -> None:
    assert main(["report", str(runs), "--output", str(tmp_path), "--formats", "csv,tex"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.tex"}


def test_mistakes(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, "report", tmp_path / "nowhere") == f"no folder {tmp_path / 'nowhere'}"
    assert "unknown format 'pdf'" in one_line(capsys, "report", runs, "--formats", "pdf")
    assert "unknown" in one_line(capsys, "report", runs, "--selection", "ood")
    assert one_line(capsys, "report", runs, "--formats", ",") == "--formats names nothing: ','"
