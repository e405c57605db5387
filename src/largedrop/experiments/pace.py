"""Estimates of the time and the files of runs, from the pace of finished runs or a measurement of the network."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import timm
import torch

from ..config import Config
from ..data.dataset import Dataset, Split
from ..errors import UserError
from ..models.fast.folding import speed_up
from ..models.network import Network, Spec
from ..models.pretrained import create_backbone, find_weights
from ..models.sizes import shapes_of
from ..runs.content import is_finished
from ..runs.estimate import duration
from ..runs.run import Run
from ..training.averages import make_averages
from ..training.evaluation import autocast
from ..training.loop import cost
from .measured import spread

__all__ = ["LINEAR_BYTES", "Paces", "kind_of", "network_bytes", "sample", "stored_bytes", "time_told"]

LINEAR = 5e-3
"""Seconds per unit of work of a linear fit, similar for all networks; 128 fits of figure 8 took 45 s of a core."""

LINEAR_BYTES = 300_000
"""Approximate size of a linear fit's files, in bytes; features are in the user's cache."""

IMAGES = 16
"""Number of images in the batch of a measurement."""


class Paces:
    """Seconds per unit of work (an evaluated image), by network, size, precision and fit.

    Args:
        data: dataset of the runs.
        device: device of the runs; finished runs do not say theirs, and are assumed to have the same.
        finished: folders of runs; runs on other data and damaged runs are ignored. A few of each kind are enough.
    """

    def __init__(self, data: Dataset, device: torch.device, finished: Iterable[Path]) -> None:
        self._device = device
        self._finished: dict[tuple[object, ...], tuple[float, float]] = {}
        self._measured: dict[tuple[object, ...], float] = {}
        splits: dict[object, Split] = {}
        for folder in finished:
            try:
                run = Run.open(folder)
                took = float(next(iter(run.result["methods"].values()))["seconds"])
            except (UserError, KeyError, TypeError, ValueError, StopIteration):
                continue
            config = run.config
            if config.fingerprint == data.fingerprint:
                split = splits.get(config.split_key) or splits.setdefault(config.split_key, config.split_of(data))
                seconds, work = self._finished.get(kind_of(config), (0.0, 0.0))
                self._finished[kind_of(config)] = seconds + took, work + cost(config, split)

    @property
    def rough(self) -> bool:
        """Whether a pace was measured, not taken from finished runs; it may be wrong by a factor of two."""
        return bool(self._measured)

    def of(self, config: Config) -> float:
        """Seconds per unit of work of a run."""
        kind = kind_of(config)
        if kind in self._finished:
            seconds, work = self._finished[kind]
            return seconds / work
        if kind not in self._measured:
            self._measured[kind] = _measure(config, self._device) if config.fit == "all" else LINEAR
        return self._measured[kind]


def sample(configs: Iterable[Config], finished: Iterable[tuple[Config, Path]], folder: Path) -> list[Path]:
    """Folders of finished runs that say how long others will take: those of their kinds, and where a kind has none,
    others in ``folder``.

    Args:
        configs: all, also those of the finished runs.
        finished: config and folder of each finished run.
    """
    kinds: dict[object, list[Path]] = {kind_of(config): [] for config in configs}
    for config, path in finished:
        kinds[kind_of(config)].append(path)
    found = [path for own in kinds.values() for path in spread(own)]
    if all(kinds.values()) or not folder.is_dir():
        return found
    names = {path.name for own in kinds.values() for path in own}
    others = sorted(path for path in folder.iterdir() if path.name not in names and is_finished(path))
    return [*found, *spread(others)]


def kind_of(config: Config) -> tuple[object, ...]:
    """The key of runs that take as long for each unit of work, and need as much memory but for the batch's."""
    return *config.network_key, config.fit


def time_told(seconds: float, rough: bool) -> str:
    """An estimate of ``Paces`` in words."""
    if rough:
        return f"very roughly {duration(seconds)} one after the other, by the speed of the network alone"
    return f"{duration(seconds)} one after the other at the pace of those finished here"


def stored_bytes(config: Config, outputs: int, network: int) -> int:
    """Size of the logits and checkpoints of a finished fine-tuning, in bytes.

    Args:
        outputs: logits of an evaluation: images × classes.
        network: size of a checkpoint.
    """
    checkpoints = 2 + len(make_averages(config)) + config.wise_ft + (config.way_back > 0)
    return 2 * (1 + len(config.evaluations)) * outputs + checkpoints * network


def network_bytes(model: str, classes: int) -> int:
    """Size of a checkpoint of ``model`` with a head of ``classes``, in bytes."""
    shapes = shapes_of(lambda: timm.create_model(model, pretrained=False, num_classes=classes))
    return sum(tensor.numel() * tensor.element_size() for tensor in shapes.values())


def _measure(config: Config, device: torch.device) -> float:
    """Seconds per evaluated image, with random weights: the minimum of two batches after one for warm-up."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        backbone, units = create_backbone(config.model, find_weights(config.model, "random"), config.size)
        spec = Spec(config.model, "random", ("a", "b"), config.size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.0)
        network = Network(backbone, units, spec).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.zeros((IMAGES, 3, config.size, config.size), device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    taken = []
    with speed_up(network), torch.inference_mode(), autocast(config.precision, device):
        for _ in range(3):
            began = time.monotonic()
            network(batch).sum().item()  # waits for the device
            taken.append(time.monotonic() - began)
    return min(taken[1:]) / IMAGES
