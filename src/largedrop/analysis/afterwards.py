"""Computations on the finished runs of a sweep, by the names under ``afterwards`` in a preset."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import UserError
from ..reporter import Reporter
from ..runs.interpolation import INTERPOLATION_FILE
from ..runs.run import Run
from ..training.features import FeatureCache
from .across import across, across_cost
from .interpolation import Shifted, interpolate_run, interpolation_cost

__all__ = ["afterwards", "afterwards_cost"]


def afterwards(
    names: Collection[str],
    runs: Sequence[Run],
    data: Dataset,
    folder: Path,
    *,
    test_on: Sequence[Shifted] = (),
    device: torch.device,
    reporter: Reporter,
) -> list[str]:
    """Compute the results named under ``afterwards`` in a preset that are not stored yet.

    Args:
        names: ``across`` (``across.across``) and ``interpolation`` (``interpolation.interpolate_run``).
        runs: finished runs; linear fits and runs with a left-out domain are ignored.
        data: dataset of the runs.
        folder: folder of the sweep.
        test_on: shifted ImageNets for interpolations of runs without a test domain.
        device: device to compute on.
        reporter: receives the work, in evaluated images; asked between evaluations whether to stop.

    Returns:
        One line for each result that cannot be computed, with the reason.

    Raises:
        UserError: a file cannot be read or written.
        Interrupted: the reporter asks to stop.
    """
    whole = _whole(runs)
    refused = across(whole, data, folder, device=device, reporter=reporter) if "across" in names else []
    if "interpolation" in names and whole:
        features = FeatureCache(open_views(data, device, reporter), reporter)
        for run in whole:
            try:
                interpolate_run(run, data, features, test_on=test_on, reporter=reporter)
            except UserError as error:
                refused.append(f"interpolation: {error}")
    return refused


def afterwards_cost(
    names: Collection[str], runs: Sequence[Run], data: Dataset, folder: Path, test_on: Sequence[Shifted] = ()
) -> float:
    """The work of ``afterwards``, in evaluated images."""
    whole = _whole(runs)
    total = across_cost(whole, data, folder) if "across" in names else 0.0
    if "interpolation" in names:
        left = [run for run in whole if not (run.folder / INTERPOLATION_FILE).is_file()]
        total += sum(interpolation_cost(run, data, test_on) for run in left) + (len(data) if left else 0)
    return total


def _whole(runs: Sequence[Run]) -> list[Run]:
    """The runs of whole networks on all training domains."""
    return [run for run in runs if run.config.fit == "all" and not run.config.left_out]
