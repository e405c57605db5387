"""How far sweeps are, from what is in their folder: it may be read-only, and other processes may be training in it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError, one_of
from ..files import parse_json, read_bytes, read_json
from ..lease import LAPSES, Holder, holder_of
from ..runs.content import FILES, RUN
from ..runs.failure import FAILURE_FILE, read_failure
from ..runs.protocol import digest_in, read_config
from .measured import measured, spread
from .stored_plan import StoredPlan, StoredRun, read_plans

__all__ = ["Failure", "PlanStatus", "Status", "Working", "status_of"]

HOUR = 3600.0

READ = 10_000
"""Number of results whose content is looked at, the last that were written; more would take seconds."""

LINE = 200
"""Longest last line of a failure, in characters."""


@dataclass(frozen=True)
class Failure:
    """A run that has ended without a result.

    Attributes:
        run: name of its folder.
        said: its settings, for people.
        kind: ``collapsed``, ``failed``, or ``damaged`` where its result, its config or its failure cannot be read.
        reason: why, in one line.
        last_line: the last line of its traceback; empty where there is none.
    """

    run: str
    said: str
    kind: str
    reason: str
    last_line: str = ""


@dataclass(frozen=True)
class Working:
    """A run that a process has.

    Attributes:
        run: name of its folder.
        said: its settings, for people.
        who: its process.
        step: steps of its last evaluation; None where it has none yet.
        steps: number of its steps.
        heard: seconds since the process was heard of, by this machine's clock.
    """

    run: str
    said: str
    who: str
    step: int | None
    steps: int
    heard: float


@dataclass(frozen=True)
class PlanStatus:
    """How far a plan is.

    Attributes:
        preset: name of the preset.
        scale: ``full`` or ``small``.
        title: title of the preset.
        runs: number of runs.
        finished: number of those that have a result.
        begun: number of those that were begun, have not ended, and that no process has.
        share: share of the work that is done, from 0 to 1.
        seconds: work left, in seconds of one run after the other, at the pace of finished runs.
        left: seconds until the end if as many runs as now are trained side by side; None where no process has a run.
        per_hour: runs that were finished in the last hour.
        working: runs that processes have.
        failures: runs that have ended without a result.
        unread: number of the finished whose content was not looked at, since there are very many.
    """

    preset: str
    scale: str
    title: str
    runs: int
    finished: int
    begun: int
    share: float
    seconds: float
    left: float | None
    per_hour: int
    working: tuple[Working, ...]
    failures: tuple[Failure, ...]
    unread: int = 0

    @property
    def name(self) -> str:
        """Preset and scale, for people."""
        return self.preset if self.scale == "full" else f"{self.preset} ({self.scale})"

    @property
    def new(self) -> int:
        """Number of runs that nobody has begun."""
        return self.runs - self.finished - self.begun - len(self.working) - len(self.failures)


@dataclass(frozen=True)
class Status:
    """How far the sweeps in a folder are.

    Attributes:
        folder: the folder.
        plans: how far each is.
        problems: a line for each plan that cannot be read.
    """

    folder: Path
    plans: tuple[PlanStatus, ...]
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        plans = [{**asdict(plan), "new": plan.new} for plan in self.plans]
        return {"folder": str(self.folder), "plans": plans, "problems": list(self.problems)}


@dataclass
class _Found:
    """What was found of the runs of a plan."""

    finished: list[tuple[StoredRun, float]] = field(default_factory=list)
    begun: list[tuple[StoredRun, int]] = field(default_factory=list)
    working: list[Working] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    left: list[tuple[StoredRun, float]] = field(default_factory=list)


def status_of(folder: Path, preset: str = "") -> Status:
    """How far the sweeps in a folder are; nothing is written, and no run is locked.

    Args:
        preset: name of a preset, or path of its file; all where empty.

    Raises:
        UserError: the folder is none, has no sweep or none of the preset, or cannot be read.
    """
    try:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}" + (" (it is a file)" if folder.exists() else ""))
        read = list(read_plans(folder))
        plans = [each for each in read if isinstance(each, StoredPlan)]
        name = preset.rpartition(os.sep)[2].removesuffix(".toml")
        if name and name not in {plan.preset for plan in plans}:
            known = dict.fromkeys(plan.preset for plan in plans)
            raise UserError(f"no sweep of '{name}' was begun in {folder}; {one_of(name, known)}")
        found = [_status(plan, folder / "runs") for plan in plans if name in ("", plan.preset)]
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    return Status(folder, tuple(found), tuple(each for each in read if isinstance(each, str)))


def _status(plan: StoredPlan, folder: Path) -> PlanStatus:
    there: set[str] = set()
    if folder.is_dir():
        with os.scandir(folder) as entries:
            there = {entry.name for entry in entries}
    now, found = time.time(), _Found()
    for run in plan.runs:
        if run.name not in there:
            found.left.append((run, 1.0))
        elif (ended := _ended(folder / run.name)) is None:
            _look(run, folder / run.name, now, found)
        elif isinstance(ended, str):
            found.failures.append(Failure(run.name, run.said, "damaged", ended))
        else:
            found.finished.append((run, ended))
    unread = _leave_damaged_out(found, folder)
    factors = _factors(found.finished, folder)
    usual = factors.get(None, 1.0)
    rest = sum(share * run.seconds * factors.get(run.kind, usual) for run, share in found.left)
    done = sum(run.seconds * factors.get(run.kind, usual) for run, _ in found.finished)
    done += sum((1 - share) * run.seconds * factors.get(run.kind, usual) for run, share in found.left)
    side_by_side = len(found.working)
    return PlanStatus(
        plan.preset,
        plan.scale,
        plan.title,
        len(plan.runs),
        len(found.finished),
        len(found.begun),
        done / (done + rest) if done + rest else float(not found.left),
        rest,
        rest / side_by_side if side_by_side else None,
        sum(now - ended <= HOUR for _, ended in found.finished),
        tuple(found.working),
        tuple(found.failures),
        unread,
    )


def _leave_damaged_out(found: _Found, folder: Path) -> int:
    """Move runs whose result or config cannot be read from the finished to the failures; the number not looked at."""
    latest = sorted(found.finished, key=lambda entry: -entry[1])[:READ]
    unread = len(found.finished) - len(latest)
    damaged = {run.name: reason for run, _ in latest if (reason := _damage(folder / run.name))}
    found.failures += [
        Failure(run.name, run.said, "damaged", damaged[run.name]) for run, _ in latest if run.name in damaged
    ]
    found.finished = [entry for entry in found.finished if entry[0].name not in damaged]
    return unread


def _damage(folder: Path) -> str:
    """Why a finished run's files are not what was written, or are another's; empty where they are its own."""
    for name in FILES:
        try:
            content = parse_json(read_bytes(folder / name), name, "log")
            if digest := digest_in(folder.name):
                theirs = read_config(content, folder.name)[2] if name == "config.json" else content.get(RUN, digest)
                if theirs != digest:
                    return f"{name} is of another run: of the config {theirs}, not {digest}"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        except UserError as error:
            return f"{name}: {error}" if isinstance(error, RunError) else str(error)
    return ""


def _ended(folder: Path) -> float | str | None:
    """When a run ended; why its result is none; None where it has none."""
    try:
        state = (folder / "result.json").stat()
    except FileNotFoundError:
        return "result.json is a link to nothing" if (folder / "result.json").is_symlink() else None
    except OSError as error:
        return f"result.json cannot be read: {error.strerror or error}"
    if not stat.S_ISREG(state.st_mode) or not state.st_size:
        return "result.json is empty" if stat.S_ISREG(state.st_mode) else "result.json is no file"
    return state.st_mtime


def _look(run: StoredRun, folder: Path, now: float, found: _Found) -> None:
    """Add a run that has no result to what was found."""
    holder: Holder | None = None
    with suppress(OSError):  # it was ended or removed meanwhile, or is another's
        holder = holder_of(folder)
    heard = max(0.0, now - holder.renewed / 1e9) if holder else 0.0
    if holder and holder.lives is None and heard > LAPSES:
        holder = None
    if holder is None and os.path.lexists(folder / FAILURE_FILE):
        found.failures.append(_failure(run, folder))
        return
    step = _step(folder)
    share = 1 - min(step or 0, run.steps) / run.steps
    found.left.append((run, share))
    if holder:
        found.working.append(Working(run.name, run.said, str(holder), step, run.steps, round(heard, 1)))
    elif os.path.lexists(folder / "config.json"):
        found.begun.append((run, step or 0))


def _failure(run: StoredRun, folder: Path) -> Failure:
    failure = read_failure(folder)
    if failure is None:
        return Failure(run.name, run.said, "damaged", f"{FAILURE_FILE} cannot be read")
    error, trace = failure
    kind = "collapsed" if type(error).__name__ == "CollapseError" else "failed"
    last = next((line.strip() for line in reversed(trace.splitlines()) if line.strip()), "")
    return Failure(run.name, run.said, kind, " ".join(str(error).split()), last[:LINE])


def _step(folder: Path) -> int | None:
    """Steps of a run's last evaluation; None where there is none."""
    with suppress(UserError, KeyError, IndexError, TypeError):
        step = read_json(folder / "log.json")["log"][-1]["step"]
        return step if type(step) is int and step >= 0 else None
    return None


def _factors(finished: Iterable[tuple[StoredRun, float]], folder: Path) -> Mapping[int | None, float]:
    """Measured over expected time, by kind, and of all kinds together (None), from a few finished runs of each."""
    kinds: dict[int, list[StoredRun]] = {}
    for run, _ in finished:
        kinds.setdefault(run.kind, []).append(run)
    sums: dict[int | None, tuple[float, float]] = {}
    for kind, runs in kinds.items():
        for run in spread(runs):
            took = measured(folder / run.name)
            if took and run.seconds > 0:
                for key in (kind, None):
                    seconds, expected = sums.get(key, (0.0, 0.0))
                    sums[key] = seconds + took.seconds, expected + run.seconds
    return {key: seconds / expected for key, (seconds, expected) in sums.items()}
