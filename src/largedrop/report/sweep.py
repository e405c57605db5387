"""The report on a sweep."""

from __future__ import annotations

from pathlib import Path

from ..experiments.sweep import SweepPlan
from ..runs.read import read_runs
from .report import write_report

__all__ = ["report_sweep"]


def report_sweep(planned: SweepPlan) -> list[Path]:
    """Write the report on the plan's finished runs into ``planned.report``.

    Returns:
        Paths of the files; none where no run is finished.

    Raises:
        UserError: a file cannot be read or written.
    """
    names = {entry.folder.name for entry in planned.entries}
    if not any((entry.folder / "result.json").is_file() for entry in planned.entries):
        return []
    runs = read_runs(planned.folder / "runs", only=names)
    return write_report(runs, planned.report, seeds=planned.preset.scale(planned.scale).values("seed"))
