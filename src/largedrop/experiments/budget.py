"""A time budget: the size of the images, the steps and the evaluations of one run that fit a time on this machine."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..config import Config
from ..data.dataset import Dataset
from ..data.views.batches import Views, open_views
from ..errors import DamagedError, UserError
from ..files import read_json, there
from ..models.fast.folding import speed_up
from ..reporter import SILENT, Reporter
from ..runs.estimate import duration
from ..runtime import keep_freed_memory
from ..training.averages import make_averages
from ..training.batches import step_pixels, training_batches, views_and_paths
from ..training.collapse import CollapseWatch
from ..training.evaluation import BATCH, logits
from ..training.features import VIEWS
from ..training.head import fit_head
from ..training.loop import times_evaluated
from ..training.objectives import make_objective
from ..training.setup import create_network, make_optimizer
from ..training.state import Trajectory, save_state
from ..training.step import LOOK_EVERY, TrainingStep
from .compare import FILE

__all__ = ["CHOSEN", "SIZES", "Pace", "chosen_before", "fit_budget", "fitted", "measure", "seconds_of"]

CHOSEN = ("steps", "size", "eval_every")
"""Names of the settings that a budget chooses."""

SIZES = (64, 96, 128, 160, 224)
"""Sides of the images among which a budget chooses, up to the recipe's, in pixels."""

ENOUGH = 300
"""Steps that a larger size must leave."""

FEWEST = 10
"""Steps below which a budget is too short."""

EVALUATIONS = 8
"""Most evaluations after the first step."""

EVALUATING = 0.2
"""Share of the budget that evaluations may take, where it has time for more than one."""

PLANNED = 0.95
"""Share of the budget that is planned; the rest is for what is not measured, such as reading the weights."""

ROUNDS = 20
"""Rounds that are planned for a head's fit, which takes 8 to 15 on emoji."""

LEAST, MOST, PATIENCE = 3, 15, 2.0
"""A time is the median of at least ``LEAST`` and at most ``MOST``, as many as ``PATIENCE`` seconds have room for."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str, flag: str = "--budget") -> float:
    """The seconds of a time as a user writes it for the option ``flag``.

    Raises:
        UserError: it is not a time above 0, or has no unit.

    >>> seconds_of("90s"), seconds_of("10m"), seconds_of("1.5h")
    (90.0, 600.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not 0 < float(found[1]) < math.inf:
        raise UserError(f"{flag} must be a time such as 90s, 10m or 1.5h, not {text!r}")
    if not found[2]:
        raise UserError(f"{flag} {text} has no unit: say {text}s, {text}m or {text}h")
    return float(found[1]) * UNITS[found[2]]


@dataclass(frozen=True)
class Pace:
    """The times of the parts of a run, in seconds.

    Attributes:
        step: a step.
        image: an evaluated image.
        save: the state on disk, at each evaluation.
        head: the fit of a head.
    """

    step: float
    image: float
    save: float
    head: float


def fitted(config: Config, seconds: float, pace: Pace, images: int, scored: int) -> tuple[Config, float]:
    """The config with the steps and evaluations that fit a budget, and the shortest budget that would do.

    The budget is for one run: features of all images, the head's fit, the steps, and evaluations, those of averages
    and of the way back included. There are as many evaluations after the first step as a fifth of the budget has room
    for, from 1 to 8, equally spaced; the steps take the rest.

    Args:
        config: config of the run.
        seconds: the budget.
        images: number of images of the dataset.
        scored: number of images of an evaluation.
    """
    others = times_evaluated(config) - len(config.evaluations)
    evaluation = scored * pace.image
    fixed = VIEWS * images * pace.image + pace.head + others * evaluation
    each, room = evaluation + pace.save, PLANNED * seconds - fixed
    count = int(min(EVALUATING * seconds / each - others, (room - FEWEST * pace.step) / each))
    count = min(EVALUATIONS, max(1, count))
    steps = min(max(1, int((room - count * each) / pace.step)), 10**7)
    shortest = (fixed + each + FEWEST * pace.step) / PLANNED
    return replace(config, steps=steps, eval_every=math.ceil(steps / count)), shortest


def fit_budget(
    data: Dataset,
    configs: Iterable[Config],
    seconds: float,
    device: torch.device,
    sizes: Iterable[int] | None = None,
    reporter: Reporter = SILENT,
) -> Config:
    """The first config with the size, steps and evaluations that fit a budget for one run, by a short measurement.

    The size is the largest of ``SIZES``, not above the config's, that leaves 300 steps; where none does, the smallest.

    Args:
        data: dataset of the runs.
        configs: configs that differ in test domain, seed and rate; the largest evaluation counts.
        seconds: the budget.
        device: device of the runs.
        sizes: sizes to choose among, ascending; ``SIZES`` by default.
        reporter: receives 1 for each measurement.

    Raises:
        UserError: the budget is too short for 10 steps and an evaluation; the message has one that is not.
    """
    configs = list(configs)
    first = configs[0]
    scored = max(len(split.iid) + len(split.ood) for split in (config.split_of(data) for config in configs))
    views = open_views(data, device, pixels=step_pixels(first, first.split_of(data)))
    best: Config | None = None
    for size in sizes or [size for size in SIZES if size <= first.size] or [first.size]:
        at = replace(first, size=size)
        chosen, shortest = fitted(at, seconds, measure(at, data, views), len(data), scored)
        reporter.advance(1)
        if best is None and seconds < shortest:
            raise UserError(
                f"a budget of {duration(seconds)} is too short: {FEWEST} steps and one evaluation at {size} px take "
                f"{duration(math.ceil(shortest))} here"
            )
        if best is None or chosen.steps >= ENOUGH:
            best = chosen
        if chosen.steps < ENOUGH:
            break
    assert best is not None
    return best


def chosen_before(folder: Path, seconds: float) -> dict[str, Any] | None:
    """The settings that this budget chose for the comparison in a folder; None where there is no comparison.

    Where the comparison's file is damaged they are those of its runs.

    Raises:
        UserError: the comparison has another budget or none, or its file is damaged and it has no run.
    """
    if not there(folder / FILE):
        return None
    try:
        content = read_json(folder / FILE)
    except DamagedError as error:
        # Whoever claims the folder compares the rest.
        for path in sorted(folder.glob("runs/*/config.json")):
            with suppress(UserError):
                known = read_json(path)
                return {name: known.get(name) for name in CHOSEN}
        raise UserError(f"{error}; name another --output") from error
    theirs = content.get("budget")
    if theirs != seconds:
        of = f"with a budget of {theirs:g} s" if isinstance(theirs, (int, float)) else "without a budget"
        raise UserError(f"{folder} belongs to a comparison {of}; name another --output")
    return {name: content.get(name) for name in CHOSEN}


def measure(config: Config, data: Dataset, views: Views) -> Pace:
    """The times of a run's parts, on its network, images, objective and averages; its weights are lost.

    Args:
        config: config of the run; its steps and evaluations do not matter.
        data: dataset of the run.
        views: views of ``data``, on the device of the run.
    """
    device, split = views.device, config.split_of(data)
    keep_freed_memory()
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        TemporaryDirectory() as folder,
        ExitStack() as held,
    ):
        network = create_network(config, data.classes).to(device)
        optimizer, averages = make_optimizer(config, network), make_averages(config)
        objective = make_objective(config.objective, config.penalty, config.penalty_after)
        objective.bind(network, optimizer)
        views, paths = views_and_paths(views, config, split, objective.recordable)
        held.enter_context(speed_up(network, paths))
        network.train()
        take = TrainingStep(
            network,
            optimizer,
            config.precision,
            lambda inputs: views.finish(inputs, network.spec),
            objective,
            len(split.train),
            record=paths.recorded,
        )
        held.callback(take.close)

        together = LOOK_EVERY[device.type]
        batches = training_batches(config, data, split, views, network.spec, range(10**9))
        held.callback(batches.close)

        def steps(number: int) -> None:
            for step in range(number * together, (number + 1) * together):
                take(*next(batches), step)
                for average in averages.values():
                    average.after_step(network)
            take.read()  # waits for the device

        shown = split.train[0][:BATCH]
        features = [torch.randn(len(domain), network.head.in_features) for domain in split.train]
        labels = [torch.from_numpy(data.labels[domain]) for domain in split.train]
        fit = (len(data.classes), config.dropout, config.weight_decay, config.seed)
        watch = CollapseWatch(len(data.classes), config.dropout, config.lr, warm=True)
        parts = (network, optimizer, averages, watch)
        return Pace(
            step=_time_of(steps, 1) / together,
            image=_time_of(lambda number: logits(network, views, shown, config.precision), 1) / len(shown),
            save=_time_of(lambda number: save_state(Path(folder), config.digest(), Trajectory(), *parts), 0, most=1),
            head=ROUNDS * _time_of(lambda number: fit_head(features, labels, *fit, rounds=1), 0, most=1),
        )


def _time_of(do: Callable[[int], object], warm_up: int, most: int = MOST) -> float:
    """Median seconds of a call, after ``warm_up`` calls; ``do`` gets the number of the call."""
    taken: list[float] = []
    for number in range(warm_up + most):
        began = time.perf_counter()
        do(number)
        taken.append(time.perf_counter() - began)
        rest = taken[warm_up:]
        if len(rest) >= LEAST and sum(rest) > PATIENCE:
            break
    return median(taken[warm_up:])
