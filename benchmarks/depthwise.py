"""Our backward pass of convolutions against autograd's: in the same type and layout, and in autograd's best.

Over the depthwise layers of a network (``--layers dense``: over its others), each shape once and with the zeros that
the network puts around it: a row each, then the sum. Ours is channels last and in the precision that the machine
computes in, the type and layout of the activations; another of autograd's would need casts on top, not counted here.

    python benchmarks/depthwise.py --size 96 --batch 64
    python benchmarks/depthwise.py --model resnet50 --layers dense --size 224 --batch 48 --threads 1 --processor-time
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.convolution import conv2d
from largedrop.models.fast.folding import geometry_of
from largedrop.models.fast.gradients import Geometry
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from timing import alternate, parser, report


class Layer(NamedTuple):
    """A convolution: the shapes of its input's image and of its weight, and how it moves."""

    image: tuple[int, int, int]
    weight: tuple[int, ...]
    geometry: Geometry

    def __str__(self) -> str:
        return (
            f"{self.image[0]:4} → {self.weight[0]:4} channels, {self.image[1]:3} px, kernel {self.weight[2]}, "
            f"stride {self.geometry.stride[0]}"
        )


def layers(model: str, size: int, depthwise: bool) -> list[Layer]:
    """The convolutions of a network at an input of ``size`` pixels, each shape once; none that reads the images."""
    network = timm.create_model(model, num_classes=0).eval()
    found: dict[Layer, None] = {}

    def note(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        image = args[0].shape[1:]
        found[Layer((image[0], image[1], image[2]), tuple(layer.weight.shape), geometry_of(layer, args[0]))] = None

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and (layer.groups > 1) == depthwise and layer.in_channels > 3:
            layer.register_forward_hook(note)
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return list(found)


LAYOUTS = {"channels-last": torch.channels_last, "NCHW": torch.contiguous_format}

Convolution = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


def backward(
    convolution: Convolution, layer: Layer, batch: int, kind: torch.dtype, layout: torch.memory_format
) -> Callable[[], object]:
    """The gradients of input, weight and bias of one layer, the forward pass done beforehand."""
    x = torch.randn(batch, *layer.image).to(kind).contiguous(memory_format=layout)
    weight = torch.randn(layer.weight).to(kind).contiguous(memory_format=layout)
    bias = torch.randn(layer.weight[0]).to(kind)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    output = convolution(x, weight, bias, layer.geometry)
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True)


def plain(x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    """Autograd's own; like timm's layers, with the zeros written out where they are not the same on all sides."""
    stride, (left, right, top, bottom), dilation, groups = geometry
    if (left, top) == (right, bottom):
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(x, geometry.pads), weight, bias, stride, 0, dilation, groups)


def main() -> None:
    """Time every shape; print the ratio of the sums, and the worst ratio of a shape."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--layers", choices=["depthwise", "dense"], default="depthwise")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    precision = choose_precision(chosen.precision, choose_device("cpu"))
    same = f"{precision} channels-last"
    kinds = {
        f"{name} {layout}": (getattr(torch, name), order)
        for name in dict.fromkeys((precision, "float32"))
        for layout, order in LAYOUTS.items()
    }
    sums: dict[str, float] = {"ours": 0.0, "best": 0.0, **dict.fromkeys(kinds, 0.0)}
    worst, worst_to_best, spread = float("inf"), float("inf"), 0.0
    for layer in layers(chosen.model, chosen.size, chosen.layers == "depthwise"):
        ours = backward(conv2d, layer, chosen.batch, *kinds[same])
        found = {}
        for name, kind in kinds.items():
            theirs = backward(plain, layer, chosen.batch, *kind)
            found[name] = alternate(ours, theirs, chosen.rounds, processor_time=chosen.processor_time)
        best = min(found, key=lambda name: found[name]["theirs_seconds"])
        worst, worst_to_best = min(worst, found[same]["ratio"]), min(worst_to_best, found[best]["ratio"])
        spread = max(spread, found[same]["spread"] / found[same]["ratio"])
        sums["ours"] += found[same]["ours_seconds"]
        sums["best"] += found[best]["theirs_seconds"]
        for name in found:
            sums[name] += found[name]["theirs_seconds"]
        if not chosen.json:
            seconds, other, least = (found[same]["ours_seconds"], *(found[k]["theirs_seconds"] for k in (same, best)))
            print(
                f"{layer}: {1e3 * seconds:7.2f} ms against {1e3 * other:7.2f} ms "
                f"({found[same]['ratio']:.2f} ± {found[same]['spread']:.2f}), best {1e3 * least:7.2f} ms ({best})"
            )
    ratio = sums[same] / sums["ours"]
    report(
        "depthwise",
        {
            "ratio": round(ratio, 3),
            "spread": round(spread * ratio, 3),
            "worst_ratio": round(worst, 3),
            "ratio_to_best": round(sums["best"] / sums["ours"], 3),
            "worst_ratio_to_best": round(worst_to_best, 3),
            "ours_seconds": sums["ours"],
            "theirs_seconds": sums[same],
            "model": chosen.model,
            "layers": chosen.layers,
            "size": chosen.size,
            "batch": chosen.batch,
            "precision": precision,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
