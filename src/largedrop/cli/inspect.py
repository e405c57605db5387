"""``largedrop inspect``: richness and linearity of fine-tuned representations, plain against dropout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..data import SOURCES
from ..errors import UserError
from .destination import check_folder
from .options import Classes, Column, Device, GroupPattern, SplitFile, listed

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..runs.run import Run

__all__ = ["inspect"]


def inspect(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs, or folders with finished runs, at any depth.", metavar="RUN")
    ],
    data: Annotated[
        str | None,
        typer.Option(help=f"The images that the runs were trained on: {SOURCES}, which need not be named."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for inspection.json and figures. [default: inspection, in RUN if it is one]"),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="Whose representation: 'best' (i.i.d. accuracy), 'average' or 'final' weights.")
    ] = "best",
    measures: Annotated[
        str, typer.Option(help="What to measure, separated by commas; interpolation takes the longest.")
    ] = "richness,linearity,interpolation",
    images: Annotated[int, typer.Option(help="I.i.d., o.o.d. and training images to measure on, each.", min=2)] = 512,
    draws: Annotated[int, typer.Option(help="Random subsets of the units for each share.", min=1)] = 10,
    column: Column = None,
    classes: Classes = "union",
    group_pattern: GroupPattern = None,
    split: SplitFile = None,
    device: Device = "auto",
) -> None:
    """How rich a representation is and how linear the fine-tuning was: plain fine-tuning against dropout."""
    from ..analysis.inspection import find_runs, inspect_run, inspection_cost
    from ..analysis.inspection_compare import compare_inspections, inspection_json
    from ..data.views.batches import open_views
    from ..files import write_json
    from ..report.drawing.style import save_figure
    from ..report.inspection import inspection_figure, interpolation_figure, render_comparison
    from ..training.device import choose_device
    from ..training.features import FeatureCache
    from .terminal import ProgressBar, say

    console = Console(stderr=False)
    torch_device = choose_device(device)
    chosen = listed("--measures", measures)
    found, unusable = find_runs(runs)
    say(console, *(f"unusable: {line}" for line in unusable))
    opened = _open(
        found, data, {"classes": classes, "column": column, "group_pattern": group_pattern, "split": split}, console
    )
    folder = output or (runs[0] if len(runs) == 1 else Path()) / "inspection"
    check_folder(folder)
    with ProgressBar(console, inspection_cost(found, opened, chosen, images), "inspecting") as bar:
        cache = FeatureCache(open_views(opened, torch_device, bar), bar)
        inspections = []
        for number, run in enumerate(found, 1):
            bar.describe(f"{number}/{len(found)} {run.folder.name}")
            inspections.append(
                inspect_run(
                    run,
                    opened,
                    cache,
                    measures=chosen,
                    checkpoint=checkpoint,
                    images=images,
                    draws=draws,
                    reporter=bar,
                )
            )
    comparisons = compare_inspections(inspections)
    written = [folder / "inspection.json"]
    about = {"checkpoint": checkpoint, "measures": chosen, "images": images, "draws": draws}
    try:
        write_json(written[0], inspection_json(inspections, comparisons, **about))
        for number, comparison in enumerate(comparisons, 1):
            stem = f"-{number}" if len(comparisons) > 1 else ""
            title = ", ".join([opened.name, *([comparison.title] if comparison.title else [])])
            if "richness" in chosen:
                written += save_figure(inspection_figure(comparison, title=title), folder / f"richness{stem}")
            if "interpolation" in chosen:
                written += save_figure(interpolation_figure(comparison, title=title), folder / f"interpolation{stem}")
    finally:
        for comparison in comparisons:
            render_comparison(comparison, console)
    runs_of = f"{len(found)} run{'s'[: len(found) > 1]} of {opened.name}"
    say(console, f"{runs_of}; written:", *(f"  {path}" for path in written))


def _open(runs: list[Run], source: str | None, options: dict[str, Any], console: Console) -> Dataset:
    """The dataset of the runs; ``emoji`` need not be named.

    Raises:
        UserError: the dataset is not named, or not that of the runs.
    """
    from .terminal import open_images

    config = runs[0].config
    if source is None and config.data != "emoji":
        raise UserError(f"where are the images of {config.data}? name their folder with --data")
    opened = open_images(console, source or "emoji", [run.config.size for run in runs], **options)
    if opened.fingerprint != config.fingerprint:
        raise UserError(
            f"{runs[0].folder.name} was trained on other images than {source or 'emoji'} has now (a {config.data} of "
            f"digest {config.fingerprint[:12]}, not {opened.fingerprint[:12]}); name its own with --data"
        )
    return opened
