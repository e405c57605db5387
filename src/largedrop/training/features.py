"""Features of the frozen pretrained network in memory, computed once for all heads, rates, seeds and test domains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.views.batches import HostViews, ResidentViews, Views
from ..models.network import Network
from ..reporter import SILENT, Reporter
from .evaluation import representations

__all__ = ["VIEWS", "FeatureCache"]

VIEWS = 1
"""Number of views of each image for fitting a head, the evaluation view alone. With three training views as well,
fine-tuning reached no better i.i.d. accuracy (docs/recipe.md), and each costs one more pass through the network."""


class FeatureCache:
    """Φ(x) of every image of a dataset under pretrained networks, in memory, computed on first use.

    Args:
        views: views of the dataset, on the device to compute on.
        reporter: receives the number of computed images.
    """

    def __init__(self, views: Views, reporter: Reporter = SILENT) -> None:
        self.views: Views = views
        self.reporter = reporter
        self._features: dict[tuple[object, ...], Tensor] = {}

    def get(self, config: Config, network: Network, view: int) -> Tensor:
        """Features of all images, float16 (n, units).

        Args:
            config: config whose ``feature_key`` identifies the features.
            network: network with its pretrained backbone, which computes the features on first use.
            view: 0 for the evaluation view, or the number of a training view.
        """
        key = (*config.feature_key.items(), view)
        if key not in self._features:
            indices = np.arange(len(self.views.data), dtype=np.int64)
            found = representations(network, self.views, indices, config.precision, self.reporter, view)
            self._features[key] = found.to(torch.float16)
        return self._features[key]

    def leave_device(self) -> bool:
        """Remove the images from the GPU's memory, and make views on the processor from now on.

        Returns:
            Whether they were there.
        """
        if not isinstance(self.views, ResidentViews):
            return False
        self.views = HostViews(self.views.data, self.views.device)
        return True
