"""Batches of a dataset's images as a network's input, on the network's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ...errors import UserError
from ...fast_paths import fast_paths
from ...reporter import SILENT, Reporter
from ..cache import CachedImages, fetched
from ..dataset import Dataset, IntArray
from .device import ResidentImages, device_evaluation_batch, pack_draws, packed_training_batch, pinned, to_device
from .draws import draw
from .host import evaluation_batch, training_batch

__all__ = ["HostViews", "InputSpec", "ResidentViews", "Views", "open_views"]


class InputSpec(Protocol):
    """Size and normalisation of a network's input: the part of ``models.network.Spec`` that views depend on."""

    @property
    def size(self) -> int:
        """Side of the square views, in pixels."""

    @property
    def mean(self) -> Sequence[float]:
        """Per-channel mean, subtracted from inputs in [0, 1]."""

    @property
    def std(self) -> Sequence[float]:
        """Per-channel standard deviation, by which the centred inputs are divided."""


class Views(Protocol):
    """Batches of a dataset's images as a network's input: normalised float32 (n, 3, size, size), channels last.

    A training step makes its views in two parts: ``inputs`` on the host, then ``finish`` on the device, inside the
    recorded step where there is one (``training.graph``). ``training`` does both. The draws are a function of ``seed``,
    ``step`` and the index into ``indices``.
    """

    data: Dataset
    device: torch.device
    ahead: int
    """Number of steps whose inputs are worth making before they are needed, in a thread."""

    def inputs(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor: ...

    def finish(self, inputs: Tensor, spec: InputSpec) -> Tensor: ...

    def training(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor: ...

    def evaluation(self, indices: IntArray, spec: InputSpec) -> Tensor: ...


class HostViews:
    """Views made on the processor from the memory-mapped cache, by compiled kernels, and copied to the device."""

    def __init__(self, data: Dataset, device: torch.device | None = None) -> None:
        self.data = data
        self.device = device or torch.device("cpu")
        # On the processor the step needs all of it.
        self.ahead = 2 if self.device.type == "cuda" else 0

    def inputs(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor:
        """The training views, in pinned memory where the device is a GPU; nothing is left for ``finish``."""
        images = fetched(self.data.images, indices)
        return pinned(training_batch(images, spec.size, seed, step, spec.mean, spec.std), self.device)

    def finish(self, inputs: Tensor, spec: InputSpec) -> Tensor:
        return inputs

    def training(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor:
        return to_device(self.inputs(indices, spec, seed, step), self.device)

    def evaluation(self, indices: IntArray, spec: InputSpec) -> Tensor:
        images = fetched(self.data.images, indices)
        return to_device(evaluation_batch(images, spec.size, spec.mean, spec.std), self.device)


class ResidentViews:
    """Views made on the GPU from images in its memory; the host draws the random numbers only."""

    def __init__(self, data: Dataset, device: torch.device, sharing: int = 1) -> None:
        self.data = data
        self.device = device
        self.ahead = 0
        self.images = ResidentImages(data.images, device, sharing)

    def inputs(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor:
        """The draws of a step, float64 (n, 15), in pinned memory where the device is a GPU."""
        shapes = self.images.shapes[indices]
        packed = pack_draws(self.images, indices, draw([(int(h), int(w)) for h, w in shapes], seed, step))
        return pinned(packed, self.device)

    def finish(self, inputs: Tensor, spec: InputSpec) -> Tensor:
        return packed_training_batch(self.images, inputs, spec.size, spec.mean, spec.std)

    def training(self, indices: IntArray, spec: InputSpec, seed: int, step: int) -> Tensor:
        return self.finish(to_device(self.inputs(indices, spec, seed, step), self.device), spec)

    def evaluation(self, indices: IntArray, spec: InputSpec) -> Tensor:
        return device_evaluation_batch(self.images, indices, spec.size, spec.mean, spec.std)


def open_views(
    data: Dataset, device: torch.device, reporter: Reporter = SILENT, sharing: int = 1, pixels: float | None = None
) -> Views:
    """Views made on the GPU where that is a fast path of the device and there is room for the images; where there is
    none, on the processor, with a note.

    Args:
        sharing: number of processes that compute on the device, each with its own images there.
        pixels: those of the images of a training step, as ``fast_paths`` takes them.
    """
    if device.type != "cuda" or not fast_paths(device, pixels).resident:
        return HostViews(data, device)
    if isinstance(data.images, CachedImages) and data.images.partial:
        reporter.note("views are made on the processor: some images are decoded whenever they are used")
        return HostViews(data, device)
    try:
        return ResidentViews(data, device, sharing)
    except UserError as error:
        reporter.note(f"views are made on the processor: {error}")
        return HostViews(data, device)
