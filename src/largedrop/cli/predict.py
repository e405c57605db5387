"""``largedrop predict``: the classes of new images."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import UserError
from .destination import check_file
from .options import Device, columns
from .output import Output

if TYPE_CHECKING:
    from ..prediction.predict import Prediction

__all__ = ["predict"]


def predict(
    model: Annotated[
        Path, typer.Argument(help="A run's folder (of its model), or a checkpoint (.safetensors).", metavar="MODEL")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders (with all images below them), patterns such as 'photos/*.jpg', tables (CSV, "
            "JSON lines, Parquet) with a column 'path', or tar archives.",
            metavar="IMAGES",
        ),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", help="One more model, for an ensemble (the mean of their probabilities); may be repeated."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option(help="File to write: .csv, .jsonl (JSON lines) or .parquet; '-' is standard output.")
    ] = "-",
    format: Annotated[
        str | None, typer.Option(help="'csv', 'jsonl' or 'parquet', where the file's ending does not say.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    top: Annotated[int, typer.Option(help="How many classes of each image, the most probable first.", min=1)] = 1,
    unsure_below: Annotated[
        float, typer.Option(help="Leave the class empty where its probability is below this.", min=0, max=1)
    ] = 0.0,
    uncalibrated: Annotated[
        bool,
        typer.Option("--uncalibrated", help="The softmax of the logits themselves, not over the model's temperature."),
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            help="path=NAME where a table's column of paths is not named path or file_name.",
            metavar="WHAT=NAME",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images that go through the network together.", min=1)] = 64,
    precision: Annotated[
        str,
        typer.Option(help="'float32' (as `load_model` in Python), 'bfloat16', or 'auto': bfloat16 where there is one."),
    ] = "float32",
    device: Device = "auto",
) -> None:
    """Which class each image is of, and how probable. Images that cannot be read get the reason instead."""
    from ..data.passed_over import PassedOver
    from ..prediction.ensemble import not_calibrated, open_networks
    from ..prediction.images import find_images
    from ..prediction.output import check_output, write_predictions
    from ..prediction.predict import predictions
    from ..training.device import choose_device
    from .terminal import ProgressBar, say

    console = Console(stderr=True)
    path = None if output == "-" else Path(output)
    chosen = check_output(path, format, overwrite)
    if path is not None:
        check_file(path)
    counts: Counter[str] = Counter()
    shown = sys.stdout
    assert isinstance(shown, Output)
    file = shown.raw() if path is None else path
    try:
        passed = PassedOver()
        paths = find_images(images, passed, columns(column or ()))
        say(console, *passed.notes())
        networks = open_networks([model, *(others or [])])
        if not uncalibrated and (note := not_calibrated(networks)):
            say(console, note)
        torch_device = choose_device(device)
        # Rows on a terminal are progress enough, and a bar would be drawn into them.
        quiet = path is None and sys.stdout.isatty()
        with ProgressBar(Console(quiet=True) if quiet else console, len(paths), "predicting") as bar:
            found = predictions(
                networks,
                paths,
                top=top,
                unsure_below=unsure_below,
                calibrated=not uncalibrated,
                batch=batch,
                device=torch_device,
                precision=precision,
                reporter=bar,
            )
            began = time.monotonic()
            write_predictions(_counted(found, counts), file, chosen, top)
    except BrokenPipeError as error:  # whoever reads has read enough, as ``head``
        shown.fail(error)
        return
    except KeyboardInterrupt:
        kept = "" if path is None else f"; {path} is not written"
        raise UserError(f"interrupted after {counts['images']} images{kept}") from None
    seconds = time.monotonic() - began
    say(console, _summary(counts, seconds, unsure_below, "" if path is None else str(path)))
    if counts["unread"] == len(paths):
        raise UserError(f"none of the images could be read ({len(paths)}); the column 'error' says why")


def _counted(found: Iterable[Prediction], counts: Counter[str]) -> Iterator[Prediction]:
    for each in found:
        counts.update(images=1, unread=int(each.error is not None), unsure=int(each.unsure))
        yield each


def _summary(counts: Counter[str], seconds: float, unsure_below: float, path: str) -> str:
    pace = counts["images"] / max(seconds, 1e-9)
    parts = [f"{counts['images']} image{'s'[: counts['images'] != 1]} in {seconds:.1f} s ({pace:.1f} images/s)"]
    if counts["unread"]:
        parts.append(f"{counts['unread']} cannot be read")
    if unsure_below:
        parts.append(f"{counts['unsure']} unsure (below {unsure_below:g})")
    return "; ".join(parts) + (f"; written: {path}" if path else "")
