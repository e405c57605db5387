"""The common part of ``demo``, ``train`` and ``compare``: open the data, plan, train, publish."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..config import ABOUT, Config, defaults_of
from ..errors import UserError
from ..names import counted
from ..paths import expanded
from .options import AUTO, domains_in
from .settings_file import write_settings

if TYPE_CHECKING:
    import torch

    from ..data.dataset import Dataset
    from ..runs.run import Run

__all__ = ["command_line", "run_and_publish"]

MOST_LISTED = 1000
"""Number of runs whose folders a dry run names."""


def run_and_publish(
    source: str,
    output: Path | None,
    *,
    title: str,
    test_domains: Sequence[str] | None,
    device: str,
    command: str = "",
    options: Mapping[str, Any] | None = None,
    skip_bad_images: bool,
    dry_run: bool,
    recipe: str,
    classes: str = "union",
    column: Sequence[str] | None = None,
    group_pattern: str | None = None,
    split: Path | None = None,
    at_once: bool = False,
    checkpoints: bool = False,
    jobs: int = 1,
    budget: str | None = None,
    track: Sequence[str] = (),
    **planning: Any,
) -> None:
    """Open the data, plan, train, and publish.

    Args:
        test_domains: what options say of the test domains; None for each domain in turn.
        at_once: whether a run is tested on all of them at once, or on none, which the title says.
        command: name of the command whose settings file is written, if ``options`` are given.
        options: those of its options that are neither of the data nor fields of the config.
    """
    # torch and timm take seconds to import, which --help and --version should not.
    from ..experiments.compare import FILE, plan, time_left
    from ..experiments.compare import compare as run_comparison
    from ..report.comparison import publish
    from ..runs.checkpoint import check_handed_over
    from ..runs.estimate import duration, listing
    from ..runs.folder import named_before
    from ..tracking.following import followed, trackers_of
    from ..training.device import choose_device
    from ..training.features import VIEWS
    from .terminal import ProgressBar, open_images, say, say_classes, say_names, say_paths

    began = time.monotonic()
    trackers = trackers_of(track)
    each = None if budget is None else _budget(budget, jobs, planning)
    console = Console(stderr=False)
    torch_device = choose_device(device, jobs)
    size = planning.get("size") or defaults_of(recipe)["size"]
    opening = {"classes": classes, "group_pattern": group_pattern, "split": split, "skip_bad_images": skip_bad_images}
    opened = open_images(console, source, [size], column, **opening)
    data = named_before(opened, [output / FILE] if output else sorted(Path("largedrop-runs").glob(f"*/{FILE}")))
    if data is not opened:
        say(console, f"{opened.name} is '{data.name}' under another name: the images are the same")
    named = None if test_domains is None else domains_in(test_domains, (*data.domains, *data.unlabelled))
    planning |= {"test_domains": named, "at_once": at_once}
    folder = output
    if each is not None:
        folder = _fit_budget(console, data, torch_device, recipe, output, each, planning)
    asked = planning["dropouts"]
    planning["dropouts"], chosen = _advised(console, data, torch_device, recipe, planning)
    planned = plan(data, torch_device, recipe=recipe, **planning)
    first = planned.configs[0]
    at_once = at_once or not planned.test_domains
    count, several = planned.count, planned.learning_rates
    if planning.get("masks", 1) > 1 and not any(config.dropout for config in planned.configs):
        say(console, "--masks has no effect at dropout 0, where nothing is masked")
    runs, domains = counted(count, "run"), counted(len(data.domains), "domain")
    say(
        console,
        f"{data.name}: {len(data)} images, {domains}, {len(data.classes)} classes",
        f"{runs} of {counted(first.steps, 'step')} "
        f"({first.model}, {first.size} px, {first.precision}, {torch_device.type})",
    )
    if several:
        others = f", then {len(planned.then):,} with the other seeds at the best i.i.d. of each" if planned.then else ""
        say(
            console,
            f"learning rates {listing([f'{rate:g}' for rate in several])}, by dropout rate and test domain: "
            f"{counted(len(planned.tried), 'run')} with seed {first.seed}{others}",
        )
    say_paths(console, torch_device, data, [first])
    if at_once:
        tested = f"tested on {listing(planned.test_domains)}" if planned.test_domains else "without a test domain"
        title = f"{title}, {tested}"
    if at_once and not planned.test_domains:
        but = f" but '{first.left_out}'" if first.left_out else ""
        trained = f"no test domain: every domain{but} is trained on"
        only = f"'{data.domains[0]}' is the only domain" if len(data.domains) == 1 else ""
        say(console, f"{only or trained}, and there is an i.i.d. score alone")
    say_classes(console, data, planned.configs)
    say_names(console, data)
    folder = folder or Path("largedrop-runs") / planned.folder_name()
    if dry_run:
        say(console, time_left(planned, data, folder, device=torch_device, budget=each))
        listed = planned.tried or planned.configs
        for config in listed[:MOST_LISTED]:
            say(console, f"  {folder / 'runs' / config.run_name}{f' (lr {config.lr:g})' if several else ''}")
        if len(listed) > MOST_LISTED:
            say(console, f"  … and {len(listed) - MOST_LISTED:,} more")
        return
    given = {**opening, "data": _absolute(source), "column": column}
    given["split"] = split and split.absolute()
    rates = asked if len(set(chosen.values())) > 1 else tuple(dict.fromkeys(each.dropout for each in planned.configs))
    repeated = {**given, **(options or {}), "dropout": rates, "recipe": recipe, **_settings(planned.configs)}
    repeated |= {"lr": several} if several else {}

    def keep() -> None:
        if options is not None and os.access(folder, os.W_OK):  # finished runs may be on a read-only disk
            write_settings(folder / f"{command}.toml", command, repeated)

    total = planned.work + VIEWS * len(data)
    bar = ProgressBar(console, total, "fine-tuning", count, partial(_named, several=bool(several)))
    with bar, bar.interruptible(), followed(bar, trackers) as reporter:
        result = run_comparison(
            data, planned, folder, device=torch_device, jobs=jobs, budget=each, claimed=keep, reporter=reporter
        )
    seconds = time.monotonic() - began
    told: dict[str, Any] = {"title": title, "command": command_line(), "seconds": seconds, "device": torch_device}
    try:
        files = publish(console, data, result, folder, **told)
        if len(set(chosen.values())) > 1:
            from ..report.advice import auto_lines

            say(console, *auto_lines(result.records, chosen))
        say(console, f"{duration(seconds)}; written:", *(f"  {path}" for path in files))
    finally:
        if checkpoints and result.runs:
            say(console, f"the model{'s'[: len(result.runs) > 1]} to use:")
            for run in result.runs:
                say(console, *_model_of(run))
    for run in result.runs if checkpoints else ():
        check_handed_over(run)
    if result.failed:
        raise UserError(
            f"{len(result.failed)} of {count} runs collapsed or are damaged: they are missing from the results"
        )


def _budget(text: str, jobs: int, planning: Mapping[str, Any]) -> float:
    """The seconds of ``--budget``.

    Raises:
        UserError: it is not a time, or contradicts another option.
    """
    from ..experiments.budget import seconds_of

    seconds = seconds_of(text)
    for name in ("steps", "epochs", "eval_every"):
        if name in planning:
            raise UserError(f"--budget chooses --{name.replace('_', '-')}: leave one of them out")
    if planning.get("fit", "all") != "all":
        raise UserError(f"--budget is for fine-tuning; fit {planning['fit']!r} takes seconds")
    if jobs > 1:
        raise UserError("--budget measures a run that has the machine to itself: leave --jobs out")
    return seconds


def _fit_budget(
    console: Console,
    data: Dataset,
    device: torch.device,
    recipe: str,
    output: Path | None,
    seconds: float,
    planning: dict[str, Any],
) -> Path:
    """The comparison's folder; adds to ``planning`` what fits the budget, or was chosen for it in that folder before.

    Raises:
        UserError: the budget is too short, or the folder belongs to a comparison with another budget or none.
    """
    from ..experiments.budget import CHOSEN, SIZES, chosen_before, fit_budget
    from ..experiments.compare import plan
    from ..runs.estimate import duration
    from .terminal import ProgressBar, say

    # At any rate but 0, which has no masks; a rate changes no time.
    planned = plan(data, device, recipe=recipe, **{**planning, "dropouts": (0.5,)})
    folder = output or Path("largedrop-runs") / planned.folder_name(f"{seconds:g}s")
    chosen = chosen_before(folder, seconds)
    how = f"as chosen before in {folder}"
    if chosen is None:
        sizes = (planning["size"],) if "size" in planning else None
        with ProgressBar(console, len(sizes or SIZES), "measuring the pace") as bar:
            config = fit_budget(data, planned.configs, seconds, device, sizes, bar)
        chosen, how = {name: getattr(config, name) for name in CHOSEN}, "by a short measurement"
    planning |= {**chosen, **planning}
    told = f"{chosen['steps']} steps at {chosen['size']} px, evaluated every {chosen['eval_every']}"
    say(console, f"a budget of {duration(seconds)} for each run: {told} ({how})")
    return folder


def _model_of(run: Run) -> tuple[str, str]:
    """The model of a run in two lines: where it is, and what it is and how good."""
    scores = run.model_scores
    shown = ["–" if score is None else f"{100 * score:.1f} %" for score in scores or ()]
    good = f": {shown[0]} i.i.d., {shown[1]} o.o.d." if shown else ""
    return f"  {run.model}", f"    {run.model_name}{good}"


def _named(config: Config, several: bool = False) -> str:
    """The name of a run, with its learning rate where there are several."""
    from ..runs.estimate import listing

    rate = f", lr {config.lr:g}" if several else ""
    return f"{listing(config.test_domains) or 'no test domain'}, dropout {config.dropout:g}{rate}, seed {config.seed}"


def _advised(
    console: Console, data: Dataset, device: torch.device, recipe: str, planning: Mapping[str, Any]
) -> tuple[tuple[float, ...] | dict[str, tuple[float, ...]], dict[str, float]]:
    """The rates with ``auto`` replaced, and the advised rate, by test domain; prints each advice with its reason.

    Raises:
        UserError: ``auto`` is named twice, or ``advise`` raises it.
    """
    from ..analysis.advice import advise
    from ..experiments.compare import plan
    from ..runs.estimate import listing
    from .terminal import ProgressBar, say

    dropouts: tuple[float | str, ...] = planning["dropouts"]
    if AUTO not in dropouts:
        return tuple(float(rate) for rate in dropouts), {}
    if dropouts.count(AUTO) > 1:
        raise UserError("the dropout rate 'auto' is named twice")
    # Planned first, so that invalid settings are reported before anything is computed.
    configs = plan(data, device, recipe=recipe, **{**planning, "dropouts": (0.0,)}).configs
    settings = {**defaults_of(recipe), **planning}
    found: dict[str, tuple[float, ...]] = {}
    chosen: dict[str, float] = {}
    for tested in dict.fromkeys(config.test_domains for config in configs):
        where = f" for {listing(tested)}" if tested else ""
        with ProgressBar(console, 2 * len(data), f"advising{where}") as bar:
            advice = advise(
                data,
                test_domain=tested,
                left_out=settings["left_out"],
                model=settings["model"],
                size=settings["size"],
                weights=settings["weights"],
                precision=settings["precision"],
                balance=settings["balance"],
                class_weights=settings["class_weights"],
                select_by=settings["select_by"],
                device=device,
                reporter=bar,
            )
        say(console, f"dropout auto{where}: {advice.rate:g} ({advice.verdict}): {advice.reason}")
        # The advised rate may also be listed as a number.
        rates = tuple(dict.fromkeys(advice.rate if rate == AUTO else float(rate) for rate in dropouts))
        if planning["at_once"] or not tested:
            return rates, {}
        (domain,) = tested
        chosen[domain], found[domain] = advice.rate, rates
    return found, chosen


def _absolute(source: str) -> str:
    """A source with its path made absolute, if it is one."""
    path = expanded(source)
    return str(path.absolute()) if path.exists() else source


def _settings(configs: Sequence[Config]) -> dict[str, Any]:
    """The fields that are options, as they have been resolved, and the precision; at rate 0 a config has no masks."""
    first = max(configs, key=lambda config: config.masks)
    found = {name: getattr(first, name) for name, about in ABOUT.items() if about.option}
    return {**found, "weights": _absolute(first.weights), "precision": first.precision}


def command_line() -> str:
    """The command line as it can be given again."""
    return shlex.join(["largedrop", *sys.argv[1:]])
