"""Frozen batch norm folded into the convolution before it, differentiably.

With frozen statistics, y = γ·(conv(x; W) + c − μ)/σ + β is conv(x; W·γ/σ) + β + (c − μ)·γ/σ, where σ² is the running
variance plus ε and c the convolution's own bias. The folded weight is computed inside the graph at each step, so W, c,
γ and β get the gradients that they would have had, while the normalisation's passes over the activations are gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeGuard

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...errors import UserError
from ..tracing import default_example, evaluating
from .activation import max_pool, relu6
from .convolution import conv2d, folded_conv2d, is_depthwise

__all__ = ["Folding", "fold_batchnorm", "foldable_pairs", "speed_up_depthwise"]


class Folding:
    """A handle on the folded layers of a network. ``remove()`` restores it; so does the end of a ``with`` block."""

    def __init__(self, pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]], activations: list[nn.Module]) -> None:
        self.pairs = pairs
        self.activations = activations

    def __len__(self) -> int:
        return len(self.pairs)

    def remove(self) -> None:
        """Give every layer its own forward back; may be called twice."""
        for layer in (*(layer for pair in self.pairs for layer in pair), *self.activations):
            layer.__dict__.pop("forward", None)
        self.pairs, self.activations = [], []

    def __enter__(self) -> Folding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def fold_batchnorm(module: nn.Module, example: Tensor | None = None) -> Folding:
    """Fold every frozen batch norm of ``module`` into the convolution whose only reader it is, in place.

    The pairs are found by following one forward pass, never by names, so any network of convolutions and batch norms
    can be folded; networks without them pass through untouched. Parameters, buffers and state dicts stay those of the
    original module. A ReLU or ReLU6 that alone reads a folded batch norm is computed with the convolution (on the
    processor); other ReLU6 layers keep their output for the backward pass instead of a copy of their input, and max
    pooling finds its places again instead of keeping them. While folded, the statistics are the running ones, whether
    the module is in training mode or not.

    Args:
        module: the network, changed in place.
        example: an input to follow through it, (batch, channels, height, width); by default one black image of the size
            that the network was pretrained at (timm's ``pretrained_cfg``) or of 64 pixels.

    Returns:
        The handle that undoes it.

    Raises:
        UserError: the network cannot take the default example.
    """
    links = _follow(module, example)
    taken: list[nn.Module] = []
    for link in links:
        activation = link.activation
        if activation is None and isinstance(link.norm, BatchNormAct2d) and type(link.norm.drop) is nn.Identity:
            inner = _ACTIVATIONS.get(type(link.norm.act), "none")
        else:
            inner = "none" if activation is None else _ACTIVATIONS[type(activation)]
        folded = _FoldedConvolution(link.conv, link.norm, inner, activation is None)
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


def speed_up_depthwise(module: nn.Module) -> int:
    """Give the depthwise convolutions that no batch norm was folded into (ConvNeXt's) the fast gradients, in place.

    Returns:
        How many there are.
    """
    found = [
        child
        for child in module.modules()
        if _known_conv(child) and _plainly_padded(child) and is_depthwise(child.weight, child.groups)
        if "forward" not in child.__dict__
    ]
    for conv in found:
        conv.__dict__["forward"] = _FastConvolution(conv).forward
    return len(found)


@dataclass(frozen=True)
class _FastConvolution:
    """The convolution itself, with the fast gradients on the processor."""

    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if x.device.type != "cpu":
            result: Tensor = type(conv).forward(conv, x)
            return result
        kind = _kind(x)
        bias = None if conv.bias is None else conv.bias.to(kind)
        return conv2d(x.to(kind), conv.weight.to(kind), bias, *_geometry(conv, x))


_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}


@dataclass(frozen=True)
class _FoldedConvolution:
    """The convolution with the batch norm's scale and shift inside, and an activation where the processor computes.

    Attributes:
        conv: the convolution.
        norm: the batch norm after it.
        activation: ``none``, ``relu`` or ``relu6``.
        inner: whether the activation is a part of the batch norm layer (timm's), not a layer of its own.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    activation: str
    inner: bool

    def fuses(self, device: torch.device) -> bool:
        """Whether the activation is computed with the convolution there."""
        return self.activation != "none" and device.type == "cpu" and _plainly_padded(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        x = x.to(_kind(x))
        if _plainly_padded(conv) and x.device.type == "cpu":
            mean, inverse, scale, shift = _parts(norm)
            geometry = _geometry(conv, x)
            return folded_conv2d(x, conv.weight, conv.bias, scale, shift, (mean, inverse), *geometry, self.activation)
        weight, bias = (tensor.to(x.dtype) for tensor in folded_weight(conv, norm))
        if isinstance(conv, Conv2dSame):
            x = F.pad(x, _pads(conv, x))
        result: Tensor = conv._conv_forward(x, weight, bias)
        return result


@dataclass(frozen=True)
class _Remainder:
    """What is left of a batch norm once its scale and shift are in the convolution: nothing, or timm's activation."""

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


def _geometry(conv: nn.Conv2d, x: Tensor) -> tuple[Any, Any, Any, int]:
    """Stride, pads, dilation and groups, as the functions of ``convolution`` take them."""
    return conv.stride, _pads(conv, x), conv.dilation, conv.groups


def _pads(conv: nn.Conv2d, x: Tensor) -> tuple[int, int, int, int]:
    """Zeros at the left, right, top and bottom: the convolution's own, or as many as TensorFlow puts there."""
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


def foldable_pairs(module: nn.Module, example: Tensor | None = None) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The (convolution, batch norm) pairs in which the batch norm is the only reader of the convolution's output.

    Found by watching one forward pass. Left out are layers called more than once, batch norms without running
    statistics, and subclasses whose forward is not known.
    """
    return [(link.conv, link.norm) for link in _follow(module, example)]


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
    with evaluating(module), torch.no_grad(), _Watch(module) as watch:
        try:
            returned = module(default_example(module) if example is None else example)
        except Exception as error:
            if example is not None:
                raise
            raise UserError(
                f"cannot follow a default image through {type(module).__name__} ({error}); "
                "give fold_batchnorm an example="
            ) from error
    for leaf in tree_leaves(returned):
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


class _Watch(TorchFunctionMode):
    """Counts, in one forward pass, how often each layer is called and each tensor is read, by a function or a layer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.calls: Counter[nn.Module] = Counter()
        self.reads: Counter[int] = Counter()
        self.sources: dict[nn.BatchNorm2d, tuple[nn.Conv2d, int]] = {}
        self._outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by id; holding the tensor keeps the id its own
        self._normed: dict[int, nn.BatchNorm2d] = {}
        self._first_readers: dict[nn.BatchNorm2d, tuple[nn.ReLU | nn.ReLU6, int]] = {}
        self._kept: list[Any] = []
        self._inside = 0
        self._hooks = [
            hook
            for child in module.modules()
            if _known_conv(child) or _known_norm(child) or type(child) in _ACTIVATIONS
            for hook in (
                child.register_forward_pre_hook(self._enter_layer),
                child.register_forward_hook(self._leave_layer),
            )
        ]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (
            not self._inside and getattr(function, "__name__", "") != "__get__"
        ):  # reading .shape is no use of the values
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self.reads[id(leaf)] += 1
        result = function(*args, **(kwargs or {}))
        self._kept.append(result)  # or a freed tensor's id could be taken by another
        return result

    def _enter_layer(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._inside += 1
        self.calls[layer] += 1
        if isinstance(layer, nn.BatchNorm2d) and id(args[0]) in self._outputs:
            conv, _ = self._outputs[id(args[0])]
            self.sources[layer] = (conv, id(args[0]))
        if args and isinstance(args[0], Tensor):
            if isinstance(layer, (nn.ReLU, nn.ReLU6)) and not self.reads[id(args[0])] and id(args[0]) in self._normed:
                self._first_readers[self._normed[id(args[0])]] = layer, id(args[0])
            self.reads[id(args[0])] += 1

    def _leave_layer(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside -= 1
        self._kept.append(output)
        if isinstance(layer, nn.Conv2d):
            self._outputs[id(output)] = (layer, output)
        elif isinstance(layer, nn.BatchNorm2d):
            self._normed[id(output)] = layer

    def activation_of(self, norm: nn.BatchNorm2d) -> nn.Module | None:
        """The layer that reads the output of ``norm`` before anything else does, where nothing else reads it too.

        One that works in place is the first reader, and the others read what it made of it.
        """
        layer, output = self._first_readers.get(norm, (None, 0))
        if layer is None or self.calls[layer] != 1 or "forward" in layer.__dict__:
            return None
        if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity):
            return None  # it has one of its own
        return layer if layer.inplace or self.reads[output] == 1 else None
