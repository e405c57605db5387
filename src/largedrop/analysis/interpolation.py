"""Figure 1: accuracies between the pretrained and the fine-tuned network, by weights and by representations.

O.o.d. accuracy is that on the run's test domain or, for a run on ImageNet without one, the mean over shifted ImageNets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..catalog.shifted import projection
from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.views.batches import Views
from ..errors import DamagedError, UserError
from ..files import there, write_stored
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import kept_by, read_tensors
from ..runs.interpolation import INTERPOLATED, INTERPOLATION_FILE, Interpolation
from ..runs.run import Run
from ..training.averaging import interpolate
from ..training.evaluation import BATCH, autocast, logits, representations, scores
from ..training.features import FeatureCache
from ..training.setup import create_network, start_head
from ..training.way_back import ALPHAS, walk

__all__ = ["Shifted", "interpolate_run", "interpolation_cost", "start_network"]


class Shifted:
    """A shifted ImageNet on which networks of ImageNet's classes are scored (``catalog.shifted``).

    Args:
        name: its name in the catalog, such as ``ImageNet-A``.
        data: its images.
        known: names of the networks' classes.
        views: views of its images.

    Raises:
        UserError: it is no shifted ImageNet, or the networks know none of its classes.
    """

    def __init__(self, name: str, data: Dataset, known: Sequence[str], views: Views) -> None:
        self.name, self.fingerprint, self.views = name, data.fingerprint, views
        self._onto = projection(name, known, data.classes)
        places = {each: place for place, each in enumerate(self._onto.classes)}
        truth = np.array([places.get(each, -1) for each in data.classes], np.int64)[data.labels]
        self.indices = np.flatnonzero(truth >= 0).astype(np.int64)
        self._truth = truth[self.indices]

    def accuracy(self, logits: npt.NDArray[np.floating]) -> float:
        """The accuracy of logits of its images, (len(indices), the networks' classes)."""
        return float(np.mean(self._onto(logits.astype(np.float32)).argmax(axis=1) == self._truth))


def interpolate_run(
    run: Run,
    data: Dataset,
    features: FeatureCache,
    *,
    which: str = "final",
    test_on: Sequence[Shifted] = (),
    reporter: Reporter = SILENT,
) -> Interpolation:
    """Accuracy of α · pretrained + (1 − α) · fine-tuned (figure 1; appendix A.1), stored in the run's folder.

    Weights: α θ_pre + (1 − α) θ_ft and α ω_pre + (1 − α) ω_ft. Representations: α Φ_pre + (1 − α) Φ_ft under the
    last layer α ω_pre + (1 − α) ω_ft. The paper's pretrained CLIP has a last layer (of texts); here the pretrained
    network gets a warm-start head, fitted on its representation under the run's dropout, even where the run itself
    started from a random head. Images are in the evaluation view.

    A stored interpolation with ``ALPHAS``, this checkpoint and accuracies that are not pooled is returned without
    computation.

    Args:
        run: finished run on ``data`` with trained weights.
        data: the dataset.
        features: features of ``data`` on the device to compute on, shared between runs, so that the pretrained network
            processes each image once.
        which: checkpoint at α = 0: ``final`` or ``best`` (of best i.i.d. accuracy).
        test_on: shifted ImageNets, for a run without a test domain: o.o.d. accuracy is the mean over them.
        reporter: receives the work, in the unit of ``interpolation_cost``; asked between evaluations whether to stop.

    Raises:
        UserError: there is no such checkpoint, the pretrained weights are no longer those of the run, or it has no test
            domain and nothing to be tested on, or both.
        Interrupted: the reporter asks to stop.
    """
    config, views = run.config, features.views
    checkpoint = {"final": run.final, "best": run.best}[which]
    if not checkpoint.is_file():
        raise UserError(
            f"{run.folder.name} (of an older version?) has no {checkpoint.name}; train again in another folder"
        )
    if bool(test_on) == bool(config.test_domains):
        both = (
            "has a test domain, so it is not tested on others"
            if test_on
            else "has no test domain; --test-on names sets"
        )
        raise UserError(f"{run.folder.name} {both}")
    path = run.folder / INTERPOLATION_FILE
    asked = {each.name: each.fingerprint for each in test_on}
    if there(path):
        try:
            stored = Interpolation.read(path, run.digest)
            known = {name: str(each.get("fingerprint")) for name, each in stored.tested_on.items()}
            if (stored.which, stored.alphas, stored.pooled, known) == (which, ALPHAS, False, asked):
                return stored
        except DamagedError:
            pass  # it is computed again, and replaced
        except UserError as error:
            raise UserError(f"{run.folder}: {error}; remove that file") from error
    split = config.split_of(data)
    parts = {"iid": split.iid, "ood": split.ood}
    network = start_network(replace(config, head="warm"), data, split, features)
    table = features.get(config, network, 0)
    pretrained = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    before = [representations(network, each.views, each.indices, config.precision, reporter) for each in test_on]
    by_set: dict[str, dict[str, list[float]]] = {each.name: {kind: [] for kind in INTERPOLATED} for each in test_on}
    with kept_by(run.folder):
        saved, _ = read_tensors(checkpoint, "model", run.digest, run.step_of(checkpoint))
    fine_tuned = {name: tensor.to(views.device) for name, tensor in saved.items()}

    def pair(
        kind: str, outputs: Mapping[str, npt.NDArray[np.floating]], others: Sequence[npt.NDArray[np.floating]]
    ) -> tuple[float, float]:
        found = scores(outputs, data.labels, split)
        for each, own in zip(test_on, others, strict=True):
            by_set[each.name][kind].append(each.accuracy(own))
        means = [by_set[each.name][kind][-1] for each in test_on]
        return found["iid_accuracy"], sum(means) / len(means) if means else found["ood_accuracy"]

    def on_sets() -> list[npt.NDArray[np.float16]]:
        return [logits(network, each.views, each.indices, config.precision, reporter) for each in test_on]

    weights, mixed = [], []
    with speed_up(network):
        network.load_state_dict(interpolate(pretrained, fine_tuned, 0.0))
        ends = {
            part: (first, representations(network, views, indices, config.precision, reporter) if len(first) else first)
            for part, indices in parts.items()
            for first in [table[indices].float()]
        }
        after = [representations(network, each.views, each.indices, config.precision, reporter) for each in test_on]
        for alpha in walk(network, pretrained, fine_tuned, ALPHAS):
            reporter.raise_if_stopped("stopped; an interpolation is stored once it is complete")
            mixes = {part: alpha * first + (1 - alpha) * last for part, (first, last) in ends.items()}
            outputs = {part: _last_layer(network, mix, config.precision) for part, mix in mixes.items()}
            others = [alpha * first + (1 - alpha) * last for first, last in zip(before, after, strict=True)]
            on_others = [_last_layer(network, mix, config.precision) for mix in others]
            mixed.append(pair("representations", outputs, on_others))
            if alpha not in (0.0, 1.0):  # there the networks are unmixed, so both kinds are the same
                outputs = {part: logits(network, views, own, config.precision, reporter) for part, own in parts.items()}
                on_others = on_sets()
            weights.append(pair("weights", outputs, on_others))
    tested_on = {each.name: {"fingerprint": each.fingerprint, **by_set[each.name]} for each in test_on}
    result = Interpolation(which, ALPHAS, tuple(weights), tuple(mixed), tested_on=tested_on)
    try:
        write_stored(path, {**result.to_json(), "run": run.digest})
    except UserError as error:
        if os.access(run.folder, os.W_OK):
            raise
        reporter.note(f"{error}; the run cannot be written to, so its interpolation is computed anew each time")
    return result


def interpolation_cost(run: Run, data: Dataset, test_on: Sequence[Shifted] = ()) -> float:
    """The work of ``interpolate_run``, in evaluated images, without the pretrained network's own pass."""
    split, others = run.config.split_of(data), sum(len(each.indices) for each in test_on)
    return (len(split.iid) + len(split.ood)) * (len(ALPHAS) - 1) + others * len(ALPHAS)


def start_network(config: Config, data: Dataset, split: Split, features: FeatureCache) -> Network:
    """The network at the start of a run, its head random, zero or, with a warm start, fitted on the features."""
    network = create_network(config, data.classes, data.bits).to(features.views.device)
    if config.head == "warm":
        start_head(config, data, split, network, features)
    return network


@torch.inference_mode()
def _last_layer(network: Network, table: Tensor, precision: str) -> npt.NDArray[np.float16]:
    """Logits of representations (n, units) by the network's last layer, (n, classes), as in ``logits``."""
    device = network.head.weight.device
    if not len(table):
        return np.empty((0, network.head.out_features), np.float16)
    with autocast(precision, device):
        parts = (table[start : start + BATCH].to(device) for start in range(0, len(table), BATCH))
        outputs = torch.cat([network.head(part).float() for part in parts])
    return outputs.to(torch.float16).cpu().numpy()
