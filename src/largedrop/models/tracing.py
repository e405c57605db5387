"""Following a forward pass: what structural searches have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def tensors_in(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def copied(leaf: Any, noise: bool = False) -> Any:
    """A copy of a tensor (blocks may change their input in place), with noise on it if it is one of numbers."""
    if not isinstance(leaf, Tensor):
        return leaf
    if not (noise and leaf.is_floating_point()):
        return leaf.clone()
    generator = torch.Generator().manual_seed(0)  # the global one is left as it is
    return leaf + torch.randn(leaf.shape, generator=generator).to(leaf)


def default_example(module: nn.Module) -> Tensor:
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    shape = config.get("input_size", (3, 64, 64))
    like = next(module.parameters())
    return torch.zeros((1, *shape), dtype=like.dtype, device=like.device)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the block, every module's own mode restored after it."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
