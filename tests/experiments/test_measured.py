"""What finished runs took, from their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from largedrop.experiments.measured import Measured, measured, spread
from largedrop.files import write_stored


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        ({"memory": {"host": 5, "device": 7}}, Measured(2.0, 5, 7)),
        ({"memory": {"host": 5, "device": None}}, Measured(2.0, 5, None)),
        ({"memory": {"host": -5, "device": "x"}}, Measured(2.0, None, None)),
        ({}, Measured(2.0, None, None)),  # of a run before
        ({"memory": 3}, None),
    ],
)
def test_time_and_memory(tmp_path: Path, memory: dict[str, Any], found: Measured | None) -> None:
    methods = {"fine-tuning": {"seconds": 2}, "linear-probe": {"seconds": 9}}
    write_stored(tmp_path / "result.json", {"methods": methods, **memory})
    assert measured(tmp_path) == found


@pytest.mark.parametrize("content", ["", "{}", '{"methods": {}}', '{"methods": {"a": {"seconds": "1"}}}', "[1]"])
def test_a_result_that_says_nothing(tmp_path: Path, content: str) -> None:
    assert measured(tmp_path) is None
    (tmp_path / "result.json").write_text(content)
    assert measured(tmp_path) is None


def test_a_few_of_many() -> None:
    assert list(spread(range(5), 10)) == [0, 1, 2, 3, 4]
    assert len(spread(range(1999), 50)) == 50
