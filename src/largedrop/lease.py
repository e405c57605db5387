"""The lease on a folder: one process at a time works in it, on whichever machine of a shared file system.

A lease is a file ``.lease-N`` that names its holder and is renewed while the holder lives. The next holder makes number
N + 1, which only one process can (``O_EXCL``, on NFS as well, where locks may be no locks); the highest number counts,
and goes down only once what the lease was for is finished. So a holder that was slow, and whose lease another took,
finds its own gone, and no two processes take the same one; each has other content, so that none is taken for another
of the same number. Clocks are not compared: a lease of another machine has lapsed when it was seen unchanged for
``LAPSES`` of one's own seconds, without those in which nothing could be seen; of a process of this machine it is known
whether it lives.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import BusyError, visible
from .files import guards, opened

__all__ = ["LOOK", "Holder", "Lease", "holder_of", "holding", "is_lease", "is_left", "settle", "take"]

RENEWED = 10.0
"""Seconds between two renewals."""

LAPSES = 120.0
"""Seconds without a renewal after which another machine takes a lease: twelve were missed."""

BLIND = LAPSES - 3 * RENEWED
"""The most seconds between two looks that count: a server that was away kept the holder from renewing as well."""

MOST_TRIES = 100
"""Number of processes that may be faster in taking a folder."""

LOOK = 1.0
"""Seconds between two looks at what another process has."""

SHORT = 0.05
"""The same where that takes moments, and is waited for."""

_NAME = re.compile(r"\.lease-([0-9]{1,9})$")

_GIVEN_BACK = b"{"
"""Content of a lease that its holder has given back: what is left when it is cut, which needs no room on a disk."""

_WRITTEN = {"host": str, "system": str, "process": int, "started": str}
"""Fields of a holder in the file, and their types."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        host: name of its machine, for people.
        system: the running system that its number is of; empty where that is unknown.
        process: its number.
        started: when it was started, in the system's unit; empty where that is unknown.
        renewed: when its lease was, by the clock of the file system; in no file.
    """

    host: str = ""
    system: str = ""
    process: int = 0
    started: str = ""
    renewed: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on {visible(self.host)}" if self.host else "another process"

    @property
    def lives(self) -> bool | None:
        """Whether it lives; None where this machine cannot know."""
        known = self.system and self.system == _system()
        return _started(self.process) == self.started if known else None


_left: set[bytes] = set()  # contents of leases that this process has given back, whatever the disk says
_seen: dict[Path, tuple[Holder, float, float]] = {}
"""Of each lease of another machine that was looked at: its holder, for how many seconds, and when it was last."""


@contextmanager
def _there() -> Iterator[None]:
    """Have what another machine has removed be not found: NFS calls stale what this one knew or has open."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from error


class Lease:
    """A lease that this process holds, renewed by a thread until it is given back."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._content = content
        self._lost = False
        self._renewed = _now()
        guards[path.parent.absolute()] = self.check
        _pulse.add(self)

    def check(self) -> None:
        """
        Raises:
            BusyError: another process has taken the folder, since this one did not renew its lease for too long; or the
                folder was removed.
        """
        if not self._lost and _now() - self._renewed > LAPSES / 2:  # it was stopped; the thread has yet to run
            self.renew()
        if self._lost:
            raise BusyError(f"another process has taken {self.path.parent}, which this one left alone for too long")

    def renew(self) -> None:
        """Say that this process lives; what keeps it from that for long loses the lease."""
        with suppress(OSError):  # a disk that does not answer for a moment
            if self._is_there():
                os.utime(self.path)
                self._renewed = _now()
            else:
                self._lost = True

    def _is_there(self) -> bool:
        """Whether it is still this process's: once what it was for is finished, numbers begin again."""
        try:
            with _there(), opened(self.path) as file:
                return file.read(4096) == self._content
        except (FileNotFoundError, NotADirectoryError):
            return False

    def give_back(self, *, ended: bool) -> None:
        """Let others take it.

        Args:
            ended: whether nobody needs to (the run is finished); the file is then removed.
        """
        _pulse.remove(self)
        guards.pop(self.path.parent.absolute(), None)
        _left.add(self._content)
        with suppress(OSError):  # another has just taken it, or the disk does not answer
            if self._is_there():
                self.path.unlink() if ended else os.truncate(self.path, len(_GIVEN_BACK))


class _Pulse:
    """Renews the leases of this process, in a thread that lives while there are any."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._changing = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._changing:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():  # it ended, or this process was forked
                self._thread = threading.Thread(target=self._beat, name="largedrop-leases", daemon=True)
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._changing:
            self._leases.discard(lease)
            if not self._leases:
                self._thread = None
                self._changing.notify_all()

    def _beat(self) -> None:
        while True:
            with self._changing:
                self._changing.wait(RENEWED)
                if self._thread is not threading.current_thread():
                    return
                leases = list(self._leases)
            for lease in leases:
                lease.renew()


_pulse = _Pulse()


@_there()
def take(folder: Path) -> Lease:
    """Take the lease on a folder that is there.

    Raises:
        BusyError: another process holds it, or may: a machine that is not this one has yet to be seen idle for long
            enough.
        OSError: the folder cannot be read or written.
    """
    number = _highest(folder)
    for _ in range(MOST_TRIES):
        if number and (holder := _holder(folder / f".lease-{number}")) is not None:
            raise BusyError(f"another process is using {folder} ({holder})")
        path = folder / f".lease-{number + 1}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:  # another was faster; it is asked by number, since a list may be an old one
            number += 1
            continue
        content = _new_content()
        try:
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)  # which may say that the disk is full
            now = _looked_again(folder, number)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if now == number:
            return Lease(path, content)
        path.unlink(missing_ok=True)  # the list that ``number`` is from was an old one
        number = now
    raise BusyError(f"other processes keep taking {folder}")


def _looked_again(folder: Path, number: int) -> int:
    """The highest number of others, now that ``number`` + 1 was made; leases that nobody has are removed if it counts.

    Raises:
        BusyError: since ``number`` was looked at all were given back or removed, and another has begun again from 1.
    """
    numbers = {_number(path): path for path in _leases(folder)}
    if (highest := max(numbers, default=0)) != number + 1:
        return highest
    del numbers[highest]
    if holders := [holder for holder in map(_holder, numbers.values()) if holder is not None]:
        raise BusyError(f"another process is using {folder} ({holders[-1]})")
    for path in numbers.values():
        path.unlink(missing_ok=True)  # whoever held it and is only slow sees it gone
    return number


def _new_content() -> bytes:
    """The content of a new lease, which no other has."""
    mine = _myself()
    return json.dumps({name: getattr(mine, name) for name in _WRITTEN} | {"lease": os.urandom(8).hex()}).encode()


@contextmanager
def holding(folder: Path, busy: Callable[[BusyError], None] | None = None) -> Iterator[Lease]:
    """Hold the lease on a folder within the block.

    The folder is made where it is not there, and removed where the block leaves it empty.

    Args:
        busy: told once that another process has the lease, before it is waited for.

    Raises:
        OSError: the folder cannot be made, read or written.
    """
    lease = None
    while lease is None:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            lease = take(folder)
        except FileNotFoundError:  # its holder has just removed it
            continue
        except BusyError as error:
            if busy is not None:
                busy(error)
                busy = None
            time.sleep(SHORT)
    try:
        yield lease
    finally:
        lease.give_back(ended=True)
        with suppress(OSError):  # there is something in it, if only another's lease
            folder.rmdir()


def is_left(folder: Path) -> bool:
    """Whether a folder has a lease whose holder has died, has given it back or has let it lapse.

    Raises:
        OSError: the folder cannot be read.
    """
    return bool(_highest(folder)) and holder_of(folder) is None


def settle(folder: Path, stopped: Callable[[], bool], note: Callable[[str], object] = lambda text: None) -> None:
    """Wait while nobody can know whether the holder of a folder lives: until it renews its lease, or that has lapsed.

    Args:
        stopped: asked often whether to wait no longer.
        note: told of a wait.

    Raises:
        OSError: the folder cannot be read.
    """
    first = holder = holder_of(folder)
    if first is None or first.lives is not None:
        return
    note(f"{first} may be using {folder}: looking for up to two minutes whether it is")
    while holder == first and not stopped():
        time.sleep(LOOK)
        holder = holder_of(folder)


@_there()
def holder_of(folder: Path) -> Holder | None:
    """Who holds a folder; None where it can be taken.

    Raises:
        OSError: the folder cannot be read.
    """
    number = _highest(folder)
    return _holder(folder / f".lease-{number}") if number else None


def is_lease(path: Path) -> bool:
    """Whether a file's name is that of a lease."""
    return _NAME.match(path.name) is not None


def _leases(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(folder) if _NAME.match(entry.name)]


def _highest(folder: Path) -> int:
    return max(map(_number, _leases(folder)), default=0)


def _number(lease: Path) -> int:
    return int(lease.name.rpartition("-")[2])


def _holder(path: Path) -> Holder | None:
    """Who holds a lease; None where it was given back, its holder has died, or it has lapsed."""
    try:
        with _there(), opened(path) as file:
            content, state = file.read(4096), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if content == _GIVEN_BACK or content in _left:
        return None
    holder = _read(content, state.st_mtime_ns)
    lives = holder.lives
    if lives is not None:
        return holder if lives else None
    now = time.monotonic()
    before, idle, last = _seen.get(path, (holder, 0.0, now))
    idle = idle + min(now - last, BLIND) if holder == before else 0.0
    _seen[path] = holder, idle, now
    return holder if idle <= LAPSES else None


def _read(content: bytes, renewed: int) -> Holder:
    """A holder from a lease's content; an unknown one where it is still being written, or is damaged."""
    try:
        found = json.loads(content)
        values = {name: found[name] for name in _WRITTEN}
    except (ValueError, TypeError, KeyError, RecursionError):
        values = {}
    right = all(type(value) is _WRITTEN[name] for name, value in values.items())
    return Holder(**(values if right else {}), renewed=renewed)


def _myself() -> Holder:
    started = _started(os.getpid())
    # Without knowing when processes started, a number that was given again would hold a lease for ever.
    return Holder(socket.gethostname(), _system() if started else "", os.getpid(), started or "")


@cache
def _system() -> str:
    """The running system and its numbers of processes, which containers have of their own; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process of this system was started, in clock ticks since the boot; None where it does not live."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _now() -> float:
    """Seconds, also those that this machine slept."""
    clock: Any = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
