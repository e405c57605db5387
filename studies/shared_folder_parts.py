"""The parts of studies/shared_folder.py: what its processes do in the folder, and how what they leave is judged."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from largedrop.config import Config
from largedrop.data.entries import building, discard, install, look_again, pieces
from largedrop.errors import BusyError, UserError
from largedrop.experiments.tasks import Tasks
from largedrop.files import read_json, write_bytes, write_json, write_stored
from largedrop.lease import holding, take
from largedrop.reporter import SILENT
from largedrop.runs.content import is_finished
from largedrop.runs.folder import claimed, finished

STEPS = 10
"""Steps of a task, each of which is stored."""

PASSES = 4
"""Times that each process opens every entry."""

WAIT = "ms was the longest wait"


@dataclass
class Work:
    """What a process of a part has.

    Attributes:
        place: the part's shared folder.
        report: file in which the process says at its end what happened.
        began: when the part did, by this machine's monotonic clock.
        said: how often something happened, and the longest wait.
    """

    place: Path
    report: Path
    began: float
    said: Counter[str] = field(default_factory=Counter)

    def write(self) -> None:
        """Write down what happened."""
        write_patiently(self.report, self.said)

    def die(self) -> None:
        """End this process as by a kill, but for what it says."""
        self.said["killed"] += 1
        self.write()
        os.kill(os.getpid(), signal.SIGKILL)


def write_patiently(path: Path, said: dict[str, int]) -> None:
    """Write a report as soon as the file system takes it: one that is mounted ``soft`` gives errors."""
    while True:
        with suppress(UserError):
            return write_json(path, said)
        time.sleep(1)


Part = Callable[[Work], None]
Holds = Callable[[Work], Any]


def rounds(holds: Holds, seconds: float, work: Work) -> None:
    """Again and again hold the lease, and leave a file longer by a byte, which two at once would lose."""
    while (began := time.monotonic()) < work.began + seconds:
        with holds(work):
            work.said[WAIT] = max(work.said[WAIT], int(1000 * (time.monotonic() - began)))
            mark = work.place / "mark"
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                work.said["wrong: two at once"] += 1
            descriptor = os.open(work.place / "count", os.O_RDWR | os.O_CREAT)
            os.pwrite(descriptor, b"x", os.fstat(descriptor).st_size)
            os.close(descriptor)
            work.said["rounds"] += 1
            mark.unlink(missing_ok=True)


@contextmanager
def held(work: Work) -> Iterator[None]:
    """As a cache holds what it computes."""
    with holding(work.place / "folder"):
        yield


@contextmanager
def taken(work: Work) -> Iterator[None]:
    """As a run's folder is taken; one process in fifty dies with the lease."""
    folder, lease = work.place / "folder", None
    folder.mkdir(exist_ok=True)
    while lease is None:
        try:
            lease = take(folder)
        except BusyError:
            time.sleep(random.random() / 50)
    if random.random() < 0.02:
        work.die()
    yield
    lease.give_back(ended=False)


def tasks(count: int, seconds: float, work: Work) -> None:
    """Work on the runs of a sweep until all are finished; each is a chain of digests instead of a training."""
    config = Config("toy", "0", "photo", model="none", weights="random", steps=STEPS)
    folders = {number: work.place / f"task-{number:04d}" for number in range(count)}
    queue = Tasks([(replace(config, seed=number), folder) for number, folder in folders.items()], SILENT, wait=True)
    while queue:
        try:
            work_on(queue, seconds, work)
        except UserError:  # where a command would end, and be given again
            work.said["not answered"] += 1
            time.sleep(1)


def work_on(queue: Tasks, seconds: float, work: Work) -> None:
    """Work on tasks until all are finished."""
    for each in queue:
        try:
            task(*each, seconds)
        except (UserError, OSError) as error:
            lost = isinstance(error, BusyError) and "has taken" in str(error)
            why = "had by another" if isinstance(error, BusyError) else str(error).replace(str(each[1]), "TASK")
            work.said["taken by another" if lost else why] += 1
            queue.put_back(each)
        work.write()  # this process may be killed


def task(config: Config, folder: Path, seconds: float) -> None:
    """A run, from where another process has left it."""
    if finished(folder, config):
        return
    with claimed(folder, config, SILENT) as reporter:
        if is_finished(folder):
            return
        state = read_json(folder / "state.json") if (folder / "state.json").exists() else begun(folder)
        while state["step"] < STEPS:
            time.sleep(seconds / STEPS * random.uniform(0.5, 1.5))
            reporter.advance(1.0)
            state = step(state)
            write_stored(folder / "state.json", state)
        reporter.advance(1.0)
        write_stored(folder / "result.json", state)
        (folder / f"ended-{os.urandom(8).hex()}").touch(exist_ok=False)


def begun(folder: Path) -> dict[str, Any]:
    """The state of a task before its first step."""
    return {"step": 0, "digest": folder.name}


def step(state: dict[str, Any]) -> dict[str, Any]:
    """The next state."""
    return {"step": state["step"] + 1, "digest": hashlib.sha256(state["digest"].encode()).hexdigest()}


def entries(count: int, work: Work) -> None:
    """Open every entry of a cache, and build what is not there, as images and features are.

    A third is thrown away now and then, as damaged ones are.
    """
    cache = work.place / "cache"
    cache.mkdir(exist_ok=True)
    for _ in range(PASSES):
        for number in random.sample(range(count), count):
            entry, thrown = cache / f"entry-{number:02d}", number % 3 == 0
            try:
                opened = found(entry, work, alone=number % 2 == 1)
            except (OSError, ValueError) as error:
                right = thrown and isinstance(error, OSError)
                work.said["entries thrown away while opened" if right else f"wrong: {error}"] += 1
                continue
            work.said["entries opened"] += 1
            time.sleep(random.random() / 20)
            if thrown and random.random() < 0.2:
                discard(entry)
                work.said["entries thrown away"] += 1
            del opened


def found(entry: Path, work: Work, *, alone: bool) -> list[mmap.mmap]:
    """Open an entry, or else build it."""
    try:
        return load(entry)
    except FileNotFoundError:
        work.said["entries were not there"] += 1
        return built(entry, alone=alone)


def built(entry: Path, *, alone: bool) -> list[mmap.mmap]:
    """Build an entry, as features are (``alone``: by one process, for which the others wait) or as images are."""
    if not alone:
        with building(entry) as folder:
            return filled(folder, entry)
    with holding(pieces(entry)) as lease:
        look_again(entry.parent)
        with suppress(FileNotFoundError):
            return load(entry)
        folder = lease.path.with_name("entry")
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process
        folder.mkdir()
        return filled(folder, entry)


def filled(folder: Path, entry: Path) -> list[mmap.mmap]:
    """Write an entry's files, and give it its name."""
    checks = {}
    for number in range(4):
        content = hashlib.sha256(f"{entry.name} {number}".encode()).digest() * 2000
        write_bytes(folder / str(number), content)
        checks[str(number)] = zlib.crc32(content)
    write_stored(folder / "entry.json", {"checks": checks})
    return install(folder, entry, load)


def load(entry: Path) -> list[mmap.mmap]:
    """Map an entry's files.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is there in part.
        ValueError: it is not what was built.
    """
    if not entry.exists():
        raise FileNotFoundError(entry)
    opened = []
    try:
        checks = json.loads((entry / "entry.json").read_text())["checks"]
        for name, check in checks.items():
            with open(entry / name, "rb") as file:
                opened.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            if zlib.crc32(opened[-1]) != check:
                raise ValueError(f"{entry.name}/{name} is not what was built")
    except FileNotFoundError as error:
        if not entry.exists():
            raise
        raise OSError(f"{entry.name} is there in part") from error
    return opened


def judge_rounds(place: Path, said: Counter[str]) -> None:
    """Add the bytes that are not there."""
    said["wrong: rounds lost"] += said["rounds"] - (place / "count").stat().st_size


def judge_tasks(place: Path, count: int, said: Counter[str]) -> None:
    """Add what the tasks' folders show."""
    for number in range(count):
        folder = place / f"task-{number:04d}"
        state = begun(folder)
        for _ in range(STEPS):
            state = step(state)
        said["tasks"] += 1
        said["tasks ended twice"] += len(list(folder.glob("ended-*"))) > 1
        for name in ("state.json", "result.json"):
            try:
                said[f"wrong: {name} is not that of its task"] += read_json(folder / name) != state
            except UserError as error:
                said[f"wrong: {error}"] += 1
