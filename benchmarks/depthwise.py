"""Our backward pass of depthwise convolutions against autograd's: in bfloat16, and in its best type and layout.

Over the shapes of EfficientNet-Lite0: a row each, then the sum. Ours is bfloat16 and channels last, the type and layout
of the activations; another type or layout of autograd's would need casts on top, which are not counted.

    python benchmarks/depthwise.py --size 96 --batch 64
"""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.convolution import Geometry, conv2d
from largedrop.runtime import keep_freed_memory
from timing import alternate, parser, report

Shape = tuple[int, int, int, int]
"""Channels, side of the input, kernel, stride."""


def shapes(size: int) -> list[Shape]:
    """The depthwise convolutions of EfficientNet-Lite0 at an input of ``size`` pixels, each once."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    found: dict[Shape, None] = {}

    def note(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        found[args[0].shape[1], args[0].shape[2], layer.kernel_size[0], layer.stride[0]] = None

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return list(found)


KINDS = {
    "bfloat16 channels-last": (torch.bfloat16, torch.channels_last),
    "bfloat16 NCHW": (torch.bfloat16, torch.contiguous_format),
    "float32 channels-last": (torch.float32, torch.channels_last),
    "float32 NCHW": (torch.float32, torch.contiguous_format),
}


def backward(
    convolution: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    shape: Shape,
    batch: int,
    kind: torch.dtype,
    layout: torch.memory_format,
) -> Callable[[], object]:
    """The gradients of input, weight and bias of one layer, the forward pass done beforehand."""
    channels, side, kernel, stride = shape
    x = torch.randn(batch, channels, side, side).to(kind).contiguous(memory_format=layout)
    weight, bias = torch.randn(channels, 1, kernel, kernel).to(kind), torch.randn(channels).to(kind)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    output = convolution(x, weight, bias, stride)
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True)


def plain(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Autograd's own."""
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, 1, x.shape[1])


def fast(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Ours."""
    return conv2d(x, weight, bias, Geometry((stride, stride), (weight.shape[2] // 2,) * 4, (1, 1), x.shape[1]))


def main() -> None:
    """Time every shape; print the ratio of the sums, and the worst ratio of a shape to autograd's best."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    sums: dict[str, float] = {"ours": 0.0, "best": 0.0, **dict.fromkeys(KINDS, 0.0)}
    worst, spread = float("inf"), 0.0
    for shape in shapes(chosen.size):
        ours = backward(fast, shape, chosen.batch, *KINDS["bfloat16 channels-last"])
        found = {}
        for name, kind in KINDS.items():
            found[name] = alternate(ours, backward(plain, shape, chosen.batch, *kind), chosen.rounds)
        best = min(found, key=lambda name: found[name]["theirs_seconds"])
        worst = min(worst, found[best]["ratio"])
        spread = max(spread, found["bfloat16 channels-last"]["spread"] / found["bfloat16 channels-last"]["ratio"])
        sums["ours"] += found["bfloat16 channels-last"]["ours_seconds"]
        sums["best"] += found[best]["theirs_seconds"]
        for name in found:
            sums[name] += found[name]["theirs_seconds"]
        if not chosen.json:
            channels, side, kernel, stride = shape
            print(
                f"{channels:5} channels, {side:3} px, kernel {kernel}, stride {stride}: "
                f"{1e3 * found['bfloat16 channels-last']['ours_seconds']:7.1f} ms against "
                f"{1e3 * found['bfloat16 channels-last']['theirs_seconds']:7.1f} ms, "
                f"best {1e3 * found[best]['theirs_seconds']:7.1f} ms ({best})"
            )
    ratio = sums["bfloat16 channels-last"] / sums["ours"]
    report(
        "depthwise",
        {
            "ratio": round(ratio, 3),
            "spread": round(spread * ratio, 3),
            "ratio_to_best": round(sums["best"] / sums["ours"], 3),
            "worst_ratio_to_best": round(worst, 3),
            "ours_seconds": sums["ours"],
            "theirs_seconds": sums["bfloat16 channels-last"],
            "size": chosen.size,
            "batch": chosen.batch,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
