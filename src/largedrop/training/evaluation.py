"""A network's outputs on images: logits, and the representation that they are read from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.dataset import IntArray
from ..data.views.batches import Views
from ..models.network import Network
from ..models.tracing import evaluating
from ..reporter import SILENT, Reporter

__all__ = [
    "accuracy",
    "autocast",
    "iid_accuracy",
    "iid_loss",
    "logits",
    "mean_over_domains",
    "outputs",
    "representations",
    "scores",
]

BATCH = 64
"""Images at a time; also the unit in which training views are drawn, so it is the same on every device."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where ``precision`` is ``bfloat16``, nothing where it is ``float32``."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def logits(
    network: Network,
    views: Views,
    indices: IntArray,
    precision: str,
    reporter: Reporter = SILENT,
    view: int = 0,
) -> npt.NDArray[np.float16]:
    """The network's outputs on some images, (len(indices), classes).

    float16, as they are stored: accuracies are computed from what is stored, so that a report and a run never disagree.
    ``view`` 0 is the evaluation view; any other number is a training view, the same for the same number.
    """
    return outputs(network, network.forward, views, indices, precision, reporter, view).to(torch.float16).numpy()


def representations(
    network: Network,
    views: Views,
    indices: IntArray,
    precision: str,
    reporter: Reporter = SILENT,
    view: int = 0,
) -> Tensor:
    """Φ(x) of some images, float32 (len(indices), units), on the processor.

    ``view`` 0 is the evaluation view; any other number is a training view, the same for the same number.
    """
    return outputs(network, network.represent, views, indices, precision, reporter, view)


def accuracy(outputs: npt.NDArray[np.floating], labels: IntArray) -> float:
    """Share of the images whose largest logit is their label's; the lowest class wins a tie.

    Args:
        outputs: (n, classes).
        labels: (n,).
    """
    return float(np.mean(outputs.argmax(axis=1) == labels))


def mean_over_domains(values: npt.NDArray[Any], domains: IntArray) -> npt.NDArray[np.float64]:
    """Mean of each training domain's own mean: a domain of few images weighs as much as one of many.

    I.i.d. accuracy and SWAD's loss are such means, as in the paper's public code, DomainBed and SWAD. A domain of which
    no image is held out (each of its classes has a single image) is left out of the mean.

    Args:
        values: of the held-out images, (n, ...): whether each is classified correctly, or its loss.
        domains: index of each image's domain, (n,), as ``Split.iid_domains`` has it.

    Returns:
        (...), rounded to 12 decimals: so what is equal in exact arithmetic is equal, and is a tie.
    """
    means = [values[domains == domain].mean(axis=0, dtype=np.float64) for domain in np.unique(domains)]
    return np.asarray(np.round(np.mean(means, axis=0), 12), np.float64)


def iid_accuracy(outputs: npt.NDArray[np.floating], labels: IntArray, domains: IntArray) -> float:
    """I.i.d. accuracy: the mean over the training domains of ``accuracy``.

    Args:
        outputs: logits of the held-out images, (n, classes).
        labels: (n,).
        domains: index of each image's domain, (n,).
    """
    return float(mean_over_domains(outputs.argmax(axis=1) == labels, domains))


def iid_loss(outputs: npt.NDArray[np.floating], labels: IntArray, domains: IntArray) -> float:
    """The mean over the training domains of the mean cross-entropy, in nats; infinite where a logit is not finite.

    Args:
        outputs: logits of the held-out images, (n, classes).
        labels: (n,).
        domains: index of each image's domain, (n,).
    """
    if not np.isfinite(outputs).all():
        return math.inf
    rows = outputs.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    losses = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(labels)), labels]
    return float(mean_over_domains(losses, domains))


class Scored(Protocol):
    """What is scored: a ``Split``, or a linear ``Problem``."""

    @property
    def iid(self) -> IntArray: ...

    @property
    def iid_domains(self) -> IntArray: ...

    @property
    def ood(self) -> IntArray: ...


def scores(outputs: Mapping[str, npt.NDArray[np.floating]], labels: IntArray, split: Scored) -> dict[str, float]:
    """``iid_accuracy`` and ``ood_accuracy`` of logits.

    Args:
        outputs: on the ``iid`` and the ``ood`` images of the split, (n, classes) each.
        labels: of all images of the dataset.
        split: which of them are what.
    """
    return {
        "iid_accuracy": iid_accuracy(outputs["iid"], labels[split.iid], split.iid_domains),
        "ood_accuracy": accuracy(outputs["ood"], labels[split.ood]),
    }


def outputs(
    network: Network,
    function: Callable[[Tensor], Tensor],
    views: Views,
    indices: IntArray,
    precision: str,
    reporter: Reporter,
    view: int = 0,
    first: int = 0,
) -> Tensor:
    """A function of the network on some images, float32 (len(indices), ...), on the processor.

    Args:
        network: put into evaluation mode.
        function: of a batch of images, what is computed.
        views: of the images.
        indices: of the images.
        precision: as ``Config.precision``.
        reporter: told of the number of images.
        view: 0 for the evaluation view, or the number of a training view.
        first: position of the first image among those that the training view is of.
    """
    device = network.head.weight.device
    spec = network.spec
    parts = []
    with evaluating(network), torch.inference_mode(), autocast(precision, device):
        for start in range(0, len(indices), BATCH):
            chosen = indices[start : start + BATCH]
            batch = views.training(chosen, spec, view, first + start) if view else views.evaluation(chosen, spec)
            parts.append(function(batch).to(torch.float32))
            reporter.advance(len(chosen))
    return torch.cat(parts).cpu()
