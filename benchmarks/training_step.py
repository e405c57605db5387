"""Our training step against a plain one: float32, NCHW, eval-mode batch norm, as the field's scripts do it.

Both do forward, cross-entropy, backward and SGD. On the processor on a resident batch, no data loading on either side;
on a GPU ours makes its training views as well, from images in the GPU's memory, and the plain one does not. Each side
has the memory allocator it has in reality: the plain one the C library's defaults, unless --same-memory is given.
The share of the product is the step's rate of operations (those of convolutions and linear layers) over that of a large
square matrix product in the same precision, both in turn in this process.

    python benchmarks/training_step.py --model tf_efficientnet_lite0 --size 96 --batch 64
    python benchmarks/training_step.py --model resnet50 --batch 96 --device cuda
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.data import open_dataset
from largedrop.data.views.batches import ResidentViews
from largedrop.fast_paths import available
from largedrop.models.fast.folding import speed_up
from largedrop.models.network import Network, Spec
from largedrop.models.pretrained import Weights, create_backbone
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from largedrop.training.evaluation import autocast
from largedrop.training.step import TrainingStep
from timing import alternate, parser, report


def network(model: str, size: int, masks: int = 1) -> Network:
    """A network with random weights, whose batch norms stay as they are.

    timm starts the last γ of each residual branch at 0. A step later it is 1e-9, and some of the gradients behind it
    are subnormal, with which a float32 kernel takes six times as long. Here it is 0.1, as in trained networks.
    """
    backbone, units = create_backbone(model, Weights("random", None, "random"), size)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any():
            nn.init.constant_(layer.weight, 0.1)
    classes = tuple(str(number) for number in range(7))
    spec = Spec(model, "random", classes, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), dropout=0.9)
    return Network(backbone, units, spec, masks).train()


def stepper(module: nn.Module, images: Tensor, labels: Tensor, precision: str, fused: bool) -> Callable[[], None]:
    """One optimiser step on a resident batch, nothing recorded."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-6, momentum=0.9, weight_decay=1e-4, fused=fused)

    def step() -> None:
        with autocast(precision, images.device):
            outputs = module(images)
        loss = F.cross_entropy(outputs.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def ours(
    model: str, size: int, device: torch.device, precision: str, masks: int = 1, resident: bool = False
) -> tuple[TrainingStep, Network]:
    """The training loop's own step, on a GPU with its views unless the batch is ``resident``."""
    module = network(model, size, masks).to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate = torch.tensor(1e-6, device=device) if device.type == "cuda" else 1e-6
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=1e-4, fused=True)
    speed_up(module, available(device))
    if resident or device.type == "cpu":
        return TrainingStep(module, optimizer, precision, lambda inputs: inputs), module
    views = ResidentViews(open_dataset("emoji"), device)
    return TrainingStep(module, optimizer, precision, lambda inputs: views.finish(inputs, module.spec)), module


def mapping(default: bool) -> None:
    """Let the GNU C library map large blocks anew each time, as it does by default after some steps, or never."""
    if keep_freed_memory():
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: where the library's own adaption ends
        mallopt(-4, 65536 if default else 0)  # M_MMAP_MAX


SQUARE = 2048
"""Side of the matrices whose product the step is compared with."""


def operations(model: str, size: int) -> int:
    """Multiplications and additions of a training step in convolutions and linear layers, for each image.

    torch's own counter takes a depthwise convolution's gradients for those of a dense one.
    """
    module = network(model, size)
    counts = []

    def note(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        products = 3 if args[0].requires_grad else 2  # the images get no gradient
        counts.append(products * 2 * output.numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(note)
    module(torch.zeros(1, 3, size, size))
    return sum(counts)


def product(kind: torch.dtype, device: torch.device, repeats: int) -> Callable[[], None]:
    """Products of two large square matrices."""
    one, two = torch.randn(2, SQUARE, SQUARE, device=device).to(kind)

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(one, two)

    return multiply


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--batch", type=int, default=96)
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="auto", help="of our side: auto, float32 or bfloat16")
    options.add_argument("--same-memory", action="store_true", help="let the plain side keep freed memory too")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)
    precision = choose_precision(chosen.precision, device)
    keep_freed_memory()
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size, device=device)
    labels = torch.randint(7, (chosen.batch,), device=device)
    plain = stepper(network(chosen.model, chosen.size).to(device), images, labels, "float32", fused=False)
    step, module = ours(chosen.model, chosen.size, device, precision)
    resident = images.contiguous(memory_format=torch.channels_last)
    views = ResidentViews(open_dataset("emoji"), device) if device.type == "cuda" else None
    repeats = 1 if views is None else 20
    rng = np.random.default_rng(0)

    def many() -> None:
        mapping(False)
        for number in range(repeats):
            if views is None:
                inputs = resident
            else:
                chosen_images = rng.integers(len(views.data), size=chosen.batch)
                inputs = views.inputs(chosen_images, module.spec, 0, number)
            step(inputs, labels)
        step.read()

    def plainly() -> None:
        mapping(not chosen.same_memory)
        for _ in range(repeats):
            plain()

    found = alternate(many, plainly, chosen.rounds, device, chosen.processor_time)
    done = chosen.batch * repeats
    each, times = operations(chosen.model, chosen.size), 4 * repeats
    multiply = product(getattr(torch, precision), device, times)
    against = alternate(many, multiply, chosen.rounds, device, chosen.processor_time)
    ours_rate, product_rate = done * each / against["ours_seconds"], times * 2 * SQUARE**3 / against["theirs_seconds"]
    shares = {
        "share_of_product": round(ours_rate / product_rate, 3),
        "share_spread": round(ours_rate / product_rate * against["spread"] / against["ratio"], 3),
        "gflop_per_image": round(each / 1e9, 4),
        "ours_gflops": round(ours_rate / 1e9, 3),
        "product_gflops": round(product_rate / 1e9, 3),
    }
    speeds = {f"{side}_images_per_s": round(done / found[f"{side}_seconds"], 1) for side in ("ours", "theirs")}
    what = {"model": chosen.model, "size": chosen.size, "batch": chosen.batch, "precision": precision}
    what["same_memory"] = chosen.same_memory
    report("training_step", {**what, **found, **speeds, **shares}, chosen.json, device)


if __name__ == "__main__":
    main()
