"""What is computed from the finished runs of a sweep, besides their report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import UserError
from ..reporter import Reporter
from ..runs.interpolation import FILE
from ..runs.run import Run
from ..training.features import FeatureCache
from .across import across, across_cost
from .interpolation import interpolate_run, interpolation_cost

__all__ = ["afterwards", "afterwards_cost"]


def afterwards(
    names: Collection[str],
    runs: Sequence[Run],
    data: Dataset,
    folder: Path,
    *,
    device: torch.device,
    reporter: Reporter,
) -> list[str]:
    """Compute what a preset names under ``afterwards``, as far as it is not stored yet.

    Args:
        names: ``across`` (``across.across``) and ``interpolation`` (``interpolation.interpolate_run``).
        runs: finished ones; linear fits and those that leave a domain out are passed over.
        data: that they were trained on.
        folder: where ``across`` is kept.
        device: where to compute.
        reporter: told of the work, in evaluated images, and asked between evaluations whether to stop.

    Returns:
        What could not be computed, with the reason, a line each.

    Raises:
        UserError: a file cannot be read or written.
        Interrupted: the reporter said so.
    """
    whole = _whole(runs)
    refused = across(whole, data, folder, device=device, reporter=reporter) if "across" in names else []
    if "interpolation" in names and whole:
        features = FeatureCache(open_views(data, device, reporter), reporter)
        for run in whole:
            try:
                interpolate_run(run, data, features, reporter=reporter)
            except UserError as error:
                refused.append(f"interpolation: {error}")
    return refused


def afterwards_cost(names: Collection[str], runs: Sequence[Run], data: Dataset, folder: Path) -> float:
    """The work of ``afterwards``, in evaluated images."""
    whole = _whole(runs)
    total = across_cost(whole, data, folder) if "across" in names else 0.0
    if "interpolation" in names:
        left = [run for run in whole if not (run.folder / FILE).is_file()]
        total += sum(interpolation_cost(run, data) for run in left) + (len(data) if left else 0)
    return total


def _whole(runs: Sequence[Run]) -> list[Run]:
    """The runs of whole networks on all training domains; the others serve their own ends."""
    return [run for run in runs if run.config.fit == "all" and not run.config.left_out]
