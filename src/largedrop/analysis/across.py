"""Ensembles, weight averages and greedy soups across the final checkpoints of several trajectories, after training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._version import __version__
from ..config import Config
from ..data.dataset import Dataset, IntArray, Split
from ..data.views.batches import Views, open_views
from ..errors import UserError
from ..files import write_json
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.across import FOLDER, Across, Group, groups_of, methods_of
from ..runs.checkpoint import load_model, read_tensors, save_model
from ..runs.protocol import iid_accuracy_of
from ..runs.run import Run
from ..training.averaging import WeightAverage, check_finite, check_origins
from ..training.evaluation import accuracy, iid_accuracy, logits
from ..training.soup import Candidate, greedy_soup

__all__ = ["Results", "across", "across_cost", "average_final", "mean_outputs"]


@dataclass(frozen=True)
class Results:
    """What ``across`` made and found.

    Attributes:
        found: every result, as stored.
        computed: how many of them were computed now.
        refused: what could not be computed, with the reason, a line each.
    """

    found: tuple[Across, ...]
    computed: int
    refused: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """One method of one group."""

    method: str
    group: Group
    runs: tuple[Run, ...]
    path: Path


def across(
    runs: Sequence[Run],
    data: Dataset,
    folder: Path,
    *,
    device: torch.device,
    reporter: Reporter = SILENT,
) -> Results:
    """The methods across trajectories (section 4.1), for every group of ``runs`` (see ``groups_of``).

    ``ensemble-across`` averages the logits of the final checkpoints; ``weight-average-across`` their weights, uniformly
    (Ramé et al., 2022b); ``greedy-soup`` takes a checkpoint in if the i.i.d. accuracy of the average does not fall
    (Wortsman et al., 2022a). Of every seed together there is only the o.o.d. accuracy of the first two.

    Each result is a file in ``folder/across``, written whole, with a checkpoint for ``load_model`` beside it where
    weights are averaged. What is stored already is not computed again, unless it is damaged or a member has other
    accuracies since.

    Args:
        runs: finished, of ``data``.
        data: the dataset.
        folder: the sweep's.
        device: where to compute.
        reporter: told of the work, in the unit of ``across_cost``, and asked between evaluations whether to stop.

    Raises:
        UserError: a run is of other data, or a file cannot be written. What is wrong with single runs is told in
            ``refused``.
        Interrupted: the reporter said so.
    """
    other = [run.folder.name for run in runs if run.config.fingerprint != data.fingerprint]
    if other:
        raise UserError(f"{other[0]} is not a run on {data.name} (and {len(other) - 1} more)")
    tasks, found, refused = _tasks(runs, folder)
    evaluator: _Evaluator | None = None
    made: list[Across] = []
    for task in tasks:
        reporter.raise_if_stopped(f"stopped before {task.path.stem}")
        if evaluator is None or evaluator.lacks(task):
            views = evaluator.views if evaluator else open_views(data, device, reporter)
            evaluator = _Evaluator(data, views, reporter)
        try:
            result, state = _computed(task, evaluator)
        except UserError as error:
            refused.append(f"{task.method}, {task.group}: {error}")
            continue
        if state is not None:
            about = {"largedrop": __version__, "domains": list(data.domains), **result.to_json()}
            network = evaluator.network(task.runs[0])
            save_model(task.path.with_suffix(".safetensors"), network, about, dict(state))
        write_json(task.path, result.to_json())
        made.append(result)
    return Results((*found, *made), len(made), tuple(refused))


def across_cost(runs: Sequence[Run], data: Dataset, folder: Path) -> float:
    """The work that ``across`` would have to do, in evaluated images."""
    total = 0.0
    for task in _tasks(runs, folder)[0]:
        split = task.runs[0].config.split_of(data)
        if task.method == "weight-average-across":
            total += len(split.ood) + (len(split.iid) if task.group.seed is not None else 0)
        elif task.method == "greedy-soup":
            total += len(split.ood) + len(split.iid) * (len(task.runs) - 1)
    return total


def mean_outputs(outputs: Sequence[npt.NDArray[np.floating[Any]]]) -> npt.NDArray[np.float32]:
    """The ensemble of some members' logits, each (n, classes): their mean, in float32.

    Raises:
        UserError: there are none, or their shapes differ.
    """
    shapes = dict.fromkeys(each.shape for each in outputs)
    if len(shapes) != 1:
        told = " and ".join(map(str, shapes))
        raise UserError(f"an ensemble needs logits of one shape, not {told}" if told else "an ensemble needs members")
    total = np.zeros(outputs[0].shape, dtype=np.float32)
    for each in outputs:
        total += each.astype(np.float32)
    return total / np.float32(len(outputs))


def average_final(runs: Sequence[Run], pause: Callable[[], None] | None = None) -> dict[str, Tensor]:
    """The uniform average of the final weights of several runs; one of them is in memory at a time.

    Args:
        runs: finished.
        pause: called before each is read.

    Raises:
        UserError: there are none, one has no final checkpoint or a damaged one, or they are of different networks or
            began from different weights.
    """
    if not runs:
        raise UserError("there are no weights to average")
    check_origins([_origin(run.config) for run in runs], len(runs))
    average = WeightAverage()
    for run in runs:
        if pause is not None:
            pause()
        try:
            average.add(_weights(run))
        except UserError as error:
            raise UserError(f"{run.folder.name}: {error}") from error
    return average.mean


class _Evaluator:
    """A network whose weights are replaced by those that are to be scored."""

    def __init__(self, data: Dataset, views: Views, reporter: Reporter) -> None:
        self.data = data
        self.views = views
        self.reporter = reporter
        self._network: Network | None = None
        self._of: tuple[Any, ...] | None = None

    def lacks(self, task: _Task) -> bool:
        """Whether the network is of another kind than the task's runs."""
        return self._of is not None and self._of != task.runs[0].config.network_key

    def network(self, run: Run) -> Network:
        """That of ``run``, built once; the weights are whatever was scored last."""
        if self._network is None:
            network = load_model(run.final).to(self.views.device)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            speed_up(network)
            self._network, self._of = network, run.config.network_key
        return self._network

    def iid(self, run: Run, state: Mapping[str, Tensor], split: Split) -> float:
        """I.i.d. accuracy of the weights ``state`` in the network of ``run``."""
        view = run.config.steps if run.config.held_out_view == "training" else 0
        outputs = self._outputs(run, state, split.iid, view)
        return iid_accuracy(outputs, self.data.labels[split.iid], split.iid_domains)

    def ood(self, run: Run, state: Mapping[str, Tensor], split: Split) -> float:
        """O.o.d. accuracy likewise."""
        return accuracy(self._outputs(run, state, split.ood), self.data.labels[split.ood])

    def _outputs(
        self, run: Run, state: Mapping[str, Tensor], indices: IntArray, view: int = 0
    ) -> npt.NDArray[np.float16]:
        self.pause()
        network = self.network(run)
        network.load_state_dict(state)
        return logits(network, self.views, indices, run.config.precision, self.reporter, view)

    def pause(self) -> None:
        """Raise Interrupted where the user wants to stop."""
        self.reporter.raise_if_stopped("stopped; what is finished is kept")


def _tasks(runs: Sequence[Run], folder: Path) -> tuple[list[_Task], list[Across], list[str]]:
    """What is to be computed, what is stored, and what cannot be computed."""
    tasks: list[_Task] = []
    found: list[Across] = []
    refused: list[str] = []
    for group in groups_of((run.folder.name, run.config) for run in runs):
        members = tuple(runs[place] for place in group.places)
        if group.missing:
            refused.append(f"{group}: {_some(group.missing)} {'is' if len(group.missing) == 1 else 'are'} missing")
            continue
        for method in methods_of(group):
            path = folder / FOLDER / f"{group.stem(method)}.json"
            try:
                stored = _stored(path, members)
                if stored is not None:
                    found.append(stored)
                    continue
                if method != "ensemble-across":
                    _refuse(members)
                tasks.append(_Task(method, group, members, path))
            except UserError as error:
                refused.append(f"{method}, {group}: {error}")
    # Networks of one kind follow each other, so that each is built once.
    return sorted(tasks, key=lambda task: tuple(map(str, task.runs[0].config.network_key))), found, refused


def _stored(path: Path, members: Sequence[Run]) -> Across | None:
    """The result at ``path``, if it is whole and its members still are what they were."""
    if not path.is_file():
        return None
    try:
        found = Across.read(path)
    except UserError:
        return None  # it is computed anew, and replaced
    at = dict(zip(found.members, found.scores, strict=True))
    same = all(at.get(run.folder.name) == _final_scores(run) for run in members)
    whole = found.method == "ensemble-across" or path.with_suffix(".safetensors").is_file()
    return found if same and whole else None


def _refuse(members: Sequence[Run]) -> None:
    """Raise UserError where the weights of ``members`` are not there, or cannot be averaged."""
    lacking = [run.folder.name for run in members if not run.final.is_file()]
    if lacking:
        told = f"{_some(lacking)} (of an older version?) {'has' if len(lacking) == 1 else 'have'}"
        raise UserError(f"{told} no final.safetensors; train anew in another folder")
    check_origins([_origin(run.config) for run in members], len(members))


def _computed(task: _Task, evaluator: _Evaluator) -> tuple[Across, Mapping[str, Tensor] | None]:
    """The result, and the weights where it is about weights."""
    began = time.monotonic()
    log: list[dict[str, Any]] = []
    run, data = task.runs[0], evaluator.data
    split = run.config.split_of(data)
    state: Mapping[str, Tensor] | None = None
    iid: float | None = None
    if task.method == "ensemble-across":
        iid, ood = _ensemble(task, data, split)
    elif task.method == "weight-average-across":
        state = average_final(task.runs, evaluator.pause)
        if task.group.seed is not None:
            iid = evaluator.iid(run, state, split)
        ood = evaluator.ood(run, state, split)
    else:
        candidates = [
            Candidate(each.folder.name, each.final, _final_scores(each)[0], _origin(each.config)) for each in task.runs
        ]
        soup = greedy_soup(candidates, lambda weights: evaluator.iid(run, weights, split))
        state, iid = soup.state, soup.score
        ood = evaluator.ood(run, state, split)
        log = [asdict(entry) for entry in soup.log]
    found = Across(
        method=task.method,
        test_domain=task.group.test_domain,
        seed=task.group.seed,
        dropout=task.group.dropout,
        settings=dict(task.group.settings),
        members=task.group.names,
        scores=tuple(_final_scores(each) for each in task.runs),
        iid_accuracy=iid,
        ood_accuracy=ood,
        log=tuple(log),
        steps=sum(each.config.steps for each in task.runs),
        seconds=round(time.monotonic() - began + sum(_seconds(each) for each in task.runs), 3),
    )
    return found, state


def _ensemble(task: _Task, data: Dataset, split: Split) -> tuple[float | None, float]:
    tables: dict[str, list[npt.NDArray[np.float16]]] = {"iid": [], "ood": []}
    for run in task.runs:
        tensors, _ = read_tensors(run.folder / "outputs" / f"{run.config.steps:06d}.safetensors", "outputs")
        own = split if task.group.seed is not None else run.config.split_of(data)
        for part, indices in (("iid", own.iid), ("ood", own.ood)):
            if part not in tensors or tensors[part].shape != (len(indices), len(data.classes)):
                raise UserError(f"{run.folder.name}: its outputs are not those of {len(indices)} '{part}' images")
            if not bool(tensors[part].isfinite().all()):
                raise UserError(f"{run.folder.name}: its outputs are not finite")
            tables[part].append(tensors[part].numpy())
    ood = accuracy(mean_outputs(tables["ood"]), data.labels[split.ood])
    if task.group.seed is None:
        return None, ood
    return iid_accuracy(mean_outputs(tables["iid"]), data.labels[split.iid], split.iid_domains), ood


def _weights(run: Run) -> Mapping[str, Tensor]:
    state, _ = read_tensors(run.final, "model")
    check_finite(state)
    return state


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


def _seconds(run: Run) -> float:
    return float(run.result["methods"]["fine-tuning"]["seconds"])


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
