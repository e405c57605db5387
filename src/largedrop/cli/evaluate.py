"""``largedrop evaluate``: how good a model is on newly labelled images, and how far it can be believed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..data import SOURCES
from ..errors import UserError
from .destination import check_folder
from .options import Classes, Column, Device, GroupPattern, SkipBad
from .running import command_line

__all__ = ["evaluate"]

_FILES = ("evaluation.html", "evaluation.json")


def evaluate(
    model: Annotated[
        Path, typer.Argument(help="A run's folder (of its model), or a checkpoint (.safetensors).", metavar="MODEL")
    ],
    data: Annotated[str, typer.Argument(help=f"Labelled images: {SOURCES}.", metavar="DATA")],
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="One more model, for an ensemble with MODEL; may be repeated."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A second model, compared on the same images; several are an ensemble."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for evaluation.html and evaluation.json.")] = Path("evaluation"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files if they exist.")] = False,
    unknown: Annotated[
        str, typer.Option(help="Images of a class that the model does not know: 'wrong', or 'skip' leaves them out.")
    ] = "wrong",
    test_on: Annotated[
        str | None,
        typer.Option(
            help="The shifted ImageNet that DATA is (`largedrop datasets` lists them): a model of ImageNet's classes "
            "is scored among those that it has."
        ),
    ] = None,
    column: Column = None,
    classes: Classes = "union",
    group_pattern: GroupPattern = None,
    skip_bad_images: SkipBad = False,
    precision: Annotated[str, typer.Option(help="'float32', 'bfloat16', or 'auto': bfloat16 where there is one.")] = (
        "float32"
    ),
    device: Device = "auto",
) -> None:
    """Accuracy with intervals by domain and class, confusions, calibration and worst mistakes on labelled images."""
    from ..files import write_stored
    from ..prediction.ensemble import not_calibrated, open_networks, seen_keys
    from ..prediction.evaluate import evaluate_networks
    from ..report.comparison import machine
    from ..report.evaluation import evaluation_tables
    from ..report.evaluation_page import write_evaluation_page
    from ..report.text import render
    from ..training.device import choose_device
    from .terminal import ProgressBar, open_images, say

    began = time.monotonic()
    console = Console(stderr=False)
    page, numbers = (output / name for name in _FILES)
    if not overwrite and (there := next((path for path in (page, numbers) if path.exists()), None)):
        raise UserError(f"{there} exists: name another --output, or say --overwrite")
    check_folder(output)
    torch_device = choose_device(device)
    asked = [[model, *(others or [])], *([against] if against else [])]
    models = [(" + ".join(map(str, each)), open_networks(each)) for each in asked]
    if note := not_calibrated([each for _, networks in models for each in networks]):
        say(console, note)
    sizes = [each.spec.size for _, networks in models for each in networks]
    opening = {"classes": classes, "group_pattern": group_pattern, "skip_bad_images": skip_bad_images}
    opened = open_images(console, data, sizes, column, **opening)
    total = len(opened) * sum(len(networks) for _, networks in models)
    with ProgressBar(console, total, "evaluating") as bar:
        found = evaluate_networks(
            models,
            opened,
            unknown=unknown,
            test_on=test_on,
            seen=[seen_keys(each) for each in asked],
            device=torch_device,
            precision=precision,
            reporter=bar,
        )
    seconds = time.monotonic() - began
    command = command_line()
    at = machine(torch_device)
    try:
        write_stored(numbers, {**found.to_json(), "command": command})
        write_evaluation_page(page, found, opened.images, command=command, seconds=seconds, machine=at)
    finally:
        say(console, *found.notes)
        render(evaluation_tables(found), console)
    say(console, "written:", *(f"  {path}" for path in (page, numbers)))
