"""Dropout of whole residual blocks, or stochastic depth (Huang et al., 2016): the paper's figure 10, appendix C.

In training, the residual branch f of a block x + f(x) is dropped with probability ``rate``, independently for every
example, and divided by 1 − ``rate`` where it is kept, so that its expectation is f(x). The paper gives one probability
per curve (0.1, 0.2 or 0.3), so every block has the same rate; Huang et al. raise it linearly with depth. The paper's
public code draws once for a whole batch, and does not scale a branch that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models import mnasnet, mobilenetv2, mobilenetv3, regnet, resnet, vision_transformer
from torchvision.ops import StochasticDepth

from ..errors import UserError, check_type
from .dropout import check_rate
from .tracing import copied, evaluating, run_example, tensors_in

__all__ = ["BlockDropout", "set_block_dropout"]

SLOTS = ("drop_path", "stochastic_depth", "stochastic_dropout")
"""Names of the slots for stochastic depth, in timm and transformers, and twice in torchvision."""

BRANCH_ENDS: dict[type[nn.Module], tuple[str, ...]] = {
    resnet.BasicBlock: ("bn2",),
    resnet.Bottleneck: ("bn3",),
    regnet.ResBottleneckBlock: ("f",),
    mobilenetv2.InvertedResidual: ("conv",),
    mobilenetv3.InvertedResidual: ("block",),
    mnasnet._InvertedResidual: ("layers",),
    vision_transformer.EncoderBlock: ("dropout", "mlp"),
}
"""torchvision's blocks without such a slot, each with the layers whose output it adds to its shortcut."""

SKIPS = ("use_res_connect", "apply_residual")
"""Names of these blocks' flag for a shortcut."""


def drop_rows(branch: Tensor, rate: float) -> Tensor:
    """Zero each row (example) of ``branch``, (batch, …), with probability ``rate``; divide the others by 1 − rate."""
    shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
    kept = torch.empty(shape, device=branch.device).bernoulli_(1 - rate).bool()
    return torch.where(kept, branch / (1 - rate), torch.zeros((), dtype=branch.dtype, device=branch.device))


class BlockDropout(nn.Module):
    """Fills a block's slot for stochastic depth. No parameters, no buffers; the identity in evaluation mode.

    Args:
        rate: share of the examples whose branch is dropped, in (0, 1).
        branches: number of calls in a forward pass (two where a transformer block has one slot for both branches).
        empty: whether the slot held None before.
    """

    def __init__(self, rate: float, branches: int, empty: bool) -> None:
        super().__init__()
        self.rate, self.branches, self.empty = rate, branches, empty

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


def set_block_dropout(module: nn.Module, rate: float, example: Tensor | None = None) -> int:
    """Drop the residual branches of a network at ``rate``, the same for each, in place.

    Calling it again changes the rate; a rate of 0 removes block dropout, and the network's own stochastic depth, so
    that ``rate`` is the only one. State dicts, and outputs in evaluation mode, do not change by a bit. The draws come
    from torch's global generator of the device, one per branch and example. It may be called before or after
    ``fold_batchnorm``.

    It works on two kinds of networks:

    - whose blocks have a slot for stochastic depth, used or not (timm's ``drop_path``, torchvision's
      ``stochastic_depth``): timm's ResNet, ResNeXt, SE-ResNet, ResNetV2, RegNet, ByobNet, NFNet, EfficientNet,
      MobileNetV2 to V4, ConvNeXt, ViT, Swin, MLP-Mixer and others; torchvision's EfficientNet, ConvNeXt, Swin and
      MaxViT. Each slot is tried in one forward pass: it is used where it is reached and read, and where the block's
      output still depends on its input when the branch is zero. So blocks without a shortcut (a MobileNet's with a
      stride) keep their branch.
    - torchvision's ResNet, ResNeXt, RegNet, MobileNetV2, MobileNetV3, MNASNet and ViT, whose blocks are known.

    Networks without a known residual block (VGG, DenseNet, ShuffleNet, DPN, …) are refused.

    Args:
        module: the network, changed in place.
        rate: share of the examples whose branch is dropped, in [0, 1); the paper's are 0.1, 0.2 and 0.3.
        example: an input for the forward pass, (batch, channels, height, width); by default one black image of the size
            that the network was pretrained at (timm's ``pretrained_cfg``) or of 64 pixels.

    Returns:
        The number of residual branches (two per transformer block) whose rate was set or removed.

    Raises:
        UserError: ``module`` is no network; the rate is not in [0, 1); it is not 0 and no residual block is known; or
            the network cannot take the default example.
    """
    check_type(module, nn.Module, "the network must be a torch.nn.Module")
    rate = check_rate(rate, "the rate of block dropout")
    known = list(_known_branches(module))
    slots = list(_slots(module)) if rate == 0 else _residual(module, list(_slots(module)), example)
    if rate > 0 and not slots and not known:
        raise UserError(
            f"found no residual block to drop in {type(module).__name__}: block dropout needs blocks with a shortcut "
            "and a drop_path (timm) or stochastic_depth (torchvision), or torchvision's ResNet, RegNet, MobileNet, "
            "MNASNet or ViT"
        )
    changed = 0
    for slot in slots:
        changed += slot.set(rate)
    for block, layer in known:
        hooks = [key for key, hook in layer._forward_hooks.items() if isinstance(hook, _BranchHook)]
        for key in hooks:
            del layer._forward_hooks[key]
        if rate > 0:
            layer.register_forward_hook(_BranchHook(block, rate))
        changed += rate > 0 or bool(hooks)
    return changed


@dataclass
class _Slot:
    """A slot for stochastic depth: attribute ``name`` of the last of ``blocks``, which lie inside one another."""

    blocks: list[nn.Module]
    name: str
    branches: int = 0

    def get(self) -> nn.Module | None:
        found: nn.Module | None = getattr(self.blocks[-1], self.name)
        return found

    def put(self, layer: nn.Module | None) -> None:
        setattr(self.blocks[-1], self.name, layer)

    def set(self, rate: float) -> int:
        """Set the rate, or remove it at 0; returns how many branches that changes."""
        before = self.get()
        if rate > 0:
            known = before if isinstance(before, BlockDropout) else None
            branches = known.branches if known else self.branches
            empty = known.empty if known else before is None
            self.put(BlockDropout(rate, branches, empty).train(self.blocks[-1].training))
            return branches
        if isinstance(before, BlockDropout):
            self.put(None if before.empty else nn.Identity())
            return before.branches
        if before is None or isinstance(before, nn.Identity):
            return 0
        self.put(nn.Identity())
        return 1


def _slots(module: nn.Module) -> Iterator[_Slot]:
    layers = dict(module.named_modules())
    for path, block in layers.items():
        for name, child in {**block._modules, **block.__dict__}.items():
            if any(slot in name for slot in SLOTS) and _is_slot(child):
                parts = path.split(".") if path else []
                blocks = [layers[".".join(parts[:depth])] for depth in range(len(parts) + 1)]
                yield _Slot(blocks, name)


def _is_slot(child: object) -> bool:
    """Whether it is None (timm's ResNet) or a layer with no weights and no layers inside."""
    if isinstance(child, (BlockDropout, StochasticDepth, nn.Identity)) or child is None:
        return True
    return isinstance(child, nn.Module) and not child.state_dict() and not list(child.children())


def _known_branches(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every block of a known class with a shortcut, paired with the last layer of each of its branches."""
    for block in module.modules():
        if all(bool(getattr(block, name, True)) for name in SKIPS):
            for name in BRANCH_ENDS.get(type(block), ()):
                yield block, getattr(block, name)


class _Probe(nn.Module):
    """Counts its calls; where it is ``silent``, it returns zeros and keeps them, to see whether they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.silent = 0, False
        self.zeros: list[Tensor] = []

    def forward(self, branch: Tensor) -> Tensor:
        self.calls += 1
        if not self.silent:
            return branch
        self.zeros.append(torch.zeros_like(branch).requires_grad_())
        return branch * 0 + self.zeros[-1]  # the branch stays in the graph: it may read an earlier call's zeros


def _residual(module: nn.Module, slots: list[_Slot], example: Tensor | None) -> list[_Slot]:
    """The slots that are reached in a forward pass and lie beside a shortcut."""
    new = [slot for slot in slots if not isinstance(slot.get(), BlockDropout)]
    if not new:
        return slots
    before, probes = [slot.get() for slot in new], [_Probe() for _ in new]
    inputs: dict[nn.Module, tuple[Any, Any]] = {}

    def keep(block: nn.Module, args: Any, kwargs: Any) -> None:
        inputs.setdefault(block, tree_map(copied, (args, kwargs)))

    hooks = [
        block.register_forward_pre_hook(keep, with_kwargs=True)
        for block in {id(block): block for slot in new for block in slot.blocks[-2:]}.values()
    ]
    try:
        with evaluating(module), torch.no_grad():
            for slot, probe in zip(new, probes, strict=True):
                slot.put(probe)
            try:
                run_example(module, example, "set_block_dropout")
            finally:
                for hook in hooks:
                    hook.remove()
            calls = [probe.calls for probe in probes]
            for slot, probe, count in zip(new, probes, calls, strict=True):
                probe.silent = True
                slot.branches = count if count and _is_residual(slot, probe, inputs) else 0
                probe.silent = False
    finally:
        for slot, layer in zip(new, before, strict=True):
            slot.put(layer)
    return [slot for slot in slots if slot.branches or isinstance(slot.get(), BlockDropout)]


def _is_residual(slot: _Slot, probe: _Probe, inputs: dict[nn.Module, tuple[Any, Any]]) -> bool:
    """Whether the block reads the zeros of the silent slot, and its output still depends on its input."""
    block = slot.blocks[-1]
    if isinstance(block, nn.Sequential) or block not in inputs:  # the branch itself; the shortcut is around it
        block = slot.blocks[-2] if len(slot.blocks) > 1 else block
    if block not in inputs:
        return False
    args, kwargs = tree_map(copied, inputs[block])
    with torch.enable_grad():
        plain = tensors_in(block(*args, **kwargs))
        used = [leaf.sum() for leaf in plain if leaf.requires_grad]
        read = torch.autograd.grad(used, probe.zeros, allow_unused=True) if used else ()
    if not read or any(gradient is None for gradient in read):  # the slot is there, but not on the branch
        return False
    args, kwargs = tree_map(lambda leaf: copied(leaf, noise=True), inputs[block])
    noisy = tensors_in(block(*args, **kwargs))
    return any(not torch.equal(one, other) for one, other in zip(plain, noisy, strict=True))
