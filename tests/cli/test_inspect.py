"""``largedrop inspect`` over runs that the other commands left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import FAST, make_toy, one_line

from largedrop import cli
from largedrop.cli import main
from largedrop.cli.inspect import inspect

if not any(command.callback is inspect for command in cli.app.registered_commands):
    cli.app.command()(inspect)

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Path:
    """Plain and dropout on two test domains."""
    folder = tmp_path_factory.mktemp("inspect")
    arguments = ["compare", str(toy), "--test-domains", "ink,oil", "--dropout", "0,0.5", "--output", str(folder)]
    assert main([*arguments, *FAST, "--steps", "2"]) == 0
    return folder


def test_table_json_and_figures(runs: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", str(runs / "runs"), "--data", str(toy), "--output", str(tmp_path), "--draws", "2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "effective rank" in said
    assert "4 runs of toy0; written:" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "inspection.json",
        *(f"{name}.{kind}" for name in ("richness", "interpolation") for kind in ("png", "svg")),
    }
    content = json.loads((tmp_path / "inspection.json").read_text())
    assert (content["draws"], content["images"], content["checkpoint"]) == (2, 512, "best")
    (comparison,) = content["comparisons"]
    assert comparison["domains"] == ["ink", "oil"]
    assert [rate["dropout"] for rate in comparison["rates"]] == [0.0, 0.5]


def test_one_run_and_some_measures(runs: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = (runs / "runs").glob("*-oil-d0.5-*")
    assert main(["inspect", str(run), "--data", str(toy), "--measures", "richness", "--draws", "1"]) == 0
    assert "1 run of toy0; written:" in capsys.readouterr().out
    assert {path.name for path in (run / "inspection").iterdir()} == {"inspection.json", "richness.png", "richness.svg"}


def test_mistakes(runs: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(toy)]
    assert one_line(capsys, "inspect", runs) == "where are the images of toy0? name their folder with --data"
    assert one_line(capsys, "inspect", tmp_path / "none", *given) == f"no folder {tmp_path / 'none'}"
    assert one_line(capsys, "inspect", runs, *given, "--measures", ",") == "--measures names nothing: ','"
    assert "did you mean 'linearity'?" in one_line(capsys, "inspect", runs, *given, "--measures", "linearty")
    assert "did you mean 'average'?" in one_line(capsys, "inspect", runs, *given, "--checkpoint", "averages")
    assert "--images" in one_line(capsys, "inspect", runs, *given, "--images", "1")
    other = make_toy(tmp_path / "other", images=5)
    said = one_line(capsys, "inspect", runs, "--data", other)
    assert f"was trained on other images than {other} has now" in said
