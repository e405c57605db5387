"""Batch norm's running statistics, estimated anew for weights that were averaged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError, check_type

__all__ = ["estimate_statistics", "learned_layers", "statistics_of", "update_batchnorm"]


def update_batchnorm(
    module: nn.Module, inputs: Iterable[Any], start: Mapping[str, Tensor] | None = None
) -> tuple[str, ...]:
    """Estimate the statistics of the batch norms that are not frozen anew, in place, as the means over ``inputs``.

    Needed where weights were averaged (``average_weights``, ``greedy_soup``, ``interpolate``, ``TrajectoryAverage``)
    and their batch norms were in training mode: each had then learned the mean and variance of what its own weights
    make of the images, and the mean of these is not what the averaged weights make of them. Not needed where batch
    norms are frozen, as they are in ``finetune`` from pretrained weights, or where there are none (transformers). As
    ``torch.optim.swa_utils.update_bn``, but that frozen ones stay as they are, and that all other layers are in
    evaluation mode: statistics are those that the network meets when it predicts, without dropout.

    Args:
        module: any network, on its device; every layer is left in the mode in which it was.
        inputs: batches of training images in evaluation views; some thousand images do. Of a pair or a list the first
            entry is taken; a dictionary is passed by name, as transformers' networks take it.
        start: state dict of before training: batch norms whose statistics are still the same were frozen. Where None,
            those in evaluation mode are frozen, and ``module`` has to be in training mode to tell.

    Returns:
        Names of the batch norms that were changed.

    Raises:
        UserError: ``module`` is no network, or in evaluation mode and ``start`` is not given; there are no inputs, or a
            batch has a single value for a channel.
    """
    check_type(module, nn.Module, "the network must be a torch.nn.Module")
    if start is not None:
        names = learned_layers(module, start)
    else:
        layers = _layers(module)
        if layers and not module.training:
            raise UserError(
                "the network is in evaluation mode, which does not tell the batch norms that were frozen in training: "
                "pass start=(its state dict of before training), or call module.train(), then eval() of frozen ones"
            )
        names = tuple(name for name, layer in layers.items() if layer.training)
    if names:
        estimate_statistics(module, inputs, names)
    return names


@torch.no_grad()
def estimate_statistics(module: nn.Module, inputs: Iterable[Any], names: Collection[str]) -> None:
    """Replace the statistics of the batch norms of these names by their means over ``inputs``, as ``update_batchnorm``.

    Raises:
        UserError: there are no inputs, they are one tensor, or a batch has a single value for a channel; the statistics
            are as they were.
    """
    if isinstance(inputs, Tensor):
        raise UserError("inputs are batches of images: [images], not the tensor alone, whose parts are no batches")
    layers = [layer for name, layer in _layers(module).items() if name in names]
    before = [(each, each.training, getattr(each, "momentum", None)) for each in module.modules()]
    kept = [[(buffer, buffer.clone()) for buffer in layer.buffers()] for layer in layers]
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, each with the same weight
        layer.training = True
    seen = 0
    try:
        for seen, batch in enumerate(inputs, 1):  # noqa: B007
            _forward(module, batch, kept[0][0][0].device)
        if not seen:
            raise UserError("there are no inputs to estimate the statistics of batch norm from")
    except BaseException:
        for buffer, value in (pair for of_layer in kept for pair in of_layer):
            buffer.copy_(value)
        raise
    finally:
        for each, mode, momentum in before:
            each.training = mode
            if each in layers:
                each.momentum = momentum


def statistics_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the running statistics of all batch norms, by their names in the state dict."""
    return {
        f"{name}.{what}".strip("."): getattr(layer, what).detach().clone()
        for name, layer in _layers(module).items()
        for what in ("running_mean", "running_var")
    }


def learned_layers(module: nn.Module, start: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the batch norms whose running statistics are others than in ``start``.

    Raises:
        UserError: ``start`` lacks those of a batch norm.
    """
    changed: dict[str, None] = {}
    for name, now in statistics_of(module).items():
        if name not in start:
            raise UserError(f"start is of another network: it has no '{name}'")
        if not torch.equal(start[name].to(now), now):
            changed[name.rpartition(".")[0]] = None
    return tuple(changed)


def _layers(module: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def _forward(module: nn.Module, batch: Any, device: torch.device) -> None:
    if isinstance(batch, (list, tuple)) and batch:
        batch = batch[0]
    try:
        if isinstance(batch, Mapping):
            module(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
        elif isinstance(batch, Tensor):
            module(batch.to(device))
        else:
            raise UserError(f"an input is a tensor, a pair or a dictionary of tensors, not a {type(batch).__name__}")
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError("a batch has a single value for a channel of a batch norm: it takes several images") from error
