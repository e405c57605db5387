"""``largedrop sweep``: all runs of a preset (a figure of the paper, or your own), and the report on them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..config import RIVALS, Config
from ..data import SOURCES
from ..errors import UserError
from ..names import counted
from ..report.text import Table, render
from .destination import check_folder
from .launching import AUTO, Address, Cpus, Gpus, Jobs, Launcher, Slurm, TimeLimit, Worker, command_of, request_of
from .options import Classes, Column, Device, DryRun, GroupPattern, Plain, Precision, SkipBad, SplitFile, Track, plainly
from .status import AsJson, Status, show_status

if TYPE_CHECKING:
    import torch

    from ..analysis.interpolation import Shifted
    from ..data.dataset import Dataset
    from ..experiments.launchers import Request
    from ..experiments.preset import Scale
    from ..experiments.sweep import Sweep, SweepPlan
    from ..tracking.following import Opens

__all__ = ["sweep"]

LISTED_DOMAINS = 4
"""Number of test domains for which ``--list`` counts runs: that of all but one of the paper's datasets."""


def sweep(
    preset: Annotated[
        str | None, typer.Argument(help="A name that --list shows, or a TOML file of your own.", metavar="PRESET")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help=f"What to train on: {SOURCES}.", metavar="DATA", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for runs and reports. Sweeps into the same folder share their runs."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="'full', or 'small': the same structure within an hour on two processor cores.")
    ] = "full",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            help="Initial weights from a safetensors file instead of the model hub: FILE, or MODEL=FILE where the "
            "preset has several (again for each).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    test_on: Annotated[
        list[str] | None,
        typer.Option(
            "--test-on",
            help="For figure 1 on ImageNet, which is one domain: NAME=DATA, a shifted ImageNet (ImageNet-V2, -R, "
            "-Sketch, -A, ObjectNet) and where it is; again for each. The o.o.d. accuracy is the mean over them.",
            metavar="NAME=DATA",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    launcher: Launcher = "local",
    jobs: Jobs = None,
    address: Address = None,
    gpus: Gpus = None,
    cpus: Cpus = None,
    time_limit: TimeLimit = None,
    slurm: Slurm = None,
    worker: Worker = None,
    plain: Plain = False,
    track: Track = None,
    column: Column = None,
    classes: Classes = "union",
    group_pattern: GroupPattern = None,
    split: SplitFile = None,
    skip_bad_images: SkipBad = False,
    dry_run: DryRun = False,
    status: Status = False,
    as_json: AsJson = False,
    listing: Annotated[bool, typer.Option("--list", help="Show the presets that come with largedrop.")] = False,
) -> None:
    """Train every run of a preset (a figure of the paper), and report on them. The same command resumes."""
    if status:
        show_status(output, preset, as_json)
        return
    if as_json:
        raise UserError("--json goes with --status")
    from ..experiments.preset import preset_names, read_preset

    console = Console(stderr=False)
    flags = {"--address": address, "--gpus": gpus, "--cpus": cpus, "--time-limit": time_limit, "--slurm": slurm}
    request = request_of(launcher, jobs, flags, worker=worker is not None)
    if listing:
        if preset is not None:
            raise UserError(f"--list shows every preset; leave '{preset}' out")
        _list(console)
        return
    if preset is None:
        raise UserError(f"name a preset ({', '.join(preset_names())}) or a TOML file; --list shows them")
    read = read_preset(preset)
    chosen = read.scale(scale)
    if test_on and chosen.afterwards != ("interpolation",):
        raise UserError(f"--test-on is for presets with interpolations alone, such as paper-figure-1, not {read.name}")
    missing = [name for name, value in (("--data", data), ("--output", output)) if value is None]
    if data is None or output is None:
        raise UserError(f"{' and '.join(missing)} must be given")

    # torch and timm take seconds to import, which --help, --list and a mistake in a preset should not.
    from ..experiments.launchers.worker import plan_id
    from ..experiments.sweep import SWEEP_FILE, plan_sweep
    from ..runs.folder import named_before
    from ..tracking.following import trackers_of
    from ..training.device import choose_device, default_jobs
    from .terminal import open_images, say, say_classes, say_names, say_paths

    trackers = trackers_of(track or ())
    here, packed = jobs or default_jobs(device), jobs == AUTO
    torch_device = choose_device(device, 2 if packed else here)
    if request.gpus and precision == "auto" and torch_device.type == "cpu":
        raise UserError("--precision auto is what this machine has, and it has no GPU: say float32 or bfloat16")
    opening = {"classes": classes, "group_pattern": group_pattern, "split": split, "skip_bad_images": skip_bad_images}
    opened = open_images(console, data, chosen.values("size"), column, **opening)
    opened = named_before(opened, [output / SWEEP_FILE])
    alone = chosen.test_domains is None and len(opened.domains) == 1
    with plainly(plain):  # the pace is measured
        planned = plan_sweep(
            read,
            scale,
            opened,
            output,
            device=torch_device,
            precision=precision,
            weights=weights or (),
            untested=bool(test_on) or alone,
        )
    say(console, read.title, _summary(planned))
    if alone:
        say(console, f"'{opened.domains[0]}' is the only domain, and there is an i.i.d. score alone")
    say_classes(console, opened, (entry.config for entry in planned.entries))
    say_names(console, opened)
    if dry_run:
        render([_table(planned, chosen)], console)
        return
    sets = [] if worker else _shifted(console, test_on or (), opened, chosen.values("size"), torch_device)
    if launcher == "local":
        sharing = math.floor(1 / request.gpus) if request.gpus and request.gpus < 1 else 1
        with plainly(plain):
            say_paths(console, torch_device, opened, (entry.config for entry in planned.entries))
            result = _train(console, planned, opened, torch_device, here, packed, worker, sharing, trackers)
        if worker is not None:
            trained = counted(len(result.trained), "run")
            say(console, f"{trained} trained here, and nothing is left for this worker")
            return
    else:
        precision = planned.entries[0].config.precision
        on = device if device != "auto" else "cuda" if request.gpus else "cpu" if launcher == "slurm" else device
        told: dict[str, Any] = {
            "--scale": scale,
            "--weights": weights,
            "--test-on": test_on,
            "--device": on,
            "--precision": precision,
            "--column": column,
        }
        told |= {"--classes": classes, "--group-pattern": group_pattern, "--split": split and split.absolute()}
        told |= {"--skip-bad-images": skip_bad_images, "--gpus": request.gpus, "--plain": plain}
        name = preset if preset in preset_names() else str(read.path.absolute())
        arguments = command_of(name, data, output, plan_id(planned), told)
        result = _launch(console, planned, opened, launcher, arguments, request, trackers)
        if launcher == "commands":
            return
    _finish(console, planned, opened, torch_device, result, sets)


def _shifted(
    console: Console, named: Sequence[str], data: Dataset, sizes: Sequence[int], device: torch.device
) -> list[Shifted]:
    """The shifted ImageNets that ``--test-on`` names."""
    from ..analysis.interpolation import Shifted
    from ..catalog.facts import published
    from ..data.views.batches import open_views
    from .terminal import open_images

    found = []
    for text in named:
        name, equals, source = text.partition("=")
        if not equals or not source:
            raise UserError(f"--test-on takes NAME=DATA, such as ImageNet-A=path/to/imagenet-a, not {text}")
        facts, images = published(name), open_images(console, source, sizes, None)
        found.append(Shifted(facts.name, images, data.classes, open_views(images, device)))
    return found


def _train(
    console: Console,
    planned: SweepPlan,
    data: Dataset,
    device: torch.device,
    jobs: int,
    packed: bool,
    worker: str | None,
    sharing: int,
    trackers: Mapping[str, Opens],
) -> Sweep:
    """Train the pending runs here.

    Args:
        worker: plan that this process was launched for, to take what no other process has; else None.
    """
    from ..experiments.launchers.worker import check_plan
    from ..experiments.sweep import run_sweep
    from ..tracking.following import followed
    from ..training.features import VIEWS
    from .terminal import ProgressBar

    if worker is not None:
        check_plan(planned, worker)
    total = planned.work + VIEWS * len(data)
    bar = ProgressBar(console, total, "sweep", len(planned.pending), _named)
    with bar, bar.interruptible(), followed(bar, trackers) as reporter:
        options: dict[str, Any] = {"jobs": jobs, "packed": packed, "wait": worker is None, "sharing": sharing}
        return run_sweep(data, planned, device=device, reporter=reporter, **options)


def _launch(
    console: Console,
    planned: SweepPlan,
    data: Dataset,
    launcher: str,
    arguments: tuple[str, ...],
    request: Request,
    trackers: Mapping[str, Opens],
) -> Sweep:
    """Have workers train the pending runs, or write their commands."""
    from ..experiments.launchers import launch
    from ..experiments.launchers.commands import write_commands
    from ..experiments.launchers.worker import Worker as Command
    from ..experiments.sweep import begin_sweep, ended_sweep
    from ..tracking.following import followed
    from .terminal import ProgressBar, say

    begin_sweep(data, planned)
    log = planned.folder.absolute() / "workers"
    command = Command(arguments, log)
    if launcher == "commands":
        assert request.jobs is not None
        write_commands(log / "commands.txt", command, request.jobs)
        say(
            console,
            f"written: {log / 'commands.txt'}, a command for each of {request.jobs} workers; this one without "
            "--launcher trains what they leave, and reports",
        )
        return ended_sweep(planned)
    bar = ProgressBar(console, planned.work, "sweep", len(planned.pending), _named)
    with bar, bar.interruptible(), followed(bar, trackers) as reporter:
        launch(launcher, command, planned, request, reporter)
    return ended_sweep(planned)


def _finish(
    console: Console,
    planned: SweepPlan,
    data: Dataset,
    device: torch.device,
    result: Sweep,
    test_on: Sequence[Shifted] = (),
) -> None:
    """Write the report on what was trained.

    Raises:
        UserError: runs collapsed or failed; the report on the others is written.
    """
    from ..report.sweep import report_sweep
    from .terminal import say

    refused = _afterwards(console, planned, data, device, test_on)
    for config, trace in result.broken:
        print(f"{_named(config)} failed:\n{trace}", file=sys.stderr)
    runs = planned.folder / "runs"
    check_folder(planned.report, f"`largedrop report {runs} --output FOLDER` writes one elsewhere")
    files = report_sweep(planned)
    if files:
        say(console, "written:", *(f"  {path}" for path in files))
    say(console, *(f"not computed: {line}" for line in refused))
    told = [
        f"{len(runs)} of {len(planned.entries)} runs {what}"
        for runs, what in ((result.collapsed, "collapsed"), (result.broken, "failed"))
        if runs
    ]
    if told:
        raise UserError(f"{' and '.join(told)} and are missing from the report")


def _afterwards(
    console: Console, planned: SweepPlan, data: Any, device: Any, test_on: Sequence[Shifted] = ()
) -> list[str]:
    """Compute the preset's ``afterwards``; returns a line for each result that cannot be computed."""
    from ..analysis.afterwards import afterwards, afterwards_cost
    from .terminal import ProgressBar

    names = planned.preset.scale(planned.scale).afterwards
    runs = planned.finished
    if not names or not runs:
        return []
    total = afterwards_cost(names, runs, data, planned.folder, test_on)
    with ProgressBar(console, max(total, 1), " and ".join(names)) as bar, bar.interruptible():
        return afterwards(names, runs, data, planned.folder, test_on=test_on, device=device, reporter=bar)


def _list(console: Console) -> None:
    from ..experiments.preset import FOLDER, preset_names, read_preset
    from .terminal import say

    presets = [read_preset(name) for name in preset_names()]
    rows = [(each.name, each.figure, _cost(each.full), _cost(each.small), each.title) for each in presets]
    render([Table("", ("preset", "figure", "full", "small", "what"), rows, (), left=5)], console)
    say(
        console,
        "",
        f"full, small: runs × steps of each, with {LISTED_DOMAINS} test domains. Runs that two presets share are "
        "trained once where they have the same --output.",
        f"Expected numbers and the whole cost stand at the top of the files in {FOLDER}",
    )


def _cost(scale: Scale | None) -> str:
    if scale is None:
        return "–"
    runs = scale.runs([str(number) for number in range(LISTED_DOMAINS)])
    steps = scale.values("steps")
    return f"{len(runs)} × {steps[0]:,}" if len(steps) == 1 else f"{len(runs)}"


def _summary(planned: SweepPlan) -> str:
    from ..experiments.pace import time_told

    states = [entry.state for entry in planned.entries]
    finished, begun = states.count("finished"), states.count("begun")
    there = ", ".join(
        text for text in (f"{finished} finished" * bool(finished), f"{begun} begun" * bool(begun)) if text
    )
    time = time_told(planned.seconds, planned.rough) if planned.pending else "nothing to train"
    return (
        f"{counted(len(states), 'run')}{f' ({there})' if there else ''}, {planned.steps:,} steps to go, "
        f"{_bytes(planned.size)} when all are finished; {time}"
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _table(planned: SweepPlan, scale: Scale) -> Table:
    from ..runs.record import shown
    from ..selection.settings import without_followers

    varied = [name for name in scale.varied if name != "steps"]
    names = without_followers(varied, [entry.config.to_json() for entry in planned.entries])
    heads = ("", *(name.replace("_", " ") for name in names), "steps", "disk", "")
    rows = []
    for number, (config, size, state) in enumerate(((e.config, e.size, e.state) for e in planned.entries), 1):
        values = (shown(getattr(config, name)) for name in names)
        rows.append((str(number), *values, f"{config.steps:,}", _bytes(size), state))
    return Table("", heads, rows, (), left=1 + len(names))


def _named(config: Config) -> str:
    from ..runs.record import shown

    rivals = {name: getattr(config, name) for name, usual in RIVALS.items() if getattr(config, name) != usual}
    head = {"head": config.head} if config.fit == "all" and config.head != "warm" else {}
    named = {"dropout": config.dropout, **head, **rivals, "lr": config.lr, "weight decay": config.weight_decay}
    said = (f"{name.replace('_', ' ')} {shown(value)}" for name, value in {**named, "seed": config.seed}.items())
    return ", ".join([config.test_domain, *said])
