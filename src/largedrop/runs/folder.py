"""Ownership of folders: each belongs to one run, comparison or dataset's sweeps, and to one process at a time.

A comparison's and a sweep's are worked on by several processes, each of which takes runs that no other has.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import LATER, PROTOCOL, Config, digest_of
from ..data.dataset import Dataset
from ..errors import DamagedError, InTheWayError, RunError, UserError, unanswered
from ..files import is_leftover, read_json, there, write_stored
from ..lease import Lease, is_lease, settle, take
from ..reporter import SILENT, Relay, Reporter
from .content import is_finished
from .failure import forget_failure
from .protocol import refuse_older

__all__ = ["claim", "claimed", "finished", "named_before", "owned", "restored"]

LOCK = ".lock"
"""A file that versions before leases locked."""

MOST_NAMED = 4
"""Number of differences in a message."""

NOTHING: Mapping[str, Any] = {}


@contextmanager
def claimed(folder: Path, config: Config, reporter: Reporter) -> Iterator[Reporter]:
    """Within the block, ``folder`` belongs to the run of ``config``, and this process alone has it.

    Temporary files that killed processes left are removed, and so is what a failure left.

    Args:
        reporter: asked whether to stop while nobody can know whether a process of another machine has the folder.

    Yields:
        A reporter that passes all on to ``reporter``, and raises BusyError once another process has taken the folder.

    Raises:
        RunError: see ``owned``; or something else has the name of one of the run's files or folders, or is a link
            through which files elsewhere would be written.
        UserError: the folder cannot be written.
        BusyError: another process has the folder.
    """
    owned(folder, "config.json", "run", config.to_json())
    lease = _taken(folder, reporter)
    try:
        claim(folder, "config.json", "run", config.to_json())
        forget_failure(folder)
        for path in filter(is_leftover, [*folder.iterdir(), *folder.glob("outputs/.*")]):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
        yield _Having(reporter, lease)
    except (UserError, OSError) as error:  # as of files that the process has removed which has taken the folder
        lease.renew()
        lease.check()
        if told := unanswered(error):
            raise UserError(told) from error
        if isinstance(error, InTheWayError):
            raise RunError(str(error)) from error
        raise
    finally:
        lease.give_back(ended=os.path.lexists(folder / "result.json"))


class _Having(Relay):
    """Looks whether the lease is still this process's."""

    def __init__(self, to: Reporter, lease: Lease) -> None:
        super().__init__(to)
        self._lease = lease

    def advance(self, work: float) -> None:
        self._lease.check()
        super().advance(work)

    def stopped(self) -> bool:
        self._lease.check()
        return super().stopped()


def _taken(folder: Path, reporter: Reporter) -> Lease:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder / "outputs", *filter(is_lease, folder.iterdir())):
            if path.is_symlink():
                raise RunError(f"{path} is a link, and a run writes into its own folder only; remove the link")
        settle(folder, reporter.stopped, reporter.note)
        return take(folder)
    except FileExistsError as error:
        raise RunError(f"cannot write {folder}: it is no folder; remove it") from error
    except OSError as error:
        told = f"cannot write {error.filename or folder}: {error.strerror or error}"
        if error.errno in (errno.EISDIR, errno.EINVAL):  # in place of a lease
            raise RunError(f"{told}; remove it") from error
        raise UserError(told) from error


def finished(folder: Path, config: Config) -> bool:
    """Whether the folder of the run of ``config`` has a result: it needs no lock, and may be on a read-only disk.

    Raises:
        UserError: see ``owned``.
    """
    return is_finished(folder) and owned(folder, "config.json", "run", config.to_json())


def restored(folder: Path, config: Config) -> bool:
    """Whether the damaged config.json of the finished run of ``config`` was written again: its best checkpoint has said
    that the folder is the run's. It stays as it is where it cannot be written, or another process has it.
    """
    with suppress(UserError):
        if not finished(folder, config):
            with claimed(folder, config, SILENT):
                return is_finished(folder)
    return False


def claim(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> None:
    """Claim a new folder for a run, a comparison or sweeps, or check that it belongs to it; arguments as in ``owned``.

    Raises:
        UserError: see ``owned``; or the folder cannot be written.
    """
    if not owned(folder, file, owner, facts, about):
        write_stored(folder / file, {"protocol": PROTOCOL, **about, **facts})


def named_before(data: Dataset, stored: Iterable[Path]) -> Dataset:
    """``data`` under the name that it had in a comparison, sweep or run, where it was renamed since: it is the same.

    Args:
        stored: the JSON files that identify their folders' owners; those that are not there are passed over.
    """
    names = []
    for path in stored:
        with suppress(UserError):  # whoever uses the folder is told
            theirs = read_json(path)
            if theirs.get("fingerprint") == data.fingerprint and isinstance(theirs.get("data"), str):
                names.append(theirs["data"])
    return data if not names or data.name in names else replace(data, name=names[0])


def owned(folder: Path, file: str, owner: str, facts: Mapping[str, Any], about: Mapping[str, Any] = NOTHING) -> bool:
    """Whether a folder already belongs to a run, a comparison or sweeps; False where it is new.

    Where the file is damaged, and what lies beside it says that it was this owner's, the folder is as if it were new:
    ``claim`` writes the file again.

    Args:
        file: name of the JSON file in the folder that identifies its owner.
        owner: kind of owner, for messages: ``run``, ``comparison`` or ``sweep``.
        facts: fields of the file that must be equal.
        about: further fields of the file, which may differ.

    Raises:
        UserError: the folder belongs to another owner (the message names the differences) or protocol, contains other
            files, or is none; or the file is damaged. Of a run it is a RunError: others can be had.
        UserError: the folder cannot be read.
    """
    kind = RunError if owner == "run" else UserError
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # safetensors takes no such path
        raise kind(f"the name of {folder} is not UTF-8; name another --output") from None
    if "\0" in str(folder):
        raise kind(f"the name of {folder} has a null character; name another --output")
    try:
        inside = list(folder.iterdir()) if folder.exists() else []  # first: another process may be writing the file
        if there(folder / file):
            theirs = _read(folder, file, owner, facts)
            if theirs is None:
                return False
            refuse_older(theirs, folder)
            _compare(folder, theirs, owner, facts, about)
            return True
    except NotADirectoryError:
        raise kind(f"{folder} is a file; name another --output") from None
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    others = sorted(
        entry.name for entry in inside if entry.name != LOCK and not (is_leftover(entry) or is_lease(entry))
    )
    if others:
        raise kind(f"{folder} contains other files ({others[0]}, …) and no {owner}; name another --output")
    return False


def _read(folder: Path, file: str, owner: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of the owner's file; None where it is damaged and can be written again."""
    try:
        return read_json(folder / file)
    except DamagedError as error:
        if _shows_owner(folder, owner, facts):
            return None
        advice = f"remove {folder} and train it again" if owner == "run" else "name another --output"
        raise (RunError if owner == "run" else UserError)(f"{error}; {advice}") from error


def _shows_owner(folder: Path, owner: str, facts: Mapping[str, Any]) -> bool:
    """Whether what lies in a folder, without the damaged file that says so, is of the owner with these facts.

    Of a run, its state or its best checkpoint, which has the digest of its config; of others, the configs of all runs.
    """
    if owner == "run":
        from .checkpoint import open_tensors  # torch and timm take seconds

        for name, kind in (("resume", "state"), ("best", "model"), ("best", "linear")):
            with suppress(UserError):
                return open_tensors(folder / f"{name}.safetensors", kind).run == digest_of(facts, PROTOCOL)
        return False
    found = False
    for path in folder.glob("runs/*/config.json"):
        with suppress(UserError):
            theirs = {**LATER, **read_json(path)}
            if any(theirs.get(name) != value for name, value in facts.items()):
                return False
            found = True
    return found


def _compare(
    folder: Path, theirs: dict[str, Any], owner: str, facts: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    theirs = {**LATER, **theirs}
    if all(theirs.get(name) == value for name, value in facts.items()):
        return
    different = [
        f"{name} {_told(theirs.get(name))} instead of {_told(value)}"
        for name, value in {**about, **facts}.items()
        if theirs.get(name) != value
    ]
    listed = ", ".join(different[:MOST_NAMED])
    kind = RunError if owner == "run" else UserError
    raise kind(f"{folder} belongs to another {owner}: {listed}; name another --output")


def _told(value: Any) -> str:
    """A value for a message; a digest is cut to its first digits."""
    return repr(re.sub("^([0-9a-f]{12})[0-9a-f]{28,}$", r"\1…", value) if isinstance(value, str) else value)
