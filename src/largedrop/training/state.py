"""The state of a run, for resuming: the trajectory so far, the network, the optimiser and the averages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..errors import DamagedError, InTheWayError, UserError
from ..fast_paths import FastPaths
from ..files import read_json, there
from ..models.network import Network
from ..reporter import Reporter
from ..runs.checkpoint import misfit, open_tensors, read_tensors, write_tensors
from ..runs.logits import read_logits
from ..runs.run import BEST_FILE, START_FILE
from .averages import Average
from .averages.base import part_of
from .collapse import CollapseWatch
from .way_back import keeps_start

__all__ = [
    "STATE_FILE",
    "NoStateError",
    "Trajectory",
    "check_kept",
    "discard",
    "is_lost",
    "load_state",
    "save_state",
]

STATE_FILE = "resume.safetensors"


class NoStateError(DamagedError):
    """A run cannot go on from its state, since something that it needs is missing or damaged."""


@dataclass
class Trajectory:
    """A run so far.

    Attributes:
        step: number of optimiser steps taken.
        seconds: time of steps and evaluations, over all restarts.
        losses: losses of the steps since the last evaluation, in nats.
        log: one entry per evaluation, the first before any step.
        probe: the linear probe that was fitted before the first step, as JSON.
        selecting: name of the score in ``log`` that selects.
        fast_paths: names of the fast paths that were taken; another list where the run went on by others.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    probe: dict[str, Any] = field(default_factory=dict)
    selecting: str = "iid_accuracy"
    fast_paths: list[list[str]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any]:
        """The evaluation of best i.i.d. score; in a tie, the earliest."""
        return max(self.log, key=lambda entry: (entry[self.selecting], -entry["step"]))

    def goes_on_by(self, paths: FastPaths, reporter: Reporter) -> None:
        """Keep which fast paths are taken from now on; a note where they were others before."""
        if self.fast_paths[-1:] != [paths.names]:
            if self.fast_paths:
                before = ", ".join(self.fast_paths[-1]) or "none"
                reporter.note(
                    f"fast paths: {before} up to step {self.step}, and from there {paths}: the last bits may differ"
                )
            self.fast_paths.append(paths.names)


def save_state(
    folder: Path,
    run: str,
    trajectory: Trajectory,
    network: Network,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Average],
    watch: CollapseWatch,
) -> None:
    """Write the state whole: a kill at any time leaves the last state or this one; ``run`` is its config's digest."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in entries.items() if value is not None}
    header: dict[str, Any] = {"run": run, "trajectory": asdict(trajectory), "watch": watch.state(), "averages": {}}
    for method, average in averages.items():
        header["averages"][method], held = average.state()
        tensors |= {f"average.{method}.{name}": tensor for name, tensor in held.items()}
    write_tensors(folder / STATE_FILE, tensors, "state", header)


def load_state(
    folder: Path,
    run: str,
    network: Network,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Average],
    watch: CollapseWatch,
) -> Trajectory | None:
    """Load the last state of the run whose config has the digest ``run`` into its parts; None where there is none.

    Raises:
        NoStateError: the state is damaged, of another run, or does not fit the network.
        UserError: it cannot be read, or is of a newer version.
    """
    path = folder / STATE_FILE
    if not there(path):
        return None
    try:
        tensors, header = read_tensors(path, "state", run)
        trajectory = Trajectory(**header["trajectory"])
        network.load_state_dict(part_of(tensors, "network."))
        device = network.head.weight.device
        for method, average in averages.items():
            held = part_of(tensors, f"average.{method}.")
            average.load(header["averages"][method], {name: _like(held[name]).to(device) for name in held})
        watch.load(header["watch"])
        _load_optimizer(optimizer, part_of(tensors, "optimizer."))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise NoStateError(f"{path} does not fit this run ({misfit(error)})") from error
    except DamagedError as error:
        raise NoStateError(str(error)) from error
    return trajectory


def is_lost(folder: Path) -> bool:
    """Whether a run that was begun had a state and has none: the log's first line alone is written before that, and
    where that is not whole, the logits before the first step alone.
    """
    if there(folder / STATE_FILE):
        return False
    try:
        return len(read_json(folder / "log.json").get("log", ())) > 1
    except (UserError, TypeError):
        return any(path.stem.strip("0") for path in folder.glob("outputs/[0-9]*.safetensors"))


def discard(state: Path) -> None:
    """Delete a state that is damaged.

    Raises:
        UserError: it is a folder, or cannot be deleted.
    """
    try:
        state.unlink()
    except OSError as error:
        if state.is_dir():
            raise InTheWayError(f"{state} is a folder, and a run's state is a file; remove it") from error
        raise UserError(f"{state} cannot be deleted: {error.strerror}; remove it") from error


def check_kept(folder: Path, config: Config, so_far: Trajectory, shapes: dict[str, tuple[int, int]]) -> None:
    """Check, before steps are taken for nothing, that a run that goes on has what it needs at its end: the logits of
    every evaluation, the best checkpoint, and the start where it goes back to that.

    Args:
        shapes: images and classes of the logits, as in ``read_logits``.

    Raises:
        NoStateError: something is missing, damaged or of another run.
    """
    try:
        for line in so_far.log:
            read_logits(folder, line["step"], config.digest(), shapes)
        best = folder / BEST_FILE
        about = open_tensors(best, "model", config.digest()).header["about"]
        # A later one is of an evaluation after the state was saved, which will come again.
        if about["step"] != so_far.best["step"] and about["step"] <= so_far.step:
            raise DamagedError(f"{best} is of step {about['step']}, and the best was step {so_far.best['step']}")
        if keeps_start(config):
            start = folder / START_FILE
            about = open_tensors(start, "model", config.digest()).header["about"]
            if about["step"] != 0:
                raise DamagedError(f"{start} is of step {about['step']}, and the start is step 0")
    except (KeyError, TypeError) as error:
        raise NoStateError(f"the files in {folder} do not fit its state ({error})") from error
    except DamagedError as error:
        raise NoStateError(str(error)) from error


def _like(tensor: Tensor) -> Tensor:
    """``tensor``, channels last where it is a convolution's, as in the network: the optimiser's fast path needs it."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = _like(tensor)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
