"""Weights of images in a loss, by how many others there are of their class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..data.dataset import IntArray

__all__ = ["balancing_weights"]


def balancing_weights(labels: IntArray) -> npt.NDArray[np.float64]:
    """The weight of each image with which every class of a domain weighs the same: n / (classes · n of its class).

    Args:
        labels: class of each image of the domain, (n,).

    Returns:
        (n,), 1 on average.
    """
    classes, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return np.asarray(len(labels) / (len(classes) * counts[own]), np.float64)
