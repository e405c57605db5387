"""Runs side by side of which one finds too little memory: it is trained when the others are done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import TINY, Watch

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import Interrupted, NoMemoryError
from largedrop.experiments import processes as parallel
from largedrop.experiments.compare import plan
from largedrop.experiments.processes import ALONE, train_side_by_side
from largedrop.experiments.tasks import Task, Tasks

CPU = torch.device("cpu")


class Threads:
    """Workers that are threads.

    Args:
        memory: beside how many others each dropout rate finds memory; none by itself where that is -1.
        until: what a rate waits for before it ends.
    """

    def __init__(
        self, memory: Mapping[float, int], monkeypatch: pytest.MonkeyPatch, until: Mapping[float, threading.Event] = {}
    ) -> None:
        self.memory, self.until = memory, until
        self.began: list[tuple[float, int]] = []
        self._working = 0
        self._lock = threading.Condition()
        monkeypatch.setattr(parallel, "_started", self._started)

    def _started(self, device: torch.device, threads: int, sharing: int) -> parallel._Worker:
        ours, theirs = Pipe()
        thread = threading.Thread(target=self._work, args=(theirs, sharing), daemon=True)
        thread.start()
        return parallel._Worker(thread, ours)  # type: ignore[arg-type]

    def _work(self, pipe: Any, jobs: int) -> None:
        pipe.recv()
        while (task := pipe.recv()) is not None:
            rate = task[0].dropout
            with self._lock:
                first = len(self.began) < jobs  # the first ones are at work together
                others = jobs - 1 if first else self._working
                self._working += 1
                self.began.append((rate, others))
                self._lock.notify_all()
                assert not first or self._lock.wait_for(lambda: len(self.began) >= jobs, timeout=60)
            assert rate not in self.until or self.until[rate].wait(60)
            with self._lock:
                self._working -= 1
            enough = others <= self.memory[rate]
            pipe.send(("ended", f"run {rate}" if enough else NoMemoryError(f"{rate} needs more")))


def outcomes(
    data: ld.Dataset, folder: Path, reporter: Watch, *rates: float, jobs: int = 2
) -> list[tuple[float, object]]:
    configs = plan(data, CPU, test_domains=["photo"], dropouts=rates, **TINY).configs
    tasks: list[Task] = [(config, folder / config.run_name) for config in configs]
    queue = Tasks(tasks, reporter, wait=False)
    return [(config.dropout, end) for config, end in train_side_by_side(queue, data, CPU, jobs, reporter)]


def noted(notes: list[str]) -> Callable[[str], None]:
    return notes.append


def test_it_is_trained_again_when_the_others_are_done(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads({0.0: 0, 0.3: 1, 0.6: 1, 0.9: 1}, monkeypatch)
    notes: list[str] = []
    begun: list[Config] = []
    found = outcomes(data, tmp_path, Watch(note=noted(notes), begin=begun.append), 0.0, 0.3, 0.6, 0.9)
    assert sorted(found[:-1]) == [(0.3, "run 0.3"), (0.6, "run 0.6"), (0.9, "run 0.9")]
    assert found[-1] == (0.0, "run 0.0")
    assert set(notes) == {ALONE}
    assert threads.began[-1] == (0.0, 0)
    assert [config.dropout for config in begun] == [0.0, 0.3, 0.6, 0.9, 0.0]


def test_one_that_fails_by_itself_as_well_ends_and_so_does_one_that_was_by_itself(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Threads({0.0: -1, 0.3: 1}, monkeypatch)
    found = outcomes(data, tmp_path, Watch(), 0.0, 0.3)
    assert found[0] == (0.3, "run 0.3")
    rate, error = found[1]
    assert (rate, type(error), str(error)) == (0.0, NoMemoryError, "0.0 needs more")
    Threads({0.0: -1}, monkeypatch)
    notes: list[str] = []
    ((rate, error),) = outcomes(data, tmp_path / "one", Watch(note=noted(notes)), 0.0, jobs=1)
    assert (rate, type(error), notes) == (0.0, NoMemoryError, [])


def test_what_waits_for_the_others_is_left_where_all_is_stopped(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    Threads({0.0: 0, 0.3: 1}, monkeypatch, {0.3: asked})
    notes: list[str] = []

    def stopped() -> bool:
        if notes:
            asked.set()
        return bool(notes)

    with pytest.raises(Interrupted) as caught:
        outcomes(data, tmp_path, Watch(note=noted(notes), stopped=stopped), 0.0, 0.3)
    assert str(caught.value) == "stopped before run 2 of 2"
