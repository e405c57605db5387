"""Figure 1: between the pretrained and the fine-tuned network, by weights and by representations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.views.batches import open_views
from ..errors import UserError, one_of
from ..files import write_json
from ..models.fast.folding import speed_up
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import read_tensors
from ..runs.interpolation import FILE, Interpolation, check_alphas
from ..runs.run import Run
from ..training.averaging import interpolate
from ..training.evaluation import BATCH, autocast, logits, representations, scores
from ..training.features import FeatureCache
from ..training.setup import create_network, start_head

__all__ = ["ALPHAS", "interpolate_run", "interpolation_cost", "start_network"]


ALPHAS = tuple(number / 10 for number in range(11))


def interpolate_run(
    run: Run,
    data: Dataset,
    *,
    device: torch.device | None = None,
    alphas: Sequence[float] = ALPHAS,
    which: str = "final",
    features: FeatureCache | None = None,
    reporter: Reporter = SILENT,
) -> Interpolation:
    """Accuracy of α · pretrained + (1 − α) · fine-tuned (figure 1; appendix A.1), stored in the run's folder.

    Weights: α θ_pre + (1 − α) θ_ft and α ω_pre + (1 − α) ω_ft. Representations: α Φ_pre + (1 − α) Φ_ft under the
    last layer α ω_pre + (1 − α) ω_ft. The paper's pretrained CLIP has a last layer (of texts); here the pretrained
    network gets the linear probe that a warm start is: fitted on its representation under the run's dropout, also
    where the run itself began with a random head, which would say nothing. Images are in the evaluation view.

    Where the folder has an interpolation with these α and this checkpoint, it is returned as it is.

    Args:
        run: finished, of ``data``.
        data: the dataset.
        device: where to compute; the processor by default.
        alphas: ascending in [0, 1].
        which: checkpoint at α = 0: ``final`` or ``best`` (of best i.i.d. accuracy).
        features: shared between runs on the same data, so that the pretrained network sees each image once.
        reporter: told of the work, in the unit of ``interpolation_cost``, and asked between evaluations
            whether to stop.

    Raises:
        UserError: α out of order or range, another dataset, a run without trained weights, no such checkpoint, or
            the pretrained weights are no longer those of the run.
        Interrupted: the reporter said so.
    """
    config, alphas = run.config, tuple(float(alpha) for alpha in alphas)
    check_alphas(alphas)
    _check(run, data, which)
    path = run.folder / FILE
    if path.is_file():
        try:
            stored = Interpolation.read(path)
        except UserError as error:
            raise UserError(f"{run.folder}: {error}; remove that file") from error
        if (stored.which, stored.alphas) == (which, alphas):
            return stored
    cache = features or FeatureCache(open_views(data, device or torch.device("cpu"), reporter))
    views = cache.views
    split = config.split_of(data)
    parts = {"iid": split.iid, "ood": split.ood}
    network = start_network(replace(config, head="warm"), data, split, cache)
    table = cache.get(config, network, 0)
    pretrained = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    saved, _ = read_tensors(_checkpoint(run, which), "model")
    fine_tuned = {name: tensor.to(views.device) for name, tensor in saved.items()}
    speed_up(network)

    def between(alpha: float) -> dict[str, Tensor]:
        reporter.raise_if_stopped("stopped; an interpolation is stored when all of it is there")
        return interpolate(pretrained, fine_tuned, alpha)

    network.load_state_dict(between(0.0))
    ends = {
        name: (table[torch.from_numpy(part)].float(), representations(network, views, part, config.precision, reporter))
        for name, part in parts.items()
    }
    weights, mixed = [], []
    for alpha in alphas:
        network.load_state_dict(between(alpha))
        read = {
            name: _last_layer(network, alpha * before + (1 - alpha) * after, config.precision)
            for name, (before, after) in ends.items()
        }
        mixed.append(_pair(read, data, split))
        if alpha in (0.0, 1.0):  # where nothing is mixed, both are the one network or the other
            weights.append(mixed[-1])
            continue
        found = {name: logits(network, views, part, config.precision, reporter) for name, part in parts.items()}
        weights.append(_pair(found, data, split))
    result = Interpolation(which, alphas, tuple(weights), tuple(mixed))
    write_json(path, result.to_json())
    return result


def start_network(config: Config, data: Dataset, split: Split, features: FeatureCache) -> Network:
    """The network that a run began with, its head drawn or, with a warm start, fitted on the features."""
    network = create_network(config, data.classes).to(features.views.device)
    if config.head == "warm":
        start_head(config, data, split, network, features)
    return network


def interpolation_cost(run: Run, data: Dataset, alphas: Sequence[float] = ALPHAS) -> float:
    """The work of ``interpolate_run``, in evaluated images, besides the pretrained network's own pass."""
    config = run.config
    split = config.split_of(data)
    return (len(split.iid) + len(split.ood)) * (1 + sum(0 < alpha < 1 for alpha in alphas))


def _check(run: Run, data: Dataset, which: str) -> None:
    """Raise UserError where ``run`` cannot be interpolated."""
    name = run.folder.name
    if which not in ("final", "best"):
        raise UserError(f"unknown checkpoint '{which}'; {one_of(which, ('final', 'best'))}")
    if run.config.fingerprint != data.fingerprint:
        raise UserError(f"{name} is not a run on {data.name}")
    if run.config.fit != "all":
        raise UserError(f"{name} is a fit of '{run.config.fit}': its network is the pretrained one")
    if not _checkpoint(run, which).is_file():
        raise UserError(f"{name} (of an older version?) has no {which}.safetensors; train anew in another folder")


def _checkpoint(run: Run, which: str) -> Path:
    return run.final if which == "final" else run.best


@torch.inference_mode()
def _last_layer(network: Network, table: Tensor, precision: str) -> npt.NDArray[np.float16]:
    """What the network's last layer gives for representations (n, units), (n, classes), as ``logits`` has it."""
    device = network.head.weight.device
    with autocast(precision, device):
        parts = (table[start : start + BATCH].to(device) for start in range(0, len(table), BATCH))
        outputs = torch.cat([F.linear(part, network.head.weight, network.head.bias).float() for part in parts])
    return outputs.to(torch.float16).cpu().numpy()


def _pair(outputs: Mapping[str, npt.NDArray[np.floating]], data: Dataset, split: Split) -> tuple[float, float]:
    """I.i.d. and o.o.d. accuracy of logits on the ``iid`` and ``ood`` images."""
    found = scores(outputs, data.labels, split)
    return found["iid_accuracy"], found["ood_accuracy"]
