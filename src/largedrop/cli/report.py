"""``largedrop report``: tables and figures from stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..names import counted
from .destination import check_folder
from .options import listed

__all__ = ["report"]


def report(
    runs: Annotated[Path, typer.Argument(help="A folder with finished runs, at any depth.", metavar="RUNS")],
    output: Annotated[Path | None, typer.Option(help="Folder for the report. [default: RUNS/report]")] = None,
    selection: Annotated[
        str,
        typer.Option(
            help="Rule that selects learning rates and weight decays: 'iid' (held-out accuracy), "
            "'iid-macro' (its mean over classes), "
            "'leave-one-domain-out', or 'oracle' (the test domain itself; never for a fair comparison)."
        ),
    ] = "iid",
    formats: Annotated[
        str, typer.Option(help="What to write, separated by commas: md, csv, json, tex, png, svg.")
    ] = "md,csv,json,tex,png,svg",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Use settings whose runs are not complete; they are listed.")
    ] = False,
) -> None:
    """Tables and figures over all runs in a folder: mean, standard error, n, selection rule, and what is missing."""
    from ..report.report import write_report
    from ..runs.read import read_runs
    from .terminal import say

    console = Console(stderr=False)
    names = listed("--formats", formats)
    found = read_runs(runs)
    folder = output or runs / "report"
    check_folder(folder)
    files = write_report(found, folder, selection, names, allow_missing=allow_missing)
    say(console, *(f"unusable: {entry}" for entry in found.unusable))
    runs_of = f"{counted(len(found.runs), 'run')} of {found.dataset['name']}"
    say(console, f"{runs_of}; written:", *(f"  {path}" for path in files))
