"""A sweep: the runs of a preset on a dataset, planned, trained as far as they are not there yet, and reported on.

All sweeps into one folder share its runs: a run is named by its config, so that what two figures have in common is
trained once.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch

from ..config import Config
from ..data.dataset import Dataset
from ..errors import CollapseError, Interrupted, UserError, one_of
from ..files import fitting
from ..reporter import SILENT, Relay, Reporter
from ..runs.folder import claim, owned
from ..runs.run import Run
from ..training.loop import cost
from ..training.resolve import resolve
from .pace import Paces
from .preset import Preset, with_weights
from .processes import ProcessFailedError
from .runner import splits_of, train_all

__all__ = ["Entry", "Sweep", "SweepPlan", "plan_sweep", "run_sweep"]

FILE = "sweep.json"
"""Marks the folder of sweeps, and says of what data."""

TRIES = 2
"""How often a run is begun that fails for no reason that it can explain."""

LINEAR_BYTES = 300_000
"""Of a linear fit's files, about; the features that it is trained on are in the user's cache."""


@dataclass(frozen=True)
class Entry:
    """A run of a plan.

    Attributes:
        config: what it is a function of.
        folder: where it lies, or will.
        cost: its work, in evaluated images.
        size: of its files once it is finished, in bytes, estimated.
        state: ``finished``, ``begun`` or ``new``.
    """

    config: Config
    folder: Path
    cost: float
    size: int
    state: str


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a preset on a dataset, in the order in which they are done.

    Attributes:
        preset: whose they are.
        scale: ``full`` or ``small``.
        folder: of the sweep; shared with other presets.
        entries: one for each run.
        seconds: that the runs that are not finished will take, one after the other, at the pace of those of the same
            network, size and precision that are finished in the folder, or of a look at how fast the network computes.
        rough: whether there was such a look; it may be wrong by a factor of two.
    """

    preset: Preset
    scale: str
    folder: Path
    entries: tuple[Entry, ...]
    seconds: float
    rough: bool

    @property
    def pending(self) -> tuple[Entry, ...]:
        """The runs that are not finished."""
        return tuple(entry for entry in self.entries if entry.state != "finished")

    @property
    def steps(self) -> int:
        """Optimiser steps of all runs that are not finished (of one that was begun, all of its steps)."""
        return sum(entry.config.steps for entry in self.pending)

    @property
    def work(self) -> float:
        """Of all runs that are not finished, in evaluated images."""
        return sum(entry.cost for entry in self.pending)

    @property
    def size(self) -> int:
        """Of the files of all runs once they are finished, in bytes, estimated."""
        return sum(entry.size for entry in self.entries)

    @property
    def finished(self) -> list[Run]:
        """The runs that are finished by now."""
        return [Run.open(entry.folder) for entry in self.entries if _state(entry.folder) == "finished"]

    @property
    def report(self) -> Path:
        """The folder of the report; the small scale has one of its own."""
        return self.folder / fitting(f"report-{self.preset.name}", "" if self.scale == "full" else f"-{self.scale}")


@dataclass
class Sweep:
    """What came of a plan.

    Attributes:
        trained: the runs that were finished now.
        collapsed: those that collapsed or diverged, with the reason.
        broken: those that failed twice, with the traceback.
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
) -> SweepPlan:
    """Every run of ``preset`` on ``data``, seed by seed; nothing is written.

    Args:
        scale: ``full`` or ``small``.
        folder: of the sweep; shared with other presets.
        precision: as in ``finetune``.
        weights: initial weights instead of those that the model hub has: a file, or MODEL=FILE for each model.

    Raises:
        UserError: anything wrong with a setting on this data and device; two runs that are the same; or ``folder``
            is of another dataset or holds something else.
    """
    owned(folder, FILE, "sweep", *_facts(data))
    chosen = preset.scale(scale)
    runs = with_weights(chosen.runs(data.domains), chosen.values("model"), weights)
    unknown = [name for name in dict.fromkeys(run["test_domain"] for run in runs) if name not in data.domains]
    if unknown:
        told = "; ".join(f"no domain '{name}' in {data.name}; {one_of(name, data.domains)}" for name in unknown)
        raise UserError(f"{preset.path}: test_domains: {told}")
    digests: dict[tuple[str, str], str] = {}
    configs: dict[Config, None] = {}
    for run in runs:
        config = resolve(data, device, recipe=chosen.recipe, precision=precision, digests=digests, **run)
        if config in configs:
            raise UserError(f"{preset.path}: two of its runs are the same: {config.run_name}")
        configs[config] = None
    whole = {config.model for config in configs if config.fit == "all"}
    sizes = {model: _network_bytes(model, len(data.classes)) for model in whole}
    entries = []
    for config, split in zip(configs, splits_of(list(configs), data), strict=True):
        path = folder / "runs" / config.run_name
        logits = 2 * (1 + len(config.evaluations)) * (len(split.iid) + len(split.ood)) * len(data.classes)
        stored = logits + (4 if config.swad else 3) * sizes[config.model] if config.fit == "all" else LINEAR_BYTES
        entries.append(Entry(config, path, cost(config, split), stored, _state(path)))
    paces = Paces(data, device, sorted(path.parent for path in folder.glob("runs/*/result.json")))
    seconds = sum(entry.cost * paces.of(entry.config) for entry in entries if entry.state != "finished")
    return SweepPlan(preset, scale, folder, tuple(entries), seconds, paces.rough)


def run_sweep(
    data: Dataset,
    planned: SweepPlan,
    *,
    device: torch.device,
    jobs: int = 1,
    reporter: Reporter = SILENT,
) -> Sweep:
    """Train the runs of a plan that are not finished.

    A run that collapses is recorded and the others go on. One that fails in another way than with a ``UserError`` (or
    whose process dies) goes on from its last state once; where it fails again it is recorded, and the others go on.

    Args:
        jobs: runs side by side, each in a process of its own; 1 trains them one after the other in this process.
        reporter: told of the work, of each run before it is trained and of those that collapsed or failed; see
            ``train``.

    Raises:
        UserError: the folder is another dataset's or cannot be written, or a run said so.
        Interrupted: the reporter said so.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be 1 or more, not {jobs}")
    claim(planned.folder, FILE, "sweep", *_facts(data))
    waiting = {entry.config: entry for entry in planned.pending}
    failures: dict[Config, int] = {}
    result = Sweep()
    while waiting:
        tasks = [(config, entry.folder) for config, entry in waiting.items()]
        reason: Exception
        kept = 0.0  # the work of this round that a failure does not lose
        attempt = _Attempt(reporter)
        try:
            with closing(train_all(tasks, data, device, jobs, attempt)) as together:
                for config, outcome in together:
                    kept += waiting.pop(config).cost
                    if isinstance(outcome, CollapseError):
                        result.collapsed.append((config, str(outcome)))
                        reporter.failed(config, str(outcome))
                    else:
                        result.trained.append(config)
            continue
        except ProcessFailedError as error:
            broken, reason, line = tasks[error.number][0], error, str(error)
        except (UserError, Interrupted):
            raise
        except Exception as error:
            alone = jobs == 1 or len(tasks) == 1
            if not alone or attempt.last not in waiting:  # nothing that a run did
                raise
            broken, reason, line = attempt.last, error, f"{type(error).__name__}: {error}"
        reporter.advance(kept - attempt.done)
        failures[broken] = failures.get(broken, 0) + 1
        if failures[broken] < TRIES:
            reporter.failed(broken, f"{line}; it goes on from its last state, once")
        else:
            reporter.failed(broken, f"{line}; it is left out")
            result.broken.append((broken, "".join(traceback.format_exception(reason))))
            del waiting[broken]
    return result


class _Attempt(Relay):
    """Knows which run was begun last."""

    last: Config | None = None

    def begin(self, config: Config) -> None:
        self.last = config
        super().begin(config)


def _state(folder: Path) -> str:
    if (folder / "result.json").is_file():
        return "finished"
    return "begun" if (folder / "config.json").is_file() else "new"


def _network_bytes(model: str, classes: int) -> int:
    """Of a checkpoint of ``model`` with a head of ``classes``."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(model, pretrained=False, num_classes=classes)
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def _facts(data: Dataset) -> tuple[dict[str, str], dict[str, str]]:
    """What the folder of sweeps of ``data`` must be of, and what it says besides: the same images may be moved."""
    return {"fingerprint": data.fingerprint}, {"data": data.name}
