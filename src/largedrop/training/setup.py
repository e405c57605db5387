"""The start of a run: the network with its new head, the optimiser, and the head fitted on cached features."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Config
from ..data.dataset import Dataset, Split
from ..data.random import torch_seed
from ..errors import CollapseError, UserError
from ..models.block_dropout import set_block_dropout
from ..models.heads import parameter_groups
from ..models.network import Network, Spec
from ..models.pretrained import create_backbone, find_weights
from .class_weights import balancing_weights, class_weights
from .evaluation import scores
from .features import VIEWS, FeatureCache
from .head import HeadFit, fit_head

__all__ = ["create_network", "make_optimizer", "start_head"]


def create_network(config: Config, classes: tuple[str, ...], bits: int = 16) -> Network:
    """The pretrained backbone with a new head: drawn with the config's seed, or zero (``head`` 'zero').

    Raises:
        UserError: the model or its weights are not available, or the weights' digest is not the config's.
    """
    weights = find_weights(config.model, config.weights)
    if config.weights_digest and weights.digest != config.weights_digest:
        raise UserError(
            f"the weights of {config.model} ({weights.source}) are no longer those that this run began with"
        )
    mean, std = weights.normalisation(config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("network", config.seed))
        backbone, units = create_backbone(config.model, weights, config.size)
        spec = Spec(
            model=config.model,
            weights=weights.source,
            classes=classes,
            size=config.size,
            mean=mean,
            std=std,
            dropout=config.dropout,
            freeze_batchnorm=config.weights != "random",
            bits=bits,
        )
        network = Network(backbone, units, spec, config.masks)
    if config.head == "zero":
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)
    if config.block_dropout:
        set_block_dropout(network.backbone, config.block_dropout, torch.zeros(1, 3, config.size, config.size))
    # Convolutions are fastest in this layout, on processors and GPUs.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def make_optimizer(config: Config, network: Network) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW; the schedule multiplies each group's ``initial_lr``.

    On a GPU the learning rate is a tensor on it, which a recorded step reads at each replay (``graph.GraphedStep``).
    """
    groups = parameter_groups(network, config.lr, config.head_lr_multiplier, "head")
    device = network.head.weight.device
    graphed = device.type == "cuda"
    for group in groups:
        group["initial_lr"] = group["lr"]
        if graphed:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
    # Fused: one pass over each parameter, not one per operation.
    if config.optimizer == "adamw":
        decay = config.weight_decay
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=decay, fused=True, capturable=graphed)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: Config, step: int) -> float:
    """Set every group's rate at ``step``, counted from 0, by ``Config.lr_factor``. Returns the backbone's rate."""
    factor = config.lr_factor(step)
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    return config.lr * factor


def start_head(config: Config, data: Dataset, split: Split, network: Network, features: FeatureCache) -> dict[str, Any]:
    """Fit a head on the frozen network's features; with a warm start, copy it into the network.

    Returns:
        The linear probe as JSON: the round of the fit with the best i.i.d. accuracy; in a tie, the earliest.

    Raises:
        CollapseError: the fit diverged.
    """
    views = [features.get(config, network, view) for view in range(VIEWS)]
    device = network.head.weight.device
    began = time.monotonic()
    fit = fit_head(
        [torch.cat([view[torch.from_numpy(indices)] for view in views]).float().to(device) for indices in split.train],
        [torch.from_numpy(data.labels[indices]).repeat(VIEWS).to(device) for indices in split.train],
        len(data.classes),
        config.dropout,
        config.weight_decay,
        config.seed,
        weights=_weighted(config, data, split, device),
    )
    if not math.isfinite(fit.last.loss):
        raise CollapseError(
            f"no head could be fitted to the features: its loss is {fit.last.loss:g}; try a weight decay below "
            f"{config.weight_decay:g}"
        )
    if config.head == "warm":
        with torch.no_grad():
            network.head.weight.copy_(fit.last.weight)
            network.head.bias.copy_(fit.last.bias)
    return {**_probe(config, fit, data, split, views[0].float()), "seconds": time.monotonic() - began}


def _weighted(config: Config, data: Dataset, split: Split, device: torch.device) -> list[Tensor] | None:
    """The weights of the training images for ``fit_head``, of every view; None where all are 1."""
    if config.balance:
        found = [balancing_weights(data.labels[indices]) for indices in split.train]
    elif config.class_weights == "balanced":
        of_classes = class_weights(data.labels, split.train, len(data.classes))
        found = [of_classes[data.labels[indices]] for indices in split.train]
    else:
        return None
    return [torch.from_numpy(weights).repeat(VIEWS).float().to(device) for weights in found]


def _probe(config: Config, fit: HeadFit, data: Dataset, split: Split, table: Tensor) -> dict[str, Any]:
    found = []
    for entry in fit.rounds:
        outputs = F.linear(table, entry.weight.cpu(), entry.bias.cpu()).numpy()
        found.append(scores({"iid": outputs[split.iid], "ood": outputs[split.ood]}, data.labels, split))
    best = max(range(len(found)), key=lambda index: (found[index][config.selecting], -index))
    return {
        **found[best],
        "steps": fit.rounds[best].steps,
        "fit_steps": fit.last.steps,
        "fit_loss": fit.last.loss,
        "converged": fit.converged,
    }
