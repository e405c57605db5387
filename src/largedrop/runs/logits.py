"""The logits that an evaluation stores: a file in the folder ``outputs`` of its run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DamagedError
from .checkpoint import read_tensors, write_tensors

__all__ = ["Logits", "logits_file", "mean_logits", "read_logits", "write_logits"]

Logits = dict[str, npt.NDArray[np.float16]]
"""Logits on the ``iid`` and the ``ood`` images, (n, classes) each."""


def logits_file(folder: Path, step: int) -> Path:
    """The file of the evaluation after ``step`` in a run's folder."""
    return folder / "outputs" / f"{step:06d}.safetensors"


def write_logits(folder: Path, step: int, run: str, logits: Logits) -> None:
    """Write the logits of the evaluation after ``step``, whole; ``run`` is the digest of the run's config."""
    tensors = {name: torch.from_numpy(values) for name, values in logits.items()}
    write_tensors(logits_file(folder, step), tensors, "outputs", {"run": run, "step": step})


def read_logits(folder: Path, step: int, run: str, shapes: dict[str, tuple[int, int]]) -> Logits:
    """The logits of an evaluation.

    Args:
        run: digest of the run's config.
        shapes: images and classes of ``iid`` and of ``ood``, or of one of them.

    Raises:
        DamagedError: they are missing, damaged, of another run or step, or not of these images.
    """
    path = logits_file(folder, step)
    tensors, header = read_tensors(path, "outputs", run)
    if header.get("step") != step:
        raise DamagedError(f"{path} has the logits after step {header.get('step')}, not {step}")
    for name, shape in shapes.items():
        found = tensors.get(name)
        if found is None or found.shape != shape or found.dtype != torch.float16:
            raise DamagedError(f"{path} must have the logits of {shape[0]} '{name}' images and {shape[1]} classes")
    return {name: tensors[name].numpy() for name in shapes}


def mean_logits(
    folder: Path, steps: Collection[int], run: str, shapes: dict[str, tuple[int, int]]
) -> dict[str, npt.NDArray[np.float32]]:
    """The ensemble along a trajectory: logits averaged over evaluations; arguments and errors as in ``read_logits``."""
    total: dict[str, torch.Tensor] = {}
    for step in steps:
        found = read_logits(folder, step, run, shapes)
        total = {name: total.get(name, 0) + torch.from_numpy(values).float() for name, values in found.items()}
    return {name: (tensor / len(steps)).numpy() for name, tensor in total.items()}
