"""Our backward pass of depthwise convolutions against autograd's, both bfloat16 and channels last.

Over the shapes of EfficientNet-Lite0: a row each, then the sum.

    python benchmarks/depthwise.py --size 96 --batch 64
"""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.convolution import conv2d
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


def backward(
    convolution: Callable[[Tensor, Tensor, Tensor, int], Tensor], shape: Shape, batch: int
) -> Callable[[], object]:
    """The gradients of input, weight and bias of one layer, the forward pass done beforehand."""
    channels, side, kernel, stride = shape
    x = torch.randn(batch, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels, 1, kernel, kernel).bfloat16(), torch.randn(channels).bfloat16()
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    output = convolution(x, weight, bias, stride)
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True)


def plain(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Autograd's own."""
    return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, 1, x.shape[1])


def fast(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Ours."""
    return conv2d(x, weight, bias, (stride, stride), (weight.shape[2] // 2,) * 4, (1, 1), x.shape[1])


def main() -> None:
    """Time every shape and print the ratio of the sums."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = []
    for shape in shapes(chosen.size):
        found = alternate(backward(fast, shape, chosen.batch), backward(plain, shape, chosen.batch), chosen.rounds)
        rows.append(found)
        if not chosen.json:
            channels, side, kernel, stride = shape
            print(
                f"{channels:5} channels, {side:3} px, kernel {kernel}, stride {stride}: "
                f"{1e3 * found['ours_seconds']:7.1f} ms against {1e3 * found['theirs_seconds']:7.1f} ms"
            )
    ours, theirs = (sum(row[f"{side}_seconds"] for row in rows) for side in ("ours", "theirs"))
    spread = max(row["spread"] / row["ratio"] for row in rows)
    sums = {"ours_seconds": ours, "theirs_seconds": theirs, "size": chosen.size, "batch": chosen.batch}
    report(
        "depthwise", {"ratio": round(theirs / ours, 3), "spread": round(spread * theirs / ours, 3), **sums}, chosen.json
    )


if __name__ == "__main__":
    main()
