"""``largedrop advise``: advice on the dropout rate before training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..config import defaults_of
from .destination import check_folder
from .options import (
    IN_QUOTES,
    Classes,
    Column,
    Data,
    Device,
    GroupPattern,
    Precision,
    SkipBad,
    SplitFile,
    domains_in,
    option,
)
from .options import rates as listed_rates

__all__ = ["advise"]


DEFAULTS = defaults_of("short")


def advise(
    data: Data,
    test_domain: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Domain for the test, whose images are not used. Again for each of several, or separated by commas "
            f"({IN_QUOTES}). [default: every domain is trained on]",
            show_default=False,
        ),
    ] = None,
    left_out: Annotated[str, option("left_out")] = "",
    rates: Annotated[
        str, typer.Option(help="Dropout rates to measure, separated by commas; 0 is added.")
    ] = "0,0.25,0.5,0.75,0.9,0.95",
    seeds: Annotated[int, typer.Option(help="How many i.i.d. splits: 0, 1, …", min=1)] = 2,
    output: Annotated[
        Path | None, typer.Option(help="Folder for advice.json and the figure. [default: largedrop-advice/DATA]")
    ] = None,
    model: Annotated[str, option("model")] = DEFAULTS["model"],
    weights: Annotated[str, option("weights")] = DEFAULTS["weights"],
    size: Annotated[int, option("size")] = DEFAULTS["size"],
    balance: Annotated[bool, option("balance")] = False,
    class_weights: Annotated[str, option("class_weights")] = DEFAULTS["class_weights"],
    select_by: Annotated[str, option("select_by")] = DEFAULTS["select_by"],
    precision: Precision = "auto",
    device: Device = "auto",
    column: Column = None,
    classes: Classes = "union",
    group_pattern: GroupPattern = None,
    split: SplitFile = None,
    skip_bad_images: SkipBad = False,
) -> None:
    """Which dropout rate to use and whether it will help: linear heads, each training domain held out in turn."""
    from ..analysis.advice import advise as find_advice
    from ..files import write_json
    from ..paths import fitting
    from ..report.advice import advice_figure, advice_json, render_advice
    from ..report.drawing.style import save_figure
    from ..training.device import choose_device
    from .terminal import ProgressBar, open_images, say, say_names

    console = Console(stderr=False)
    torch_device = choose_device(device)
    measured = [float(rate) for rate in listed_rates("--rates", rates)]
    opening = {"classes": classes, "group_pattern": group_pattern, "split": split, "skip_bad_images": skip_bad_images}
    opened = open_images(console, data, [size], column, **opening)
    say_names(console, opened)
    tested = domains_in(test_domain or (), (*opened.domains, *opened.unlabelled))
    unseen = [*tested, *filter(None, (left_out,))]
    folder = output or Path("largedrop-advice") / fitting("-without-".join([opened.name, *unseen]))
    check_folder(folder)
    with ProgressBar(console, 2 * len(opened), "advising") as bar:
        found = find_advice(
            opened,
            test_domain=tested,
            left_out=left_out,
            model=model,
            size=size,
            weights=weights,
            precision=precision,
            rates=measured,
            seeds=range(seeds),
            balance=balance,
            class_weights=class_weights,
            select_by=select_by,
            device=torch_device,
            reporter=bar,
        )
    title = f"{opened.name}{' without ' if unseen else ''}{' and '.join(unseen)}"
    try:
        write_json(folder / "advice.json", advice_json(found))
        written = [folder / "advice.json", *save_figure(advice_figure(found, title=title), folder / "advice")]
    finally:
        render_advice(found, console)
    say(console, "written:", *(f"  {path}" for path in written))
