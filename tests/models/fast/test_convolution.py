"""The convolution's gradients against autograd's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.models.fast.convolution import conv2d, folded_conv2d
from largedrop.models.fast.gradients import FEW_PIXELS, Geometry

Parts = tuple[Tensor, Tensor, Tensor]
CHANNELS = 4
KINDS = {"depthwise": (4, 4), "dense": (6, 1), "grouped": (6, 2), "one kernel a channel": (8, 4)}
"""Channels out, and groups."""
PADS = {
    "half": lambda tall, wide: (wide // 2, wide // 2, tall // 2, tall // 2),
    "lopsided": lambda tall, wide: (wide // 2, wide // 2 + 1, max(tall // 2 - 1, 0), tall // 2),
    "none": lambda tall, wide: (0, 0, 0, 0),
    "more than the kernel": lambda tall, wide: (wide, wide, tall, tall),
}
STRIDES = [(1, 1), (2, 2), (3, 3), (1, 2)]


def tensors(
    kind: str, tall: int, wide: int, height: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Parts, int]:
    """Input, weight and bias, and the number of groups."""
    rng = torch.Generator().manual_seed(100 * tall + wide)
    out, groups = KINDS[kind]
    x = torch.randn(2, CHANNELS, height, width, generator=rng).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(out, CHANNELS // groups, tall, wide, generator=rng)
    bias = torch.randn(out, generator=rng)
    one, two, three = (part.to(dtype).requires_grad_() for part in (x, weight, bias))
    return (one, two, three), groups


def gradients(output: Tensor, wanted: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a weighted sum of the output."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return torch.autograd.grad(output, wanted, weights)


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_geometry_has_autograds_results_in_float64(kind: str, pads: str) -> None:
    compared = 0
    for tall, wide, stride, height, width in itertools.product((1, 2, 3, 5), (1, 3, 5, 7), STRIDES, (1, 4, 9), (1, 8)):
        parts, groups = tensors(kind, tall, wide, height, width)
        zeros = PADS[pads](tall, wide)
        padded = F.pad(parts[0], zeros)
        if padded.shape[2] < tall or padded.shape[3] < wide:
            continue
        ours = conv2d(*parts, Geometry(stride, zeros, (1, 1), groups))
        theirs = F.conv2d(padded, *parts[1:], stride, 0, 1, groups)
        torch.testing.assert_close(ours, theirs)
        for mine, reference in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)
        compared += 1
    assert compared >= 60


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dilation", [(2, 2), (1, 3)])
def test_dilated_kernels(kind: str, dilation: tuple[int, int]) -> None:
    parts, groups = tensors(kind, 3, 3, 9, 10)
    ours = conv2d(*parts, Geometry((1, 1), (2, 2, 1, 1), dilation, groups))
    theirs = F.conv2d(*parts, 1, (1, 2), dilation, groups)
    for mine, reference in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_without_bias(kind: str) -> None:
    (x, weight, _), groups = tensors(kind, 3, 3, 8, 8)
    ours = conv2d(x, weight, None, Geometry((1, 1), (1, 1, 1, 1), (1, 1), groups))
    theirs = F.conv2d(x, weight, None, 1, 1, 1, groups)
    for mine, reference in zip(gradients(ours, [x, weight]), gradients(theirs, [x, weight]), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-11, atol=1e-11)


def test_one_by_one_kernels_on_either_side_of_the_matrix_product() -> None:
    for side in (int(FEW_PIXELS**0.5) // 2, int(FEW_PIXELS**0.5)):  # a batch of 2
        parts, _ = tensors("dense", 1, 1, side, side)
        pair = conv2d(*parts, Geometry((1, 1), (0, 0, 0, 0))), F.conv2d(*parts)
        for mine, reference in zip(*(gradients(output, parts) for output in pair), strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("tall", "stride", "height"), list(itertools.product((3, 5), (1, 2), (3, 9, 16))))
def test_bfloat16_gradients_are_no_further_off_than_autograds(tall: int, stride: int, height: int) -> None:
    parts, groups = tensors("depthwise", tall, tall, height, height, torch.bfloat16)
    x, weight, bias = exact = [part.detach().double().requires_grad_() for part in parts]
    zeros = (tall // 2,) * 4
    truth = gradients(F.conv2d(x, weight, bias, stride, tall // 2, 1, groups), exact)
    ours = gradients(conv2d(*parts, Geometry((stride, stride), zeros, (1, 1), groups)), parts)
    theirs = gradients(F.conv2d(*parts, stride, tall // 2, 1, groups), parts)
    for mine, autograds, right in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == torch.bfloat16
        errors = [float((side.double() - right).abs().max() / right.abs().max()) for side in (mine, autograds)]
        assert errors[0] <= errors[1] + 2**-9


@pytest.mark.parametrize(("stride", "size"), list(itertools.product((1, 2), (3, 4, 6, 14))))
def test_float32_gradients_agree_to_rounding(stride: int, size: int) -> None:
    parts, groups = tensors("depthwise", 5, 5, size, size, torch.float32)
    ours = gradients(conv2d(*parts, Geometry((stride, stride), (2, 2, 2, 2), (1, 1), groups)), parts)
    theirs = gradients(F.conv2d(*parts, stride, 2, 1, groups), parts)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["depthwise", "dense"])
@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_that_are_not_needed_are_not_computed(
    kind: str, needed: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, groups = tensors(kind, 5, 5, 8, 8)
    for part, need in zip(parts, needed, strict=True):
        part.requires_grad_(need)
    asked: list[tuple[bool, ...]] = []
    real = torch.ops.aten.convolution_backward

    def spy(*arguments: Any) -> Any:
        asked.append(tuple(arguments[-1]))
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    conv2d(*parts, Geometry((2, 2), (2, 2, 2, 2), (1, 1), groups)).sum().backward()
    assert [part.grad is not None for part in parts] == list(needed)
    if kind == "dense":  # the bias alone is a product
        assert asked == ([needed] if any(needed[:2]) else [])
    else:  # the input's gradient is a forward convolution, the weight's comes in two parts
        assert asked == ([(False, True, True), (False, True, False)] if needed[1] else [])


@pytest.mark.parametrize(("wide", "widths"), [(3, [3]), (5, [3, 2]), (7, [3, 3, 1])])
def test_wide_kernels_are_split_into_parts_that_have_fast_kernels(
    wide: int, widths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, groups = tensors("depthwise", wide, wide, 12, 12, torch.bfloat16)
    used: list[tuple[int, tuple[int, int]]] = []
    real = torch.ops.aten.convolution_backward

    def spy(*arguments: Any) -> Any:
        used.append((arguments[2].shape[3], tuple(arguments[5])))
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    conv2d(*parts, Geometry((1, 1), (wide // 2,) * 4, (1, 1), groups)).sum().backward()
    assert [found for found, _ in used] == widths
    assert {padding for _, padding in used} == {(wide // 2, 1 if wide == 3 else 0)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_folded_convolution_is_the_convolution_and_its_batch_norm(kind: str, with_bias: bool) -> None:
    (x, weight, bias), groups = tensors(kind, 3, 3, 8, 8)
    rng = torch.Generator().manual_seed(2)
    count = weight.shape[0]
    scale, shift, mean, variance = torch.rand(4, count, generator=rng, dtype=torch.float64) + 0.5
    leaves = [x, weight, scale.requires_grad_(), shift.requires_grad_(), *([bias] if with_bias else [])]
    given = bias if with_bias else None
    inverse = torch.rsqrt(variance + 1e-3)
    half = Geometry((1, 1), (1, 1, 1, 1), (1, 1), groups)
    ours = folded_conv2d(x, weight, given, scale, shift, (mean, inverse), half)
    theirs = F.batch_norm(F.conv2d(x, weight, given, 1, 1, 1, groups), mean, variance, scale, shift, eps=1e-3)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for mine, reference in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


def test_a_scale_of_zero_has_a_gradient() -> None:
    (x, weight, _), _ = tensors("dense", 1, 1, 2, 2)
    scale = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    shift, mean, variance = torch.zeros(6).double(), torch.zeros(6).double(), torch.ones(6).double()
    folded_conv2d(x, weight, None, scale, shift, (mean, variance), Geometry((1, 1), (0, 0, 0, 0))).sum().backward()
    torch.testing.assert_close(scale.grad, F.conv2d(x, weight).sum((0, 2, 3)))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    parts, groups = tensors("depthwise", 3, 3, 5, 5)
    output = conv2d(*parts, Geometry((1, 1), (1, 1, 1, 1), (1, 1), groups))
    (first,) = torch.autograd.grad(output.square().sum(), parts[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(("dtype", "with_zeros"), [(torch.bfloat16, False), (torch.float32, True)])
def test_the_input_is_kept_with_the_zeros_around_it_only_in_float32(dtype: torch.dtype, with_zeros: bool) -> None:
    parts, groups = tensors("depthwise", 3, 3, 8, 8, dtype)
    kept: list[Tensor] = []
    lopsided = Geometry((2, 2), (0, 1, 0, 1), (1, 1), groups)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours = conv2d(*parts, lopsided)
    assert [tensor.shape[2] for tensor in kept] == [9 if with_zeros else 8, 3]
    assert (kept[0].data_ptr() == parts[0].data_ptr()) != with_zeros
    theirs = F.conv2d(F.pad(parts[0], lopsided.pads), *parts[1:], 2, 0, 1, groups)
    for mine, reference in zip(gradients(ours, parts), gradients(theirs, parts), strict=True):
        torch.testing.assert_close(mine, reference, rtol=2e-2, atol=2e-2)


def test_a_product_in_bfloat16_may_be_changed_in_place() -> None:
    parts, _ = tensors("dense", 1, 1, 8, 8, torch.bfloat16)
    ours = conv2d(*parts, Geometry((1, 1), (0, 0, 0, 0)))
    theirs = F.conv2d(*parts)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    for mine, reference in zip(gradients(ours.relu_(), parts), gradients(theirs.relu_(), parts), strict=True):
        torch.testing.assert_close(mine, reference, rtol=2**-5, atol=2**-5)
