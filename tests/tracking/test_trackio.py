"""trackio: the real one where it is installed, else one that keeps what it is told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from largedrop.tracking.base import Tracked

RUN = Tracked("0123", "run", "monday", Path(), {"dropout": 0.9})


class Handle:
    """A run of the made-up trackio, whose rows are stored when it is finished, as by the thread of the real one."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.new = rows, list[dict[str, Any]]()

    def log(self, numbers: dict[str, Any], step: int) -> None:
        self.new.append({**numbers, "step": step})

    def finish(self) -> None:
        self.rows += self.new
        self.new = []


def fake() -> ModuleType:
    kept: dict[tuple[str, str], list[dict[str, Any]]] = {}
    made = ModuleType("trackio")

    class SQLiteStorage:
        @staticmethod
        def get_logs(project: str, run: str) -> list[dict[str, Any]]:
            return kept.get((project, run), [])

    def init(project: str, name: str, *, resume: str, config: dict[str, Any], **options: object) -> Handle:
        assert resume == "allow"
        assert set(options) <= {"group", "embed", "auto_log_cpu", "auto_log_gpu"}
        return Handle(kept.setdefault((project, name), []))

    vars(made).update(SQLiteStorage=SQLiteStorage, init=init)
    return made


@pytest.fixture
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_PROJECT", "animals")
    if importlib.util.find_spec("trackio") is None:
        monkeypatch.setitem(sys.modules, "trackio", fake())
        monkeypatch.delitem(sys.modules, "largedrop.tracking.trackio", raising=False)


@pytest.mark.usefixtures("_somewhere")
def test_runs_side_by_side_are_found_again_and_have_each_step_once() -> None:
    import trackio

    from largedrop.tracking.trackio import Trackio

    first, beside = Trackio(RUN), Trackio(Tracked("4567", "run", "monday", Path(), {}))
    assert (first.last, first.ended) == (-1, False)
    first.log(0, {"iid_accuracy": 0.5, "by_domain/北京": 0.25})
    beside.log(0, {"iid_accuracy": 0.25})
    first.log(5, {"iid_accuracy": 0.75})
    first.close()
    beside.close()
    second = Trackio(RUN)
    assert (second.last, second.ended) == (5, False)
    second.end(5, {"result/ema/iid_accuracy": 1.0})
    second.close()
    third = Trackio(RUN)
    assert (third.last, third.ended) == (5, True)
    third.close()

    def rows(name: str) -> list[tuple[int, float | None]]:
        found = trackio.SQLiteStorage.get_logs("animals", name)
        return [(row["step"], row.get("iid_accuracy")) for row in found]

    assert rows("run-0123") == [(0, 0.5), (5, 0.75), (5, None)]
    assert rows("run-4567") == [(0, 0.25)]
