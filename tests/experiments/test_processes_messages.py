"""What processes that train side by side and the one that started them say to each other, with none started."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.side_by_side import CPU, DIED, planned
from tests.helpers import Watch, make_toy, refusal

import largedrop as ld
from largedrop.data.views.batches import HostViews
from largedrop.errors import CollapseError, Interrupted, NoMemoryError, UserError
from largedrop.experiments import processes as parallel
from largedrop.experiments.compare import Comparison, compare
from largedrop.reporter import Reporter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


class Fake:
    """A process that was not started: its pipe holds what it would say, and then ends."""

    def __init__(self, exitcode: int, said: list[tuple[str, Any]]) -> None:
        self.exitcode, self.killed = exitcode, False
        self.ours, theirs = multiprocessing.Pipe()
        with theirs:
            for message in said:
                theirs.send(message)

    def join(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[torch.device, int, int]]]:
    """Make processes be these; the device, the number of threads that each was asked to take, and how many share it."""

    def install(*made: Fake) -> list[tuple[torch.device, int, int]]:
        given: list[tuple[torch.device, int, int]] = []

        def started(device: torch.device, threads: int, sharing: int) -> Any:
            given.append((device, threads, sharing))
            fake = made[len(given) - 1]
            return parallel._Worker(fake, fake.ours)  # type: ignore[arg-type]

        monkeypatch.setattr(parallel, "_started", started)
        return given

    return install


def side_by_side(data: ld.Dataset, dropouts: tuple[float, ...], folder: Path, **options: Any) -> Comparison:
    return compare(data, planned(data, *dropouts), folder, **{"device": CPU, "jobs": len(dropouts), **options})


@pytest.mark.parametrize(
    ("device", "gpus", "threads", "devices", "each", "sharing"),
    [
        ("cpu", 4, 7, ["cpu"] * 3, 2, 3),
        ("cuda", 2, 2, ["cuda:0", "cuda:1", "cuda:0"], 1, 2),
        ("cuda", 4, 3, ["cuda:0", "cuda:1", "cuda:2"], 1, 1),
        ("cuda:1", 2, 3, ["cuda:1"] * 3, 1, 3),
    ],
)
def test_devices_and_threads_are_shared_out(
    data: ld.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fakes: Any,
    device: str,
    gpus: int,
    threads: int,
    devices: list[str],
    each: int,
    sharing: int,
) -> None:
    given = fakes(*[Fake(-9, []) for _ in range(3)])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with pytest.raises(UserError):
        side_by_side(data, (0.0, 0.5, 0.9), tmp_path, device=torch.device(device))
    assert given == [(torch.device(name), each, sharing) for name in devices]


@pytest.mark.parametrize(
    ("exitcode", "text"),
    [
        (-9, DIED),
        (0, DIED),
        (1, "a training process has failed, with the error above; the same command resumes it"),
    ],
)
def test_a_process_that_is_gone(data: ld.Dataset, tmp_path: Path, fakes: Any, exitcode: int, text: str) -> None:
    fakes(Fake(exitcode, []), Fake(exitcode, []))
    assert refusal(side_by_side, data, (0.0, 0.9), tmp_path) == text


def test_what_processes_say_of_their_views_is_told_once(data: ld.Dataset, tmp_path: Path, fakes: Any) -> None:
    fakes(*[Fake(0, [("note", f"2.{number} GiB are free"), ("ended", CollapseError("x"))]) for number in range(2)])
    notes: list[str] = []
    assert len(side_by_side(data, (0.0, 0.9), tmp_path, reporter=Watch(note=notes.append)).failed) == 2
    assert notes == ["2.0 GiB are free"]
    fakes(*[Fake(0, [("note", "n"), ("ended", CollapseError("x"))]) for _ in range(2)])
    side_by_side(data, (0.0, 0.9), tmp_path)  # nobody listens


def test_a_second_interrupt_kills_the_processes(data: ld.Dataset, tmp_path: Path, fakes: Any) -> None:
    made = [Fake(0, [("advance", 1.0)]) for _ in range(2)]
    fakes(*made)

    def again(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(data, (0.0, 0.9), tmp_path, reporter=Watch(advance=again))
    assert all(fake.killed for fake in made)


def test_stopped_between_two_runs(data: ld.Dataset, tmp_path: Path, fakes: Any) -> None:
    fakes(*[Fake(0, [("ended", CollapseError("x"))]) for _ in range(2)])
    with pytest.raises(Interrupted, match=r"^stopped before run 3 of 3$"):
        side_by_side(data, (0.0, 0.5, 0.9), tmp_path, jobs=2, reporter=Watch(stopped=lambda: True))


def at_work(monkeypatch: pytest.MonkeyPatch, *sent: Any) -> list[tuple[str, Any]]:
    """What a process says that is sent this, here and now; the pipe then ends."""
    ours, theirs = multiprocessing.Pipe()
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    for message in sent:
        ours.send(message)
    said: list[tuple[str, Any]] = []
    if sent[-1:] != (None,):  # nobody is there any more
        ours.close()
        parallel._work(theirs, CPU, 1, 1)
        return said
    parallel._work(theirs, CPU, 1, 1)
    theirs.close()
    with ours:
        while ours.poll():
            try:
                said.append(ours.recv())
            except (EOFError, ConnectionResetError):
                break
    return said


def test_a_process_that_is_told_to_stop_before_it_begins_does_nothing(
    data: ld.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = (planned(data, 0.0).configs[0], tmp_path / "run")
    ((kind, error),) = at_work(monkeypatch, data, task, None)
    assert (kind, type(error), str(error)) == ("raised", Interrupted, "stopped before the next run began")
    assert at_work(monkeypatch, data, task) == []
    assert at_work(monkeypatch, data) == []
    assert at_work(monkeypatch) == []
    assert not (tmp_path / "run").exists()


def test_a_cache_that_was_removed_before_a_process_could_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    data = ld.open_dataset(make_toy(tmp_path / "set", images=2))
    shutil.rmtree(tmp_path / "cache")
    ((kind, error),) = at_work(monkeypatch, data, None)
    assert (kind, type(error), str(error)) == (
        "raised",
        UserError,
        "the image cache was removed or changed meanwhile; the same command resumes it, and makes it again",
    )


def test_a_process_says_how_views_are_made_and_a_run_that_finds_too_little_memory_ends_alone(
    data: ld.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise NoMemoryError("a smaller --batch needs less")

    polls = iter([False, False])
    monkeypatch.setattr(parallel, "train", fail)
    monkeypatch.setattr(Connection, "poll", lambda self, timeout=0.0: next(polls, True))
    opened: list[float] = []

    def noted(data: ld.Dataset, device: torch.device, reporter: Reporter, sharing: int, pixels: float) -> HostViews:
        reporter.note("views are made on the processor")
        opened.append(pixels)
        return HostViews(data, device)

    monkeypatch.setattr(parallel, "open_views", noted)
    tasks = [(config, tmp_path / config.run_name) for config in planned(data, 0.0, 0.9).configs]
    note, *said = at_work(monkeypatch, data, *tasks, None)
    assert note == ("note", "views are made on the processor")
    config = tasks[0][0]
    assert opened == [config.batch * len(config.split_of(data).train) * config.size**2]  # once, for both
    assert [(kind, type(error), str(error)) for kind, error in said] == [
        ("ended", NoMemoryError, "a smaller --batch needs less, and so do fewer --jobs")
    ] * 2
