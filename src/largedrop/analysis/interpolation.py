"""Figure 1: between the pretrained and the fine-tuned network, by weights and by representations."""

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
from ..files import write_json
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import read_tensors
from ..runs.interpolation import FILE, Interpolation
from ..runs.run import Run
from ..training.averaging import interpolate
from ..training.evaluation import BATCH, autocast, logits, representations, scores
from ..training.features import FeatureCache
from ..training.setup import create_network, start_head

__all__ = ["ALPHAS", "interpolate_run", "interpolation_cost", "start_network"]


ALPHAS = tuple(number / 10 for number in range(11))


def interpolate_run(
    run: Run, data: Dataset, features: FeatureCache, *, which: str = "final", reporter: Reporter = SILENT
) -> Interpolation:
    """Accuracy of α · pretrained + (1 − α) · fine-tuned (figure 1; appendix A.1), stored in the run's folder.

    Weights: α θ_pre + (1 − α) θ_ft and α ω_pre + (1 − α) ω_ft. Representations: α Φ_pre + (1 − α) Φ_ft under the
    last layer α ω_pre + (1 − α) ω_ft. The paper's pretrained CLIP has a last layer (of texts); here the pretrained
    network gets the linear probe that a warm start is: fitted on its representation under the run's dropout, also
    where the run itself began with a random head, which would say nothing. Images are in the evaluation view.

    Where the folder has an interpolation with ``ALPHAS`` and this checkpoint, it is returned as it is.

    Args:
        run: finished, of ``data``, whose weights were trained.
        data: the dataset.
        features: of ``data``, shared between runs, so that the pretrained network sees each image once; its device is
            the one that computes.
        which: checkpoint at α = 0: ``final`` or ``best`` (of best i.i.d. accuracy).
        reporter: told of the work, in the unit of ``interpolation_cost``, and asked between evaluations
            whether to stop.

    Raises:
        UserError: there is no such checkpoint, or the pretrained weights are no longer those of the run.
        Interrupted: the reporter said so.
    """
    config, views = run.config, features.views
    checkpoint = {"final": run.final, "best": run.best}[which]
    if not checkpoint.is_file():
        raise UserError(
            f"{run.folder.name} (of an older version?) has no {checkpoint.name}; train anew in another folder"
        )
    path = run.folder / FILE
    if path.is_file():
        try:
            stored = Interpolation.read(path)
        except UserError as error:
            raise UserError(f"{run.folder}: {error}; remove that file") from error
        if (stored.which, stored.alphas) == (which, ALPHAS):
            return stored
    split = config.split_of(data)
    parts = {"iid": split.iid, "ood": split.ood}
    network = start_network(replace(config, head="warm"), data, split, features)
    table = features.get(config, network, 0)
    pretrained = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    saved, _ = read_tensors(checkpoint, "model")
    fine_tuned = {name: tensor.to(views.device) for name, tensor in saved.items()}
    speed_up(network)

    def load(alpha: float) -> None:
        reporter.raise_if_stopped("stopped; an interpolation is stored when all of it is there")
        network.load_state_dict(interpolate(pretrained, fine_tuned, alpha))

    def pair(outputs: Mapping[str, npt.NDArray[np.floating]]) -> tuple[float, float]:
        found = scores(outputs, data.labels, split)
        return found["iid_accuracy"], found["ood_accuracy"]

    load(0.0)
    ends = {
        part: (table[indices].float(), representations(network, views, indices, config.precision, reporter))
        for part, indices in parts.items()
    }
    weights, mixed = [], []
    for alpha in ALPHAS:
        load(alpha)
        mixes = {part: alpha * before + (1 - alpha) * after for part, (before, after) in ends.items()}
        mixed.append(pair({part: _last_layer(network, mix, config.precision) for part, mix in mixes.items()}))
        if alpha in (0.0, 1.0):  # where nothing is mixed, both are the one network or the other
            weights.append(mixed[-1])
            continue
        weights.append(
            pair({part: logits(network, views, own, config.precision, reporter) for part, own in parts.items()})
        )
    result = Interpolation(which, ALPHAS, tuple(weights), tuple(mixed))
    write_json(path, result.to_json())
    return result


def interpolation_cost(run: Run, data: Dataset) -> float:
    """The work of ``interpolate_run``, in evaluated images, besides the pretrained network's own pass."""
    split = run.config.split_of(data)
    return (len(split.iid) + len(split.ood)) * (len(ALPHAS) - 1)


def start_network(config: Config, data: Dataset, split: Split, features: FeatureCache) -> Network:
    """The network that a run began with, its head drawn or, with a warm start, fitted on the features."""
    network = create_network(config, data.classes).to(features.views.device)
    if config.head == "warm":
        start_head(config, data, split, network, features)
    return network


@torch.inference_mode()
def _last_layer(network: Network, table: Tensor, precision: str) -> npt.NDArray[np.float16]:
    """What the network's last layer gives for representations (n, units), (n, classes), as ``logits`` has it."""
    device = network.head.weight.device
    with autocast(precision, device):
        parts = (table[start : start + BATCH].to(device) for start in range(0, len(table), BATCH))
        outputs = torch.cat([network.head(part).float() for part in parts])
    return outputs.to(torch.float16).cpu().numpy()
