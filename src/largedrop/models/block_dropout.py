"""Dropout of whole residual blocks, or stochastic depth (Huang et al., 2016): the paper's figure 10, appendix C.

In training, the residual branch f of a block x + f(x) is left out with probability ``rate``, for every example anew,
and divided by 1 − ``rate`` where it stays, so that its expectation is f(x). As the paper gives one probability per curve
(0.1, 0.2 or 0.3), every block has the same rate; Huang et al. raise it linearly with depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mnasnet, mobilenetv2, mobilenetv3, regnet, resnet, vision_transformer
from torchvision.ops import StochasticDepth

from ..errors import UserError

__all__ = ["BlockDropout", "set_block_dropout"]

SLOTS = ("drop_path", "stochastic_depth", "stochastic_dropout")
"""What the places for stochastic depth are called, in timm and transformers, and twice in torchvision."""
BRANCH_ENDS: dict[type[nn.Module], tuple[str, ...]] = {
    resnet.BasicBlock: ("bn2",),
    resnet.Bottleneck: ("bn3",),
    regnet.ResBottleneckBlock: ("f",),
    mobilenetv2.InvertedResidual: ("conv",),
    mobilenetv3.InvertedResidual: ("block",),
    mnasnet._InvertedResidual: ("layers",),
    vision_transformer.EncoderBlock: ("dropout", "mlp"),
}
"""The blocks of torchvision that have no such place: the layers whose output is what they add to their shortcut."""
SKIPS = ("has_skip", "has_residual", "use_res_connect", "apply_residual")
"""What blocks call the flag that says whether they have a shortcut."""
SHORTCUTS = ("shortcut", "identity")
"""What blocks call the layer on their shortcut where they have no shortcut if it is None (timm's ByobNet)."""


def drop_rows(branch: Tensor, rate: float) -> Tensor:
    """Zero each row (example) of ``branch``, (batch, …), with probability ``rate``; divide the others by 1 − rate."""
    shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
    kept = torch.empty(shape, device=branch.device).bernoulli_(1 - rate).bool()
    return torch.where(kept, branch / (1 - rate), torch.zeros((), dtype=branch.dtype, device=branch.device))


class BlockDropout(nn.Module):
    """Stands where a block has a place for stochastic depth. No parameters, no buffers; the identity in evaluation.

    Args:
        rate: share of the examples whose branch is left out, in (0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """Map (batch, …) to the same shape."""
        return drop_rows(branch, self.rate) if self.training else branch

    def extra_repr(self) -> str:
        """The rate, for ``repr``."""
        return f"rate={self.rate}"


@dataclass(frozen=True)
class _BranchHook:
    """A forward hook on the last layer of a branch. The mode is the block's: frozen batch norms are never training."""

    block: nn.Module
    rate: float

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], branch: Tensor) -> Tensor | None:
        return drop_rows(branch, self.rate) if self.block.training else None


def set_block_dropout(module: nn.Module, rate: float) -> int:
    """Drop the residual branches of a network at ``rate``, the same for each, in place.

    Calling it again changes the rate; a rate of 0 removes it, and any stochastic depth that the network had of its own,
    so that the rate asked for is the rate in force. State dicts and outputs in evaluation mode do not change. Whether a
    branch is dropped comes from torch's global generator of the device, one draw per branch and example. It may be
    called before or after ``fold_batchnorm``.

    It works on blocks that have a place for stochastic depth, which is found by its name: timm's ResNet (ResNeXt, SE,
    …), ResNetV2, RegNet, ByobNet, NFNet, EfficientNet, MobileNet (V1 to V4), ConvNeXt, ViT, Swin, MLP-Mixer and others
    with ``drop_path``; torchvision's EfficientNet, ConvNeXt, Swin and MaxViT; and on torchvision's ResNet, ResNeXt,
    RegNet, MobileNetV2, MobileNetV3, MNASNet and ViT, whose blocks are known. Blocks without a shortcut (a MobileNet's
    with a stride) are left as they are: without their branch nothing would be left of them.

    Args:
        module: the network, changed in place.
        rate: share of the examples whose branch is left out, in [0, 1); the paper's are 0.1, 0.2 and 0.3.

    Returns:
        The number of residual branches (two per transformer block) that have this rate now.

    Raises:
        UserError: the rate is not in [0, 1), or it is not 0 and the network has no residual block that is known.
    """
    rate = _check_rate(rate)
    slots, ends = list(_slots(module)), list(_branch_ends(module))
    if rate > 0 and not slots and not ends:
        raise UserError(
            f"found no residual block to drop in {type(module).__name__}: block dropout needs blocks with a drop_path "
            "(timm) or stochastic_depth (torchvision), or torchvision's ResNet, RegNet, MobileNet, MNASNet or ViT"
        )
    for block, name in slots:
        if rate > 0:
            setattr(block, name, BlockDropout(rate).train(block.training))
        elif getattr(block, name) is not None:
            setattr(block, name, nn.Identity())
    for block, layer in ends:
        for key, hook in list(layer._forward_hooks.items()):
            if isinstance(hook, _BranchHook):
                del layer._forward_hooks[key]
        if rate > 0:
            layer.register_forward_hook(_BranchHook(block, rate))
    return len(slots) + len(ends)


def _check_rate(rate: float) -> float:
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise UserError(f"the rate of block dropout must be a number in [0, 1), not {rate!r}") from None
    if not 0.0 <= value < 1.0:
        raise UserError(f"the rate of block dropout must be in [0, 1), not {rate}")
    return value


def _slots(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every place for stochastic depth on a branch beside a shortcut: its block and its name there."""
    for block in module.modules():
        if not _has_shortcut(block):
            continue
        for name, child in {**block._modules, **block.__dict__}.items():
            if any(slot in name for slot in SLOTS) and _is_slot(child):
                yield block, name


def _is_slot(child: object) -> bool:
    """None (timm's ResNet), or a layer that is nothing but a place: no weights, no layers inside."""
    if isinstance(child, (BlockDropout, StochasticDepth, nn.Identity)) or child is None:
        return True
    return isinstance(child, nn.Module) and not child.state_dict() and not list(child.children())


def _branch_ends(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every block that is known by its class, with each of the layers at the end of its branches."""
    for block in module.modules():
        if _has_shortcut(block):
            for name in BRANCH_ENDS.get(type(block), ()):
                yield block, getattr(block, name)


def _has_shortcut(block: nn.Module) -> bool:
    flagged = all(bool(getattr(block, name, True)) for name in SKIPS)
    return flagged and all(getattr(block, name, block) is not None for name in SHORTCUTS)
