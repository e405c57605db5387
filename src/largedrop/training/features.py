"""Features of the frozen pretrained network, computed once for all heads, rates, seeds and test domains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.views.batches import Views
from ..models.network import Network
from ..reporter import SILENT, Reporter
from .evaluation import representations

__all__ = ["VIEWS", "FeatureCache"]

VIEWS = 1
"""Views of each image that a head is fitted on: the evaluation view alone. With three training views as well,
fine-tuning reached no better i.i.d. accuracy (docs/recipe.md), and each costs one more pass through the network."""


class FeatureCache:
    """Φ(x) of every image of a dataset under a pretrained network, in memory; computed when first asked for.

    Args:
        views: of the dataset, on the device that computes.
        reporter: told of the number of images that were computed.
    """

    def __init__(self, views: Views, reporter: Reporter = SILENT) -> None:
        self.views = views
        self.reporter = reporter
        self._features: dict[tuple[object, ...], Tensor] = {}

    def get(self, config: Config, network: Network, view: int) -> Tensor:
        """Features of all images, float16 (n, units). ``network`` must still have its pretrained backbone.

        Args:
            config: what features depend on.
            network: computes them, where they are not there yet.
            view: 0 is the evaluation view, others are training views, drawn by their number.
        """
        key = (*config.feature_key.items(), view)
        if key not in self._features:
            indices = np.arange(len(self.views.data), dtype=np.int64)
            found = representations(network, self.views, indices, config.precision, self.reporter, view)
            self._features[key] = found.to(torch.float16)
        return self._features[key]
