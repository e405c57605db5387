"""Options that several commands share, made from the config's fields where they are fields."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import ABOUT, DEFAULT_RECIPE, RECIPES, TYPES, defaults_of, problems_of
from ..data import SOURCES
from ..errors import UserError
from ..names import names_in
from .settings_file import SettingsFile

__all__ = ["columns", "domains_in", "listed", "numbers", "option", "plainly", "rates", "run_options"]


def option(name: str, more: str = "") -> Any:
    """The option for a field of the config, with its help, its default in each recipe, and ``more``."""
    values = {recipe: defaults_of(recipe)[name] for recipe in RECIPES}
    same = len(set(values.values())) == 1
    shown = f"{values[DEFAULT_RECIPE]}" if same else ", ".join(f"{recipe}: {value}" for recipe, value in values.items())
    tail = "" if shown in ("None", "False", "") else f" [default: {shown}]"
    flags = [f"--{name.replace('_', '-')}"]  # one flag, so that a switch has no --no-…
    return typer.Option(*flags, help=f"{ABOUT[name].help}{tail}{more}", show_default=False)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each of ``SHARED`` as its ``**settings``, without those that are None; its own
    option goes before one of the same name.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [entry for entry in own if entry.kind is not entry.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in SHARED.items()
        if name not in {entry.name for entry in own}
    ]

    @functools.wraps(command)
    def with_options(plain: bool = False, **options: Any) -> None:
        with plainly(plain):
            command(**{name: value for name, value in options.items() if value is not None})

    # Typer makes the command line from these attributes.
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return with_options


@contextmanager
def plainly(plain: bool) -> Iterator[None]:
    """Take no fast path within the block, nor in the processes that it starts, where ``plain`` is set."""
    if not plain:
        yield
        return
    from ..fast_paths import FastPaths, only

    with only(FastPaths()):
        yield


AUTO = "auto"
"""The dropout rate that ``advise`` recommends for each test domain."""


def listed(flag: str, text: str) -> list[str]:
    """The names in an option's text, separated by commas.

    Raises:
        UserError: there are no names.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{flag} names nothing: {text!r}")
    return names


def domains_in(texts: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """The domains that options name: each text is a domain's name, or several (``names.names_in``).

    Args:
        known: names of the domains that there are.

    Raises:
        UserError: a text names nothing, or its quotes do not match.
    """
    found: list[str] = []
    for text in texts:
        names = [text] if text in known else names_in(text)
        if not names:
            raise UserError(f"a test domain is named by nothing: {text!r}")
        found += names
    return tuple(found)


def rates(flag: str, text: str, *, auto: bool = False) -> list[float | str]:
    """The dropout rates in an option's text, which may contain ``auto`` where ``auto`` is set.

    Raises:
        UserError: there are no rates, or a rate is out of range.
    """
    return [name if auto and name == AUTO else _number(name, "dropout") for name in listed(flag, text)]


def numbers(flag: str, text: str, field: str) -> list[float]:
    """The values of a field of the config in an option's text.

    Raises:
        UserError: there are none, or one is out of range.
    """
    return [_number(name, field) for name in listed(flag, text)]


def _number(text: str, field: str) -> float:
    try:
        number: float | str = float(text)
    except ValueError:
        number = text
    for problem in problems_of({field: number}):
        raise UserError(problem)
    return float(number)


def columns(texts: Iterable[str]) -> dict[str, str]:
    """The names of a table's columns by what they say, from ``label=species``.

    Raises:
        UserError: there is no ``=``, or two say the same.
    """
    found: dict[str, str] = {}
    for text in texts:
        what, equals, name = text.partition("=")
        if not equals:
            raise UserError(f"--column {text} must be like label=species")
        if what.strip() in found:
            raise UserError(f"--column names two columns for the {what.strip()}")
        found[what.strip()] = name
    return found


Data = Annotated[str, typer.Argument(help=f"What to train on: {SOURCES}.", metavar="DATA")]

Recipe = Annotated[
    str,
    typer.Option(
        help="Defaults: 'robust' (minutes, for a shift nobody has seen), 'short' (the paper's method in minutes) or "
        "'paper' (10,000 steps at 224 pixels)."
    ),
]

Precision = Annotated[str, typer.Option(help="'float32', 'bfloat16', or 'auto': bfloat16 where the device has it.")]

Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda' or 'cuda:1'.")]

Jobs = Annotated[
    int, typer.Option(help="Runs side by side, each in its own process: for a GPU that one run leaves idle.", min=1)
]

Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="Take no fast path: no images in a GPU's memory, no recorded steps, no folded batch norms, no kernels of "
        "our own choice. On a GPU only those that `largedrop doctor` found to be right are taken anyway.",
    ),
]

Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="Time for each run on this machine, such as 90s, 10m or 1.5h, instead of --steps and --eval-every: they, "
        "and --size where it is not given, are what fits, by a short measurement.",
        metavar="TIME",
    ),
]

Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Send each evaluation and result to a tracker as well: 'tensorboard', 'trackio', 'wandb' or 'mlflow' "
        "(again for each). A tracker that fails ends nothing, and the same command sends what is missing.",
        show_default=False,
    ),
]

Seeds = Annotated[int, typer.Option(help="How many seeds: 0, 1, …", min=1, max=100_000)]

IN_QUOTES = "one with a comma in it, where there are several, in double quotes"

SkipBad = Annotated[bool, typer.Option("--skip-bad-images", help="Skip images that cannot be decoded, and count them.")]

Classes = Annotated[
    str,
    typer.Option(
        help="Where domains differ in their classes: 'union' (all of them, each domain scored on those it has) or "
        "'common' (only those that every domain has)."
    ),
]

Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="A table's column for its path, label, domain, group or split where it has another name, such as "
        "label=species (again for each); group= has none read.",
        metavar="WHAT=NAME",
        show_default=False,
    ),
]

GroupPattern = Annotated[
    str | None,
    typer.Option(
        "--group-pattern",
        help="Regular expression whose parentheses find, in the names of the files, what belongs together (a burst, a "
        "video, a patient), such as '^(seq[0-9]+)_'; with a / in it, in the path below the class. No group is trained "
        "on and held out.",
        metavar="REGEX",
        show_default=False,
    ),
]

SplitFile = Annotated[
    Path | None,
    typer.Option(
        "--split",
        help="Split as a table says, with the columns key and split (train, validation or test), such as a run's "
        "split.csv, instead of by seed.",
        metavar="FILE",
        show_default=False,
    ),
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]

Epochs = Annotated[
    float | None,
    typer.Option(
        help="Steps as passes over the training images, on average over the training domains, instead of --steps; "
        "evaluated as often as the recipe does unless --eval-every says.",
        show_default=False,
    ),
]

SHARED: dict[str, tuple[Any, Any]] = {
    "config": (SettingsFile, None),
    "recipe": (Recipe, DEFAULT_RECIPE),
    **{name: (Annotated[TYPES[name][0] | None, option(name)], None) for name, about in ABOUT.items() if about.option},
    "epochs": (Epochs, None),
    "budget": (Budget, None),
    "precision": (Precision, "auto"),
    "device": (Device, "auto"),
    "jobs": (Jobs, 1),
    "plain": (Plain, False),
    "track": (Track, None),
    "column": (Column, None),
    "classes": (Classes, "union"),
    "group_pattern": (GroupPattern, None),
    "split": (SplitFile, None),
    "skip_bad_images": (SkipBad, False),
    "dry_run": (DryRun, False),
}
"""Annotation and default of the options of every command that trains runs with one set of settings."""
