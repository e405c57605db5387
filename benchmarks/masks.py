"""A training step with one dropout mask for each image against one with sixteen.

A ratio of 0.98 means that the step with sixteen takes 2 % longer. The noise that they take away is printed beside it:
the variance, over draws of the masks, of the gradient by the representation, over that of one mask.

    python benchmarks/masks.py --size 96 --batch 32
    python benchmarks/masks.py --model resnet50 --device cuda --batch 96
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from largedrop.models.dropout import RepresentationDropout
from largedrop.models.masks import draw_masks
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from timing import alternate, parser, report
from training_step import ours

CLASSES, UNITS, IMAGES, DRAWS = 7, 512, 16, 200


def noise(masks: int, rate: float, stratified: bool) -> float:
    """Summed variance of the gradient of the mean loss by a representation of random numbers."""
    torch.manual_seed(0)
    features = torch.randn(IMAGES, UNITS).relu()
    weight, labels = torch.randn(CLASSES, UNITS) / UNITS**0.5 * 2, torch.randint(CLASSES, (IMAGES,))
    layer = RepresentationDropout(rate, masks)
    found = []
    for _ in range(DRAWS):
        own = features.clone().requires_grad_()
        if stratified:
            rows = layer(own)
        else:  # every mask drawn by itself
            drawn = [draw_masks(own.shape, rate, 1, torch.device("cpu")) for _ in range(masks)]
            rows = torch.cat([(mask[0] != 0) * own * factor for mask, factor in drawn])
        F.cross_entropy(F.linear(rows, weight), labels.repeat(masks)).backward()  # type: ignore[no-untyped-call]
        assert own.grad is not None
        found.append(own.grad)
    return float(torch.stack(found).var(0).sum())


def main() -> None:
    """Time both, and print the ratio and the noise."""
    options = parser(__doc__, rounds=40)
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--masks", type=int, default=16)
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)
    precision = choose_precision("auto", device)
    keep_freed_memory()
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (chosen.batch,), device=device)
    many, _ = ours(chosen.model, chosen.size, device, precision, chosen.masks, resident=True)
    one, _ = ours(chosen.model, chosen.size, device, precision, resident=True)

    def several() -> None:
        many(images, labels)
        many.read()

    def single() -> None:
        one(images, labels)
        one.read()

    found = alternate(several, single, chosen.rounds, device)
    alone = noise(1, 0.9, stratified=False)
    shares = {
        "noise": round(noise(chosen.masks, 0.9, stratified=True) / alone, 4),
        "noise_independent": round(noise(chosen.masks, 0.9, stratified=False) / alone, 4),
    }
    what = {"model": chosen.model, "size": chosen.size, "batch": chosen.batch, "masks": chosen.masks}
    report("masks", {**what, "precision": precision, **found, **shares}, chosen.json, device)


if __name__ == "__main__":
    main()
