"""Stored plans: read back as they were, and refused where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from largedrop.experiments.stored_plan import StoredPlan, StoredRun, read_plans, store_plan
from largedrop.files import write_stored

ABOUT = {"preset": "p", "title": "P", "scale": "small"}
ADVICE = "remove it: the next largedrop sweep of its preset writes it again"


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    runs = (StoredRun("a", "seed 0", 10, 0, 1.5), StoredRun("b", "seed 1", 20, 1, 2.0))
    store_plan(tmp_path, "p-small", ABOUT, runs)
    assert list(read_plans(tmp_path)) == [StoredPlan("p", "P", "small", runs)]


@pytest.mark.parametrize(
    "changed",
    [
        {"preset": 1},
        {"names": ["a", "b"]},
        {"names": ["../a"]},
        {"names": [".."]},
        {"names": "a"},
        {"steps": [0.5]},
        {"steps": [True]},
        {"kinds": None},
        {"seconds": ["1"]},
        {"steps": [0]},
        {"seconds": [-1.0]},
        {"seconds": [1e308]},
        {"names": [""]},
        {"names": ["a\0"]},
        {"names": ["a" * 256]},
        {"names": ["a", "a"], "said": ["x", "y"], "steps": [1, 1], "kinds": [0, 0], "seconds": [1.0, 1.0]},
    ],
)
def test_what_is_no_plan_is_said(tmp_path: Path, changed: dict[str, Any]) -> None:
    good = {**ABOUT, "names": ["a"], "said": ["x"], "steps": [10], "kinds": [0], "seconds": [1.0]}
    path = tmp_path / "plans" / "p.json"
    write_stored(path, good)
    assert isinstance(next(read_plans(tmp_path)), StoredPlan)
    write_stored(path, {**good, **changed})
    assert list(read_plans(tmp_path)) == [f"{path} is no plan of a sweep; {ADVICE}"]
