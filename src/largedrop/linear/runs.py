"""Linear fits as runs: trained together, with the same folders, records and reports as fine-tunings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._version import __version__
from ..config import Config
from ..data.dataset import Dataset
from ..data.views.batches import Views
from ..errors import CollapseError, InTheWayError, RunError, UserError
from ..files import write_stored
from ..reporter import SILENT, Relay, Reporter
from ..runs.checkpoint import CHECKPOINT, write_tensors
from ..runs.content import is_finished
from ..runs.folder import claimed, finished
from ..runs.methods import checkpoint_method
from ..runs.record import describe
from ..runs.run import Run
from ..training.evaluation import accuracy, iid_loss, scores, scores_in
from ..training.loop import cost
from .features import FeatureStore
from .problem import Problem
from .sgd.result import LinearEvaluation, LinearModel, LinearResult
from .sgd.train import train_linear
from .solver.solve import solve_probes

__all__ = ["train_linear_runs"]

TOGETHER = 512
"""Number of runs that are trained together; an interruption loses these, which take seconds."""

Member = tuple[Config, Path, Problem]
"""A run to be trained: its config, folder and problem."""


def train_linear_runs(
    tasks: Sequence[tuple[Config, Path]], data: Dataset, views: Views, reporter: Reporter = SILENT
) -> Iterator[tuple[Config, Run | RunError]]:
    """Train linear fits, and yield each as it ends; a finished run is read, and one that another process has not waited
    for.

    Features come from the cache on disk (``FeatureStore``), without the network where they are stored. A run's folder
    is like a fine-tuning's, but ``best``, ``average`` and ``final.safetensors`` contain V, b and (of a linear
    fine-tuning) v alone.

    Args:
        tasks: config, with ``fit`` ``linear`` or ``probe``, and folder of each run.
        views: views of ``data``, on the device to compute on.
        reporter: receives the work, in the unit of ``training.loop.cost``, each run before it is trained or read, and
            notes about the features.

    Raises:
        UserError: a folder is another config's or cannot be written, or the features are not available.
        Interrupted: the reporter asks to stop.
    """
    for config, outcome in _trained(tasks, data, views, reporter):
        if isinstance(outcome, Run):
            reporter.logged(outcome.folder)
        yield config, outcome


def _trained(
    tasks: Sequence[tuple[Config, Path]], data: Dataset, views: Views, reporter: Reporter
) -> Iterator[tuple[Config, Run | RunError]]:
    store = FeatureStore(data, views, reporter=reporter)
    problems: dict[tuple[object, ...], Problem] = {}
    for start in range(0, len(tasks), TOGETHER):
        with ExitStack() as locks:
            waiting: list[Member] = []
            for config, folder in tasks[start : start + TOGETHER]:
                reporter.begin(config)
                if config.fit == "all":
                    raise UserError("fit must be 'linear' or 'probe', not 'all'")
                try:
                    if not finished(folder, config):
                        locks.enter_context(claimed(folder, config, reporter))
                except RunError as error:
                    yield config, error
                    continue
                if is_finished(folder):
                    reporter.skip(cost(config, config.split_of(data)))
                    yield config, _opened(folder)
                else:
                    waiting.append((config, folder, _problem(config, data, store, problems)))
            if not waiting:
                continue
            work = sum(cost(config, config.split_of(data)) for config, _, _ in waiting)
            steps_taken = Relay(reporter, work / sum(config.steps for config, _, _ in waiting))
            solved = [entry for entry in waiting if entry[0].optimizer == "lbfgs"]
            stepped = [entry for entry in waiting if entry[0].optimizer != "lbfgs"]
            began = time.monotonic()
            pairs = [(problem, config) for config, _, problem in stepped]
            fitted = train_linear(pairs, keep_logits=True, reporter=steps_taken)
            seconds = (time.monotonic() - began) / max(1, len(stepped))
            for (config, folder, problem), result in zip(stepped, fitted, strict=True):
                yield config, _stored(config, folder, problem, data, result, seconds)
            groups: dict[tuple[int, float], list[Member]] = {}
            for entry in solved:
                groups.setdefault((id(entry[2]), entry[0].weight_decay), []).append(entry)
            for members in groups.values():
                reporter.raise_if_stopped("stopped before a probe; the solved probes are kept")
                yield from _solved(members, data)
                steps_taken.advance(sum(config.steps for config, _, _ in members))


def _opened(folder: Path) -> Run | RunError:
    try:
        return Run.open(folder)
    except RunError as error:
        return error


def _problem(
    config: Config, data: Dataset, store: FeatureStore, problems: dict[tuple[object, ...], Problem]
) -> Problem:
    """The problem of a config's split and features; one object for all configs with the same."""
    key = (*config.feature_key.items(), config.feature_views, *config.split_key)
    if key not in problems:
        found = [store.features(config, view=view) for view in range(config.feature_views + 1)]
        split = config.split_of(data)
        if config.fit == "linear" and len(found[0].taps) == 1:
            raise UserError(
                f"{config.model} does not have several residual blocks, each called once, after its last change of "
                "resolution, which linear fine-tuning sums (equation 1); use fit 'probe'"
            )
        views = [torch.from_numpy(features.values) for features in found]
        problems[key] = Problem.of(views, found[0].taps.widths, data, split)
    return problems[key]


def _stored(
    config: Config, folder: Path, problem: Problem, data: Dataset, result: LinearResult, seconds: float
) -> Run | RunError:
    """Store a fit by SGD as a run, or return the error where it diverged."""
    if result.diverged_at is not None or result.best is None or result.best_model is None:
        return CollapseError(
            f"the run has diverged: its weights contain NaN or infinity at step {result.diverged_at}; "
            f"try a learning rate below {config.lr:g}"
        )
    common = {"steps": config.steps, "seconds": round(seconds, 3)}
    methods = {
        checkpoint_method(config.fit).name: {**scores_in(result.best.to_json()), **common},
        "ensemble": {**_of_ensemble(problem, result), **common},
        "weight-average": {**scores_in(result.mean.to_json()), **common},
    }
    kept = {
        "best": (result.best_model, result.best),
        "average": (result.mean_model, result.mean),
        "final": (result.last_model, result.evaluations[-1]),
    }
    return _finished(config, folder, data, kept, methods, result.evaluations)


def _finished(
    config: Config,
    folder: Path,
    data: Dataset,
    kept: Mapping[str, tuple[LinearModel, LinearEvaluation]],
    methods: dict[str, dict[str, Any]],
    evaluations: Sequence[LinearEvaluation],
) -> Run | RunError:
    """Write a run's files: models with their scores, log, and the result last, which marks the run as finished; or
    return the error where something else has the name of one of them.
    """
    try:
        for name, (model, entry) in kept.items():
            tensors = {"weight": model.weight, "bias": model.bias, **({} if model.v is None else {"v": model.v})}
            about = {
                "about": {CHECKPOINT: name},
                "config": config.to_json(),
                "classes": list(data.classes),
                "step": entry.step,
                **scores_in(entry.to_json()),
            }
            write_tensors(folder / f"{name}.safetensors", tensors, "linear", {"run": config.digest(), **about})
        log = [entry.to_json() for entry in evaluations]
        content = {"largedrop": __version__, "dataset": describe(data), "methods": methods}
        write_stored(folder / "log.json", {"log": log})
        best = {"run": config.digest(), "best_step": kept["best"][1].step}
        write_stored(folder / "result.json", {**content, **best, "log": log})
        return Run.open(folder)
    except InTheWayError as error:
        return RunError(str(error))


def _solved(members: Sequence[Member], data: Dataset) -> Iterator[tuple[Config, Run | RunError]]:
    """Probes of one problem and weight decay by the converged solver, with one evaluation each, and no ensemble."""
    began = time.monotonic()
    config, _, problem = members[0]
    width = problem.widths[-1]
    read = problem.views[1:] or problem.views
    fits = solve_probes(
        [torch.cat([view[torch.from_numpy(part)][:, -width:].float() for view in read]) for part in problem.train],
        [torch.from_numpy(problem.labels[part]).repeat(len(read)) for part in problem.train],
        problem.classes,
        rates := list(dict.fromkeys(each.dropout for each, _, _ in members)),
        config.weight_decay,
        seed=config.seed,
    )
    seconds = round((time.monotonic() - began) / len(members), 3)
    found = dict(zip(rates, fits, strict=True))
    images = problem.views[0][torch.from_numpy(np.concatenate([problem.iid, problem.ood]))].float()
    for each, folder, _ in members:
        fit = found[each.dropout]
        if fit.stopped != "converged":
            told = f"{fit.stopped} after {fit.iterations} iterations"
            advice = "set --weight-decay above 0"
            yield each, CollapseError(f"no minimum of the probe was found ({told}); {advice}")
            continue
        model = LinearModel(fit.weight, fit.bias, None)
        logits = model(images).to(torch.float16).numpy()
        iid, ood = logits[: len(problem.iid)], logits[len(problem.iid) :]
        entry = LinearEvaluation(
            fit.iterations,
            **scores({"iid": iid, "ood": ood}, problem.labels, problem),
            iid_loss=iid_loss(iid, problem.labels[problem.iid], problem.iid_domains),
            iid_accuracy_pooled=accuracy(iid, problem.labels[problem.iid]),
        )
        kept = dict.fromkeys(("best", "average", "final"), (model, entry))
        methods = {
            checkpoint_method(each.fit).name: {
                **scores_in(entry.to_json()),
                "steps": fit.iterations,
                "seconds": seconds,
            }
        }
        yield each, _finished(each, folder, data, kept, methods, [entry])


def _of_ensemble(problem: Problem, result: LinearResult) -> dict[str, Any]:
    if result.iid_logits is None or result.ood_logits is None:
        raise ValueError("the logits were not kept")
    return scores({"iid": result.iid_logits.numpy(), "ood": result.ood_logits.numpy()}, problem.labels, problem)
