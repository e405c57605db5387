"""Evaluation: a network's logits and representations on images, and their accuracies."""

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
from ..runs.record import mean_of_domains
from .device import exact

__all__ = [
    "SCORES",
    "accuracy",
    "autocast",
    "iid_accuracy",
    "iid_loss",
    "logits",
    "macro_over_domains",
    "mean_over_domains",
    "outputs",
    "representations",
    "scored",
    "scores",
    "scores_in",
]

SCORES = ("iid_accuracy", "ood_accuracy", "iid_macro_accuracy", "ood_macro_accuracy")
"""Names of the accuracies that ``scores`` gives."""

BY_DOMAIN = {"ood_accuracy": "ood_by_domain", "ood_macro_accuracy": "ood_macro_by_domain"}
"""Names of the o.o.d. accuracies by test domain, where there are several."""

BATCH = 64
"""Number of images in a batch; training views are drawn batch by batch, so for those it is the same on every device."""

BATCH_PIXELS = {"cpu": 0, "cuda": 8 << 20}
"""Pixels in a batch of evaluation views, where that is more than ``BATCH`` images: on a GPU a batch of small images
takes as long as launching its kernels, and one of very many takes most of the memory of a run (docs/performance.md)."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where ``precision`` is ``bfloat16``; no effect where it is ``float32``."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def logits(
    network: Network,
    views: Views,
    indices: IntArray,
    precision: str,
    reporter: Reporter = SILENT,
    view: int = 0,
) -> npt.NDArray[np.float16]:
    """Logits of images, float16 (len(indices), classes), on the processor; arguments as in ``outputs``.

    Accuracies are computed from the stored float16 values, so that a report and a run never disagree.
    """
    if not len(indices):
        return np.empty((0, len(network.spec.classes)), np.float16)
    return outputs(network, network.forward, views, indices, precision, reporter, view).to(torch.float16).numpy()


def representations(
    network: Network,
    views: Views,
    indices: IntArray,
    precision: str,
    reporter: Reporter = SILENT,
    view: int = 0,
) -> Tensor:
    """Φ(x) of images, float32 (len(indices), units), on the processor; arguments as in ``outputs``."""
    return outputs(network, network.represent, views, indices, precision, reporter, view)


def accuracy(logits: npt.NDArray[np.floating], labels: IntArray) -> float:
    """Share of the images whose largest logit is their label's; in a tie, the lowest class is predicted.

    Args:
        logits: logits, (n, classes).
        labels: class of each image, (n,).
    """
    return float(np.mean(logits.argmax(axis=1) == labels))


def mean_over_domains(values: npt.NDArray[Any], domains: IntArray) -> npt.NDArray[np.float64]:
    """Mean over the training domains of each domain's mean: every domain has the same weight.

    I.i.d. accuracy and SWAD's loss are such means, as in the paper's public code, DomainBed and SWAD. A domain without
    held-out images (each of its classes has a single image) does not count.

    Args:
        values: value of each held-out image, (n, …): whether it is classified correctly, or its loss.
        domains: index of each image's domain, (n,), as in ``Split.iid_domains``.

    Returns:
        (…), rounded to 12 decimals, so that values that are equal in exact arithmetic are ties.
    """
    means = [values[domains == domain].mean(axis=0, dtype=np.float64) for domain in np.unique(domains)]
    return np.asarray(np.round(np.mean(means, axis=0), 12), np.float64)


def macro_over_domains(right: npt.NDArray[np.bool_], labels: IntArray, domains: IntArray) -> npt.NDArray[np.float64]:
    """Macro accuracy: the mean over the domains of the mean over the classes that a domain has images of, of the share
    that is right (the recall). A class with one image counts as much as one with a thousand.

    Args:
        right: whether each image is classified correctly, (n, …).
        labels: class of each image, (n,).
        domains: index of each image's domain, (n,).

    Returns:
        (…), rounded to 12 decimals, as by ``mean_over_domains``.
    """
    order = np.lexsort((labels, domains))
    cells = np.stack([domains, labels])[:, order]
    starts = np.flatnonzero(np.any(cells != np.roll(cells, 1, axis=1), axis=0) | (np.arange(len(order)) == 0))
    sums = np.add.reduceat(right[order].astype(np.float64), starts, axis=0)
    counts = np.diff([*starts, len(order)])
    recalls = sums / counts.reshape(-1, *(1,) * (sums.ndim - 1))
    return mean_over_domains(recalls, cells[0, starts])


def iid_accuracy(logits: npt.NDArray[np.floating], labels: IntArray, domains: IntArray) -> float:
    """I.i.d. accuracy: the mean over the training domains of ``accuracy``.

    Args:
        logits: logits of the held-out images, (n, classes).
        labels: class of each image, (n,).
        domains: index of each image's domain, (n,).
    """
    return float(mean_over_domains(logits.argmax(axis=1) == labels, domains))


def iid_loss(
    logits: npt.NDArray[np.floating],
    labels: IntArray,
    domains: IntArray,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """The mean over the training domains of the mean cross-entropy, in nats; infinite where a logit is not finite.

    Args:
        logits: as of ``iid_accuracy``, and so the next two.
        labels: class of each image, (n,).
        domains: index of each image's domain, (n,).
        weights: factor of each image's loss, (n,); by default all are 1.
    """
    if not np.isfinite(logits).all():
        return math.inf
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    losses = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(labels)), labels]
    losses = losses if weights is None else losses * weights
    return float(mean_over_domains(losses, domains))


class Scored(Protocol):
    """The indices to score on: of a ``Split``, or of a linear ``Problem``."""

    @property
    def iid(self) -> IntArray: ...

    @property
    def iid_domains(self) -> IntArray: ...

    @property
    def ood(self) -> IntArray: ...

    @property
    def ood_domains(self) -> IntArray: ...

    @property
    def test_domains(self) -> tuple[str, ...]: ...


def scores(logits: Mapping[str, npt.NDArray[np.floating]], labels: IntArray, split: Scored) -> dict[str, Any]:
    """The accuracies ``SCORES`` of logits, as fractions; of several test domains also those ``BY_DOMAIN``.

    Those o.o.d. are the means over the test domains, None where there is none; macro accuracies are the means over the
    classes instead of the images of a domain (``macro_over_domains``).

    Args:
        logits: logits of the ``iid`` and the ``ood`` images, (n, classes) each.
        labels: class of each image of the dataset.
        split: indices of the ``iid`` and the ``ood`` images.
    """
    iid, ood = (logits[part].argmax(axis=1) == labels[own] for part, own in (("iid", split.iid), ("ood", split.ood)))
    return scored(iid[:, None], ood[:, None], labels, split)[0]


def scored(
    iid: npt.NDArray[np.bool_], ood: npt.NDArray[np.bool_], labels: IntArray, split: Scored
) -> list[dict[str, Any]]:
    """The scores, as of ``scores``, of K predictions: whether each is right on the i.i.d. and o.o.d. images, (n, K)."""
    own = labels[split.ood]
    plain, macro = [], []
    for number in range(len(split.test_domains)):
        here = split.ood_domains == number
        plain.append(ood[here].mean(axis=0))
        macro.append(macro_over_domains(ood[here], own[here], split.ood_domains[here]))
    inside = macro_over_domains(iid, labels[split.iid], split.iid_domains)
    rows: list[dict[str, Any]] = [
        {"iid_accuracy": one, "ood_accuracy": None, "iid_macro_accuracy": other, "ood_macro_accuracy": None}
        for one, other in zip(mean_over_domains(iid, split.iid_domains).tolist(), inside.tolist(), strict=True)
    ]
    for (name, by_domain), values in zip(BY_DOMAIN.items(), (plain, macro), strict=True):
        for row, found in zip(rows, np.array(values).T.tolist(), strict=False):  # without a test domain there is none
            row[name] = mean_of_domains(found)
            if len(found) > 1:
                row[by_domain] = dict(zip(split.test_domains, found, strict=True))
    return rows


def scores_in(entry: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What ``scores`` gave in a line of a log or the like, and values named ``more``, where they are there."""
    return {name: entry[name] for name in (*SCORES, *BY_DOMAIN.values(), *more) if name in entry}


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
    """A function of the network on images, float32 (len(indices), …), on the processor.

    Args:
        network: the network; in evaluation mode during the call.
        function: function from a batch of images to outputs.
        precision: precision, as in ``Config.precision``.
        reporter: receives the number of images.
        view: 0 for the evaluation view, or the number of a training view.
        first: number of images before these in the training view.
    """
    device = network.head.weight.device
    spec = network.spec
    parts = []
    size = BATCH if view else max(BATCH, BATCH_PIXELS[device.type] // spec.size**2)
    with evaluating(network), torch.inference_mode(), autocast(precision, device), exact():
        for start in range(0, len(indices), size):
            chosen = indices[start : start + size]
            batch = views.training(chosen, spec, view, first + start) if view else views.evaluation(chosen, spec)
            parts.append(function(batch).to(torch.float32))
            reporter.advance(len(chosen))
    return torch.cat(parts).cpu()
