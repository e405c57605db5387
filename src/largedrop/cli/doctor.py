"""``largedrop doctor``: which fast paths this machine's GPU or processor can take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .destination import check_file
from .options import Device

__all__ = ["doctor"]


def doctor(
    device: Device = "auto",
    output: Annotated[
        Path | None,
        typer.Option(help="File for the report as well, to keep or to paste into an issue.", show_default=False),
    ] = None,
) -> None:
    """Find which fast paths agree with the plain one on this device, and are faster: two minutes, on embedded images.

    The report is kept in the cache, where training finds it: a GPU takes no fast path without one of that GPU, driver,
    torch and version. Exits with 2 where something is wrong.
    """
    from ..data import open_dataset
    from ..errors import UserError
    from ..experiments.doctor import examine, work
    from ..fast_paths import report_file
    from ..files import write_stored
    from ..report.doctor import render_doctor
    from ..training.device import choose_device
    from .terminal import ProgressBar, say

    if output is not None and output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file in it, such as {output / 'doctor.json'}")
    console = Console(stderr=False)
    torch_device = choose_device(device)
    kept = report_file(torch_device)
    check_file(kept, "set LARGEDROP_CACHE to a folder")
    if output is not None:
        check_file(output)
    with ProgressBar(console, work(torch_device), "examining") as bar:
        report = examine(torch_device, open_dataset("emoji"), reporter=bar)
    files = [kept, *([output] if output else [])]
    try:
        for path in files:
            write_stored(path, report)
    finally:
        render_doctor(report, console)
    say(console, "written:", *(f"  {path}" for path in files))
    if report["problems"]:
        raise UserError(f"something is wrong with this device or this version: {'; '.join(report['problems'])}")
