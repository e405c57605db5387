"""Work ahead: results in order, and only so many of them waiting."""

from __future__ import annotations

import os

import pytest

from largedrop.data.ahead import in_order


@pytest.mark.parametrize(("ahead", "most"), [(None, 2 * 2), (7, 7)])
def test_threads_run_only_a_little_ahead(ahead: int | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun: list[int] = []
    results = in_order(lambda item: begun.append(item) or item * item, range(100), ahead)
    assert [next(results) for _ in range(10)] == [item * item for item in range(10)]
    assert 10 <= len(begun) <= 10 + most + 1
    results.close()
    assert len(begun) <= 10 + most + 1


def test_an_error_comes_where_its_result_would() -> None:
    results = in_order(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
