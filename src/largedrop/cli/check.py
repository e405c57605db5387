"""``largedrop check``: a doctor for datasets."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..config import ABOUT, defaults_of
from .destination import check_folder
from .options import Classes, Column, Data, Device, GroupPattern, Precision, SkipBad, SplitFile, columns, option
from .running import command_line

__all__ = ["check"]

DEFAULTS = defaults_of("short")


def check(
    data: Data,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Look at the pixels only: no network is needed, no label is doubted, and some copies are missed.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for check.html and check.json. [default: largedrop-check/DATA]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the i.i.d. split that copies may straddle.", min=0)] = 0,
    model: Annotated[str, option("model")] = DEFAULTS["model"],
    weights: Annotated[str, option("weights")] = DEFAULTS["weights"],
    size: Annotated[int, option("size")] = DEFAULTS["size"],
    precision: Precision = "auto",
    device: Device = "auto",
    column: Column = None,
    classes: Classes = "union",
    group_pattern: GroupPattern = None,
    split: SplitFile = None,
    skip_bad_images: SkipBad = False,
) -> None:
    """What is in a dataset, what is wrong with it, and whether it can be trained on; exits with 2 where it cannot."""
    from ..analysis.check import check as diagnose
    from ..analysis.check import open_all, work
    from ..data.images import bound_for
    from ..errors import UserError
    from ..files import write_json
    from ..paths import fitting
    from ..report.check import check_json, render_check, verdict
    from ..report.check_page import write_check_page
    from ..report.comparison import machine
    from ..training.device import choose_device
    from .terminal import ProgressBar, say

    began = time.monotonic()
    console = Console(stderr=False)
    valid, is_valid = ABOUT["size"].check
    if not is_valid(size):
        raise UserError(f"size must be {valid}, not {size}")
    bound = bound_for([size])
    with ProgressBar(console, 1, f"opening {data}") as bar:
        opened, places = open_all(
            data,
            skip_bad_images=skip_bad_images,
            bound=bound,
            columns=columns(column or ()),
            classes=classes,
            group_pattern=group_pattern,
            split=split,
            progress=bar.set,
        )
    folder = output or Path("largedrop-check") / fitting(opened.name)
    check_folder(folder)
    with ProgressBar(console, work(opened, quick), "checking") as bar:
        found = diagnose(
            opened,
            places=places,
            skip_bad_images=skip_bad_images,
            quick=quick,
            seed=seed,
            model=model,
            size=size,
            weights=weights,
            precision=precision,
            device=device,
            reporter=bar,
        )
    page, numbers = folder / "check.html", folder / "check.json"
    seconds = time.monotonic() - began
    try:
        write_json(numbers, check_json(found))
        write_check_page(page, found, command=command_line(), seconds=seconds, machine=machine(choose_device(device)))
    finally:
        render_check(found, console)
    say(console, "written:", f"  {page}", f"  {numbers}")
    if not found.trainable:
        raise UserError(f"{verdict(found)}: {'; '.join(each.text for each in found.of('problem'))}")
