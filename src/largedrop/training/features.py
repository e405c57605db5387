"""Features of the frozen pretrained network, computed once for all heads, seeds and test domains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.dataset import Dataset
from ..models.network import Network
from .evaluation import representations

__all__ = ["FeatureCache"]


class FeatureCache:
    """Φ(x) of every image of a dataset under a pretrained network, in memory; computed when first asked for."""

    def __init__(self, data: Dataset, progress: Callable[[int], None] | None = None) -> None:
        self.data = data
        self.progress = progress
        self._features: dict[tuple[object, ...], Tensor] = {}

    def get(self, config: Config, network: Network) -> Tensor:
        """Features of all images, float32 (n, units). ``network`` must still have its pretrained backbone."""
        key = self.key(config)
        if key not in self._features:
            indices = np.arange(len(self.data), dtype=np.int64)
            with torch.random.fork_rng(devices=[]):
                self._features[key] = representations(network, self.data, indices, config.precision, self.progress)
        return self._features[key]

    def has(self, config: Config) -> bool:
        """Whether the features that ``config`` needs are there already."""
        return self.key(config) in self._features

    @staticmethod
    def key(config: Config) -> tuple[object, ...]:
        """What features depend on, besides the data."""
        seed = config.seed if config.weights == "random" else None
        return config.model, config.weights_digest, config.size, config.precision, seed
