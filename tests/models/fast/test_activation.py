"""ReLU6 against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.activation import max_pool, relu6

VALUES = torch.tensor([-7.0, -1e-6, -0.0, 0.0, 1e-6, 3.0, 5.999, 6.0, 6.001, 7.0, float("inf")], dtype=torch.float64)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients_are_torchs(inplace: bool, kind: torch.dtype) -> None:
    outputs, slopes = [], []
    for function in (relu6, F.relu6):
        x = VALUES.to(kind).requires_grad_()
        outputs.append(function(x * 1, inplace))
        slopes.append(torch.autograd.grad(outputs[-1], x, torch.arange(len(VALUES)).to(kind))[0])
    assert torch.equal(*outputs)
    assert torch.equal(*slopes)


def test_nothing_but_the_output_is_kept() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = VALUES.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        middle = x + 1
        output = relu6(middle, inplace=True)
    assert output.data_ptr() == middle.data_ptr()
    assert [tensor.data_ptr() for tensor in kept] == [output.data_ptr()]
    assert relu6(x).data_ptr() != x.data_ptr()


POOLS = {
    "a ResNet's": nn.MaxPool2d(3, stride=2, padding=1),
    "plain": nn.MaxPool2d(2),
    "lopsided": nn.MaxPool2d((2, 3), stride=(2, 1), padding=(0, 1)),
    "dilated, rounded up": nn.MaxPool2d(3, stride=2, dilation=2, ceil_mode=True),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_pooled_values_and_gradients_are_torchs(name: str, kind: torch.dtype) -> None:
    layer = POOLS[name]
    rng = torch.Generator().manual_seed(0)
    outputs, slopes = [], []
    for pool in (lambda x: max_pool(x, layer), layer):
        # whole numbers: many maxima are shared, and the first of them takes the gradient
        x = torch.randint(4, (2, 3, 9, 10), generator=rng.manual_seed(0)).to(kind).requires_grad_()
        outputs.append(pool(x))
        weights = torch.randint(1, 9, outputs[-1].shape, generator=rng.manual_seed(1)).to(kind)
        slopes.append(torch.autograd.grad(outputs[-1], x, weights)[0])
    assert torch.equal(*outputs)
    assert torch.equal(*slopes)


def test_pooling_keeps_its_input_alone() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    x = torch.rand(1, 2, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        max_pool(x, POOLS["a ResNet's"])
    assert kept == [x.data_ptr()]
