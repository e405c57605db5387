"""Runs side by side, each in a process of its own: on a GPU, several small runs fill what one leaves idle.

Each process has a pipe of its own to this one and shares no lock or queue with the others: one that is killed, at
whatever it is, cannot leave the others waiting. A pipe's end is also how a process learns that this one has died.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
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
from ..errors import CollapseError, Interrupted, UserError
from ..reporter import Reporter
from ..runs.run import Run
from ..training.features import FeatureCache
from ..training.loop import train

__all__ = ["ProcessFailedError", "train_side_by_side"]

LOOK_EVERY = 0.2
"""Seconds between two looks at whether to stop, where no process says anything."""

GOES_ON = "the same command goes on from where it was"


class ProcessFailedError(UserError):
    """A process that was training has ended by itself; ``number`` is the index of its task."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@dataclass
class _Worker:
    """A process, this one's end of the pipe to it, and the number of the task that it is at."""

    process: BaseProcess
    pipe: Connection
    number: int = 0


def train_side_by_side(
    tasks: Sequence[tuple[Config, Path]], data: Dataset, device: torch.device, jobs: int, reporter: Reporter
) -> Generator[tuple[Config, Run | CollapseError], None, None]:
    """Train every task, ``jobs`` of them at a time, and yield each as it ends.

    Where the device is ``cuda`` without a number and there are several, the processes share them out. Threads are
    shared out too. The processes save and end when the reporter says so, and when this one dies.

    Args:
        data: the dataset; its images are opened again in each process, from the same cache.
        jobs: processes, from 1 to as many as there are tasks.
        reporter: told of the work, of each run when a process is given it, and of the first note of a process (they
            differ in free memory alone); asked every fifth of a second, or oftener, whether to stop.

    Raises:
        UserError: a run said so.
        ProcessFailedError: a process died.
        Interrupted: the reporter said so.
    """
    workers: list[_Worker] = []
    numbers = iter(range(len(tasks)))
    asked = noted = False

    def hand(worker: _Worker, number: int) -> None:
        config, folder = tasks[number]
        worker.number = number
        reporter.begin(config)
        _tell(worker, (config, folder))

    try:
        threads = max(1, torch.get_num_threads() // jobs)
        with _deaf():
            for index in range(jobs):
                own = torch.device("cuda", index % torch.cuda.device_count()) if str(device) == "cuda" else device
                workers.append(_started(own, threads))
        for worker in workers:
            _tell(worker, data)
            hand(worker, next(numbers))
        busy = {worker.pipe: worker for worker in workers}
        while busy:
            ready = wait(list(busy), LOOK_EVERY)
            if not asked and reporter.stopped():
                asked = True
                for worker in busy.values():
                    _tell(worker, None)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                worker = busy[pipe]
                kind, value = _heard(worker)
                if kind in ("advance", "skip"):
                    getattr(reporter, kind)(value)
                elif kind == "note":
                    if not noted:
                        reporter.note(value)
                    noted = True
                elif kind == "raised":
                    raise value
                else:
                    yield tasks[worker.number][0], value
                    number = None if asked else next(numbers, None)
                    if number is None:
                        del busy[pipe]
                    else:
                        hand(worker, number)
        if (number := next(numbers, None)) is not None:
            raise Interrupted(f"stopped before run {number + 1} of {len(tasks)}")
    except KeyboardInterrupt:  # at once: what is on disk stays whole
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        _end(workers)


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that never hear Ctrl-C or SIGTERM, which may be sent to all of them; this one tells them to stop.

    Blocked here, since a process inherits that: it takes seconds to import torch before it could ignore them itself.
    """
    if os.name != "posix":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # where it is started later, it unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(device: torch.device, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a process with CUDA in it cannot be forked
    ours, theirs = context.Pipe()
    with theirs:  # only the process itself holds its end, so that the pipe ends with it
        process = context.Process(target=_work, args=(theirs, device, threads), name="largedrop")
        process.start()
    return _Worker(process, ours)


def _tell(worker: _Worker, message: object) -> None:
    with suppress(OSError):  # it has died: reading says so
        worker.pipe.send(message)


def _heard(worker: _Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        failed = (worker.process.exitcode or 0) > 0
        how = "failed, as it says above;" if failed else "died (out of memory?); fewer --jobs need less, and"
        raise ProcessFailedError(f"a process that was training has {how} {GOES_ON}", worker.number) from None
    return message


def _end(workers: Sequence[_Worker]) -> None:
    """Let every process save what it has and end."""
    try:
        for worker in workers:
            _tell(worker, None)
        for worker in workers:
            with suppress(EOFError, OSError):
                while True:  # or it would wait for room in the pipe
                    worker.pipe.recv()
            worker.process.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise


def _work(pipe: Connection, device: torch.device, threads: int) -> None:
    """What a process does: take the data, then tasks, until it is given None or the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # see ``_deaf``; on Windows there is no other way
    torch.set_num_threads(threads)
    reporter = _Sender(pipe)
    try:
        data = _received(pipe)
        features = FeatureCache(open_views(data, device, reporter), reporter)
        while (task := pipe.recv()) is not None:
            reporter.raise_if_stopped("stopped before the next run began")
            config, folder = task
            reporter.say("ended", _outcome(config, data, folder, features, reporter))
    except (UserError, Interrupted) as error:
        reporter.say("raised", error)
    except (EOFError, ConnectionError):
        pass


class _Sender(Reporter):
    """Says all of it to the process at the other end of a pipe."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, kind: str, value: object) -> None:
        with suppress(OSError):  # the other process has died: the run must still be saved
            self.pipe.send((kind, value))

    def advance(self, work: float) -> None:
        self.say("advance", work)

    def skip(self, work: float) -> None:
        self.say("skip", work)

    def note(self, text: str) -> None:
        self.say("note", text)

    def stopped(self) -> bool:
        # Nothing is sent to a process that is at work but the request to stop, and the pipe's end is one too.
        try:
            return self.pipe.poll()
        except OSError:
            return True


def _received(pipe: Connection) -> Dataset:
    try:
        data: Dataset = pipe.recv()
    except (FileNotFoundError, ValueError):
        raise UserError(f"the image cache was removed or changed meanwhile; {GOES_ON}, and makes it anew") from None
    return data


def _outcome(
    config: Config, data: Dataset, folder: Path, features: FeatureCache, reporter: Reporter
) -> Run | CollapseError:
    try:
        return train(config, data, folder, features=features, reporter=reporter)
    except CollapseError as error:
        return error
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise UserError(f"a run found too little memory; fewer --jobs need less, and {GOES_ON}") from None
