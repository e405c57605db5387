"""The inspection of a run: richness of its representation, linearity of its fine-tuning, and figure 1's curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset, IntArray
from ..data.random import generator
from ..data.views.batches import Views
from ..errors import UserError, one_of
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import load_model
from ..runs.estimate import estimate_json
from ..runs.interpolation import INTERPOLATION_FILE, Interpolation
from ..runs.read import read_runs
from ..runs.run import Run
from ..training.device import exact
from ..training.evaluation import BATCH, representations
from ..training.features import FeatureCache
from .interpolation import interpolate_run, interpolation_cost, start_network
from .linearity import Linearised, Linearity, linearise, measure_linearity
from .richness import Richness, measure_richness

__all__ = ["CHECKPOINTS", "MEASURES", "PARTS", "Inspection", "find_runs", "inspect_run", "inspection_cost"]

MEASURES = ("richness", "linearity", "interpolation")

CHECKPOINTS = ("best", "average", "final")

PARTS = {"iid": "i.i.d.", "ood": "o.o.d."}
"""Parts of the split that are measured on, and their labels: the held-out images, and the test domain."""

_LINEARISED = 4
"""Time of one image's linearised output, over the time of its evaluation."""


@dataclass(frozen=True)
class Inspection:
    """The measurements on a run; those that were not requested, or are impossible, are empty.

    Attributes:
        run: the run.
        richness: richness of the representation, by part of the split.
        linearity: linearity of the fine-tuning, by part of the split.
        interpolation: interpolation between the pretrained and the fine-tuned network (figure 1).
        notes: lines about measurements that are impossible, with the reason.
    """

    run: Run
    richness: dict[str, Richness]
    linearity: dict[str, Linearity]
    interpolation: Interpolation | None
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers for a table, by part and measure: ``ood.effective_rank``."""
        found: dict[str, float | None] = {}
        for part, rich in self.richness.items():
            names = ("accuracy", "effective_rank", "participation_ratio", "correlation")
            found |= {f"{part}.{name}": getattr(rich, name) for name in names}
            found |= {f"{part}.probe_{share:g}": estimate.mean for share, estimate in rich.probes.items()}
            kept = dict(zip(rich.shares, rich.kept_random, strict=True))
            found |= {f"{part}.head_{share:g}": kept[share].mean for share in rich.probes}
            found |= {f"{part}.{name}": getattr(rich, name) for name in ("removable_random", "removable_largest")}
        for part, linear in self.linearity.items():
            found |= {f"{part}.{name}": getattr(linear, name) for name in ("distance", "linear_accuracy", "agreement")}
        if self.interpolation is not None:
            gaps = np.abs(np.subtract(self.interpolation.weights, self.interpolation.representations)).mean(axis=0)
            found |= {f"{part}.interpolation_gap": gap for part, gap in zip(PARTS, gaps.tolist(), strict=True)}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        config = self.run.config.to_json()
        return {
            "name": self.run.folder.name,
            "config": {name: value for name, value in config.items() if value is not None},
            "richness": {part: _rich_json(rich) for part, rich in self.richness.items()},
            "linearity": {part: asdict(linear) for part, linear in self.linearity.items()},
            "interpolation": self.interpolation.to_json() if self.interpolation else None,
            "notes": list(self.notes),
        }


def find_runs(folders: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Open runs, given by their own folders or by folders of runs at any depth.

    Returns:
        The runs, each once; and a line for each unusable run below the folders.

    Raises:
        UserError: there is no finished run in a folder, or the runs are of different datasets or protocols.
    """
    runs: dict[Path, Run] = {}
    unusable: list[str] = []
    for folder in map(Path, folders):
        paths = [folder]
        if not (folder / "config.json").is_file():
            stored = read_runs(folder)
            paths = [folder / each.name for each in stored.runs]
            unusable += map(str, stored.unusable)
        runs |= {path.resolve(): Run.open(path) for path in paths}
    first, *others = runs.values()
    for run in others:
        if run.config.fingerprint != first.config.fingerprint:
            raise UserError(
                f"these runs are of different datasets: {first.folder.name} of {first.config.data}, "
                f"{run.folder.name} of {run.config.data}"
            )
        if run.protocol != first.protocol:
            raise UserError(
                f"these runs are of different protocols: {first.folder.name} of {first.protocol}, "
                f"{run.folder.name} of {run.protocol}; inspect each side by itself"
            )
    return [first, *others], unusable


def inspect_run(
    run: Run,
    data: Dataset,
    features: FeatureCache,
    *,
    measures: Sequence[str] = MEASURES,
    checkpoint: str = "best",
    images: int = 512,
    draws: int = 10,
    reporter: Reporter = SILENT,
) -> Inspection:
    """Measure one run, in float32 and in the evaluation view.

    Richness and linearity are those of ``checkpoint``, on a random sample of the held-out i.i.d. images and one of the
    o.o.d. images; probes are trained on a random sample of the run's training images. The samples depend on the run's
    seed and split alone, so that runs of different rates are measured on the same images. The interpolation is that of
    figure 1, on all images, and begins at the weights after the last step; it is read where it is stored in the run's
    folder, and stored otherwise.

    Args:
        run: finished run on ``data``.
        data: the dataset.
        features: features of ``data`` on the device to compute on, shared between runs.
        measures: names of measures, some of ``MEASURES``.
        checkpoint: name of the checkpoint, one of ``CHECKPOINTS``.
        images: largest number of images of each sample, 2 or more.
        draws: number of random subsets of the units for each share, 1 or more.
        reporter: receives the work, in the unit of ``inspection_cost``.

    Raises:
        UserError: the run has no fine-tuned network or no such checkpoint, or a name is unknown.
    """
    path = _checkpoint(run, measures, checkpoint)
    config, views = run.config, features.views
    split = config.split_of(data)
    network = load_model(path, run=run.digest, step=run.step_of(path)).to(views.device)
    rich: dict[str, Richness] = {}
    linear: dict[str, Linearity] = {}
    notes: tuple[str, ...] = ()
    samples = {part: _sample(getattr(split, part), images, name, config.seed) for part, name in PARTS.items()}
    if "richness" in measures:
        train = _sample(np.concatenate(split.train), images, "train", config.seed)
        known, *tests = (
            (representations(network, views, indices, "float32", reporter).numpy(), data.labels[indices])
            for indices in (train, *samples.values())
        )
        head = [parameter.detach().cpu().numpy() for parameter in (network.head.weight, network.head.bias)]
        rich = dict(zip(PARTS, measure_richness(known, tests, *head, draws=draws), strict=True))
    if "linearity" in measures and config.weights == "random":
        notes = (f"{run.folder.name}: no linearity, since its running statistics moved with its weights",)
    elif "linearity" in measures:
        start = start_network(config, data, split, features).state_dict()
        linear = {part: _linearity(network, start, data, indices, views, reporter) for part, indices in samples.items()}
    between = _interpolation(run, data, features, reporter) if "interpolation" in measures else None
    return Inspection(run, rich, linear, between, notes)


def inspection_cost(runs: Iterable[Run], data: Dataset, measures: Sequence[str], images: int) -> float:
    """The work of inspecting ``runs``, in evaluated images."""
    total, pretrained = 0.0, set()
    for run in runs:
        config = run.config
        interpolates = "interpolation" in measures and not (run.folder / INTERPOLATION_FILE).is_file()
        total += 3 * images * ("richness" in measures)
        total += 2 * _LINEARISED * images * ("linearity" in measures and config.weights != "random")
        total += interpolation_cost(run, data) if interpolates else 0
        if "linearity" in measures or interpolates:
            pretrained.add(tuple(config.feature_key.items()))
    return total + len(pretrained) * len(data)


def _linearity(
    network: Network, start: Mapping[str, Tensor], data: Dataset, indices: IntArray, views: Views, reporter: Reporter
) -> Linearity:
    parts = []
    for first in range(0, len(indices), BATCH):
        chosen = indices[first : first + BATCH]
        with exact():
            parts.append(linearise(network, start, network.state_dict(), views.evaluation(chosen, network.spec)))
        reporter.advance(_LINEARISED * len(chosen))
    return measure_linearity(Linearised(*map(torch.cat, zip(*parts, strict=True))), data.labels[indices])


def _interpolation(run: Run, data: Dataset, features: FeatureCache, reporter: Reporter) -> Interpolation:
    """The stored interpolation, at any α; else a new one from the final weights or, where not kept, the best."""
    if (run.folder / INTERPOLATION_FILE).is_file():
        return Interpolation.read(run.folder / INTERPOLATION_FILE, run.digest)
    which = "final" if run.final.is_file() else "best"
    return interpolate_run(run, data, features, which=which, reporter=reporter)


def _sample(indices: IntArray, most: int, name: str, seed: int) -> IntArray:
    """At most ``most`` of ``indices``, ascending."""
    if len(indices) <= most:
        return indices
    return np.sort(generator(f"inspect {name}", seed).choice(indices, most, replace=False))


def _checkpoint(run: Run, measures: Sequence[str], checkpoint: str) -> Path:
    """The path of ``checkpoint``.

    Raises:
        UserError: ``run`` cannot be inspected with these arguments.
    """
    name = run.folder.name
    for measure in measures:
        if measure not in MEASURES:
            raise UserError(f"unknown measure '{measure}'; {one_of(measure, MEASURES)}")
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"unknown checkpoint '{checkpoint}'; {one_of(checkpoint, CHECKPOINTS)}")
    if run.config.fit != "all":
        raise UserError(f"{name} is a fit of '{run.config.fit}': it has no fine-tuned network to inspect")
    if not run.config.test_domains:
        raise UserError(f"{name} has no test domain, whose images are what held-out ones are compared with")
    path = {"best": run.best, "average": run.average, "final": run.final}[checkpoint]
    if not path.is_file():
        raise UserError(f"{name} has no {checkpoint}.safetensors; name another --checkpoint or train again")
    return path


def _rich_json(rich: Richness) -> dict[str, Any]:
    return {
        **asdict(rich),
        "singular_values": [round(value, 6) for value in rich.singular_values],
        "probes": {f"{share:g}": estimate_json(estimate) for share, estimate in rich.probes.items()},
    }
