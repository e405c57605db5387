"""``evaluate``: how good a model is on newly labelled images, by domain and class, and how sure of it one may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..catalog.shifted import projection
from ..data import open_dataset
from ..data.classes import named
from ..data.dataset import Dataset, IntArray
from ..data.images import bound_for
from ..data.views.batches import open_views
from ..errors import UserError, one_of
from ..measures.calibration import Calibration, calibration, softmax
from ..measures.coverage import Coverage, risk_coverage
from ..measures.intervals import Scores, mcnemar, scored
from ..models.network import Network, weights_crc
from ..reporter import SILENT, Reporter
from ..runs.record import describe
from ..runtime import keep_freed_memory
from ..training.device import choose_device, choose_precision
from ..training.evaluation import outputs
from .ensemble import Model, open_networks, seen_keys
from .evaluation_notes import part_notes, seen_notes, unknown_notes
from .predict import ready

__all__ = ["UNKNOWN", "Difference", "Evaluated", "Evaluation", "Mistake", "evaluate", "evaluate_networks"]

UNKNOWN = ("wrong", "skip")
"""What is done with images of a class that a model does not know: they count as wrong, or are left out."""

MISTAKES = 24
"""Mistakes that are kept, those that a model is surest of."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mistake:
    """An image of which a model is wrong: its place in the dataset, its class, the one predicted and how sure."""

    index: int
    key: str
    domain: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluated:
    """One model on all images.

    Attributes:
        name: name of the model.
        classes: names of its classes, in the order of ``confusion``'s columns.
        temperatures: temperature of each network; None where it has none.
        weights: checksum of each network's weights (``models.network.weights_crc``).
        domains: accuracies in each domain, by name.
        mean: the mean over the domains, each with the same weight.
        confusion: number of images of each class of the data (rows) and each predicted class, by domain.
        before: calibration of the softmax of the logits, by domain.
        after: calibration of the probabilities that ``predict`` gives, by domain.
        coverage: risk and coverage by these probabilities, by domain.
        mistakes: the mistakes that it is surest of.
    """

    name: str
    classes: tuple[str, ...]
    temperatures: tuple[float | None, ...]
    weights: tuple[str, ...]
    domains: Mapping[str, Scores]
    mean: Scores
    confusion: Mapping[str, npt.NDArray[np.int64]]
    before: Mapping[str, Calibration]
    after: Mapping[str, Calibration]
    coverage: Mapping[str, Coverage]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class Difference:
    """The first model minus the second, on the same images.

    Attributes:
        domains: differences of accuracies, by domain.
        mean: their mean.
        only: images on which only the first is right, and only the second, by domain.
        p: exact p-value that both are right equally often (McNemar), by domain.
    """

    domains: Mapping[str, Scores]
    mean: Scores
    only: Mapping[str, tuple[int, int]]
    p: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """One model, or two, on labelled images.

    Attributes:
        dataset: facts about the data.
        classes: names of the data's classes.
        models: what was found of each model.
        difference: the first model against the second; None where there is one.
        notes: lines for people.
    """

    dataset: Mapping[str, Any]
    classes: tuple[str, ...]
    models: tuple[Evaluated, ...]
    difference: Difference | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON types."""
        found = asdict(self)
        for model in found["models"]:
            model["confusion"] = {domain: counts.tolist() for domain, counts in model["confusion"].items()}
        return found


def evaluate(
    model: Model | Sequence[Model],
    data: Dataset | str | Path,
    *,
    against: Model | Sequence[Model] | None = None,
    unknown: str = "wrong",
    test_on: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluate a model on labelled images, whose classes are matched by their names.

    Args:
        model: a run, its folder or a checkpoint file; several are an ensemble, as for ``predict``.
        data: the images, or what ``open_dataset`` takes.
        against: a second model, compared on the same images.
        unknown: images of a class that a model does not know count as ``wrong``, or ``skip`` leaves them out.
        test_on: name of the shifted ImageNet that the data are, such as ``ImageNet-A``: a model of ImageNet's classes
            is scored among those that the set has; images of other classes are left out.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where the device has it.
        progress: called with the number of images since the last call.
        options: further arguments of ``open_dataset``, where ``data`` is none yet.

    Returns:
        Accuracies with 95 % intervals by domain and class, confusion, calibration before and after the temperature,
        risk and coverage, and the worst mistakes.

    Raises:
        UserError: a model or the data cannot be opened, or they have no class in common.
    """
    named_models = [model] if against is None else [model, against]
    models = [(_called(each), open_networks(each)) for each in named_models]
    chosen = choose_device(device)
    if isinstance(data, Dataset) and options:
        raise UserError(f"the dataset is open already: give {', '.join(options)} to open_dataset")
    if not isinstance(data, Dataset):
        networks = [network for _, found in models for network in found]
        data = open_dataset(data, **{"bound": bound_for(network.spec.size for network in networks), **options})
    reporter = SILENT if progress is None else _Caller(progress)
    return evaluate_networks(
        models,
        data,
        unknown=unknown,
        test_on=test_on,
        device=chosen,
        precision=precision,
        seen=[seen_keys(each) for each in named_models],
        reporter=reporter,
    )


def evaluate_networks(
    models: Sequence[tuple[str, Sequence[Network]]],
    data: Dataset,
    *,
    unknown: str,
    test_on: str | None = None,
    device: torch.device,
    precision: str,
    seen: Sequence[Mapping[str, bool]] = (),
    reporter: Reporter = SILENT,
) -> Evaluation:
    """As ``evaluate``, of one or two models with their names and networks, which are moved to ``device``.

    Args:
        seen: images of each model's runs, from ``seen_keys``.
    """
    if unknown not in UNKNOWN:
        raise UserError(f"unknown must be 'wrong' or 'skip', not {unknown!r}")
    every = [networks[0].classes for _, networks in models]
    onto = [None if test_on is None else projection(test_on, known, data.classes) for known in every]
    if test_on is not None:
        unknown = "skip"
    classes = [known if each is None else each.classes for known, each in zip(every, onto, strict=True)]
    places = [_matched(known, data, name) for known, (name, _) in zip(classes, models, strict=True)]
    lacks = np.unique(np.concatenate([data.labels[place[data.labels] < 0] for place in places]))
    indices = np.sort(np.concatenate([data.tested(domain) for domain in data.domains]))
    if unknown == "skip":
        indices = indices[~np.isin(data.labels[indices], lacks)]
    kept = _Kept(data, indices.astype(np.int64))
    precision = choose_precision(precision, device)
    evaluated, rights = [], []
    for (name, networks), place, known, each in zip(models, places, classes, onto, strict=True):
        found = _logits(networks, data, kept.indices, device, precision, reporter)
        if each is not None:
            found = [each(logits) for logits in found]
        one, right = _evaluated(name, networks, known, found, kept, place)
        evaluated.append(one)
        rights.append(right)
    notes = [
        *part_notes(data),
        *unknown_notes(data, lacks, unknown),
        *seen_notes(models, data, seen or [{}] * len(models)),
        *kept.notes(),
    ]
    trained = {network.spec.bits for _, networks in models for network in networks} - {data.bits}
    if data.bits < 16 and trained:
        notes.append(
            f"16-bit images: values of {data.bits} bits here, by which they are read, and of {min(trained)} where a "
            "model was trained, by which `largedrop predict` reads them"
        )
    difference = _difference(kept, *rights) if len(rights) > 1 else None
    return Evaluation(describe(data), data.classes, tuple(evaluated), difference, tuple(dict.fromkeys(notes)))


class _Kept:
    """The images that count, and the numbers of the domains that they are in, without gaps."""

    def __init__(self, data: Dataset, indices: IntArray) -> None:
        self.data, self.indices = data, indices
        self.labels, self.groups = data.labels[indices], data.groups[indices]
        present, self.domains = np.unique(data.domain_ids[indices], return_inverse=True)
        self.names = tuple(data.domains[number] for number in present)

    def of(self, number: int) -> npt.NDArray[np.bool_]:
        return np.asarray(self.domains == number)

    def scored(
        self, right: npt.NDArray[np.bool_], against: npt.NDArray[np.bool_] | None = None
    ) -> tuple[dict[str, Scores], Scores]:
        each, mean = scored(right, self.labels, self.domains, self.groups, len(self.data.classes), against)
        return dict(zip(self.names, each, strict=True)), mean

    def notes(self) -> list[str]:
        gone = [f"'{name}'" for name in self.data.domains if name not in self.names]
        return [f"no image is left of {', '.join(gone)}"] if gone else []


def _matched(classes: Sequence[str], data: Dataset, name: str) -> IntArray:
    """The index among a model's classes of each class of the data; -1 where the model does not know it.

    Raises:
        UserError: they have no class in common.
    """
    places = {each: index for index, each in enumerate(classes)}
    found = np.array([places.get(each, -1) for each in data.classes], np.int64)
    if (found < 0).all():
        raise UserError(
            f"{name} knows none of the classes of {data.name} ({named(data.classes)}): "
            f"{one_of(data.classes[0], classes)}"
        )
    return found


def _logits(
    networks: Sequence[Network],
    data: Dataset,
    indices: IntArray,
    device: torch.device,
    precision: str,
    reporter: Reporter,
) -> list[npt.NDArray[np.float32]]:
    """The logits of each network, (n, classes)."""
    if device.type == "cpu":
        keep_freed_memory()
    views = open_views(data, device, reporter)
    found = []
    for network in networks:
        with ExitStack() as stack:
            stack.enter_context(ready(network, device))
            found.append(outputs(network, network.forward, views, indices, precision, reporter).numpy())
    return found


def _evaluated(
    name: str,
    networks: Sequence[Network],
    classes: tuple[str, ...],
    logits: Sequence[npt.NDArray[np.float32]],
    kept: _Kept,
    place: IntArray,
) -> tuple[Evaluated, npt.NDArray[np.bool_]]:
    """What is found of a model, and on which images it is right."""
    if not all(np.isfinite(each).all() for each in logits):
        raise UserError(f"{name} gives no probabilities for some images: its weights or outputs overflow")
    temperatures = tuple(network.temperature for network in networks)
    before: Floats = np.mean([softmax(each) for each in logits], axis=0)
    after: Floats = np.mean([softmax(each, t or 1.0) for each, t in zip(logits, temperatures, strict=True)], axis=0)
    truth, predicted, sure = place[kept.labels], after.argmax(axis=1), after.max(axis=1)
    right = predicted == truth
    domains = range(len(kept.names))
    confusion = np.zeros((len(domains), len(kept.data.classes), len(classes)), np.int64)
    np.add.at(confusion, (kept.domains, kept.labels, predicted), 1)
    each, mean = kept.scored(right)
    worst = np.argsort(-np.where(right, -1.0, sure), kind="stable")[: min(MISTAKES, int((~right).sum()))]
    mistakes = [
        Mistake(
            index=int(kept.indices[at]),
            key=kept.data.keys[kept.indices[at]],
            domain=kept.names[kept.domains[at]],
            label=kept.data.classes[kept.labels[at]],
            predicted=classes[predicted[at]],
            probability=round(float(sure[at]), 6),
        )
        for at in worst
    ]
    found = Evaluated(
        name=name,
        classes=classes,
        temperatures=temperatures,
        weights=tuple(map(weights_crc, networks)),
        domains=each,
        mean=mean,
        confusion={domain: confusion[at] for at, domain in enumerate(kept.names)},
        before={domain: calibration(before[kept.of(at)], truth[kept.of(at)]) for at, domain in enumerate(kept.names)},
        after={domain: calibration(after[kept.of(at)], truth[kept.of(at)]) for at, domain in enumerate(kept.names)},
        coverage={domain: risk_coverage(sure[kept.of(at)], right[kept.of(at)]) for at, domain in enumerate(kept.names)},
        mistakes=tuple(mistakes),
    )
    return found, right


def _difference(kept: _Kept, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Difference:
    each, mean = kept.scored(first, second)
    only = {
        domain: (int((first & ~second)[kept.of(at)].sum()), int((second & ~first)[kept.of(at)].sum()))
        for at, domain in enumerate(kept.names)
    }
    return Difference(each, mean, only, {domain: mcnemar(*counts) for domain, counts in only.items()})


def _called(model: Model | Sequence[Model]) -> str:
    members = [model] if isinstance(model, (str, Path)) or not isinstance(model, Sequence) else model
    return " + ".join(str(getattr(member, "folder", member)) for member in members)


class _Caller(Reporter):
    """Calls a function with the work."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self.progress = progress

    def advance(self, work: float) -> None:
        self.progress(work)
