"""Our training step against a plain one: float32, NCHW, eval-mode batch norm, as the field's scripts do it.

Both do forward, cross-entropy, backward and SGD on a resident batch of random images; no data loading on either side.

    python benchmarks/training_step.py --model tf_efficientnet_lite0 --size 96 --batch 64
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.folding import fold_batchnorm
from largedrop.models.network import Network, Spec
from largedrop.models.pretrained import Weights, create_backbone
from largedrop.training.device import choose_precision
from largedrop.training.evaluation import autocast
from timing import alternate, parser, report

CPU = torch.device("cpu")


def network(model: str, size: int) -> Network:
    """A network with random weights, whose batch norms stay as they are."""
    backbone, units = create_backbone(model, Weights("random", None, "random"))
    classes = tuple(str(number) for number in range(7))
    spec = Spec(model, "random", classes, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), dropout=0.9)
    return Network(backbone, units, spec).train()


def stepper(module: nn.Module, images: Tensor, labels: Tensor, precision: str, fused: bool) -> Callable[[], None]:
    """One optimiser step on a resident batch."""
    optimizer = torch.optim.SGD(module.parameters(), 1e-6, momentum=0.9, weight_decay=1e-4, fused=fused)

    def step() -> None:
        with autocast(precision, CPU):
            outputs = module(images)
        loss = F.cross_entropy(outputs.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size)
    labels = torch.randint(7, (chosen.batch,))
    plain = network(chosen.model, chosen.size)
    ours = network(chosen.model, chosen.size)
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fold_batchnorm(ours, images[:1])
    precision = choose_precision("auto", CPU)
    ours_step = stepper(ours, images.contiguous(memory_format=torch.channels_last), labels, precision, fused=True)
    found = alternate(ours_step, stepper(plain, images, labels, "float32", fused=False), chosen.rounds)
    speeds = {side: round(chosen.batch / found[f"{side}_seconds"], 1) for side in ("ours", "theirs")}
    what = {"model": chosen.model, "size": chosen.size, "batch": chosen.batch, "precision": precision}
    report("training_step", {**what, **found, **{f"{side}_images_per_s": s for side, s in speeds.items()}}, chosen.json)


if __name__ == "__main__":
    main()
