"""Which kernel computes each gradient of a convolution, by type and shape, and that its numbers are right."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from largedrop.fast_paths import FastPaths
from largedrop.models.fast.folding import speed_up
from largedrop.models.fast.gradients import FEW_PIXELS, MANY_PIXELS, Geometry, gradients, rules_of
from largedrop.models.network import Network, Spec
from largedrop.models.sizes import build, representation_units

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALL, X, WEIGHT, X_WEIGHT, WEIGHT_BIAS = (
    (True, True, True),
    (True, False, False),
    (False, True, False),
    (True, True, False),
    (False, True, True),
)

Call = tuple[int, tuple[bool, bool, bool]]
"""A call of the library: the width of its kernels, and which gradients it is to find."""


class Layer(NamedTuple):
    """A convolution and the batch it sees."""

    channels: int
    out: int
    side: int
    kernel: int
    stride: int = 1
    groups: int = 1
    batch: int = 1
    pads: tuple[int, int, int, int] | None = None

    @property
    def geometry(self) -> Geometry:
        pads = self.pads or (self.kernel // 2,) * 4
        return Geometry((self.stride, self.stride), pads, (1, 1), self.groups)


def depthwise(side: int, kernel: int, stride: int = 1) -> Layer:
    return Layer(8, 8, side, kernel, stride, 8)


FEW, MANY = int(FEW_PIXELS**0.5), int(MANY_PIXELS**0.5) + 1
"""Sides of a map of few pixels, and of one of many."""

NAMED = {
    "3 × 3 depthwise": depthwise(12, 3),
    "3 × 3 depthwise, small map": depthwise(6, 3),
    "3 × 3 depthwise, strided": depthwise(12, 3, 2),
    "5 × 5 depthwise": depthwise(12, 5),
    "5 × 5 depthwise, strided": depthwise(12, 5, 2),
    "5 × 5 depthwise, strided, small map": depthwise(6, 5, 2),
    "1 × 1, few pixels": Layer(3, 4, FEW, 1),
    "1 × 1, widening": Layer(3, 4, FEW + 1, 1),
    "1 × 1, narrowing": Layer(4, 3, FEW + 1, 1),
    "1 × 1, narrowing, many pixels": Layer(4, 3, MANY, 1),
    "1 × 1, strided": Layer(16, 32, 2 * FEW + 2, 1, 2),
    "1 × 1, strided, few channels": Layer(15, 32, 2 * FEW + 2, 1, 2),
    "3 × 3": Layer(4, 4, 8, 3),
    "3 × 3, few pixels of many channels": Layer(64, 8, 8, 3),
    "3 × 3, strided": Layer(13, 8, 16, 3, 2),
    "grouped": Layer(4, 4, 8, 3, 1, 2),
}

EXPECTED: dict[str, dict[str, list[Call]]] = {
    "float32": {
        "3 × 3 depthwise": [(3, ALL)],
        "3 × 3 depthwise, small map": [(3, ALL)],
        "3 × 3 depthwise, strided": [(3, ALL)],
        "5 × 5 depthwise": [(3, WEIGHT_BIAS), (2, WEIGHT), (5, X)],
        "5 × 5 depthwise, strided": [(5, X_WEIGHT)],
        "5 × 5 depthwise, strided, small map": [(3, WEIGHT_BIAS), (2, WEIGHT), (5, X)],
        "1 × 1, few pixels": [],
        "1 × 1, widening": [(1, X)],
        "1 × 1, narrowing": [],
        "1 × 1, narrowing, many pixels": [(1, X)],
        "1 × 1, strided": [],
        "1 × 1, strided, few channels": [],
        "3 × 3": [(3, X_WEIGHT)],
        "3 × 3, few pixels of many channels": [(3, X)],
        "3 × 3, strided": [(3, X)],
        "grouped": [(3, ALL)],
    },
    "bfloat16": {
        "3 × 3 depthwise": [(3, WEIGHT_BIAS)],
        "3 × 3 depthwise, small map": [(3, ALL)],
        "3 × 3 depthwise, strided": [(3, WEIGHT_BIAS)],
        "5 × 5 depthwise": [(3, WEIGHT_BIAS), (2, WEIGHT)],
        "5 × 5 depthwise, strided": [(3, WEIGHT_BIAS), (2, WEIGHT)],
        "5 × 5 depthwise, strided, small map": [(3, WEIGHT_BIAS), (2, WEIGHT)],
        "1 × 1, few pixels": [],
        "1 × 1, widening": [(1, ALL)],
        "1 × 1, narrowing": [(1, WEIGHT_BIAS)],
        "1 × 1, narrowing, many pixels": [(1, ALL)],
        "1 × 1, strided": [(1, WEIGHT_BIAS)],
        "1 × 1, strided, few channels": [],
        "3 × 3": [(3, ALL)],
        "3 × 3, few pixels of many channels": [(3, X)],
        "3 × 3, strided": [(3, X)],
        "grouped": [(3, ALL)],
    },
}


def tensors(layer: Layer, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output's gradient, the input and the weight."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(layer.batch, layer.channels, layer.side, layer.side, generator=rng).to(kind)
    weight = torch.randn(layer.out, layer.channels // layer.groups, layer.kernel, layer.kernel, generator=rng).to(kind)
    output = F.conv2d(F.pad(x, layer.geometry.pads), weight, None, layer.stride, 0, 1, layer.groups)
    gradient = torch.randn(output.shape, generator=rng).to(kind)
    last = torch.channels_last
    return gradient.contiguous(memory_format=last), x.contiguous(memory_format=last), weight


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_of_each_gradient_follows_from_type_and_shape(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = NAMED[name]
    gradient, x, weight = tensors(layer, KINDS[kind])
    calls: list[Call] = []
    real = torch.ops.aten.convolution_backward

    def spy(*arguments: Any) -> Any:
        calls.append((arguments[2].shape[3], tuple(arguments[-1])))
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    found = gradients(gradient, x, weight, layer.geometry, ALL)
    assert calls == EXPECTED[kind][name]
    double = [tensor.double() for tensor in (gradient, x, weight)]
    padded = F.pad(double[1], layer.geometry.pads).requires_grad_()
    double[2].requires_grad_()
    output = F.conv2d(padded, double[2], None, layer.stride, 0, 1, layer.groups)
    of_padded, of_weight = torch.autograd.grad(output, [padded, double[2]], double[0])
    right = F.pad(of_padded, [-pad for pad in layer.geometry.pads]), of_weight, double[0].sum((0, 2, 3))
    for ours, reference in zip(found, right, strict=True):
        assert ours is not None
        error = float((ours.double() - reference).abs().max() / reference.abs().max())
        assert error < (1e-5 if kind == "float32" else 2**-7)


def test_types_that_were_not_measured_take_the_rules_of_bfloat16() -> None:
    assert rules_of(torch.float64) == rules_of(torch.float16) == rules_of(torch.bfloat16) != rules_of(torch.float32)


@pytest.mark.parametrize("paths", [FastPaths(), FastPaths(kernels=True), FastPaths(folded=True)])
def test_a_network_never_asks_for_the_faulty_kernel(paths: FastPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """RepVGG's first layer: torch's own weight gradient of it ends the process, on some processors, in bfloat16."""
    spec = Spec("repvgg_a0", "random", ("a", "b"), 64, (0.5,) * 3, (0.5,) * 3, 0.5)
    backbone = build(spec.model, spec.size)
    network = Network(backbone, representation_units(backbone), spec).train()
    first = network.backbone.get_submodule("stem.conv_1x1.conv")
    assert isinstance(first, nn.Conv2d)
    images = torch.randn(8, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    calls: list[Any] = []
    real = torch.ops.aten.convolution_backward
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", lambda *each: calls.append(each[2]) or real(*each))
    with speed_up(network, paths):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(network(images).float(), torch.arange(8) % 2)
        loss.backward()
        assert "forward" in vars(first)  # torch's own would not be seen below
    assert [weight for weight in calls if tuple(weight.shape[1:]) == (3, 1, 1)] == []
    found = first.weight.grad
    assert found is not None
    assert torch.isfinite(found).all()
