"""Frozen batch norm folded into the convolution before it, differentiably.

With frozen statistics, y = γ·(conv(x; W) + c − μ)/σ + β is conv(x; W·γ/σ) + β + (c − μ)·γ/σ, where σ² is the running
variance plus ε and c the convolution's own bias. The folded weight is computed inside the graph at each step, so W, c,
γ and β get the same gradients as unfolded, without the normalisation's passes over the activations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeGuard

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import check_type
from ...fast_paths import FastPaths, fast_paths
from ..network import Network
from ..tracing import Watch, evaluating, run_example, tensors_in
from .activation import max_pool, relu6
from .convolution import conv2d, folded_conv2d
from .gradients import Geometry, is_depthwise, is_faulty

__all__ = ["Folding", "fold_batchnorm", "fold_for_evaluation", "geometry_of", "speed_up", "speed_up_depthwise"]


def speed_up(network: Network, paths: FastPaths | None = None) -> Folding:
    """Replace layers of a network by their faster forms, in place; outputs and gradients stay the same.

    Frozen batch norms are folded, and convolutions get the fast gradients. Those whose own write beyond memory
    (``gradients.is_faulty``) get them without any fast path as well.

    Args:
        paths: fast paths to take; those of the network's device by default.

    Returns:
        A handle whose ``remove()`` undoes it, and without which the network is freed by Python's collector alone: a
        layer's faster form refers to the layer.
    """
    paths = fast_paths(network.head.weight.device) if paths is None else paths
    folding = fold_for_evaluation(network, paths) if network.spec.freeze_batchnorm else Folding([], [])
    if paths.kernels:
        folding.others += speed_up_depthwise(network)
    folding.others += _avoid_faults(network)
    return folding


def fold_for_evaluation(network: Network, paths: FastPaths | None = None) -> Folding:
    """Fold the batch norms of a network, frozen or not, where that is one of the fast paths; arguments and result as
    in ``speed_up``.
    """
    device, size = network.head.weight.device, network.spec.size
    paths = fast_paths(device) if paths is None else paths
    if not paths.folded:
        return Folding([], [])
    return fold_batchnorm(network, torch.zeros((1, 3, size, size), device=device), kernels=paths.kernels)


class Folding:
    """A handle on the changed layers of a network. ``remove()`` restores it; so does the end of a ``with`` block.

    Attributes:
        pairs: convolutions, each with the batch norm that is folded into it.
        others: activations, pooling layers and other convolutions whose forward pass was replaced.
    """

    def __init__(self, pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]], others: list[nn.Module]) -> None:
        self.pairs = pairs
        self.others = others

    def __len__(self) -> int:
        return len(self.pairs)

    def remove(self) -> None:
        """Restore the original forward of every layer; may be called twice."""
        for layer in (*(layer for pair in self.pairs for layer in pair), *self.others):
            layer.__dict__.pop("forward", None)
        self.pairs, self.others = [], []

    def __enter__(self) -> Folding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def fold_batchnorm(module: nn.Module, example: Tensor | None = None, *, kernels: bool = True) -> Folding:
    """Fold every frozen batch norm of ``module`` into the convolution whose only reader it is, in place.

    The pairs are found by following one forward pass, never by names, so any network of convolutions and batch norms
    can be folded; networks without them pass through untouched. Parameters, buffers and state dicts stay those of the
    original module. A ReLU or ReLU6 that alone reads a folded batch norm is computed with the convolution (on the
    processor); other ReLU6 layers keep their output for the backward pass instead of a copy of their input, and max
    pooling finds its maxima again instead of keeping their indices. While folded, the statistics are the running ones,
    whether the module is in training mode or not.

    Args:
        module: the network, changed in place.
        example: an input to follow through it, (batch, channels, height, width); by default one black image of the size
            that the network was pretrained at (timm's ``pretrained_cfg``) or of 64 pixels.
        kernels: whether these convolutions get the fast gradients on the processor.

    Returns:
        A handle whose ``remove()`` undoes it.

    Raises:
        UserError: ``module`` is no network, or it cannot take the default example.
    """
    check_type(module, nn.Module, "the network must be a torch.nn.Module")
    links = _follow(module, example)
    taken: list[nn.Module] = []
    for link in links:
        activation = link.activation
        if activation is None and isinstance(link.norm, BatchNormAct2d) and type(link.norm.drop) is nn.Identity:
            inner = _ACTIVATIONS.get(type(link.norm.act), "none")
        else:
            inner = "none" if activation is None else _ACTIVATIONS[type(activation)]
        folded = _FoldedConvolution(link.conv, link.norm, inner, activation is None, kernels)
        link.conv.__dict__["forward"] = folded.forward
        link.norm.__dict__["forward"] = _Remainder(folded).forward
        if activation is not None:
            activation.__dict__["forward"] = _Done(activation, folded).forward
            taken.append(activation)
    if links:
        for layer in module.modules():
            if "forward" in layer.__dict__:
                continue
            if type(layer) is nn.ReLU6:
                layer.__dict__["forward"] = partial(relu6, inplace=layer.inplace)
            elif type(layer) is nn.MaxPool2d and not layer.return_indices:
                layer.__dict__["forward"] = partial(max_pool, layer=layer)
            else:
                continue
            taken.append(layer)
    return Folding([(link.conv, link.norm) for link in links], taken)


def speed_up_depthwise(module: nn.Module) -> list[nn.Conv2d]:
    """Give the depthwise convolutions that no batch norm was folded into (ConvNeXt's) the fast gradients, in place.

    Returns:
        These convolutions.
    """
    found = [
        child
        for child in module.modules()
        if _known_conv(child) and _plainly_padded(child) and is_depthwise(child.weight, child.groups)
        if "forward" not in child.__dict__
    ]
    for conv in found:
        conv.__dict__["forward"] = _FastConvolution(conv).forward
    return found


def _avoid_faults(module: nn.Module) -> list[nn.Conv2d]:
    """Give convolutions whose own gradients are faulty the fast ones, where no other form has replaced them."""
    found = [
        child
        for child in module.modules()
        if isinstance(child, nn.Conv2d) and _is_faulty(child) and "forward" not in child.__dict__
    ]
    for conv in found:
        conv.__dict__["forward"] = _FastConvolution(conv, also_float32=False).forward
    return found


def _is_faulty(conv: nn.Conv2d) -> bool:
    stride = conv.stride[0], conv.stride[1]
    return _known_conv(conv) and _plainly_padded(conv) and is_faulty(conv.weight, stride, conv.groups)


@dataclass(frozen=True)
class _FastConvolution:
    """The convolution with the fast gradients on the processor.

    Attributes:
        conv: the convolution.
        also_float32: whether in float32 too, or only in smaller types.
    """

    conv: nn.Conv2d
    also_float32: bool = True

    def forward(self, x: Tensor) -> Tensor:
        conv, kind = self.conv, _kind(x)
        if x.device.type != "cpu" or (kind == torch.float32 and not self.also_float32):
            result: Tensor = type(conv).forward(conv, x)
            return result
        bias = None if conv.bias is None else conv.bias.to(kind)
        return conv2d(x.to(kind), conv.weight.to(kind), bias, geometry_of(conv, x))


_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}


@dataclass(frozen=True)
class _FoldedConvolution:
    """The convolution with the batch norm's scale and shift inside, and an activation where the processor computes.

    Attributes:
        conv: the convolution.
        norm: the batch norm after it.
        activation: ``none``, ``relu`` or ``relu6``.
        inner: whether the activation is a part of the batch norm layer (timm's), not a layer of its own.
        kernels: whether the processor's gradients are the fast ones, with which the activation is computed.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: str
    inner: bool
    kernels: bool

    def fast(self, device: torch.device) -> bool:
        """Whether the convolution has the processor's fast gradients there."""
        return (self.kernels or _is_faulty(self.conv)) and device.type == "cpu" and _plainly_padded(self.conv)

    def fuses(self, device: torch.device) -> bool:
        """Whether the activation is computed with the convolution there."""
        return self.activation != "none" and self.fast(device)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        x = x.to(_kind(x))
        if self.fast(x.device):
            mean, inverse, scale, shift = _parts(norm)
            geometry = geometry_of(conv, x)
            return folded_conv2d(x, conv.weight, conv.bias, scale, shift, (mean, inverse), geometry, self.activation)
        weight, bias = (tensor.to(x.dtype) for tensor in folded_weight(conv, norm))
        if isinstance(conv, Conv2dSame):
            x = F.pad(x, _pads(conv, x))
        result: Tensor = conv._conv_forward(x, weight, bias)
        return result


@dataclass(frozen=True)
class _Remainder:
    """The rest of a batch norm whose scale and shift are in the convolution: the identity, or timm's activation."""

    folded: _FoldedConvolution

    def forward(self, x: Tensor) -> Tensor:
        norm = self.folded.norm
        if isinstance(norm, BatchNormAct2d) and not (self.folded.inner and self.folded.fuses(x.device)):
            result: Tensor = norm.act(norm.drop(x))
            return result
        return x


@dataclass(frozen=True)
class _Done:
    """An activation that was computed with the convolution before it, where that was on the processor."""

    layer: nn.Module
    folded: _FoldedConvolution

    def forward(self, x: Tensor) -> Tensor:
        if self.folded.fuses(x.device):
            return x
        result: Tensor = type(self.layer).forward(self.layer, x)
        return result


def folded_weight(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """W·γ/σ, (out, in / groups, kh, kw), and β + (c − μ)·γ/σ, (out,), differentiable in W, c, γ and β."""
    mean, inverse, gamma, beta = _parts(norm)
    scale = gamma * inverse
    shift = -mean if conv.bias is None else conv.bias - mean
    return conv.weight * scale[:, None, None, None], beta + shift * scale


def _parts(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """μ, 1/σ, γ and β, (channels,) each."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias
    return mean, torch.rsqrt(variance + norm.eps), gamma, beta


def _kind(x: Tensor) -> torch.dtype:
    """The type to compute in: autocast's, or that of ``x``."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _plainly_padded(conv: nn.Conv2d) -> bool:
    return isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"


def geometry_of(conv: nn.Conv2d, x: Tensor) -> Geometry:
    """How ``conv`` moves over ``x``, (batch, channels, height, width), by whose size TensorFlow pads."""
    stride, dilation = (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])
    return Geometry(stride, _pads(conv, x), dilation, conv.groups)


def _pads(conv: nn.Conv2d, x: Tensor) -> tuple[int, int, int, int]:
    """Zeros at the left, right, top and bottom: the convolution's own padding, or TensorFlow's ``SAME``."""
    if not isinstance(conv, Conv2dSame):
        assert not isinstance(conv.padding, str)
        down, across = conv.padding
        return across, across, down, down
    down, across = (
        max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        for size, kernel, stride, dilation in zip(
            x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
        )
    )
    return across // 2, across - across // 2, down // 2, down - down // 2


@dataclass(frozen=True)
class _Link:
    """A convolution, the batch norm that alone reads it, and the activation layer that alone reads that, if any."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: nn.Module | None


def _follow(module: nn.Module, example: Tensor | None) -> list[_Link]:
    norms = [child for child in module.modules() if _known_norm(child)]
    if not norms:
        return []
    with evaluating(module), torch.no_grad(), _Reads(module) as watch:
        returned = run_example(module, example, "fold_batchnorm")
    for leaf in tensors_in(returned):
        watch.reads[id(leaf)] += 1
    return [
        _Link(conv, norm, watch.activation_of(norm))
        for norm, (conv, output) in watch.sources.items()
        if watch.calls[conv] == watch.calls[norm] == watch.reads[output] == 1 and "forward" not in conv.__dict__
    ]


def _known_norm(module: nn.Module) -> bool:
    return type(module) in (nn.BatchNorm2d, BatchNormAct2d) and getattr(module, "running_mean", None) is not None


def _known_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(module) in (nn.Conv2d, Conv2dSame)


class _Reads(Watch):
    """Counts, in one forward pass, how often each layer is called and each tensor is read, by a function or a layer."""

    def __init__(self, module: nn.Module) -> None:
        layers = (child for child in module.modules() if _known_conv(child) or _known_norm(child))
        super().__init__([*layers, *(child for child in module.modules() if type(child) in _ACTIVATIONS)])
        self.calls: Counter[nn.Module] = Counter()
        self.reads: Counter[int] = Counter()
        self.sources: dict[nn.BatchNorm2d, tuple[nn.Conv2d, int]] = {}
        self._convolved: dict[int, nn.Conv2d] = {}  # by their outputs' ids
        self._normed: dict[int, nn.BatchNorm2d] = {}
        self._first_readers: dict[nn.BatchNorm2d, tuple[nn.ReLU | nn.ReLU6, int]] = {}
        self._inside = 0

    def called(self, name: str, inputs: Any, outputs: Any) -> None:
        if not self._inside:
            self.reads.update(id(leaf) for leaf in tensors_in(inputs))

    def entered(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += 1
        self.calls[layer] += 1
        if not (args and isinstance(args[0], Tensor)):
            return
        read = id(args[0])
        if isinstance(layer, nn.BatchNorm2d) and read in self._convolved:
            self.sources[layer] = self._convolved[read], read
        if isinstance(layer, (nn.ReLU, nn.ReLU6)) and not self.reads[read] and read in self._normed:
            self._first_readers[self._normed[read]] = layer, read
        self.reads[read] += 1

    def left(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside -= 1
        if isinstance(layer, nn.Conv2d):
            self._convolved[id(output)] = layer
        elif isinstance(layer, nn.BatchNorm2d):
            self._normed[id(output)] = layer

    def activation_of(self, norm: nn.BatchNorm2d) -> nn.Module | None:
        """The activation layer that is the only reader of the output of ``norm``, or None.

        One that works in place need only be the first reader, since the others read its result.
        """
        layer, output = self._first_readers.get(norm, (None, 0))
        if layer is None or self.calls[layer] != 1 or "forward" in layer.__dict__:
            return None
        if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity):
            return None  # it has one of its own
        return layer if layer.inplace or self.reads[output] == 1 else None
