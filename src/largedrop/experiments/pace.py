"""How long runs will take: by the pace of runs that are finished, or by a look at how fast the network computes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..errors import UserError
from ..models.fast.folding import speed_up
from ..models.network import Network, Spec
from ..models.pretrained import create_backbone, find_weights
from ..runs.run import Run
from ..training.evaluation import autocast
from ..training.loop import cost

__all__ = ["Paces"]

LINEAR = 4e-3
"""Seconds of a linear fit's unit of work, which depends little on the network; 128 of figure 8 took 35 s of a core."""

IMAGES = 16
"""In a batch, to see how fast a network computes."""


class Paces:
    """Seconds for each unit of work (an evaluated image), by network, size, precision and fit.

    Args:
        data: what the runs are of.
        device: where they will be trained. The device of a finished run is not known, and is taken to be the same.
        finished: folders of runs; those of other data, or with damage (which a report names), say nothing.
    """

    def __init__(self, data: Dataset, device: torch.device, finished: Iterable[Path]) -> None:
        self._device = device
        self._measured: dict[tuple[object, ...], tuple[float, float]] = {}
        self._looked: dict[tuple[object, ...], float] = {}
        for folder in finished:
            try:
                run = Run.open(folder)
                took = float(next(iter(run.result["methods"].values()))["seconds"])
            except (UserError, KeyError, TypeError, ValueError, StopIteration):
                continue
            config = run.config
            if config.fingerprint == data.fingerprint:
                split = config.split_of(data)
                seconds, work = self._measured.get(_kind(config), (0.0, 0.0))
                self._measured[_kind(config)] = seconds + took, work + cost(config, split)

    @property
    def rough(self) -> bool:
        """Whether some pace that was asked for is not that of finished runs, and may be wrong by a factor of two."""
        return bool(self._looked)

    def of(self, config: Config) -> float:
        """Seconds for each unit of work of a run."""
        kind = _kind(config)
        if kind in self._measured:
            seconds, work = self._measured[kind]
            return seconds / work
        if kind not in self._looked:
            self._looked[kind] = _look(config, self._device) if config.fit == "all" else LINEAR
        return self._looked[kind]


def _kind(config: Config) -> tuple[object, ...]:
    return *config.network_key, config.fit


def _look(config: Config, device: torch.device) -> float:
    """Seconds of an image in evaluation, with random weights: the shorter of two batches, after one to warm up."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        backbone, units = create_backbone(config.model, find_weights(config.model, "random"))
        spec = Spec(config.model, "random", ("a", "b"), config.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.0)
        network = Network(backbone, units, spec).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.zeros((IMAGES, 3, config.size, config.size), device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    speed_up(network)
    taken = []
    with torch.inference_mode(), autocast(config.precision, device):
        for _ in range(3):
            began = time.monotonic()
            network(batch).sum().item()  # waits for the device
            taken.append(time.monotonic() - began)
    return min(taken[1:]) / IMAGES
