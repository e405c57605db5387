"""``largedrop sweep``: all runs of a figure of the paper, or of a preset of one's own, and the report on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..config import Config
from ..data import SOURCES
from ..errors import UserError, one_of
from .options import Device, DryRun, Jobs, Precision, SkipBad

if TYPE_CHECKING:
    from ..experiments.preset import Scale
    from ..experiments.sweep import SweepPlan

__all__ = ["sweep"]


LAUNCHERS = ("local",)

LISTED_DOMAINS = 4
"""For how many test domains ``--list`` counts the runs: as many as all but one of the paper's datasets have."""


def sweep(
    preset: Annotated[
        str | None, typer.Argument(help="A name that --list shows, or a TOML file of your own.", metavar="PRESET")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help=f"What to train on: {SOURCES}.", metavar="DATA", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for runs and reports. Presets that are swept into the same one share their runs."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="'full', or 'small': the same structure within an hour on two processor cores.")
    ] = "full",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Initial weights from a safetensors file instead of the model hub: FILE, or MODEL=FILE where the "
            "preset has several (again for each).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    launcher: Annotated[str, typer.Option(help="Where the runs are trained: 'local', on this machine.")] = "local",
    jobs: Jobs = 1,
    skip_bad_images: SkipBad = False,
    dry_run: DryRun = False,
    listing: Annotated[bool, typer.Option("--list", help="Show the presets that come with largedrop.")] = False,
) -> None:
    """Train every run of a preset (a figure of the paper), and report on them. The same command goes on."""
    from ..experiments.preset import preset_names, read_preset

    console = Console(stderr=False)
    if launcher not in LAUNCHERS:
        raise UserError(f"unknown launcher '{launcher}'; {one_of(launcher, LAUNCHERS)}")
    if listing:
        if preset is not None:
            raise UserError(f"--list shows every preset; leave '{preset}' out")
        _list(console)
        return
    if preset is None:
        raise UserError(f"name a preset ({', '.join(preset_names())}) or a TOML file; --list shows them")
    read = read_preset(preset)
    chosen = read.scale(scale)
    missing = [name for name, value in (("--data", data), ("--output", output)) if value is None]
    if data is None or output is None:
        raise UserError(f"{' and '.join(missing)} must be given")

    # torch and timm take seconds to import, which --help, --list and a mistake in a preset should not.
    from ..experiments.sweep import plan_sweep
    from ..training.device import choose_device
    from .terminal import open_images, say

    place = choose_device(device)
    opened = open_images(console, data, chosen.values("size"), skip_bad_images)
    planned = plan_sweep(read, scale, opened, output, device=place, precision=precision, weights=weights or ())
    say(console, read.title, _summary(planned))
    if dry_run:
        console.print(_table(planned, chosen))
        return
    _run(console, planned, opened, place, jobs)


def _run(console: Console, planned: SweepPlan, data: Any, place: Any, jobs: int) -> None:
    """Train what is pending and write the report.

    Raises:
        UserError: runs collapsed or failed; the others, and their report, are there.
    """
    from ..experiments.sweep import run_sweep
    from ..report.sweep import report_sweep
    from ..training.features import VIEWS
    from .terminal import Bar, say

    total = planned.work + VIEWS * len(data)
    with Bar(console, total, "sweep", len(planned.pending), _named) as bar, bar.interruptible():
        result = run_sweep(data, planned, device=place, jobs=jobs, reporter=bar)
    refused = _afterwards(console, planned, data, place)
    for config, trace in result.broken:
        print(f"{_named(config)} failed twice:\n{trace}", file=sys.stderr)
    files = report_sweep(planned)
    if files:
        say(console, "written:", *(f"  {path}" for path in files))
    say(console, *(f"not computed: {line}" for line in refused))
    told = [
        f"{len(runs)} of {len(planned.entries)} runs {what}"
        for runs, what in ((result.collapsed, "collapsed"), (result.broken, "failed twice"))
        if runs
    ]
    if told:
        raise UserError(f"{' and '.join(told)} and are missing from the report")


def _afterwards(console: Console, planned: SweepPlan, data: Any, place: Any) -> list[str]:
    """What the preset wants of the finished runs; returns what could not be computed."""
    from ..analysis.afterwards import afterwards, afterwards_cost
    from .terminal import Bar

    names = planned.preset.scale(planned.scale).afterwards
    runs = planned.finished
    if not names or not runs:
        return []
    total = afterwards_cost(names, runs, data, planned.folder)
    with Bar(console, max(total, 1), " and ".join(names)) as bar, bar.interruptible():
        return afterwards(names, runs, data, planned.folder, device=place, reporter=bar)


def _list(console: Console) -> None:
    from ..experiments.preset import FOLDER, preset_names, read_preset

    table = Table(box=box.SIMPLE_HEAD)
    for head in ("preset", "figure", "full", "small"):
        table.add_column(head, no_wrap=True)
    table.add_column("what")
    for name in preset_names():
        preset = read_preset(name)
        small = "–" if preset.small is None else _cost(preset.small)
        table.add_row(name, preset.figure, _cost(preset.full), small, preset.title)
    console.print(table)
    console.print(
        f"full, small: runs × steps of each, with {LISTED_DOMAINS} test domains. What two presets share is trained "
        "once where they have the same --output.\nExpected numbers and the whole cost stand at the top of the files in "
        f"{FOLDER}",
        highlight=False,
        soft_wrap=True,
    )


def _cost(scale: Scale) -> str:
    runs = scale.runs([str(number) for number in range(LISTED_DOMAINS)])
    found = scale.values("steps")
    steps = found[0] if len(found) == 1 else None
    return f"{len(runs)}" + (f" × {steps:,}" if steps is not None else "")


def _summary(planned: SweepPlan) -> str:
    from ..runs.estimate import duration

    states = [entry.state for entry in planned.entries]
    finished, begun = states.count("finished"), states.count("begun")
    there = ", ".join(
        text for text in (f"{finished} finished" * bool(finished), f"{begun} begun" * bool(begun)) if text
    )
    if not planned.pending:
        time = "nothing to train"
    elif planned.rough:
        time = f"very roughly {duration(planned.seconds)} one after the other, by the speed of the network alone"
    else:
        time = f"{duration(planned.seconds)} one after the other at the pace of those finished here"
    return (
        f"{len(states)} runs{f' ({there})' if there else ''}, {planned.steps:,} steps to go, "
        f"{_bytes(planned.size)} when all are finished; {time}"
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _table(planned: SweepPlan, scale: Scale) -> Table:
    from ..selection.groups import without_followers

    varied = [name for name in scale.varied if name != "steps"]
    names = without_followers(varied, [entry.config.to_json() for entry in planned.entries])
    heads = ("", *(name.replace("_", " ") for name in names), "steps")
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("disk", ""):
        table.add_column(head, no_wrap=True)
    for number, entry in enumerate(planned.entries, 1):
        values = (getattr(entry.config, name) for name in names)
        shown = (f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values)
        table.add_row(str(number), *shown, f"{entry.config.steps:,}", _bytes(entry.size), entry.state)
    return table


def _named(config: Config) -> str:
    return (
        f"{config.test_domain}, dropout {config.dropout:g}, lr {config.lr:g}, weight decay {config.weight_decay:g}, "
        f"seed {config.seed}"
    )
