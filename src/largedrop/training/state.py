"""The state of a run, for resuming: the trajectory so far, the network, the optimiser and the averages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..models.network import Network
from ..runs.checkpoint import misfit, read_tensors, write_tensors
from .averages import Average
from .averages.base import part_of
from .collapse import CollapseWatch

__all__ = ["Trajectory", "load_state", "save_state"]

STATE_FILE = "resume.safetensors"


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
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    probe: dict[str, Any] = field(default_factory=dict)
    selecting: str = "iid_accuracy"

    @property
    def best(self) -> dict[str, Any]:
        """The evaluation of best i.i.d. score; in a tie, the earliest."""
        return max(self.log, key=lambda entry: (entry[self.selecting], -entry["step"]))


def save_state(
    folder: Path,
    trajectory: Trajectory,
    network: Network,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Average],
    watch: CollapseWatch,
) -> None:
    """Write the state whole: a kill at any time leaves the last state or this one."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in entries.items() if value is not None}
    header: dict[str, Any] = {"trajectory": asdict(trajectory), "watch": watch.state(), "averages": {}}
    for method, average in averages.items():
        header["averages"][method], held = average.state()
        tensors |= {f"average.{method}.{name}": tensor for name, tensor in held.items()}
    write_tensors(folder / STATE_FILE, tensors, "state", header)


def load_state(
    folder: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Average],
    watch: CollapseWatch,
) -> Trajectory | None:
    """Load the last state of a run into its parts; None where there is none.

    Raises:
        UserError: the state is damaged or does not fit the network.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        tensors, header = read_tensors(path, "state")
        trajectory = Trajectory(**header["trajectory"])
        network.load_state_dict(part_of(tensors, "network."))
        device = network.head.weight.device
        for method, average in averages.items():
            held = part_of(tensors, f"average.{method}.")
            average.load(header["averages"][method], {name: _like(held[name]).to(device) for name in held})
        watch.load(header["watch"])
        _load_optimizer(optimizer, part_of(tensors, "optimizer."))
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} does not fit this run ({misfit(error)}); remove {folder} to start it again") from error
    except UserError as error:
        raise UserError(f"{error}; remove {folder} to start this run again") from error
    return trajectory


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
