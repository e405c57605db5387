"""studies/protocol_cost.py: docs/cost.md is what it writes, and its parts can be checked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("protocol_cost", ROOT / "studies" / "protocol_cost.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def test_the_page_is_what_the_script_writes(study: Any) -> None:
    assert (ROOT / "docs" / "cost.md").read_text("utf-8") == study.page()


def test_a_run_of_figure_2_by_hand(study: Any) -> None:
    run = next(run for run in study.runs_of(2, "PACS") if run.test_domain == "photo")
    scored = 0.2 * (9991 - 1670) + 1670
    cost = study.cost_of(run, {("resnet50.tv2_in1k", 7): 94_000_000})
    # 34 evaluations, one before the first step, and one of the average; three checkpoints; states of weights, momentum
    # and average.
    assert cost.seconds == pytest.approx(10 + 10_000 * 96 / 4690 + 36 * scored / (3 * 4690), rel=1e-3)
    assert cost.size == pytest.approx(3 * 94e6 + 35 * scored * 7 * 2, rel=1e-3)
    assert cost.written == pytest.approx(cost.size + 35 * 3 * 94e6, rel=1e-3)


def test_the_longest_run_first_on_the_gpu_that_is_free_first(study: Any) -> None:
    assert study.makespan([1, 1, 1, 3], 2) == 3
    assert study.makespan([5, 4, 3, 3, 3], 2) == 10
