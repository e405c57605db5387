"""What tests of folding share: images, and networks whose batch norms are as after training."""

from __future__ import annotations

import torch
from torch import nn

IMAGES = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with batch norms as they are after training: no statistic, scale or shift is 0 or 1."""
    torch.manual_seed(seed)
    for child in net.modules():
        if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None and child.running_var is not None:
            nn.init.uniform_(child.running_mean, -0.5, 0.5)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
            if child.affine:
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.uniform_(child.bias, -0.5, 0.5)
    return net.double().eval()


def folded(layer: nn.Module) -> bool:
    return "forward" in layer.__dict__
