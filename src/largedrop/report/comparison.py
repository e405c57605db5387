"""The output of a comparison: tables on the terminal, results.json, figures and report.html."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from rich.console import Console

from ..data.dataset import Dataset
from ..errors import visible
from ..experiments.compare import Comparison, Plan
from ..fast_paths import device_name
from ..runs.record import describe, write_results
from ..selection.selection import summarise
from .behaviour import behaviour_of
from .drawing.style import save_figure
from .examples import example_grid
from .figures import runs_figure
from .page import main_rate, write_page
from .tables import compared_tables
from .text import render

__all__ = ["machine", "publish"]


def publish(
    console: Console,
    data: Dataset,
    planned: Plan,
    comparison: Comparison,
    folder: Path,
    *,
    title: str,
    command: str,
    seconds: float,
    device: torch.device,
) -> list[Path]:
    """Write ``results.json``, ``figure.png``, ``figure.svg`` and ``report.html`` into ``folder``, and print the table;
    without a test domain, over whose accuracy the figure is, no figure.

    Returns:
        Paths of the files, the page first; results.json alone where no run finished.

    Raises:
        UserError: a file cannot be written.
    """
    records = comparison.records
    facts = describe(data)
    results = folder / "results.json"
    write_results(results, records, dataset=facts, failed=comparison.failed, command=command)
    if not records:
        return [results]
    rows = summarise(records, domains=planned.test_domains, seeds=planned.seeds)
    drawn = save_figure(runs_figure(rows, title=title), folder / "figure") if planned.test_domains else []
    page = folder / "report.html"
    shared = max(planned.configs, key=lambda config: config.dropout).settings  # with masks, which rate 0 has none of
    rate = main_rate(rows)
    write_page(
        page,
        title=title,
        rows=rows,
        remarks=comparison.remarks,
        records=records,
        figure_png=drawn[0].read_bytes() if drawn else None,
        dataset=facts,
        examples=example_grid(data),
        behaviour=None if rate is None else behaviour_of(comparison.runs, data, planned.test_domains, rate),
        settings={name.replace("_", " "): value for name, value in shared.items()},
        failed=comparison.failed,
        command=command,
        seconds=seconds,
        machine=machine(device),
    )
    # Printed last: all is written, whatever becomes of what reads standard output.
    render(compared_tables(rows, console.width), console)
    for remark in comparison.remarks:
        console.print(visible(remark), highlight=False, markup=False, soft_wrap=True)
    return [page, *drawn, results]


def machine(device: torch.device) -> str:
    """Processor, memory and GPU in one line."""
    parts = [device_name(torch.device("cpu")), f"{os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    if device.type == "cuda":
        parts.append(device_name(device))
    return ", ".join(parts)
