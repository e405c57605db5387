"""Figure 1: accuracies between the pretrained and the fine-tuned network, by weights and by representations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import Config
from ..data.dataset import Dataset, Split
from ..errors import UserError
from ..files import write_stored
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import read_tensors
from ..runs.interpolation import INTERPOLATION_FILE, Interpolation
from ..runs.run import Run
from ..training.averaging import interpolate
from ..training.evaluation import BATCH, autocast, logits, representations, scores
from ..training.features import FeatureCache
from ..training.setup import create_network, start_head
from ..training.way_back import ALPHAS, walk

__all__ = ["interpolate_run", "interpolation_cost", "start_network"]


def interpolate_run(
    run: Run, data: Dataset, features: FeatureCache, *, which: str = "final", reporter: Reporter = SILENT
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
        reporter: receives the work, in the unit of ``interpolation_cost``; asked between evaluations whether to stop.

    Raises:
        UserError: there is no such checkpoint, or the pretrained weights are no longer those of the run.
        Interrupted: the reporter asks to stop.
    """
    config, views = run.config, features.views
    checkpoint = {"final": run.final, "best": run.best}[which]
    if not checkpoint.is_file():
        raise UserError(
            f"{run.folder.name} (of an older version?) has no {checkpoint.name}; train again in another folder"
        )
    path = run.folder / INTERPOLATION_FILE
    if path.is_file():
        try:
            stored = Interpolation.read(path, run.digest)
        except UserError as error:
            raise UserError(f"{run.folder}: {error}; remove that file") from error
        if (stored.which, stored.alphas, stored.pooled) == (which, ALPHAS, False):
            return stored
    split = config.split_of(data)
    parts = {"iid": split.iid, "ood": split.ood}
    network = start_network(replace(config, head="warm"), data, split, features)
    table = features.get(config, network, 0)
    pretrained = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    saved, _ = read_tensors(checkpoint, "model", run.digest)
    fine_tuned = {name: tensor.to(views.device) for name, tensor in saved.items()}

    def pair(outputs: Mapping[str, npt.NDArray[np.floating]]) -> tuple[float, float]:
        found = scores(outputs, data.labels, split)
        return found["iid_accuracy"], found["ood_accuracy"]

    weights, mixed = [], []
    with speed_up(network):
        network.load_state_dict(interpolate(pretrained, fine_tuned, 0.0))
        ends = {
            part: (table[indices].float(), representations(network, views, indices, config.precision, reporter))
            for part, indices in parts.items()
        }
        for alpha in walk(network, pretrained, fine_tuned, ALPHAS):
            reporter.raise_if_stopped("stopped; an interpolation is stored once it is complete")
            mixes = {part: alpha * before + (1 - alpha) * after for part, (before, after) in ends.items()}
            mixed.append(pair({part: _last_layer(network, mix, config.precision) for part, mix in mixes.items()}))
            if alpha in (0.0, 1.0):  # the unmixed networks, so both kinds are the same
                weights.append(mixed[-1])
                continue
            weights.append(
                pair({part: logits(network, views, own, config.precision, reporter) for part, own in parts.items()})
            )
    result = Interpolation(which, ALPHAS, tuple(weights), tuple(mixed))
    write_stored(path, {**result.to_json(), "run": run.digest})
    return result


def interpolation_cost(run: Run, data: Dataset) -> float:
    """The work of ``interpolate_run``, in evaluated images, without the pretrained network's own pass."""
    split = run.config.split_of(data)
    return (len(split.iid) + len(split.ood)) * (len(ALPHAS) - 1)


def start_network(config: Config, data: Dataset, split: Split, features: FeatureCache) -> Network:
    """The network at the start of a run, its head random or, with a warm start, fitted on the features."""
    network = create_network(config, data.classes, data.bits).to(features.views.device)
    if config.head == "warm":
        start_head(config, data, split, network, features)
    return network


@torch.inference_mode()
def _last_layer(network: Network, table: Tensor, precision: str) -> npt.NDArray[np.float16]:
    """Logits of representations (n, units) by the network's last layer, (n, classes), as in ``logits``."""
    device = network.head.weight.device
    with autocast(precision, device):
        parts = (table[start : start + BATCH].to(device) for start in range(0, len(table), BATCH))
        outputs = torch.cat([network.head(part).float() for part in parts])
    return outputs.to(torch.float16).cpu().numpy()
