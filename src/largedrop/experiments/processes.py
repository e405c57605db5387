"""Runs side by side, each in its own process: on a GPU, several small runs use what one leaves idle.

Each process has its own pipe to this one and shares no lock or queue with the others, so that a killed process cannot
block them. The end of its pipe tells a process that this one has died.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import BusyError, Interrupted, NoMemoryError, RunError, UserError
from ..reporter import Reporter
from ..runs.failure import read_failure
from ..runs.run import Run
from ..runtime import free_memory
from ..training.batches import step_pixels
from ..training.features import FeatureCache
from ..training.loop import train
from .tasks import Task, Tasks

__all__ = ["ProcessFailedError", "train_side_by_side"]

LOOK_EVERY = 0.2
"""Seconds between two calls of ``Reporter.stopped`` while no process sends a message."""

GOES_ON = "the same command resumes it"

ALONE = "a run found too little memory beside the others: such runs are trained after them, one at a time"


class ProcessFailedError(UserError):
    """A training process has ended by itself; ``config`` is that of its run."""

    def __init__(self, message: str, config: Config) -> None:
        super().__init__(message)
        self.config = config


@dataclass
class _Worker:
    """A process, this process's end of its pipe, and its task."""

    process: BaseProcess
    pipe: Connection
    task: Task | None = None


def train_side_by_side(
    tasks: Tasks, data: Dataset, device: torch.device, jobs: int, reporter: Reporter
) -> Generator[tuple[Config, Run | RunError], None, None]:
    """Train every task that no other process has, ``jobs`` of them at a time, and yield each as it ends.

    Where the device is ``cuda`` without a number, the processes are distributed over all GPUs; threads are divided
    between them. The processes save and end when the reporter asks to stop, and when this process dies. A run that
    finds too little memory beside others goes on when they are done, one at a time, and is only then yielded.

    Args:
        data: the dataset, whose images each process opens from the same cache.
        jobs: number of processes, from 1 to the number of tasks.
        reporter: receives the work, each run when a process begins it, and the first note of all processes (they differ
            in free memory only); asked at least every fifth of a second whether to stop.

    Raises:
        UserError: a run raised it.
        ProcessFailedError: a process died.
        Interrupted: the reporter asks to stop.
    """
    workers: list[_Worker] = []
    later: list[Task] = []
    again: set[Path] = set()
    total = len(tasks)
    asked = noted = False

    try:
        threads = max(1, torch.get_num_threads() // jobs)
        gpus = torch.cuda.device_count() if str(device) == "cuda" else 1
        with _deaf():
            for index in range(jobs):
                own = torch.device("cuda", index % gpus) if str(device) == "cuda" else device
                workers.append(_started(own, threads, -(-jobs // gpus)))
        for worker in workers:
            _tell(worker, data)
        idle, busy = list(reversed(workers)), dict[Connection, _Worker]()
        while True:
            while idle and not asked and (task := tasks.take()) is not None:
                reporter.begin(task[0])
                if (failure := read_failure(task[1])) is not None:
                    yield task[0], failure[0]
                    continue
                _give(task, idle, busy)
            if not busy:
                if later and not asked:
                    reporter.begin(later[0][0])
                    again.add(later[0][1])
                    _give(later.pop(0), idle, busy)
                elif asked or not tasks or not tasks.wait:
                    break
                time.sleep(LOOK_EVERY)  # others have them all
            ready = wait(list(busy), LOOK_EVERY) if busy else []
            if not asked and reporter.stopped():
                asked = True
                for worker in busy.values():
                    _tell(worker, None)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                kind, value = _heard(worker)
                if kind in ("advance", "skip", "logged"):
                    getattr(reporter, kind)(value)
                elif kind == "note":
                    if not noted:
                        reporter.note(value)
                    noted = True
                elif kind == "raised":
                    raise value
                else:
                    assert worker.task is not None
                    idle.append(busy.pop(pipe))
                    if isinstance(value, BusyError):
                        tasks.put_back(worker.task)
                    elif isinstance(value, NoMemoryError) and jobs > 1 and worker.task[1] not in again:
                        later.append(worker.task)
                        reporter.note(ALONE)
                    else:
                        yield worker.task[0], value
        if asked and (left := len(tasks) + len(later)):
            raise Interrupted(f"stopped before run {total - left + 1} of {total}")
    except KeyboardInterrupt:  # at once: what is on disk stays whole
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        _end(workers)


@contextmanager
def _deaf() -> Iterator[None]:
    """Within the block, started processes ignore Ctrl-C, SIGTERM and SIGHUP; this process asks them to stop.

    The signals are blocked here and inherited, since importing torch takes a process seconds before it could ignore
    them itself.
    """
    if os.name != "posix":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started later, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(device: torch.device, threads: int, sharing: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a process with CUDA in it cannot be forked
    ours, theirs = context.Pipe()
    with theirs:  # only the process itself holds its end, so that the pipe ends with it
        process = context.Process(target=_work, args=(theirs, device, threads, sharing), name="largedrop")
        process.start()
    return _Worker(process, ours)


def _give(task: Task, idle: list[_Worker], busy: dict[Connection, _Worker]) -> None:
    worker = idle.pop()
    worker.task, busy[worker.pipe] = task, worker
    _tell(worker, task)


def _tell(worker: _Worker, message: object) -> None:
    with suppress(OSError):  # it has died, which reading reports
        worker.pipe.send(message)


def _heard(worker: _Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        failed = (worker.process.exitcode or 0) > 0
        how = "failed, with the error above;" if failed else "died (out of memory?); fewer --jobs need less, and"
        assert worker.task is not None
        raise ProcessFailedError(f"a training process has {how} {GOES_ON}", worker.task[0]) from None
    return message


def _end(workers: Sequence[_Worker]) -> None:
    """Ask every process to save and end, and wait for it."""
    try:
        for worker in workers:
            _tell(worker, None)
        for worker in workers:
            with suppress(EOFError, OSError):
                while True:  # otherwise it would block on a full pipe
                    worker.pipe.recv()
            worker.process.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise


def _work(pipe: Connection, device: torch.device, threads: int, sharing: int) -> None:
    """The main function of one of ``sharing`` processes on a device: receive the data, then tasks, until None or the
    end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see ``_deaf``; on Windows there is no other way
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    reporter = _Sender(pipe)
    try:
        data = _received(pipe)
        features: FeatureCache | None = None
        while (task := pipe.recv()) is not None:
            reporter.raise_if_stopped("stopped before the next run began")
            config, folder = task
            if features is None:
                pixels = step_pixels(config, config.split_of(data))
                features = FeatureCache(open_views(data, device, reporter, sharing, pixels), reporter)
            outcome = _outcome(config, data, folder, features, reporter)
            if sharing > 1 and device.type == "cuda":
                free_memory()  # for the others: this process may have no more to do
            reporter.say("ended", outcome)
    except (UserError, Interrupted) as error:
        reporter.say("raised", error)
    except (EOFError, ConnectionError):
        pass


class _Sender(Reporter):
    """Sends every call to the process at the other end of a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, kind: str, value: object) -> None:
        with suppress(OSError):  # the other process has died: the run must still be saved
            self.pipe.send((kind, value))

    def advance(self, work: float) -> None:
        self.say("advance", work)

    def skip(self, work: float) -> None:
        self.say("skip", work)

    def logged(self, folder: Path) -> None:
        self.say("logged", folder)

    def note(self, text: str) -> None:
        self.say("note", text)

    def stopped(self) -> bool:
        # During training only a request to stop is sent, and the end of the pipe is one as well.
        try:
            return self.pipe.poll()
        except OSError:
            return True


def _received(pipe: Connection) -> Dataset:
    try:
        data: Dataset = pipe.recv()
    except (FileNotFoundError, ValueError):
        raise UserError(f"the image cache was removed or changed meanwhile; {GOES_ON}, and makes it again") from None
    return data


def _outcome(config: Config, data: Dataset, folder: Path, features: FeatureCache, reporter: Reporter) -> Run | RunError:
    try:
        return train(config, data, folder, features=features, reporter=reporter)
    except NoMemoryError as error:
        return NoMemoryError(f"{error}, and so do fewer --jobs")
    except RunError as error:
        return error
