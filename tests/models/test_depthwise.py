"""The depthwise convolution's gradients against autograd's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.models.depthwise import depthwise_conv2d
from largedrop.threads import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Nothing here is large enough for two."""
    with one_thread():
        yield


CHANNELS = 6
SHAPES = list(itertools.product((3, 5), (1, 2), ((9, 7), (8, 8)), (False, True)))


def operands(kernel: int, size: tuple[int, int], bias: bool, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    rng = torch.Generator().manual_seed(kernel)
    x = torch.randn(4, CHANNELS, *size, generator=rng).to(kind).requires_grad_()
    weight = torch.randn(CHANNELS, 1, kernel, kernel, generator=rng).to(kind).requires_grad_()
    shift = torch.randn(CHANNELS, generator=rng).to(kind).requires_grad_() if bias else None
    return x, weight, shift


def results(output: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, wanted, weights)]


@pytest.mark.parametrize(("kernel", "stride", "size", "bias"), SHAPES)
def test_gradients_are_those_of_finite_differences(kernel: int, stride: int, size: tuple[int, int], bias: bool) -> None:
    x, weight, shift = operands(kernel, size, bias, torch.float64)
    pads = (kernel // 2, kernel // 2)
    given = (x, weight) if shift is None else (x, weight, shift)

    def convolve(x: Tensor, weight: Tensor, shift: Tensor | None = None) -> Tensor:
        return depthwise_conv2d(x, weight, shift, (stride, stride), pads)

    assert torch.autograd.gradcheck(convolve, given, fast_mode=True)


# bfloat16 keeps 8 bits: each side rounds once, by 2⁻⁹ of the value, and sums over a map in its own order
@pytest.mark.parametrize(
    ("kind", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13), (torch.bfloat16, 2**-7)]
)
@pytest.mark.parametrize(("kernel", "stride", "size", "bias"), SHAPES)
def test_results_are_autograds_within_rounding(
    kernel: int, stride: int, size: tuple[int, int], bias: bool, kind: torch.dtype, tolerance: float
) -> None:
    parts = operands(kernel, size, bias, kind)
    wanted = [part for part in parts if part is not None]
    pads = (kernel // 2, kernel // 2)
    ours = results(depthwise_conv2d(*parts, (stride, stride), pads), wanted)
    exact = [None if part is None else part.detach().double().requires_grad_() for part in parts]
    theirs = results(
        F.conv2d(*exact, stride, pads, 1, CHANNELS),  # type: ignore[arg-type]
        [part for part in exact if part is not None],
    )
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == kind
        assert mine.shape == reference.shape
        assert float((mine.double() - reference).abs().max() / reference.abs().max()) < tolerance


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_gradients_are_no_further_off_than_autograds(kernel: int, stride: int) -> None:
    parts = operands(kernel, (9, 7), True, torch.bfloat16)
    pads = (kernel // 2, kernel // 2)
    exact = [part.detach().double().requires_grad_() for part in parts if part is not None]
    wanted = [part for part in parts if part is not None]
    reference = results(F.conv2d(*exact, stride, pads, 1, CHANNELS), exact)
    ours = results(depthwise_conv2d(*parts, (stride, stride), pads), wanted)
    theirs = results(F.conv2d(*parts, stride, pads, 1, CHANNELS), wanted)  # type: ignore[arg-type]
    for mine, autograds, truth in zip(ours, theirs, reference, strict=True):
        errors = [float((side.double() - truth).abs().max() / truth.abs().max()) for side in (mine, autograds)]
        assert errors[0] <= errors[1] + 2**-9


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_that_are_not_needed_are_not_computed(
    needed: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        part.detach().requires_grad_(need)
        for part, need in zip(operands(5, (8, 8), True, torch.bfloat16), needed, strict=True)
        if part is not None
    ]
    asked: list[list[bool]] = []
    real = torch.ops.aten.convolution_backward

    def spy(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    depthwise_conv2d(*parts, (2, 2), (2, 2)).float().sum().backward()
    assert [part.grad is not None for part in parts] == list(needed)
    assert asked == ([] if needed[2] else [[needed[0], needed[1], False]])


@pytest.mark.parametrize(
    ("kernel", "stride", "of_input", "of_weight"),
    [
        (3, 1, torch.bfloat16, torch.bfloat16),
        (3, 2, torch.float32, torch.bfloat16),
        (5, 1, torch.bfloat16, torch.float32),
        (5, 2, torch.float32, torch.float32),
    ],
)
def test_bfloat16_gradients_that_have_no_fast_kernel_are_computed_in_float32(
    kernel: int, stride: int, of_input: torch.dtype, of_weight: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, _ = operands(kernel, (8, 8), False, torch.bfloat16)
    used: list[set[torch.dtype]] = []
    real = torch.ops.aten.convolution_backward

    def spy(*arguments: Any) -> Any:
        used.append({part.dtype for part in arguments[:3]})
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten, "convolution_backward", spy)
    depthwise_conv2d(x, weight, None, (stride, stride), (kernel // 2, kernel // 2)).sum().backward()
    assert used == [{of_input}, {of_weight}]


def test_unequal_strides_and_paddings() -> None:
    x, weight, _ = operands(3, (9, 8), False, torch.float64)
    ours = results(depthwise_conv2d(x, weight, None, (2, 1), (0, 1)), [x, weight])
    theirs = results(F.conv2d(x, weight, None, (2, 1), (0, 1), 1, CHANNELS), [x, weight])
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)
