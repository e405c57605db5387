"""benchmarks/: the scripts that measure in a precision run, tiny, in either, and print what they say they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["--size", "32", "--batch", "2", "--rounds", "1", "--threads", "1", "--json"]


def printed(script: str, *options: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_compared_with_the_matrix_product_of_its_precision(precision: str) -> None:
    found = printed("training_step.py", "--precision", precision, "--processor-time", *TINY)
    assert found["precision"] == precision
    assert found["share_of_product"] == pytest.approx(found["ours_gflops"] / found["product_gflops"], abs=2e-3)
    # Lite0 takes 0.4 billion multiplications at 224 pixels (timm's table), 3 products of them a step, (32/224)² here.
    assert found["gflop_per_image"] == pytest.approx(3 * 2 * 0.4 * (32 / 224) ** 2, rel=0.5)


@pytest.mark.parametrize("layers", ["depthwise", "dense"])
def test_the_kernels_are_compared_in_float32_too(layers: str) -> None:
    found = printed("depthwise.py", "--precision", "float32", "--layers", layers, *TINY)
    assert (found["precision"], found["layers"]) == ("float32", layers)
    assert 0 < found["worst_ratio"] <= max(found["ratio"], found["worst_ratio"])


def test_folding_is_measured_in_float32_too() -> None:
    found = printed("folding.py", "--precision", "float32", "--model", "resnet18", *TINY)
    assert found["precision"] == "float32"
    assert found["ours_peak_bytes"] > 0


def test_many_runs_are_written_planned_and_reported(tmp_path: Path) -> None:
    found = printed("many_runs.py", "--runs", "200", "--folder", str(tmp_path), "--json")
    assert (found["runs"], found["finished"]) == (200, 191)
    assert found["plan_processor"] > 0
    assert len(json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["rows"]) == 2 * 4


def test_predicting_files_is_compared_with_the_bare_network(toy: Path) -> None:
    found = printed("predict.py", "--images-in", str(toy), "--images", "5", "--model", "test_efficientnet", *TINY)
    assert (found["precision"], found["images"], found["batch"]) == ("float32", 5, 2)
    assert found["ratio"] == pytest.approx(found["theirs_seconds"] / found["ours_seconds"], abs=2e-3)
