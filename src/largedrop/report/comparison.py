"""The output of a comparison: tables on the terminal, results.json, figures and report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from ..data.dataset import Dataset
from ..errors import visible
from ..experiments.compare import Comparison
from ..experiments.learning_rates import Choice
from ..fast_paths import device_name
from ..runs.estimate import listing
from ..runs.record import Record, describe, write_results
from ..selection.row import Row
from ..selection.selection import summarise
from .behaviour import behaviour_of
from .drawing.style import save_figure
from .examples import example_grid
from .figures import runs_figure
from .page import main_rate, write_page
from .tables import compared_tables, rates_table
from .text import render

__all__ = ["machine", "publish", "rows_of"]


def publish(
    console: Console,
    data: Dataset,
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
        UserError: a file cannot be written; the table is printed.
    """
    records = comparison.records
    planned = comparison.planned
    facts, choices = describe(data), comparison.choices
    results = folder / "results.json"
    rows = rows_of(comparison)
    shared = max(planned.configs, key=lambda config: config.dropout).settings  # with masks, which rate 0 has none of
    rates = rates_table(choices, shared["select_by"], planned.seeds[0]) if choices else None
    if choices:
        shared = {**shared, "lr": f"the best i.i.d. of {listing([f'{rate:g}' for rate in planned.learning_rates])}"}
    try:
        write_results(
            results,
            records,
            dataset=facts,
            failed=comparison.failed,
            command=command,
            learning_rates=[choice.to_json() for choice in choices],
        )
        if not rows:
            return [results]
        figure = runs_figure(rows, title=title, rates=_rates(choices)) if planned.test_domains else None
        drawn = save_figure(figure, folder / "figure") if figure else []
        page = folder / "report.html"
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
            rates=rates,
            settings={name.replace("_", " "): value for name, value in shared.items()},
            failed=comparison.failed,
            command=command,
            seconds=seconds,
            machine=machine(device),
        )
    finally:  # printed last, all being written, whatever becomes of what reads standard output
        if rows:
            render([*compared_tables(rows, console.width), *([rates] if rates else [])], console)
            for remark in comparison.remarks:
                console.print(visible(remark), highlight=False, markup=False, soft_wrap=True)
    return [page, *drawn, results]


def rows_of(comparison: Comparison) -> list[Row]:
    """One row for each method and dropout rate: accuracies, and the gain over plain fine-tuning, each with mean and
    standard error over the seeds, on average and by test domain; none where no run finished.
    """
    records, planned = comparison.records, comparison.planned
    if comparison.choices:
        records = [_without_rate(each) for each in records]
    return summarise(records, domains=planned.test_domains, seeds=planned.seeds) if records else []


def _without_rate(record: Record) -> Record:
    """A record as one of an arm, which takes different learning rates on different test domains."""
    return replace(record, settings={name: value for name, value in record.settings.items() if name != "lr"})


def _rates(choices: Sequence[Choice]) -> dict[float, str]:
    """The learning rates that each dropout rate takes, ascending."""
    taken: dict[float, set[float]] = {}
    for choice in choices:
        if choice.chosen is not None:
            taken.setdefault(choice.dropout, set()).add(choice.chosen)
    return {dropout: "/".join(f"{rate:g}" for rate in sorted(rates)) for dropout, rates in taken.items()}


def machine(device: torch.device) -> str:
    """Processor, memory and GPU in one line."""
    parts = [device_name(torch.device("cpu")), f"{os.cpu_count()} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB")
    if device.type == "cuda":
        parts.append(device_name(device))
    return ", ".join(parts)
