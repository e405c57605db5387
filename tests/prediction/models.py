"""Models whose weights are random, saved as checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch

from largedrop.models.network import Network, Spec
from largedrop.models.sizes import representation_units
from largedrop.runs.checkpoint import save_model

SPEC = Spec(
    "test_efficientnet", "random", ("red", "green", "blue"), 32, (0.5, 0.25, 0.1), (0.5, 0.5, 0.25), dropout=0.9
)


def save(path: Path, seed: int, temperature: float | None = 1.5, **changes: Any) -> Path:
    torch.manual_seed(seed)
    backbone = timm.create_model(SPEC.model, pretrained=False, num_classes=0)
    backbone.train()(torch.randn(16, 3, 32, 32))  # gives the batch norms statistics of a working network
    network = Network(backbone, representation_units(backbone), replace(SPEC, **changes))
    torch.nn.init.normal_(network.head.weight, 0, 3)
    save_model(path, network, {} if temperature is None else {"temperature": temperature})
    return path
