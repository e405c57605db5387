"""``finetune`` and ``compare``: fine-tune on a dataset once and return the run, or many times and return all."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from .config import DEFAULT_RECIPE, Config
from .data.classes import ood_notes
from .data.dataset import Dataset
from .data.views.batches import open_views
from .errors import RunError, UserError, brief, check_type, several
from .errors import plain as as_number
from .experiments.compare import FILE, Comparison, plan
from .experiments.compare import compare as run_comparison
from .fast_paths import FastPaths, chosen_paths, only
from .reporter import Reporter
from .runs.checkpoint import check_handed_over
from .runs.folder import named_before
from .runs.run import Run
from .selection.row import Row
from .tracking.following import Opens, followed, trackers_of
from .training.batches import step_pixels
from .training.device import choose_device
from .training.features import FeatureCache
from .training.loop import train
from .training.resolve import resolve

__all__ = ["Compared", "compare", "finetune"]

RUNS = Path("largedrop-runs")
"""Where folders are by default."""

MOST_SEEDS = 100_000
"""Largest number of seeds, as of the command."""


@dataclass
class Compared(Comparison):
    """The results of ``compare``.

    Attributes:
        rows: one for each method and dropout rate: accuracies (fractions) and the gain over plain fine-tuning, each
            with mean and standard error over the seeds, on average and by test domain.
    """

    rows: list[Row] = field(default_factory=list)


def finetune(
    data: Dataset,
    test_domain: str | Sequence[str] | None = None,
    *,
    output: str | Path | None = None,
    recipe: str = DEFAULT_RECIPE,
    device: str = "auto",
    plain: bool = False,
    progress: Callable[[float], None] | None = None,
    track: str | Opens | Sequence[str | Opens] = (),
    **settings: Any,
) -> Run:
    """Fine-tune on every domain but the test domains, and score on these; or on every domain.

    Args:
        data: dataset from ``open_dataset``.
        test_domain: name of the domain for the o.o.d. score, which is never trained on or selected on; or names of
            several, each of which is scored; or None: every domain is trained on, and there is no o.o.d. score. One
            without labels is not scored.
        output: folder of the run; by default ``Config.run_name`` in ``largedrop-runs``. A finished run in it is
            returned, an interrupted one is resumed.
        recipe: ``robust`` (minutes on a processor), ``short`` (the paper's method in minutes) or ``paper`` (its
            protocol), changed by ``settings``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        plain: take no fast path (``fast_paths.PATHS``).
        progress: called with the work since the last call, in evaluated images.
        track: name of a tracker, such as ``tensorboard``; a class or function that opens a run in one
            (``tracking.base.Tracker``); or several of these. One that fails ends nothing.
        settings: fields of ``Config``: ``model``, ``dropout``, ``steps``, ``lr``, ``size``, ``seed``, …; ``epochs``
            instead of ``steps``, as in ``training.resolve.schedule_of``.

    Returns:
        The finished run; ``run.model`` is the checkpoint to use, for ``load_model``.

    Raises:
        UserError: an argument is invalid, or the model of a run that was finished before is gone or damaged.
        RunError: the run has collapsed or diverged.

    Warns:
        UserWarning: the GPU was not examined by ``largedrop doctor``, or the images do not fit in its memory, so that
            it may be slow; a test domain has no labels, lacks classes, or has some that no training domain has; or a
            tracker has failed.
    """
    caller, trackers = _Caller(progress), trackers_of(track)
    with only(FastPaths()) if plain else nullcontext(), followed(caller, trackers) as reporter:
        run = _finetune(data, test_domain, output, recipe, device, reporter, settings)
    check_handed_over(run)  # it may have been finished before
    return run


def compare(
    data: Dataset,
    test_domains: str | Sequence[str] | None = None,
    *,
    dropouts: float | Sequence[float] = (0.0, 0.5, 0.9),
    seeds: int | Sequence[int] = 1,
    learning_rates: Sequence[float] = (),
    output: str | Path | None = None,
    recipe: str = DEFAULT_RECIPE,
    device: str = "auto",
    jobs: int = 1,
    plain: bool = False,
    progress: Callable[[float], None] | None = None,
    track: str | Opens | Sequence[str | Opens] = (),
    **settings: Any,
) -> Compared:
    """Leave each domain out in turn, with every dropout rate and seed at equal budget (section 4.1).

    It is the command ``largedrop compare``, with the same folder: ``results.json``, a figure and ``report.html`` are
    written there; what is finished in it is read, and what was interrupted goes on.

    Args:
        data: dataset from ``open_dataset``.
        test_domains: name of the domain, or names of those, to leave out in turn; by default each. Of a dataset with
            one domain none is.
        dropouts: dropout rates; 0 is plain fine-tuning, the baseline of gains.
        seeds: their number, or the seeds.
        learning_rates: of several, each dropout rate takes on each test domain the one of best i.i.d. accuracy with
            the first seed, and the other seeds are trained with that.
        output: folder of the comparison; by default ``largedrop-runs/DATA-…``.
        recipe: as in ``finetune``.
        device: as in ``finetune``.
        jobs: number of runs side by side, each in its own process; a script that asks for several needs
            ``if __name__ == "__main__":``.
        plain: as in ``finetune``.
        progress: as in ``finetune``.
        track: as in ``finetune``.
        settings: fields of ``Config``, as in ``finetune``.

    Returns:
        The comparison, whose ``rows`` have mean and standard error of i.i.d. and o.o.d. accuracy (fractions) and of the
        gain, one for each method and dropout rate; ``runs`` are the runs, ``failed`` those that collapsed.

    Raises:
        UserError: an argument is invalid, the folder belongs to another comparison, or a file cannot be written.

    Warns:
        UserWarning: a run has collapsed, or what ``finetune`` warns of.
    """
    from rich.console import Console

    from .report.comparison import publish, rows_of  # with matplotlib, which finetune needs not wait for

    check_type(data, Dataset, "data must be a dataset from open_dataset")
    check_type(output, (str, Path, NoneType), "output must be the path of a folder")
    check_type(jobs, int, "jobs must be a number of runs")
    for name, other in {"test_domain": "test_domains", "dropout": "dropouts", "seed": "seeds"}.items():
        if name in settings:
            raise UserError(f"compare takes {other}, not {name}")
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise UserError(f"seeds must be {MOST_SEEDS:,} at most, not {brief(seeds)}")
    given = {"test_domains": test_domains, "dropouts": dropouts, "seeds": seeds, "learning_rates": learning_rates}
    began = time.monotonic()
    on = choose_device(device, jobs)
    folders = [Path(output)] if output is not None else sorted(RUNS.glob("*"))
    data = named_before(data, (folder / FILE for folder in folders))
    several_seeds = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    named = None if test_domains is None else several(test_domains, "test_domains must be names of domains")
    planned = plan(
        data,
        on,
        test_domains=named,
        dropouts=_numbers(dropouts, float, "dropouts must be rates"),
        seeds=_numbers(several_seeds, int, "seeds must be their number, or whole numbers"),
        learning_rates=_numbers(learning_rates, float, "learning_rates must be numbers"),
        recipe=recipe,
        **settings,
    )
    folder = Path(output) if output is not None else RUNS / planned.folder_name()
    caller, trackers = _Caller(progress), trackers_of(track)
    with only(FastPaths()) if plain else nullcontext(), followed(caller, trackers) as reporter:
        kinds = {config.unseen: config for config in planned.configs}.values()
        lines = (_notes(data, each, on, step_pixels(each, each.split_of(data))) for each in kinds)
        for line in dict.fromkeys(chain.from_iterable(lines)):
            reporter.note(line)
        result = run_comparison(data, planned, folder, device=on, jobs=jobs, reporter=reporter)
    told = {name: value for name, value in {**given, "recipe": recipe, **settings}.items() if value is not None}
    publish(
        Console(quiet=True),
        data,
        result,
        folder,
        title="Methods on a domain never seen",
        command=f"largedrop.compare(data, {', '.join(f'{name}={value!r}' for name, value in told.items())})",
        seconds=time.monotonic() - began,
        device=on,
    )
    return Compared(**vars(result), rows=rows_of(result))


def _numbers(values: Any, kind: type, what: str) -> tuple[Any, ...]:
    """A number or several as a tuple; one of numpy's or a tensor's is one of Python's afterwards.

    Raises:
        UserError: they are something else.
    """
    kinds = (int, float) if kind is float else (int,)
    found = [as_number(values)]
    if not isinstance(found[0], (*kinds, str)):
        check_type(values, Iterable, what)
        found = [as_number(each) for each in values]
    for each in found:
        check_type(each, kinds, what)
    try:
        return tuple(map(kind, found))
    except OverflowError:  # a whole number that no float is near
        raise UserError(f"{what}, not {brief(max(found, key=abs))}") from None


def _notes(data: Dataset, config: Config, device: torch.device, pixels: float) -> Iterator[str]:
    """What is to be known before a run is trained."""
    chosen = chosen_paths(device, pixels)
    if chosen.slow:
        yield chosen.why
    yield from ood_notes(data.lacking, data.domains, config.test_domains, config.unseen)


def _finetune(
    data: Dataset,
    test_domain: str | Sequence[str] | None,
    output: str | Path | None,
    recipe: str,
    device: str,
    reporter: Reporter,
    settings: Mapping[str, Any],
) -> Run:
    check_type(data, Dataset, "data must be a dataset from open_dataset")
    check_type(output, (str, Path, NoneType), "output must be the path of a folder")
    torch_device = choose_device(device)
    folders = [Path(output)] if output is not None else sorted(RUNS.glob("*"))
    data = named_before(data, (folder / "config.json" for folder in folders))
    tested = () if test_domain is None else several(test_domain, "test_domain must be the name of a domain, or names")
    config = resolve(data, torch_device, recipe=recipe, test_domain=tested, **settings)
    folder = Path(output) if output is not None else RUNS / config.run_name
    for domain in filter(data.has_no_labels, tested):
        reporter.note(f"No image of '{domain}' has a label: it is not scored.")
    pixels = step_pixels(config, config.split_of(data))
    for line in _notes(data, config, torch_device, pixels):
        reporter.note(line)
    features = FeatureCache(open_views(data, torch_device, reporter, pixels=pixels))
    if config.fit == "all":
        return train(config, data, folder, features=features, reporter=reporter)
    from .linear.runs import train_linear_runs

    ((_, run),) = train_linear_runs([(config, folder)], data, features.views, reporter)
    if isinstance(run, RunError):
        raise run
    return run


class _Caller(Reporter):
    """Calls a function with the work, and turns notes and failures into warnings of the line that called largedrop."""

    def __init__(self, progress: Callable[[float], None] | None) -> None:
        if progress is not None and not callable(progress):
            raise UserError(f"progress must be a function, not {brief(progress)}")
        self.progress = progress

    def advance(self, work: float) -> None:
        if self.progress is not None:
            self.progress(work)

    def note(self, text: str) -> None:
        names = [frame.frame.f_globals.get("__name__", "") for frame in inspect.stack(0)]
        own = max(at for at, name in enumerate(names) if name.partition(".")[0] == __package__)
        warnings.warn(text, stacklevel=own + 2)

    def failed(self, config: Config, reason: str) -> None:
        self.note(f"{config.run_name}: {reason}")
