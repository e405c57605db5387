"""What ``sweep`` gives to workers on other machines: the options of launchers, and the command of a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError, one_of
from ..paths import expanded

if TYPE_CHECKING:
    from ..experiments.launchers import Request

__all__ = [
    "AUTO",
    "Address",
    "Cpus",
    "Gpus",
    "Jobs",
    "Launcher",
    "Slurm",
    "TimeLimit",
    "Worker",
    "command_of",
    "request_of",
]

LAUNCHERS = ("local", "ray", "slurm", "commands")

OPTIONS = {
    "--address": ("ray",),
    "--gpus": ("ray", "slurm"),
    "--cpus": ("ray", "slurm"),
    "--time-limit": ("slurm",),
    "--slurm": ("slurm",),
}
"""The launchers that take an option, as others would pass over it in silence."""

LEAST = 300.0
"""Shortest time limit of a job, in seconds: Slurm says 90 seconds before it that it nears."""

Launcher = Annotated[
    str,
    typer.Option(
        help="Where the runs are trained: 'local', on this machine; 'ray', on a cluster of Ray's; 'slurm', as jobs of "
        "an array; 'commands', by commands that are written to a file, for any scheduler."
    ),
]

AUTO = 0
"""Value of ``--jobs auto``."""


def _jobs(text: str) -> int:
    if text == "auto":
        return AUTO
    if not text.isdecimal() or not int(text):
        raise typer.BadParameter(f"it must be 'auto', or a whole number from 1, not {text!r}")
    return int(text)


Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        help="Runs side by side, each in its own process; 'auto' for as many as fit by the memory that the first of "
        "their kind took; with another launcher, how many workers. [default: local: one for each GPU; ray: as many as "
        "the cluster has room for]",
        metavar="N",
        parser=_jobs,
        show_default=False,
    ),
]

Address = Annotated[
    str | None,
    typer.Option(help="ray: address of the cluster, or 'auto'. [default: start one here]", show_default=False),
]

Gpus = Annotated[
    float | None,
    typer.Option(
        help="ray, slurm: GPUs for each worker; for ray also a share of one, such as 0.5. [default: ray: 1 where there "
        "are any, slurm: 0]",
        show_default=False,
    ),
]

Cpus = Annotated[
    int | None,
    typer.Option(help="ray, slurm: processor cores for each worker. [default: 1]", min=1, show_default=False),
]

TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        help="slurm: time of a job, such as 90m or 12h; one that reaches it saves and is queued again. [default: 4h]",
        metavar="TIME",
        show_default=False,
    ),
]

Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        help="slurm: a further option of sbatch, such as partition=gpu or mem=32G (again for each).",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]

Worker = Annotated[
    str | None,
    typer.Option(
        "--worker",
        help="What a launcher starts: train what no other process has until nothing is left, without a report. PLAN is "
        "the plan it was launched for.",
        metavar="PLAN",
        show_default=False,
    ),
]


def request_of(launcher: str, jobs: int | None, options: Mapping[str, Any], *, worker: bool = False) -> Request:
    """What is asked of a launcher.

    Args:
        options: texts and numbers of ``OPTIONS`` by flag; None where one is not given.
        worker: whether this is a worker, which is told its share of a GPU.

    Raises:
        UserError: there is no such launcher, or it takes no such option or needs another, or a value is none.
    """
    if launcher not in LAUNCHERS:
        raise UserError(f"unknown launcher '{launcher}'; {one_of(launcher, LAUNCHERS)}")
    given = {flag: value for flag, value in options.items() if value is not None}
    wrong = [flag for flag in given if launcher not in OPTIONS[flag] and not (worker and flag == "--gpus")]
    if wrong:
        for_ = " and ".join(f"--launcher {name}" for name in OPTIONS[wrong[0]])
        raise UserError(f"{wrong[0]} is for {for_}, not for '{launcher}'")
    if worker and launcher != "local":
        raise UserError(f"--worker is what --launcher {launcher} starts: leave one of them out")
    if launcher != "local" and jobs == AUTO:
        raise UserError(f"--jobs auto is for this machine; --launcher {launcher} needs a number")
    if launcher in ("slurm", "commands") and jobs is None:
        raise UserError(f"--launcher {launcher} needs --jobs: how many workers")
    from ..experiments.budget import seconds_of
    from ..experiments.launchers import Request

    gpus = given.get("--gpus")
    if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus % 1 == 0)):
        raise UserError(f"--gpus must be a share from 0 to 1 or a whole number, not {gpus:g}")
    if launcher == "slurm" and gpus is not None and gpus % 1:
        raise UserError(f"--gpus {gpus:g}: Slurm gives whole GPUs")
    further = {
        "address": given.get("--address"),
        "gpus": gpus,
        "cpus": given.get("--cpus", 1),
        "slurm": _sbatch(given.get("--slurm", ())),
    }
    if "--time-limit" in given:
        further["time_limit"] = seconds_of(given["--time-limit"], "--time-limit")
        if further["time_limit"] < LEAST:
            raise UserError(
                f"--time-limit {given['--time-limit']}: a job takes minutes to begin and to save; say 5m or more"
            )
    return Request(jobs, **further)


def _sbatch(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("_", "-")
        if not equals or not name:
            raise UserError(f"--slurm {text} must be like partition=gpu")
        if name in found:
            raise UserError(f"--slurm names {name} twice")
        other = {"time": "--time-limit", "array": "--jobs", "cpus-per-task": "--cpus"}.get(name)
        if other is not None:
            raise UserError(f"--slurm {name}: {other} says that")
        found[name] = value
    return found


def command_of(preset: str, data: str, output: Path, plan: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments of ``largedrop`` with which a worker starts anywhere: paths are absolute.

    Args:
        plan: ``launchers.worker.plan_id`` of the plan.
        options: further options by flag: None and False are left out, True is a switch, a list is given one by one.
    """
    arguments = ["sweep", _absolute(preset), "--data", _absolute(data), "--output", str(output.absolute())]
    arguments += ["--worker", plan]
    for flag, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is True:
                arguments.append(flag)
            elif each is not None and each is not False:
                name, equals, path = str(each).rpartition("=") if flag == "--weights" else ("", "", "")
                shown = f"{name}{equals}{_absolute(path)}" if flag == "--weights" else str(each)
                arguments += [flag, shown]
    return tuple(arguments)


def _absolute(name: str) -> str:
    path = expanded(name)
    return str(path.absolute()) if path.exists() else name
