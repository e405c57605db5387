"""What studies/launchers.py found on real clusters: its record is whole, and the page tells no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RECORD: dict[str, Any] = json.loads((ROOT / "studies" / "launchers.json").read_text("utf-8"))


def test_both_clusters_are_recorded() -> None:
    assert list(RECORD) == ["ray", "slurm"]


@pytest.mark.parametrize("kind", list(RECORD))
def test_every_run_ended_once_with_the_bits_of_one_that_was_left_alone(kind: str) -> None:
    found = RECORD[kind]
    assert found["finished"] == found["runs"]
    assert (found["files that differ"], found["trained again"]) == ([], False)
    assert any("killed" in line for line in found["said"])


@pytest.mark.parametrize(("kind", "name"), [("ray", "Ray"), ("slurm", "Slurm")])
def test_the_page_says_what_is_recorded(kind: str, name: str) -> None:
    found = RECORD[kind]
    version = ".".join(found["version"].split()[-1].split(".")[:2])
    page = (ROOT / "docs" / "guide" / "machines.md").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {name} {version}"))
    assert f"{found['runs']} runs of {found['steps']:,} steps" in row
    assert "no file differs, no run is trained again" in row
