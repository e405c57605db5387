"""Runs side by side, each in a process of its own: on a GPU, several small runs fill what one leaves idle."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..errors import CollapseError, Interrupted, UserError
from ..training.features import FeatureCache
from ..training.loop import train
from ..training.run import Run
from ..training.views import open_views

__all__ = ["train_side_by_side"]

LOOK_EVERY = 0.2
"""Seconds between two looks at what the processes have done and whether to stop."""

Task = tuple[int, Config, Path]


def train_side_by_side(
    tasks: Sequence[tuple[Config, Path]],
    data: Dataset,
    device: torch.device,
    jobs: int,
    *,
    progress: Callable[[float], None],
    begin: Callable[[Config], None],
    stop: Callable[[], bool],
) -> Iterator[tuple[Config, Run | CollapseError]]:
    """Train every task, ``jobs`` of them at a time, and yield each as it ends.

    Where the device is ``cuda`` without a number and there are several, the processes share them out. Threads are
    shared out too. The processes save and end when ``stop`` says so, and when this one dies.

    Args:
        tasks: config and folder of each run.
        data: the dataset; its images are opened again in each process, from the same cache.
        device: where to compute.
        jobs: processes, 2 or more.
        progress: called with the work done since the last call.
        begin: called when a run begins.
        stop: asked every fifth of a second.

    Raises:
        UserError: a run said so, or a process died.
        Interrupted: ``stop`` said so.
    """
    context = multiprocessing.get_context("spawn")  # a process with CUDA in it cannot be forked
    messages, stopping, numbers = context.Queue(), context.Event(), context.Value("i", 0)
    shared = (data, device, max(1, torch.get_num_threads() // jobs), messages, stopping, numbers, os.getpid())

    def look() -> None:
        if stop():
            stopping.set()
        while True:
            try:
                kind, value = messages.get_nowait()
            except queue.Empty:
                return
            if kind == "begin":
                begin(tasks[value][0])
            else:
                progress(value)

    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=shared) as pool:
        pending: dict[Future[Run | CollapseError], Config] = {
            pool.submit(_work, (number, config, folder)): config for number, (config, folder) in enumerate(tasks)
        }
        try:
            while pending:
                done, _ = wait(pending, LOOK_EVERY, FIRST_COMPLETED)
                look()
                for future in done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that was training has died (out of memory?); fewer --jobs need less, and the same command "
                "goes on from where it was"
            ) from error
        finally:
            # The others save what they have before this process goes on.
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)


_here: dict[str, Any] = {}
"""What a process keeps between its runs."""


def _start(
    data: Dataset, device: torch.device, threads: int, messages: Any, stopping: Any, numbers: Any, parent: int
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # they may reach every process; the first one says what to do
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    if str(device) == "cuda":
        with numbers.get_lock():
            device = torch.device("cuda", numbers.value % torch.cuda.device_count())
            numbers.value += 1

    def report(done: float) -> None:
        messages.put(("progress", done))

    def stop() -> bool:
        return bool(stopping.is_set()) or os.getppid() != parent

    _here.update(
        data=data,
        features=FeatureCache(open_views(data, device), report),
        begin=lambda number: messages.put(("begin", number)),
        report=report,
        stop=stop,
    )


def _work(task: Task) -> Run | CollapseError:
    number, config, folder = task
    if _here["stop"]():
        raise Interrupted("stopped before it began")
    _here["begin"](number)
    try:
        return train(
            config, _here["data"], folder, features=_here["features"], progress=_here["report"], stop=_here["stop"]
        )
    except CollapseError as error:
        return error
