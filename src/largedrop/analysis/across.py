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
from ..files import remove_leftovers, write_stored
from ..measures.calibration import fit_temperature
from ..models.fast.folding import speed_up
from ..reporter import SILENT, Reporter
from ..runs.across import ACROSS_FOLDER, Across, RunGroup, groups_of, methods_across
from ..runs.checkpoint import CHECKPOINT, TEMPERATURE, kept_by, load_model, open_tensors, read_tensors, save_model
from ..runs.logits import read_logits
from ..runs.protocol import iid_accuracy_of
from ..runs.run import Run
from ..training.averaging import WeightAverage, check_finite, check_origins
from ..training.evaluation import accuracy, iid_accuracy, logits, macro_over_domains
from ..training.soup import Candidate, greedy_soup

__all__ = ["across", "across_cost"]


@dataclass(frozen=True)
class _Pending:
    """A result that is to be computed: one method of one group."""

    method: str
    group: RunGroup
    runs: tuple[Run, ...]
    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the split to score on; a group of every seed has no held-out images."""
        return ("ood",) if self.group.seed is None else ("iid", "ood")


def across(
    runs: Sequence[Run], data: Dataset, folder: Path, *, device: torch.device, reporter: Reporter = SILENT
) -> list[str]:
    """The methods across trajectories (section 4.1), for every group of ``runs`` (see ``groups_of``).

    ``ensemble-across`` averages the logits of the final checkpoints; ``weight-average-across`` averages the weights
    uniformly (Ramé et al., 2022b); ``greedy-soup`` adds a checkpoint if the i.i.d. accuracy of the average does not
    fall (Wortsman et al., 2022a). For a group of every seed only the first two are computed, and scored o.o.d.

    Each result is a file in ``folder/across``, written whole, with a checkpoint for ``load_model`` beside it where
    weights are averaged. A stored result is not computed again, unless it is damaged or a member's accuracies have
    changed.

    Args:
        runs: finished runs on ``data``, in folders of different names.
        data: the dataset.
        folder: folder of the sweep.
        device: device to compute on.
        reporter: receives the work, in the unit of ``across_cost``; asked between evaluations whether to stop.

    Returns:
        One line for each result that cannot be computed, with the reason.

    Raises:
        UserError: a file cannot be written.
        Interrupted: the reporter asks to stop.
    """
    remove_leftovers(folder / ACROSS_FOLDER)
    todo, refused = _pending(runs, folder)
    if not todo:
        return refused
    views = open_views(data, device, reporter)
    for pending in todo:
        reporter.raise_if_stopped(f"stopped before {pending.path.stem}")
        try:
            _compute(pending, data, views, reporter)
        except UserError as error:
            refused.append(f"{pending.method}, {pending.group}: {error}")
    return refused


def across_cost(runs: Sequence[Run], data: Dataset, folder: Path) -> float:
    """The work of ``across``, in evaluated images."""
    total = 0.0
    for pending in _pending(runs, folder)[0]:
        split = pending.runs[0].config.split_of(data)
        if pending.method == "weight-average-across":
            total += sum(len(getattr(split, part)) for part in pending.parts)
        elif pending.method == "greedy-soup":
            total += len(split.ood) + len(split.iid) * len(pending.runs)
    return total


def _pending(runs: Sequence[Run], folder: Path) -> tuple[list[_Pending], list[str]]:
    """The results to be computed, and a line for each that cannot be."""
    by_name = {run.folder.name: run for run in runs}
    todo: list[_Pending] = []
    refused: list[str] = []
    for group in groups_of((name, run.config) for name, run in by_name.items()):
        members = tuple(by_name[name] for name in group.names)
        if group.missing:
            refused.append(f"{group}: {_some(group.missing)} {'is' if len(group.missing) == 1 else 'are'} missing")
            continue
        for method in methods_across(group):
            pending = _Pending(method, group, members, folder / ACROSS_FOLDER / f"{group.stem(method)}.json")
            try:
                if not _is_stored(pending):
                    _refuse(pending)
                    todo.append(pending)
            except UserError as error:
                refused.append(f"{method}, {group}: {error}")
    return todo, refused


def _is_stored(pending: _Pending) -> bool:
    """Whether the result is stored, intact with its weights, and of the members' present accuracies."""
    if not pending.path.is_file():
        return False
    try:
        found = Across.read(pending.path)
        at = dict(zip(found.members, found.scores, strict=True))
        if any(at.get(run.folder.name) != _final_scores(run) for run in pending.runs):
            return False
        if pending.method == "ensemble-across":
            return True
        weights = pending.path.with_suffix(".safetensors")
        theirs = Across.from_json(open_tensors(weights, "model").header["about"], weights.name)
        return (theirs.stem, theirs.scores) == (found.stem, found.scores)
    except (UserError, KeyError, TypeError):
        return False  # it is computed again, and replaced


def _refuse(pending: _Pending) -> None:
    """Raise UserError where weights to be averaged are missing or of different origins."""
    if pending.method == "ensemble-across":
        return
    lacking = [run.folder.name for run in pending.runs if not run.final.is_file()]
    if lacking:
        told = f"{_some(lacking)} (of an older version?) {'has' if len(lacking) == 1 else 'have'}"
        raise UserError(f"{told} no final.safetensors; train again in another folder")
    check_origins([_origin(run.config) for run in pending.runs], len(pending.runs))


def _compute(pending: _Pending, data: Dataset, views: Views, reporter: Reporter) -> None:
    """Compute a result and store it, with the weights where they are averaged."""
    began = time.monotonic()
    run = pending.runs[0]
    split = run.config.split_of(data)
    log: tuple[dict[str, Any], ...] = ()
    temperature: dict[str, float | None] = {}
    if pending.method == "ensemble-across":
        scores = {
            part: _accuracies(part, _mean_logits(pending, part, data, split), data, split) for part in pending.parts
        }
    else:
        network = load_model(run.final, run=run.digest).to(views.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def score(part: str, state: Mapping[str, Tensor]) -> tuple[float, float]:
            reporter.raise_if_stopped("stopped; what is finished is kept")
            network.load_state_dict(state)
            view = run.config.steps if part == "iid" and run.config.held_out_view == "training" else 0
            outputs = logits(network, views, getattr(split, part), run.config.precision, reporter, view)
            if part == "iid":  # which all members held out; the last time with the weights that are stored
                temperature[TEMPERATURE] = fit_temperature(outputs, data.labels[split.iid], split.iid_domains)
            return _accuracies(part, outputs, data, split)

        with speed_up(network):
            if pending.method == "weight-average-across":
                state = _average(pending.runs, reporter)
            else:
                candidates = [
                    Candidate(each.folder.name, partial(_final, each), _selecting_score(each), _origin(each.config))
                    for each in pending.runs
                ]
                macro = run.config.select_by == "iid-macro"
                soup = greedy_soup(candidates, lambda state: score("iid", state)[macro])
                state, log = soup.state, tuple(asdict(entry) for entry in soup.log)
            scores = {part: score(part, state) for part in pending.parts}
    seconds = sum(float(each.result["methods"]["fine-tuning"]["seconds"]) for each in pending.runs)
    found = Across(
        method=pending.method,
        test_domain=pending.group.test_domain,
        seed=pending.group.seed,
        dropout=pending.group.dropout,
        settings=dict(pending.group.settings),
        members=pending.group.names,
        scores=tuple(_final_scores(each) for each in pending.runs),
        iid_accuracy=scores["iid"][0] if "iid" in scores else None,
        ood_accuracy=scores["ood"][0],
        iid_macro_accuracy=scores["iid"][1] if "iid" in scores else None,
        ood_macro_accuracy=scores["ood"][1],
        log=log,
        steps=sum(each.config.steps for each in pending.runs),
        seconds=round(time.monotonic() - began + seconds, 3),
    )
    if pending.method != "ensemble-across":
        origin = {"largedrop": __version__, CHECKPOINT: found.stem, "domains": list(data.domains)}
        about = {**origin, **found.to_json(), **temperature}
        save_model(pending.path.with_suffix(".safetensors"), network, about, state)
    write_stored(pending.path, found.to_json())


def _accuracies(part: str, outputs: npt.NDArray[np.floating], data: Dataset, split: Split) -> tuple[float, float]:
    """Accuracy and macro accuracy of logits on the ``iid`` or the ``ood`` images."""
    indices, domains = (split.iid, split.iid_domains) if part == "iid" else (split.ood, split.ood_domains)
    labels = data.labels[indices]
    plain = iid_accuracy(outputs, labels, domains) if part == "iid" else accuracy(outputs, labels)
    return plain, float(macro_over_domains(outputs.argmax(axis=1) == labels, labels, domains))


def _mean_logits(pending: _Pending, part: str, data: Dataset, split: Split) -> npt.NDArray[np.float32]:
    """The ensemble: the mean of the members' stored logits on the ``iid`` or the ``ood`` images, (n, classes)."""
    shape = (len(getattr(split, part)), len(data.classes))
    members = []
    for run in pending.runs:
        with kept_by(run.folder):
            found = read_logits(run.folder, run.config.steps, run.digest, {part: shape})[part]
        if not np.isfinite(found).all():
            raise UserError(f"{run.folder.name}: its logits contain NaN or infinity")
        members.append(found)
    return np.asarray(np.mean(members, axis=0, dtype=np.float32))


def _final(run: Run) -> dict[str, Tensor]:
    """The weights after the last step of a run."""
    with kept_by(run.folder):
        return read_tensors(run.final, "model", run.digest)[0]


def _average(runs: Sequence[Run], reporter: Reporter) -> dict[str, Tensor]:
    """The uniform average of the final weights of several runs, one checkpoint in memory at a time."""
    average = WeightAverage()
    for run in runs:
        reporter.raise_if_stopped("stopped; what is finished is kept")
        try:
            state = _final(run)
            check_finite(state)
            average.add(state)
        except UserError as error:
            raise UserError(f"{run.folder.name}: {error}") from error
    return average.mean


def _origin(config: Config) -> str:
    """The origin of a run's fine-tuning: the digest of its weights or, where they are random, the seed."""
    return f"random weights of seed {config.seed}" if config.weights == "random" else config.weights_digest


def _final_scores(run: Run) -> tuple[float, float]:
    """I.i.d. and o.o.d. accuracy after the last step, from the log.

    Raises:
        UserError: the run's log has no last step.
    """
    try:
        last = run.result["log"][-1]
        if last["step"] != run.config.steps:
            raise UserError(f"{run.folder.name}: its log ends at step {last['step']} of {run.config.steps}")
        return iid_accuracy_of(last), float(last["ood_accuracy"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{run.folder.name}: its result.json has no log of the last step") from error


def _selecting_score(run: Run) -> float:
    """The score after the last step that selects; macro accuracy is of protocol 3 and later."""
    iid = _final_scores(run)[0]
    return float(run.result["log"][-1][run.config.selecting]) if run.config.select_by == "iid-macro" else iid


def _some(names: Sequence[str], most: int = 3) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
