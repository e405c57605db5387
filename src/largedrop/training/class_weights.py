"""Weights of images in a loss, by how many others there are of their class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..data.dataset import IntArray, Split

__all__ = ["balancing_weights", "class_weights", "held_out_weights"]


def class_weights(labels: IntArray, domains: Sequence[IntArray], classes: int) -> npt.NDArray[np.float64]:
    """The weights with which classes have equal parts of the expected loss: 1 / (classes · share), as scikit-learn's
    ``balanced``.

    A batch has as many images of each training domain, so a class' share is the mean of its shares of the domains.

    Args:
        labels: class of each image of the dataset.
        domains: indices of the training images, one array per domain.
        classes: number of classes.

    Returns:
        (classes,); over the images of a batch the mean is 1 in expectation. Classes that no training domain has get 1.
    """
    counts = np.stack([np.bincount(labels[indices], minlength=classes) for indices in domains])
    shares = (counts / counts.sum(1, keepdims=True)).mean(0)
    weights = np.ones(classes)
    weights[shares > 0] = 1 / (np.count_nonzero(shares) * shares[shares > 0])
    return weights


def balancing_weights(labels: IntArray) -> npt.NDArray[np.float64]:
    """The weight of each image with which every class of a domain weighs the same: n / (classes · n of its class).

    Args:
        labels: class of each image of the domain, (n,).

    Returns:
        (n,), 1 on average.
    """
    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(len(labels) / (len(classes) * counts[own]), np.float64)


def held_out_weights(config: Config, labels: IntArray, split: Split, classes: int) -> npt.NDArray[np.float64] | None:
    """The weight of each image in ``split.iid`` in the loss that SWAD follows, (n_iid,); None where all are 1.

    Where macro accuracy selects or batches are balanced, each class of a domain weighs the same; else it is the weight
    of its class in training.
    """
    own = labels[split.iid]
    if config.balance or config.select_by == "iid-macro":
        found = np.ones(len(own))
        for domain in np.unique(split.iid_domains):
            here = split.iid_domains == domain
            found[here] = balancing_weights(own[here])
        return found
    return class_weights(labels, split.train, classes)[own] if config.class_weights == "balanced" else None
