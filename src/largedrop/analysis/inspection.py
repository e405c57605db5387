"""A run inspected: how rich its representation is, how linear its fine-tuning was, and figure 1's two curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset, IntArray, Split
from ..data.random import generator
from ..data.views.batches import open_views
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
from ..training.setup import create_network, start_head
from .interpolation import interpolate_run, interpolation_cost
from .linearity import Linearised, Linearity, linearise, measure_linearity
from .richness import Richness, measure_richness

__all__ = ["CHECKPOINTS", "KINDS", "MEASURES", "Inspection", "find_runs", "inspect_run", "inspection_cost"]


MEASURES = ("richness", "linearity", "interpolation")

CHECKPOINTS = ("best", "average", "final")

KINDS = ("iid", "ood")
"""Images that are measured on: held-out ones of the training domains, and those of the test domain."""


_LINEARISED = 4
"""An image whose linearised output is computed takes about as long as this many in evaluation."""


@dataclass(frozen=True)
class Inspection:
    """What was measured of a run; what was not asked for, or cannot be had, is empty.

    Attributes:
        name: of the run's folder.
        run: that was inspected.
        richness: by kind.
        linearity: by kind.
        interpolation: between the pretrained and the fine-tuned network (figure 1).
        notes: what cannot be had, and why.
    """

    name: str
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
            for place, kind in enumerate(KINDS):
                pairs = zip(self.interpolation.weights, self.interpolation.representations, strict=True)
                found[f"{kind}.interpolation_gap"] = float(np.mean([abs(w[place] - r[place]) for w, r in pairs]))
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        config = self.run.config.to_json()
        return {
            "name": self.name,
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
        if (folder / "config.json").is_file():
            found = [Run.open(folder)]
        else:
            stored = read_runs(folder)
            found = [Run.open(folder / each.name) for each in stored.runs]
            problems += [str(problem) for problem in stored.problems]
        runs |= {run.folder.resolve(): run for run in found}
    first = next(iter(runs.values()), None)
    for run in runs.values():
        if first is not None and run.config.fingerprint != first.config.fingerprint:
            raise UserError(
                f"these runs are of different datasets: {first.folder.name} of {first.config.data}, "
                f"{run.folder.name} of {run.config.data}"
            )
    return list(runs.values()), problems


def inspect_run(
    run: Run,
    data: Dataset,
    *,
    features: FeatureCache | None = None,
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
        features: shared with other runs; its device is the one that computes. The processor by default.
        measures: some of ``MEASURES``.
        checkpoint: one of ``CHECKPOINTS``.
        images: of each sample, at most.
        draws: random subsets of the units for each share.
        reporter: told of the work, in the unit of ``inspection_cost``.

    Raises:
        UserError: the data are not the run's, it trained no network, it has no such checkpoint, or a number or name is
            wrong.
    """
    _check(run, data, measures, checkpoint, images, draws)
    config = run.config
    cache = features or FeatureCache(open_views(data, torch.device("cpu")))
    split = config.split_of(data)
    network = load_model(_path(run, checkpoint)).to(cache.views.device)
    samples = {
        "iid": _sample(split.iid, images, "i.i.d.", config.seed),
        "ood": _sample(split.ood, images, "o.o.d.", config.seed),
    }
    rich: dict[str, Richness] = {}
    linear: dict[str, Linearity] = {}
    notes: list[str] = []
    if "richness" in measures:
        rich = _richness(run, data, split, network, cache, samples, images, draws, reporter)
    if "linearity" in measures:
        if config.weights == "random":
            notes.append(f"{run.folder.name}: no linearity, since its running statistics moved with its weights")
        else:
            linear = _linearity(run, data, split, network, cache, samples, reporter)
    between = None
    if "interpolation" in measures:
        between = _interpolation(run, data, cache, reporter)
    return Inspection(run.folder.name, run, rich, linear, between, tuple(notes))


def inspection_cost(runs: Iterable[Run], data: Dataset, measures: Sequence[str], images: int) -> float:
    """The work of inspecting ``runs``, in evaluated images; for the time that is left."""
    total, pretrained = 0.0, set()
    for run in runs:
        config = run.config
        stored = (run.folder / FILE).is_file()
        total += 3 * images * ("richness" in measures)
        total += 2 * _LINEARISED * images * ("linearity" in measures and config.weights != "random")
        if "interpolation" in measures and not stored:
            total += interpolation_cost(run, data)
        if "linearity" in measures or ("interpolation" in measures and not stored):
            pretrained.add(tuple(config.feature_key.items()))
    return total + len(pretrained) * len(data)


def _richness(
    run: Run,
    data: Dataset,
    split: Split,
    network: Network,
    cache: FeatureCache,
    samples: dict[str, IntArray],
    images: int,
    draws: int,
    reporter: Reporter,
) -> dict[str, Richness]:
    train = _sample(np.concatenate(split.train), images, "train", run.config.seed)
    tables = {
        kind: representations(network, cache.views, indices, "float32", reporter).numpy()
        for kind, indices in {"train": train, **samples}.items()
    }
    found = measure_richness(
        tables["train"],
        data.labels[train],
        [(tables[kind], data.labels[samples[kind]]) for kind in KINDS],
        network.head.weight.detach().cpu().numpy(),
        network.head.bias.detach().cpu().numpy(),
        draws=draws,
    )
    return dict(zip(KINDS, found, strict=True))


def _linearity(
    run: Run,
    data: Dataset,
    split: Split,
    network: Network,
    cache: FeatureCache,
    samples: dict[str, IntArray],
    reporter: Reporter,
) -> dict[str, Linearity]:
    config, views = run.config, cache.views
    start = create_network(config, data.classes).to(views.device)
    if config.head == "warm":
        start_head(config, data, split, start, cache)
    before, after = start.state_dict(), network.state_dict()
    found = {}
    for kind, indices in samples.items():
        parts = []
        for place in range(0, len(indices), BATCH):
            chosen = indices[place : place + BATCH]
            parts.append(linearise(network, before, after, views.evaluation(chosen, network.spec)))
            reporter.advance(_LINEARISED * len(chosen))
        whole = Linearised(*(_joined([getattr(part, name) for part in parts]) for name in ("start", "linear", "tuned")))
        found[kind] = measure_linearity(whole, data.labels[indices])
    return found


def _interpolation(run: Run, data: Dataset, cache: FeatureCache, reporter: Reporter) -> Interpolation:
    """The stored one, whatever its α; a new one from the last weights, or from the best of runs that kept no others."""
    if (run.folder / FILE).is_file():
        return Interpolation.read(run.folder / FILE)
    which = "final" if run.final.is_file() else "best"
    return interpolate_run(run, data, which=which, features=cache, reporter=reporter)


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors).cpu()


def _sample(indices: IntArray, most: int, what: str, seed: int) -> IntArray:
    """At most so many of ``indices``, ascending."""
    if len(indices) <= most:
        return indices
    return np.sort(generator(f"inspect {what}", seed).choice(indices, most, replace=False))


def _path(run: Run, checkpoint: str) -> Path:
    return {"best": run.best, "average": run.average, "final": run.final}[checkpoint]


def _check(run: Run, data: Dataset, measures: Sequence[str], checkpoint: str, images: int, draws: int) -> None:
    """Raise UserError where ``run`` cannot be inspected in this way."""
    name = run.folder.name
    unknown = [measure for measure in measures if measure not in MEASURES]
    if unknown:
        raise UserError(f"unknown measure '{unknown[0]}'; {one_of(unknown[0], MEASURES)}")
    if checkpoint not in CHECKPOINTS:
        raise UserError(f"unknown checkpoint '{checkpoint}'; {one_of(checkpoint, CHECKPOINTS)}")
    if images < 2 or draws < 1:
        raise UserError(f"an inspection takes 2 images and 1 draw or more, not {images} and {draws}")
    if run.config.fingerprint != data.fingerprint:
        raise UserError(f"{name} is a run on {run.config.data}, and these images ({data.name}) are others")
    if run.config.fit != "all":
        raise UserError(f"{name} is a fit of '{run.config.fit}': it has no fine-tuned network to inspect")
    if not _path(run, checkpoint).is_file():
        raise UserError(f"{name} has no {checkpoint}.safetensors; name another --checkpoint or train anew")


def _rich_json(rich: Richness) -> dict[str, Any]:
    return {
        **asdict(rich),
        "singular_values": [round(value, 6) for value in rich.singular_values],
        "probes": {f"{share:g}": estimate_json(estimate) for share, estimate in rich.probes.items()},
    }
