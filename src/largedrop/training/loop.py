"""The training loop: from a config and a dataset to a finished run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.random import torch_seed
from ..data.views.batches import Views, open_views
from ..errors import CollapseError, Interrupted, UserError
from ..fast_paths import device_name
from ..files import keep_text, write_stored
from ..measures.calibration import fit_temperature
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import CHECKPOINT, TEMPERATURE, save_model
from ..runs.content import is_finished
from ..runs.failure import write_failure
from ..runs.folder import claimed, finished
from ..runs.logits import Logits, mean_logits, write_logits
from ..runs.record import describe
from ..runs.run import SPLIT_FILE, START_FILE, Run
from ..runtime import keep_freed_memory, peak_memory
from .averages import make_averages
from .batches import saved_first, step_pixels, training_batches, views_and_paths
from .class_weights import class_weights, held_out_weights
from .collapse import CollapseWatch
from .device import CPU, exact
from .evaluation import accuracy, iid_loss, logits, scores, scores_in
from .features import FeatureCache
from .memory import in_memory
from .objectives import make_objective
from .setup import create_network, make_optimizer, set_learning_rate, start_head
from .state import STATE_FILE, NoStateError, Trajectory, check_kept, discard, is_lost, load_state, save_state
from .step import TrainingStep
from .way_back import evaluations_after, keeps_start, move_back, safest, wise_ft

__all__ = ["cost", "times_evaluated", "train"]

SAVE_EVERY = 120.0
"""Seconds after which the state is saved between two evaluations."""

TRAINING_COST = 5
"""Time of one image in training, over that of one in evaluation."""

LINEAR_COST = 3e-4
"""Time of one image in a linear fit, trained together with many others, over that of one in evaluation."""

Scores = dict[str, Any]
"""What ``scores`` gives, ``temperature`` where one could be fitted, and ``alpha`` where a method has it."""


def train(
    config: Config,
    data: Dataset,
    folder: Path,
    *,
    device: torch.device | None = None,
    features: FeatureCache | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Fine-tune as in section 3.1, and return the finished run in ``folder``.

    docs/differences.md lists the differences from the paper's public code.

    A finished run is returned without training; an interrupted run is resumed from its last state and ends with the
    same bits, since every random draw is a function of (seed, step), on the same processor; on a GPU it may differ in
    the last ones, as two runs of the same config may there.

    Args:
        data: dataset that ``config`` names.
        device: device to compute on; the processor by default.
        features: features on the device, shared between runs, so that the frozen network processes each image once.
        reporter: receives the work, in the unit of ``cost``; asked after every step whether to stop, which saves the
            state and raises ``Interrupted``.

    Raises:
        UserError: the folder is another config's or cannot be written.
        BusyError: another process has the run, or has taken it.
        CollapseError: the run has collapsed or diverged.
        NoMemoryError: too little memory is free.
        Interrupted: the reporter asks to stop.
    """
    if config.fit != "all":
        raise UserError(f"fit '{config.fit}' is trained on cached features: see largedrop.linear")
    split = config.split_of(data)
    with nullcontext(reporter) if finished(folder, config) else claimed(folder, config, reporter) as reporter:
        if is_finished(folder):
            reporter.skip(cost(config, split))
            run = _tidied(Run.open(folder))
            reporter.logged(folder)
            return run
        shared = features or FeatureCache(open_views(data, device or CPU, reporter, pixels=step_pixels(config, split)))
        gpus = [shared.views.device] if shared.views.device.type == "cuda" else []
        keep_freed_memory()

        def attempt(to: Reporter) -> Run:
            if is_lost(folder):
                to.note(f"{folder / STATE_FILE} is gone; this run is begun again")
            # Dropout and the network's other draws use torch's generator, seeded at each step and restored at the end.
            try:
                with torch.random.fork_rng(devices=gpus), exact(), ExitStack() as held:
                    return _train(config, data, split, folder, shared, to, held)
            except NoStateError as error:
                to.note(f"{error}; this run is begun again")
                error.with_traceback(None)  # which would keep the network
            discard(folder / STATE_FILE)
            with torch.random.fork_rng(devices=gpus), exact(), ExitStack() as held:
                return _train(config, data, split, folder, shared, to, held)

        try:
            run = in_memory(attempt, config, shared, reporter)
        except CollapseError as error:
            write_failure(folder, error)
            raise
        reporter.logged(folder)
        return run


def cost(config: Config, split: Split) -> float:
    """The work of a run, in evaluated images."""
    if config.fit != "all":
        return LINEAR_COST * config.steps * config.batch * len(split.train_domains)
    training = TRAINING_COST * config.steps * config.batch * len(split.train_domains)
    return training + (len(split.iid) + len(split.ood)) * times_evaluated(config)


def times_evaluated(config: Config) -> int:
    """How often a run evaluates the held-out and the test images: along it, and of each average and on the way back."""
    return 1 + len(config.evaluations) + len(make_averages(config)) + evaluations_after(config)


def _train(
    config: Config,
    data: Dataset,
    split: Split,
    folder: Path,
    features: FeatureCache,
    reporter: Reporter,
    held: ExitStack,
) -> Run:
    """Train; what ``held`` undoes at its end would else keep the network in memory."""
    device = features.views.device
    network = create_network(config, data.classes, data.bits).to(device)
    optimizer, averages = make_optimizer(config, network), make_averages(config)
    objective = make_objective(config.objective, config.penalty, config.penalty_after)
    if config.class_weights == "balanced":
        weights = class_weights(data.labels, split.train, len(data.classes))
        objective.weigh(torch.from_numpy(weights).float().to(device))
    objective.bind(network, optimizer)  # at the pretrained weights, which a state overwrites
    watch = CollapseWatch(len(data.classes), config.dropout, config.lr, config.head == "warm")
    so_far = load_state(folder, config.digest(), network, optimizer, averages, watch)
    if so_far is None:
        so_far = Trajectory(probe=start_head(config, data, split, network, features), selecting=config.selecting)
    else:
        check_kept(folder, config, so_far, _shapes(data, split))
        reporter.skip(cost(config, split) * so_far.step / config.steps)
    views, paths = views_and_paths(features.views, config, split, objective.recordable)
    so_far.goes_on_by(paths, reporter)
    held.enter_context(speed_up(network, paths))
    network.train()
    finish = partial(views.finish, spec=network.spec)
    weighed = held_out_weights(config, data.labels, split, len(data.classes))
    take = TrainingStep(
        network, optimizer, config.precision, finish, objective, len(split.train), reporter.note, paths.recorded
    )
    held.callback(take.close)
    batches = training_batches(config, data, split, views, network.spec, range(so_far.step, config.steps))
    held.callback(batches.close)
    size, saved = 0.0, time.monotonic()

    def look() -> None:
        nonlocal size
        read = take.read()
        for number, (loss, size) in enumerate(read, so_far.step - len(read) + 1):
            watch.see(number, loss, size)
            so_far.losses.append(loss)

    def save() -> None:
        nonlocal saved
        look()
        so_far.seconds, saved = so_far.seconds + time.monotonic() - saved, time.monotonic()
        save_state(folder, config.digest(), so_far, network, optimizer, averages, watch)
        reporter.logged(folder)

    keep_text(folder / SPLIT_FILE, data.split_table(split, config.seed, config.held_out))
    if not so_far.log:
        # The network with its starting head is a checkpoint like the others.
        found = _logits(config, views, split, network, 0, reporter)
        if keeps_start(config):
            start = {"step": 0, **scores(found, data.labels, split), **_temperature(found, data, split)}
            save_model(folder / START_FILE, network, about("start", config, data, start))
        _log(config, data, split, folder, network, so_far, found, {})
        save()
    for step, (inputs, labels) in enumerate(saved_first(batches, save), so_far.step):
        torch.manual_seed(torch_seed("step", config.seed, step))
        lr = set_learning_rate(optimizer, config, step)
        take(inputs, labels, step)
        so_far.step = step + 1
        for average in averages.values():
            average.after_step(network)
        reporter.advance(TRAINING_COST * len(labels))

        evaluated = so_far.step in config.evaluations
        asked = reporter.stopped()
        leaving = evaluated or asked or time.monotonic() - saved > SAVE_EVERY
        if leaving or take.due:
            look()
        if evaluated:
            found = _logits(config, views, split, network, so_far.step, reporter)
            train_loss, so_far.losses = sum(so_far.losses) / len(so_far.losses), []
            more = {"train_loss": train_loss, "lr": lr, "representation_rms": size}
            _log(config, data, split, folder, network, so_far, found, more)
            held_out_loss = iid_loss(found["iid"], data.labels[split.iid], split.iid_domains, weighed)
            for average in averages.values():
                average.evaluated(so_far.step, network, held_out_loss)
        if leaving:
            save()
        if asked:
            raise Interrupted(f"stopped after step {so_far.step} of {config.steps}")

    if take.refused:
        so_far.fast_paths[-1].remove("recorded")
    further: dict[str, Scores | list[Scores]] = {}
    kept = {"best": so_far.best, "start": so_far.log[0]}

    def score() -> Scores:
        evaluated = _logits(config, views, split, network, config.steps, reporter)
        return {**scores(evaluated, data.labels, split), **_temperature(evaluated, data, split)}

    def keep(name: str, found: Scores) -> Scores:
        save_model(folder / f"{name}.safetensors", network, about(name, config, data, {"step": config.steps, **found}))
        kept[name] = found
        return found

    keep("final", scores_in(so_far.log[-1], TEMPERATURE))
    for method, average in averages.items():
        network.load_state_dict(average.result())
        further[method] = keep(average.checkpoint, score())
    if config.wise_ft:
        further["wise-ft"] = curve = wise_ft(network, folder, so_far.log, score, config.selecting, reporter)
        keep("wise-ft", safest(curve, config.selecting))
    model = config.hand_over
    if config.way_back:
        move_back(network, folder, model, config.way_back)
        further["way-back"], model = keep("model", score()), "model"
    if keeps_start(config) and kept[model][config.selecting] < kept["start"][config.selecting]:
        model = "start"
    so_far.seconds += time.monotonic() - saved
    handed_over = {"model": f"{model}.safetensors", "model_scores": scores_in(kept[model])}
    return _finish(config, data, split, folder, so_far, further, handed_over, device)


def _logits(config: Config, views: Views, split: Split, network: Network, step: int, reporter: Reporter) -> Logits:
    # View 0 is the evaluation view; the view before the first step is one that no later evaluation draws.
    view = (step or config.steps + 1) if config.held_out_view == "training" else 0
    return {
        "iid": logits(network, views, split.iid, config.precision, reporter, view),
        "ood": logits(network, views, split.ood, config.precision, reporter),
    }


def _temperature(evaluated: Logits, data: Dataset, split: Split) -> Scores:
    """The temperature that calibrates a network on the held-out images, by its name in headers and logs."""
    found = fit_temperature(evaluated["iid"], data.labels[split.iid], split.iid_domains)
    return {} if found is None else {TEMPERATURE: found}


def _log(
    config: Config,
    data: Dataset,
    split: Split,
    folder: Path,
    network: Network,
    so_far: Trajectory,
    evaluated: Logits,
    more: dict[str, float],
) -> None:
    """Write an evaluation: its logits, its line in the log, and the network where it is the best so far.

    Args:
        more: further fields of the line, about training since the last evaluation.
    """
    write_logits(folder, so_far.step, config.digest(), evaluated)
    labels = data.labels[split.iid]
    by_domain = {
        split.train_domains[number]: accuracy(evaluated["iid"][chosen], labels[chosen])
        for number in np.unique(split.iid_domains)
        for chosen in [split.iid_domains == number]
    }
    temperature = _temperature(evaluated, data, split)
    found = {"step": so_far.step, **scores(evaluated, data.labels, split), **temperature}
    pooled = accuracy(evaluated["iid"], labels)
    so_far.log.append({**found, "iid_accuracy_pooled": pooled, "iid_by_domain": by_domain, **more})
    if so_far.best["step"] == so_far.step:
        save_model(folder / "best.safetensors", network, about("best", config, data, found))
    write_stored(folder / "log.json", {"log": so_far.log})


def _finish(
    config: Config,
    data: Dataset,
    split: Split,
    folder: Path,
    so_far: Trajectory,
    further: Mapping[str, Scores | list[Scores]],
    chosen: Mapping[str, Any],
    device: torch.device,
) -> Run:
    """Write the result, which marks the run as finished, and remove the state.

    Args:
        further: accuracies of the methods after training; a list of them where a method has several, with ``alpha``.
        chosen: file and accuracies of the model that is handed over.
        device: the device, whose name and largest memory are in the result.
    """
    best = so_far.best
    ensemble = mean_logits(folder, config.evaluations, config.digest(), _shapes(data, split))
    common = {"steps": config.steps, "seconds": round(so_far.seconds + so_far.probe["seconds"], 3)}
    result = {
        "largedrop": __version__,
        "run": config.digest(),
        "dataset": describe(data),
        "device": device_name(device),
        "fast_paths": so_far.fast_paths,
        "memory": peak_memory(device),
        "methods": {
            "fine-tuning": {**scores_in(best), **common},
            "ensemble": {**scores(ensemble, data.labels, split), **common},
            **{
                method: [_entry(each, common) for each in found] if isinstance(found, list) else _entry(found, common)
                for method, found in further.items()
            },
            "linear-probe": {
                **scores_in(so_far.probe),
                "steps": so_far.probe["steps"],
                "seconds": round(so_far.probe["seconds"], 3),
            },
        },
        "best_step": best["step"],
        **chosen,
        "probe": so_far.probe,
        "log": so_far.log,
    }
    write_stored(folder / "result.json", result)
    return _tidied(Run.open(folder))


def _entry(found: Scores, common: Mapping[str, float]) -> dict[str, Any]:
    """A method's accuracies in the result; a temperature is its checkpoint's, and in its header."""
    return {**{name: value for name, value in found.items() if name != TEMPERATURE}, **common}


def _tidied(run: Run) -> Run:
    """A finished run, without what only going on needs; a kill may have left that."""
    if os.access(run.folder, os.W_OK):  # it may be on a read-only disk
        for path in (run.folder / file for file in (STATE_FILE, START_FILE) if file != run.model.name):
            if path.is_file() or path.is_symlink():
                path.unlink()
    return run


def _shapes(data: Dataset, split: Split) -> dict[str, tuple[int, int]]:
    """Images and classes of the logits of an evaluation."""
    return {"iid": (len(split.iid), len(data.classes)), "ood": (len(split.ood), len(data.classes))}


def about(name: str, config: Config, data: Dataset, more: dict[str, Any]) -> dict[str, Any]:
    """The header of the checkpoint ``name``: its origin, and ``more``."""
    return {
        "largedrop": __version__,
        "run": config.digest(),
        CHECKPOINT: name,
        "config": config.to_json(),
        "domains": list(data.domains),
        **more,
    }
