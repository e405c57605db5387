"""A sweep: the runs of a preset on a dataset, planned, and trained where they are not finished.

All sweeps into one folder share its runs, which are named by their configs, so that a run of two figures is trained
once.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..errors import CollapseError, Interrupted, InTheWayError, RunError, UserError, one_of
from ..paths import fitting
from ..reporter import SILENT, Relay, Reporter
from ..runs.content import is_finished
from ..runs.failure import forget_failure, read_failure, write_failure
from ..runs.folder import claim, owned, restored
from ..runs.record import shown
from ..runs.run import Run
from ..runtime import free_memory
from ..training.loop import cost
from ..training.resolve import resolve, with_seed
from .pace import LINEAR_BYTES, Paces, kind_of, network_bytes, sample, stored_bytes
from .packing import Packing
from .preset import Preset, with_weights
from .processes import ProcessFailedError
from .runner import splits_of, train_all
from .stored_plan import StoredRun, store_plan

__all__ = ["PlannedRun", "Sweep", "SweepPlan", "begin_sweep", "ended_sweep", "plan_sweep", "run_sweep"]

SWEEP_FILE = "sweep.json"
"""File that marks the folder of a dataset's sweeps."""

TRIES = 2
"""Number of attempts for a run that fails with an unexpected error."""

ALIKE = 1.25
"""Runs are as long as each other where the longest takes at most so many times as long as the shortest."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan.

    Attributes:
        config: config of the run.
        folder: folder of the run.
        cost: work, in evaluated images.
        size: estimated size of the files of the finished run, in bytes.
        state: ``finished``, ``begun`` or ``new``.
        seconds: estimated time of the whole run, as in ``SweepPlan``.
    """

    config: Config
    folder: Path
    cost: float
    size: int
    state: str
    seconds: float = 0.0


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a preset on a dataset, in their order.

    Attributes:
        preset: the preset.
        scale: ``full`` or ``small``.
        folder: folder of the sweeps, shared with other presets.
        entries: the runs.
        seconds: estimated time of the pending runs, one after the other, from finished runs of the same network, size
            and precision in the folder, or from a measurement of the network.
        rough: whether there was a measurement, which may be wrong by a factor of two.
    """

    preset: Preset
    scale: str
    folder: Path
    entries: tuple[PlannedRun, ...]
    seconds: float
    rough: bool

    @property
    def pending(self) -> tuple[PlannedRun, ...]:
        """The runs that are not finished."""
        return tuple(entry for entry in self.entries if entry.state != "finished")

    @property
    def queue(self) -> list[PlannedRun]:
        """The runs that are not finished, the longest first: several processes then end at about the same time.

        Runs whose times differ by less than ``ALIKE`` keep their order, in which the first compare all methods.
        """
        bands: dict[Path, int] = {}
        band, longest = 0, 0.0
        for entry in sorted(self.pending, key=lambda entry: -entry.seconds):
            if entry.seconds * ALIKE < longest or not bands:
                band, longest = band + 1, entry.seconds
            bands[entry.folder] = band
        return sorted(self.pending, key=lambda entry: bands[entry.folder])

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the pending runs (all steps of a begun run)."""
        return sum(entry.config.steps for entry in self.pending)

    @property
    def work(self) -> float:
        """Work of the pending runs, in evaluated images."""
        return sum(entry.cost for entry in self.pending)

    @property
    def size(self) -> int:
        """Estimated size of the files of all finished runs, in bytes."""
        return sum(entry.size for entry in self.entries)

    @property
    def finished(self) -> list[Run]:
        """The runs that are finished now and can be read."""
        runs = [_opened(entry) for entry in self.entries if _state(entry.folder) == "finished"]
        return [run for run in runs if isinstance(run, Run)]

    @property
    def report(self) -> Path:
        """The folder of the report; the small scale has its own."""
        return self.folder / fitting(f"report-{self.preset.name}", "" if self.scale == "full" else f"-{self.scale}")


@dataclass
class Sweep:
    """The results of a plan.

    Attributes:
        trained: configs of the runs that were trained.
        collapsed: configs of the runs that collapsed or diverged, with the reason.
        broken: configs of the runs that failed twice, with the traceback, and of those that found no memory or cannot
            be read, with a line.
    """

    trained: list[Config] = field(default_factory=list)
    collapsed: list[tuple[Config, str]] = field(default_factory=list)
    broken: list[tuple[Config, str]] = field(default_factory=list)


def plan_sweep(
    preset: Preset,
    scale: str,
    data: Dataset,
    folder: Path,
    *,
    device: torch.device,
    precision: str = "auto",
    weights: Sequence[str] = (),
    untested: bool = False,
) -> SweepPlan:
    """Every run of ``preset`` on ``data``, seed by seed; nothing is written.

    Args:
        scale: ``full`` or ``small``.
        folder: folder of the sweeps, shared with other presets.
        precision: precision, as in ``finetune``.
        weights: files of initial weights in place of the model hub: one file, or MODEL=FILE for each model.
        untested: whether runs are trained on every domain, without a test domain.

    Raises:
        UserError: a setting is invalid on this data and device, two runs are the same, or ``folder`` is of another
            dataset or contains other files.
    """
    owned(folder, SWEEP_FILE, "sweep", *_facts(data))
    chosen = preset.scale(scale)
    if untested:
        chosen = replace(chosen, test_domains=("",), leave_out=False)
    runs = with_weights(chosen.runs(data.domains), chosen.values("model"), weights)
    if untested:
        runs = [{**run, "test_domain": ()} for run in runs]
    unknown = {run["test_domain"]: None for run in runs if not untested and run["test_domain"] not in data.domains}
    if unknown:
        told = "; ".join(f"no domain '{name}' in {data.name}; {one_of(name, data.domains)}" for name in unknown)
        raise UserError(f"{preset.path}: test_domains: {told}")
    digests: dict[tuple[str, str], str] = {}
    configs: dict[Config, None] = {}
    resolved: dict[tuple[Any, ...], Config] = {}  # of runs that differ in their seed alone
    for run in runs:
        key = tuple(item for item in run.items() if item[0] != "seed")
        if key not in resolved:
            resolved[key] = resolve(data, device, recipe=chosen.recipe, precision=precision, digests=digests, **run)
        config = with_seed(resolved[key], run["seed"]) if "seed" in run else resolved[key]
        if config in configs and run.get("masks", 1) != config.masks:
            continue  # masks at dropout 0, which has none
        if config in configs:
            raise UserError(f"{preset.path}: two of its runs are the same: {config.run_name}")
        configs[config] = None
    whole = {config.model for config in configs if config.fit == "all"}
    sizes = {model: network_bytes(model, len(data.classes)) for model in whole}
    entries = []
    for config, split in zip(configs, splits_of(list(configs), data), strict=True):
        path = folder / "runs" / config.run_name
        outputs = (len(split.iid) + len(split.ood)) * len(data.classes)
        stored = stored_bytes(config, outputs, sizes[config.model]) if config.fit == "all" else LINEAR_BYTES
        entries.append(PlannedRun(config, path, cost(config, split), stored, _state(path)))
    finished = [(entry.config, entry.folder) for entry in entries if entry.state == "finished"]
    paces = Paces(data, device, sample(configs, finished, folder / "runs"))
    entries = [replace(entry, seconds=entry.cost * paces.of(entry.config)) for entry in entries]
    seconds = sum(entry.seconds for entry in entries if entry.state != "finished")
    return SweepPlan(preset, scale, folder, tuple(entries), seconds, paces.rough)


def run_sweep(
    data: Dataset,
    planned: SweepPlan,
    *,
    device: torch.device,
    jobs: int = 1,
    packed: bool = False,
    wait: bool = True,
    sharing: int = 1,
    reporter: Reporter = SILENT,
) -> Sweep:
    """Train the runs of a plan that are not finished, beside other processes that do the same in its folder.

    A run that collapses or finds no memory is recorded, and the others are trained. A run that fails with an unexpected
    error, or whose process dies, is resumed once; if it fails again it is recorded, and the others are trained.

    Args:
        jobs: number of runs side by side, each in its own process; 1 trains in this process.
        packed: whether the number is what the memory has room for instead, for each kind of run (see ``Packing``), and
            ``jobs`` is that of runs of which this is not known.
        wait: whether runs that were given up before are tried again, and runs that other processes have are waited for,
            and taken where those die; otherwise both are left.
        sharing: number of processes like this one that share its device (with one job).
        reporter: receives the work, each run before it is trained, and runs that collapsed or failed; see ``train``.

    Raises:
        UserError: the folder is another dataset's or cannot be written, or a run raised it.
        Interrupted: the reporter asks to stop.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    if wait:
        begin_sweep(data, planned)
    waiting = {entry.config: entry for entry in planned.queue}
    failures: dict[Config, int] = {}
    result = Sweep()
    for entry in planned.entries:
        outcome = _repaired(entry) if entry.state == "finished" else None
        if isinstance(outcome, RunError):
            result.broken.append((entry.config, str(outcome)))
            reporter.failed(entry.config, str(outcome))
        elif outcome is not None:
            reporter.logged(entry.folder)
    packing = Packing([(entry.config, entry.folder) for entry in planned.entries], device, jobs, reporter)
    passed: set[Config] = set()  # those that others have, and that are waited for at the end
    while waiting:
        number, last = jobs, not packed or waiting.keys() <= passed
        tasks = [(config, entry.folder) for config, entry in waiting.items() if last or config not in passed]
        if not last:
            tasks, number = packing.next(tasks)
        kept = 0.0  # work of finished runs in this attempt
        attempt = _Attempt(reporter)
        try:
            waits = wait and last
            with closing(train_all(tasks, data, device, number, attempt, wait=waits, sharing=sharing)) as together:
                for config, outcome in together:
                    kept += waiting.pop(config).cost
                    if isinstance(outcome, CollapseError):
                        result.collapsed.append((config, str(outcome)))
                        reporter.failed(config, str(outcome))
                    elif isinstance(outcome, RunError):
                        result.broken.append((config, str(outcome)))
                        reporter.failed(config, str(outcome))
                    else:
                        result.trained.append(config)
        except ProcessFailedError as error:
            broken, line = error.config, str(error)
            trace = traceback.format_exc()
        except (UserError, Interrupted):
            raise
        except Exception as error:
            if (number > 1 and len(tasks) > 1) or attempt.last not in waiting:  # not an error of a run
                raise
            broken, line = attempt.last, f"{type(error).__name__}: {error}"
            trace = traceback.format_exc()  # as text, since the traceback itself keeps the run's network
        else:
            if last:
                return result
            passed |= {config for config, _ in tasks} & waiting.keys()
            free_memory()
            continue
        free_memory()
        reporter.advance(kept - attempt.done)
        failures[broken] = failures.get(broken, 0) + 1
        if failures[broken] < TRIES:
            reporter.failed(broken, f"{line}; it is resumed once")
        else:
            reporter.failed(broken, f"{line}; it is given up")
            result.broken.append((broken, trace))
            with suppress(InTheWayError):  # the reporter has been told
                write_failure(waiting.pop(broken).folder, RunError(line), trace)
    return result


def begin_sweep(data: Dataset, planned: SweepPlan) -> None:
    """Mark the folder of a plan as the dataset's sweeps', store the plan there, and let its runs that were given up be
    tried again.

    Raises:
        UserError: it is another dataset's or cannot be written.
    """
    claim(planned.folder, SWEEP_FILE, "sweep", *_facts(data))
    if planned.pending or os.access(planned.folder, os.W_OK):  # finished runs may be on a read-only disk
        _store(planned)
    for entry in planned.pending:
        if entry.state == "begun":
            with suppress(InTheWayError):  # which training it says
                forget_failure(entry.folder)


def _store(planned: SweepPlan) -> None:
    preset, scale = planned.preset, planned.scale
    names = [name for name in preset.scale(scale).varied if name != "steps"]
    kinds: dict[object, int] = {}
    runs = [
        StoredRun(
            entry.folder.name,
            ", ".join(f"{name.replace('_', ' ')} {shown(getattr(entry.config, name))}" for name in names),
            entry.config.steps,
            kinds.setdefault(kind_of(entry.config), len(kinds)),
            entry.seconds,
        )
        for entry in planned.entries
    ]
    stem = planned.report.name.removeprefix("report-")
    store_plan(planned.folder, stem, {"preset": preset.name, "title": preset.title, "scale": scale}, runs)


def ended_sweep(planned: SweepPlan) -> Sweep:
    """The results of a plan that other processes have trained, by what they left in its folder."""
    result = Sweep()
    for entry in planned.entries:
        outcome = _opened(entry) if is_finished(entry.folder) else None
        failure = read_failure(entry.folder) if outcome is None else None
        if isinstance(outcome, RunError):
            result.broken.append((entry.config, str(outcome)))
        elif failure is not None and isinstance(failure[0], CollapseError):
            result.collapsed.append((entry.config, str(failure[0])))
        elif failure is not None:
            result.broken.append((entry.config, failure[1] or str(failure[0])))
        elif outcome is not None and entry.state != "finished":
            result.trained.append(entry.config)
    return result


class _Attempt(Relay):
    """Stores the run that was begun last."""

    last: Config | None = None

    def begin(self, config: Config) -> None:
        self.last = config
        super().begin(config)


def _opened(entry: PlannedRun) -> Run | RunError:
    try:
        return Run.open(entry.folder)
    except RunError as error:
        return error


def _repaired(entry: PlannedRun) -> Run | RunError:
    """A finished run, whose config is written again where it is damaged."""
    outcome = _opened(entry)
    return _opened(entry) if isinstance(outcome, RunError) and restored(entry.folder, entry.config) else outcome


def _state(folder: Path) -> str:
    return "finished" if is_finished(folder) else "begun" if (folder / "config.json").is_file() else "new"


def _facts(data: Dataset) -> tuple[dict[str, str], dict[str, str]]:
    """The facts that identify the folder of a dataset's sweeps, and further ones: the same images may be moved."""
    return {"fingerprint": data.fingerprint}, {"data": data.name}
