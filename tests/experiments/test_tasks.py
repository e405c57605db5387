"""Tasks that several processes take: which is next, and what is waited for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers import Watch

from largedrop.config import Config
from largedrop.errors import CollapseError, Interrupted
from largedrop.experiments import tasks as module
from largedrop.experiments.tasks import Task, Tasks
from largedrop.lease import take
from largedrop.reporter import SILENT
from largedrop.runs.failure import write_failure


@pytest.fixture
def made(config: Config, tmp_path: Path) -> list[Task]:
    """Three tasks with folders."""
    found = [(replace(config, seed=seed), tmp_path / str(seed)) for seed in range(3)]
    for _, folder in found:
        folder.mkdir()
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Time that passes in ``sleep`` alone; each sleep calls and removes the first of these functions."""
    events: list[Callable[[], None]] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 1.0
        events.pop(0)()

    monkeypatch.setattr(module, "time", type("time", (), {"monotonic": lambda: now[0], "sleep": sleep}))
    return events


def test_each_is_taken_in_order_and_what_others_have_is_left(made: list[Task]) -> None:
    lease = take(made[0][1])
    assert list(Tasks(made, SILENT, wait=False)) == made[1:]
    lease.give_back(ended=False)
    assert list(Tasks(made, SILENT, wait=False)) == made


def test_what_has_ended_is_given_to_who_waits_and_to_nobody_else(made: list[Task]) -> None:
    leases = [take(folder) for _, folder in made[:2]]
    (made[0][1] / "result.json").touch()
    write_failure(made[1][1], CollapseError("it shrank"))
    assert list(Tasks(made, SILENT, wait=False)) == made[2:]
    assert list(Tasks(made, SILENT, wait=True)) == made
    for lease in leases:
        lease.give_back(ended=False)


def test_what_others_have_is_waited_for_until_they_finish_fail_or_die(
    made: list[Task], clock: list[Callable[[], None]]
) -> None:
    leases = [take(folder) for _, folder in made]
    notes: list[str] = []
    events = [
        lambda: None,
        lambda: (made[1][1] / "result.json").touch(),
        lambda: write_failure(made[2][1], CollapseError("it shrank")),
        lambda: leases[0].give_back(ended=False),
    ]
    clock += events
    tasks = Tasks(made, Watch(note=notes.append), wait=True)
    assert list(tasks) == [made[1], made[2], made[0]]
    assert len(clock) == 0
    (note,) = notes
    assert note.startswith("waiting for 3 that others train: process ")
    for lease in leases[1:]:
        lease.give_back(ended=False)


def test_a_wait_can_be_interrupted(made: list[Task], clock: list[Callable[[], None]]) -> None:
    lease = take(made[0][1])
    asked = iter([False, False, True])
    clock += [lambda: None] * 2
    with pytest.raises(Interrupted, match=r"^stopped while other processes trained$"):
        list(Tasks(made[:1], Watch(stopped=lambda: next(asked)), wait=True))
    lease.give_back(ended=False)


def test_a_task_that_is_put_back_comes_again(made: list[Task]) -> None:
    tasks = Tasks(made, SILENT, wait=False)
    first = tasks.take()
    assert first == made[0]
    tasks.put_back(first)
    assert len(tasks) == 3
    assert list(tasks) == made


def test_the_processes_of_other_machines_are_named(made: list[Task], clock: list[Callable[[], None]]) -> None:
    for number, (_, folder) in enumerate(made * 2):
        lease = {"host": f"node{number}", "system": "another", "process": number, "started": "1"}
        (folder / ".lease-1").write_text(json.dumps(lease))
    notes: list[str] = []
    tasks = Tasks(made, Watch(note=notes.append), wait=True)
    assert tasks.take() is None
    assert tasks.take() is None  # looked at a moment ago
    assert notes == ["waiting for 3 that others train: process 3 on node3, process 4 on node4, process 5 on node5"]
