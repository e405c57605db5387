"""A run inspected: how rich its representation is, how linear its fine-tuning was, and figure 1's two curves."""

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
from ..runs.interpolation import FILE, Interpolation
from ..runs.read import read_runs
from ..runs.run import Run
from ..training.evaluation import BATCH, representations
from ..training.features import FeatureCache
from .interpolation import interpolate_run, interpolation_cost, start_network
from .linearity import Linearised, Linearity, linearise, measure_linearity
from .richness import Richness, measure_richness

__all__ = ["CHECKPOINTS", "KINDS", "MEASURES", "Inspection", "find_runs", "inspect_run", "inspection_cost"]


MEASURES = ("richness", "linearity", "interpolation")

CHECKPOINTS = ("best", "average", "final")

KINDS = {"iid": "i.i.d.", "ood": "o.o.d."}
"""Images that are measured on, and what they are called: held-out ones of the training domains, and the test domain."""


_LINEARISED = 4
"""An image whose linearised output is computed takes about as long as this many in evaluation."""


@dataclass(frozen=True)
class Inspection:
    """What was measured of a run; what was not asked for, or cannot be had, is empty.

    Attributes:
        run: that was inspected.
        richness: by kind.
        linearity: by kind.
        interpolation: between the pretrained and the fine-tuned network (figure 1).
        notes: what cannot be had, and why.
    """

    run: Run
    richness: dict[str, Richness]
    linearity: dict[str, Linearity]
    interpolation: Interpolation | None
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """Every number that a table shows, by kind and measure: ``ood.effective_rank``."""
        found: dict[str, float | None] = {}
        for kind, rich in self.richness.items():
            names = ("accuracy", "effective_rank", "participation_ratio", "correlation")
            found |= {f"{kind}.{name}": getattr(rich, name) for name in names}
            found |= {f"{kind}.probe_{share:g}": estimate.mean for share, estimate in rich.probes.items()}
            kept = dict(zip(rich.shares, rich.kept_random, strict=True))
            found |= {f"{kind}.head_{share:g}": kept[share].mean for share in rich.probes}
            found |= {f"{kind}.{name}": getattr(rich, name) for name in ("removable_random", "removable_largest")}
        for kind, linear in self.linearity.items():
            found |= {f"{kind}.{name}": getattr(linear, name) for name in ("distance", "linear_accuracy", "agreement")}
        if self.interpolation is not None:
            gaps = np.abs(np.subtract(self.interpolation.weights, self.interpolation.representations)).mean(axis=0)
            found |= {f"{kind}.interpolation_gap": gap for kind, gap in zip(KINDS, gaps.tolist(), strict=True)}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        config = self.run.config.to_json()
        return {
            "name": self.run.folder.name,
            "config": {name: value for name, value in config.items() if value is not None},
            "richness": {kind: _rich_json(rich) for kind, rich in self.richness.items()},
            "linearity": {kind: asdict(linear) for kind, linear in self.linearity.items()},
            "interpolation": self.interpolation.to_json() if self.interpolation else None,
            "notes": list(self.notes),
        }


def find_runs(folders: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """Open runs, given by their own folders or by folders of runs at any depth.

    Returns:
        The runs, each once; and those in folders of runs that cannot be used, with the reason.

    Raises:
        UserError: there is no finished run in a folder, or they are of different datasets.
    """
    runs: dict[Path, Run] = {}
    problems: list[str] = []
    for folder in map(Path, folders):
        paths = [folder]
        if not (folder / "config.json").is_file():
            stored = read_runs(folder)
            paths = [folder / each.name for each in stored.runs]
            problems += map(str, stored.unusable)
        runs |= {path.resolve(): Run.open(path) for path in paths}
    first, *others = runs.values()
    for run in others:
        if run.config.fingerprint != first.config.fingerprint:
            raise UserError(
                f"these runs are of different datasets: {first.folder.name} of {first.config.data}, "
                f"{run.folder.name} of {run.config.data}"
            )
    return [first, *others], problems


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
    o.o.d. images; probes are trained on a random sample of the images that the run trained on. The samples depend on
    the run's seed and split alone, so that runs of different rates are measured on the same images. The interpolation
    is that of figure 1, on all of them, and begins at the weights after the last step; it is read where the run's
    folder has one, and stored there otherwise.

    Args:
        run: finished, of ``data``.
        data: the dataset.
        features: of ``data``, shared with other runs; its device is the one that computes.
        measures: some of ``MEASURES``.
        checkpoint: one of ``CHECKPOINTS``.
        images: of each sample, at most; 2 or more.
        draws: random subsets of the units for each share, 1 or more.
        reporter: told of the work, in the unit of ``inspection_cost``.

    Raises:
        UserError: the run trained no network or has no such checkpoint, or a name is wrong.
    """
    path = _checkpoint(run, measures, checkpoint)
    config, views = run.config, features.views
    split = config.split_of(data)
    network = load_model(path).to(views.device)
    rich: dict[str, Richness] = {}
    linear: dict[str, Linearity] = {}
    notes: tuple[str, ...] = ()
    samples = {kind: _sample(getattr(split, kind), images, name, config.seed) for kind, name in KINDS.items()}
    if "richness" in measures:
        train = _sample(np.concatenate(split.train), images, "train", config.seed)
        known, *tests = (
            (representations(network, views, indices, "float32", reporter).numpy(), data.labels[indices])
            for indices in (train, *samples.values())
        )
        head = [parameter.detach().cpu().numpy() for parameter in (network.head.weight, network.head.bias)]
        rich = dict(zip(KINDS, measure_richness(known, tests, *head, draws=draws), strict=True))
    if "linearity" in measures and config.weights == "random":
        notes = (f"{run.folder.name}: no linearity, since its running statistics moved with its weights",)
    elif "linearity" in measures:
        start = start_network(config, data, split, features).state_dict()
        linear = {kind: _linearity(network, start, data, indices, views, reporter) for kind, indices in samples.items()}
    between = _interpolation(run, data, features, reporter) if "interpolation" in measures else None
    return Inspection(run, rich, linear, between, notes)


def inspection_cost(runs: Iterable[Run], data: Dataset, measures: Sequence[str], images: int) -> float:
    """The work of inspecting ``runs``, in evaluated images; for the time that is left."""
    total, pretrained = 0.0, set()
    for run in runs:
        config = run.config
        interpolates = "interpolation" in measures and not (run.folder / FILE).is_file()
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
        parts.append(linearise(network, start, network.state_dict(), views.evaluation(chosen, network.spec)))
        reporter.advance(_LINEARISED * len(chosen))
    return measure_linearity(Linearised(*map(torch.cat, zip(*parts, strict=True))), data.labels[indices])


def _interpolation(run: Run, data: Dataset, features: FeatureCache, reporter: Reporter) -> Interpolation:
    """The stored one, whatever its α; a new one from the last weights, or from the best of runs that kept no others."""
    if (run.folder / FILE).is_file():
        return Interpolation.read(run.folder / FILE)
    which = "final" if run.final.is_file() else "best"
    return interpolate_run(run, data, features, which=which, reporter=reporter)


def _sample(indices: IntArray, most: int, name: str, seed: int) -> IntArray:
    """At most so many of ``indices``, ascending."""
    if len(indices) <= most:
        return indices
    return np.sort(generator(f"inspect {name}", seed).choice(indices, most, replace=False))


def _checkpoint(run: Run, measures: Sequence[str], checkpoint: str) -> Path:
    """The file of ``checkpoint``.

    Raises:
        UserError: ``run`` cannot be inspected in this way.
    """
    name = run.folder.name
    for measure in measures:
        if measure not in MEASURES:
            raise UserError(f"unknown measure '{measure}'; {one_of(measure, MEASURES)}")
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"unknown checkpoint '{checkpoint}'; {one_of(checkpoint, CHECKPOINTS)}")
    if run.config.fit != "all":
        raise UserError(f"{name} is a fit of '{run.config.fit}': it has no fine-tuned network to inspect")
    path = {"best": run.best, "average": run.average, "final": run.final}[checkpoint]
    if not path.is_file():
        raise UserError(f"{name} has no {checkpoint}.safetensors; name another --checkpoint or train anew")
    return path


def _rich_json(rich: Richness) -> dict[str, Any]:
    return {
        **asdict(rich),
        "singular_values": [round(value, 6) for value in rich.singular_values],
        "probes": {f"{share:g}": estimate_json(estimate) for share, estimate in rich.probes.items()},
    }
