"""Ensembles, weight averages and greedy soups across the final checkpoints of several trajectories, after training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._version import __version__
from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.views.batches import Views, open_views
from ..errors import UserError
from ..files import write_json
from ..models.fast.folding import speed_up
from ..reporter import SILENT, Reporter
from ..runs.across import FOLDER, Across, Group, groups_of, methods_of
from ..runs.checkpoint import load_model, read_tensors, save_model
from ..runs.protocol import iid_accuracy_of
from ..runs.run import Run
from ..training.averaging import WeightAverage, check_finite, check_origins
from ..training.evaluation import accuracy, iid_accuracy, logits
from ..training.soup import Candidate, greedy_soup

__all__ = ["across", "across_cost"]


@dataclass(frozen=True)
class _Task:
    """One method of one group."""

    method: str
    group: Group
    runs: tuple[Run, ...]
    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """The images that it is scored on; of every seed together there are no held-out ones."""
        return ("ood",) if self.group.seed is None else ("iid", "ood")


def across(
    runs: Sequence[Run], data: Dataset, folder: Path, *, device: torch.device, reporter: Reporter = SILENT
) -> list[str]:
    """The methods across trajectories (section 4.1), for every group of ``runs`` (see ``groups_of``).

    ``ensemble-across`` averages the logits of the final checkpoints; ``weight-average-across`` their weights, uniformly
    (Ramé et al., 2022b); ``greedy-soup`` takes a checkpoint in if the i.i.d. accuracy of the average does not fall
    (Wortsman et al., 2022a). Of every seed together there is only the o.o.d. accuracy of the first two.

    Each result is a file in ``folder/across``, written whole, with a checkpoint for ``load_model`` beside it where
    weights are averaged. What is stored already is not computed again, unless it is damaged or a member has other
    accuracies since.

    Args:
        runs: finished, of ``data``, in folders of different names.
        data: the dataset.
        folder: the sweep's.
        device: where to compute.
        reporter: told of the work, in the unit of ``across_cost``, and asked between evaluations whether to stop.

    Returns:
        What could not be computed, with the reason, a line each.

    Raises:
        UserError: a file cannot be written.
        Interrupted: the reporter said so.
    """
    tasks, refused = _tasks(runs, folder)
    if not tasks:
        return refused
    views = open_views(data, device, reporter)
    for task in tasks:
        reporter.raise_if_stopped(f"stopped before {task.path.stem}")
        try:
            _compute(task, data, views, reporter)
        except UserError as error:
            refused.append(f"{task.method}, {task.group}: {error}")
    return refused


def across_cost(runs: Sequence[Run], data: Dataset, folder: Path) -> float:
    """The work that ``across`` would have to do, in evaluated images."""
    total = 0.0
    for task in _tasks(runs, folder)[0]:
        split = task.runs[0].config.split_of(data)
        if task.method == "weight-average-across":
            total += sum(len(getattr(split, part)) for part in task.parts)
        elif task.method == "greedy-soup":
            total += len(split.ood) + len(split.iid) * (len(task.runs) - 1)
    return total


def _tasks(runs: Sequence[Run], folder: Path) -> tuple[list[_Task], list[str]]:
    """What is to be computed, and what cannot be."""
    by_name = {run.folder.name: run for run in runs}
    tasks: list[_Task] = []
    refused: list[str] = []
    for group in groups_of((name, run.config) for name, run in by_name.items()):
        members = tuple(by_name[name] for name in group.names)
        if group.missing:
            refused.append(f"{group}: {_some(group.missing)} {'is' if len(group.missing) == 1 else 'are'} missing")
            continue
        for method in methods_of(group):
            task = _Task(method, group, members, folder / FOLDER / f"{group.stem(method)}.json")
            try:
                if not _is_stored(task):
                    _refuse(task)
                    tasks.append(task)
            except UserError as error:
                refused.append(f"{method}, {group}: {error}")
    return tasks, refused


def _is_stored(task: _Task) -> bool:
    """Whether its result is there and whole, and its members still are what they were."""
    if not task.path.is_file():
        return False
    try:
        found = Across.read(task.path)
    except UserError:
        return False  # it is computed anew, and replaced
    at = dict(zip(found.members, found.scores, strict=True))
    same = all(at.get(run.folder.name) == _final_scores(run) for run in task.runs)
    return same and (task.method == "ensemble-across" or task.path.with_suffix(".safetensors").is_file())


def _refuse(task: _Task) -> None:
    """Raise UserError where weights are to be averaged that are not there, or do not belong together."""
    if task.method == "ensemble-across":
        return
    lacking = [run.folder.name for run in task.runs if not run.final.is_file()]
    if lacking:
        told = f"{_some(lacking)} (of an older version?) {'has' if len(lacking) == 1 else 'have'}"
        raise UserError(f"{told} no final.safetensors; train anew in another folder")
    check_origins([_origin(run.config) for run in task.runs], len(task.runs))


def _compute(task: _Task, data: Dataset, views: Views, reporter: Reporter) -> None:
    """Compute a result and store it, with the weights where it is about weights."""
    began = time.monotonic()
    run = task.runs[0]
    split = run.config.split_of(data)
    log: tuple[dict[str, Any], ...] = ()
    if task.method == "ensemble-across":
        scores = {part: _accuracy(part, _mean_outputs(task, part, data, split), data, split) for part in task.parts}
    else:
        network = load_model(run.final).to(views.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        speed_up(network)

        def score(part: str, state: Mapping[str, Tensor]) -> float:
            reporter.raise_if_stopped("stopped; what is finished is kept")
            network.load_state_dict(state)
            view = run.config.steps if part == "iid" and run.config.held_out_view == "training" else 0
            outputs = logits(network, views, getattr(split, part), run.config.precision, reporter, view)
            return _accuracy(part, outputs, data, split)

        if task.method == "weight-average-across":
            state = _average(task.runs, reporter)
            scores = {part: score(part, state) for part in task.parts}
        else:
            candidates = [
                Candidate(each.folder.name, each.final, _final_scores(each)[0], _origin(each.config))
                for each in task.runs
            ]
            soup = greedy_soup(candidates, partial(score, "iid"))
            state, log = soup.state, tuple(asdict(entry) for entry in soup.log)
            scores = {"iid": soup.score, "ood": score("ood", state)}
    seconds = sum(float(each.result["methods"]["fine-tuning"]["seconds"]) for each in task.runs)
    found = Across(
        method=task.method,
        test_domain=task.group.test_domain,
        seed=task.group.seed,
        dropout=task.group.dropout,
        settings=dict(task.group.settings),
        members=task.group.names,
        scores=tuple(_final_scores(each) for each in task.runs),
        iid_accuracy=scores.get("iid"),
        ood_accuracy=scores["ood"],
        log=log,
        steps=sum(each.config.steps for each in task.runs),
        seconds=round(time.monotonic() - began + seconds, 3),
    )
    if task.method != "ensemble-across":
        about = {"largedrop": __version__, "domains": list(data.domains), **found.to_json()}
        save_model(task.path.with_suffix(".safetensors"), network, about, state)
    write_json(task.path, found.to_json())


def _accuracy(part: str, outputs: npt.NDArray[np.floating], data: Dataset, split: Split) -> float:
    """Accuracy of logits on the ``iid`` or the ``ood`` images."""
    if part == "iid":
        return iid_accuracy(outputs, data.labels[split.iid], split.iid_domains)
    return accuracy(outputs, data.labels[split.ood])


def _mean_outputs(task: _Task, part: str, data: Dataset, split: Split) -> npt.NDArray[np.float32]:
    """The ensemble: the mean of the members' stored logits on the ``iid`` or the ``ood`` images, (n, classes)."""
    shape = (len(getattr(split, part)), len(data.classes))
    members = []
    for run in task.runs:
        tensors, _ = read_tensors(run.folder / "outputs" / f"{run.config.steps:06d}.safetensors", "outputs")
        if part not in tensors or tensors[part].shape != shape:
            raise UserError(f"{run.folder.name}: its outputs are not those of {shape[0]} '{part}' images")
        if not bool(tensors[part].isfinite().all()):
            raise UserError(f"{run.folder.name}: its outputs are not finite")
        members.append(tensors[part].numpy())
    return np.asarray(np.mean(members, axis=0, dtype=np.float32))


def _average(runs: Sequence[Run], reporter: Reporter) -> dict[str, Tensor]:
    """The uniform average of the final weights of several runs; one of them is in memory at a time."""
    average = WeightAverage()
    for run in runs:
        reporter.raise_if_stopped("stopped; what is finished is kept")
        try:
            state, _ = read_tensors(run.final, "model")
            check_finite(state)
            average.add(state)
        except UserError as error:
            raise UserError(f"{run.folder.name}: {error}") from error
    return average.mean


def _origin(config: Config) -> str:
    """What a run was fine-tuned from: the digest of its weights, or where they are random, the seed they came from."""
    return f"random weights of seed {config.seed}" if config.weights == "random" else config.weights_digest


def _final_scores(run: Run) -> tuple[float, float]:
    """I.i.d. and o.o.d. accuracy after the last step, from the log.

    Raises:
        UserError: the run's log does not say.
    """
    try:
        last = run.result["log"][-1]
        if last["step"] != run.config.steps:
            raise UserError(f"{run.folder.name}: its log ends at step {last['step']} of {run.config.steps}")
        return iid_accuracy_of(last), float(last["ood_accuracy"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{run.folder.name}: its result.json has no log of the last step") from error


def _some(names: Sequence[str], most: int = 3) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
