"""Following workers: which are started, what is told of runs that end, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import Watch, refusal

from largedrop.config import Config
from largedrop.errors import CollapseError, Interrupted
from largedrop.experiments.launchers import follow as module
from largedrop.experiments.launchers.follow import follow_workers
from largedrop.experiments.preset import Preset
from largedrop.experiments.sweep import PlannedRun, SweepPlan
from largedrop.lease import Lease, take
from largedrop.reporter import SILENT
from largedrop.runs.failure import write_failure


class Fake:
    """Workers that are numbers; each sleep calls and removes the first of ``events``."""

    def __init__(self, jobs: int, *events: Callable[[], None]) -> None:
        self.jobs, self.events = jobs, list(events)
        self.started: list[int] = []
        self.living = 0

    def start(self, count: int) -> None:
        self.started.append(count)
        self.living += count

    def alive(self) -> int:
        return self.living

    def leave(self) -> str:
        return "the jobs go on"

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *arguments: object) -> None: ...


@pytest.fixture
def plan(config: Config, tmp_path: Path) -> SweepPlan:
    """Four runs that are new."""
    entries = []
    for seed in range(4):
        one = replace(config, seed=seed)
        entries.append(PlannedRun(one, tmp_path / "runs" / one.run_name, 10.0 + seed, 0, "new"))
    preset: Any = Preset
    return SweepPlan(preset, "full", tmp_path, tuple(entries), 0.0, rough=True)


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """``follow_workers`` with workers whose time passes by their events."""

    def run(workers: Fake, plan: SweepPlan, reporter: Any = SILENT) -> None:
        def pause(seconds: float, stopped: Callable[[], bool], workers: Any) -> None:
            assert seconds >= module.LOOK_EVERY
            workers.events.pop(0)()

        monkeypatch.setattr(module, "_pause", pause)
        follow_workers(workers, plan, tmp_path / "workers", reporter)

    return run


def begin(entry: PlannedRun) -> Lease:
    entry.folder.mkdir(parents=True)
    return take(entry.folder)


def end(entry: PlannedRun) -> None:
    entry.folder.mkdir(parents=True, exist_ok=True)
    (entry.folder / "result.json").touch()


def test_workers_are_replaced_where_a_run_is_free_and_what_ends_is_told(
    plan: SweepPlan, following: Callable[..., None]
) -> None:
    first, second, third, last = plan.entries
    leases: list[Lease] = []
    done: list[float] = []
    failed: list[tuple[Config, str]] = []

    def both_begin() -> None:
        leases.extend(map(begin, (first, second)))

    def one_ends_with_nothing_left() -> None:
        end(third)
        end(last)
        workers.living -= 1  # the other run is in the hands of its worker

    def that_dies() -> None:
        leases[1].give_back(ended=False)
        workers.living -= 1

    def it_collapses() -> None:
        write_failure(second.folder, CollapseError("it shrank"))

    workers = Fake(2, both_begin, lambda: end(first), one_ends_with_nothing_left, that_dies, it_collapses)
    following(workers, plan, Watch(advance=done.append, failed=lambda config, text: failed.append((config, text))))
    assert workers.started == [2, 1]
    assert workers.events == []
    assert done == [10.0, 12.0, 13.0]
    assert failed == [(second.config, "it shrank")]
    leases[0].give_back(ended=True)


def test_no_more_workers_than_runs(plan: SweepPlan, following: Callable[..., None]) -> None:
    def all_end() -> None:
        for entry in plan.entries:
            end(entry)

    workers = Fake(9, all_end)
    following(workers, plan)
    assert workers.started == [4]


def test_workers_that_end_at_once_are_given_up_with_what_they_say(
    plan: SweepPlan, following: Callable[..., None], tmp_path: Path
) -> None:
    log = tmp_path / "workers"

    def die() -> None:
        workers.living = 0

    workers = Fake(2, *[die] * 10)
    expected = f"the workers end without finishing any of 4 runs; {log} has what they say"
    assert refusal(following, workers, plan) == expected
    assert workers.started == [2, 2, 2]
    log.mkdir()
    (log / "vm-1.log").write_text("Tiny\nlargedrop: install the same\n\n")
    workers = Fake(2, *[die] * 10)
    assert refusal(following, workers, plan) == f"{expected}, the last: install the same"


def test_a_stop_is_asked_for_between_two_looks(plan: SweepPlan, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"^stopped; the jobs go on$"):
        follow_workers(Fake(1), plan, tmp_path, Watch(stopped=lambda: True))
