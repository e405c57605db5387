"""How numbers are written."""

from __future__ import annotations

import pytest

from largedrop.runs.estimate import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (90061, "25 h 1 min"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said
