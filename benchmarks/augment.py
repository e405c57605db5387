"""Our training views on the processor against torchvision's transforms on PIL images: both from pixels to a batch.

Ours is ``training_batch``; torchvision's is what training scripts have: ``RandomResizedCrop``,
``RandomHorizontalFlip``, ``ColorJitter``, ``RandomGrayscale``, ``ToTensor``, ``Normalize``, image by image, and the
stacking of the batch.

    python benchmarks/augment.py --source 227 --size 224 --batch 48
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from largedrop.data.views.draws import AREA, ASPECT, GREYSCALE, JITTER
from largedrop.data.views.host import training_batch
from timing import alternate, parser, report

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def smooth(source: int, count: int) -> list[npt.NDArray[np.uint8]]:
    """Random images without sharp edges, (source, source, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return [np.array(Image.fromarray(each).resize((source, source), Image.Resampling.BICUBIC)) for each in noise]


def main() -> None:
    """Time both on the same images."""
    options = parser(__doc__, rounds=15)
    options.set_defaults(threads=1)
    options.add_argument("--source", type=int, default=227, help="side of the images, in pixels")
    options.add_argument("--size", type=int, default=224, help="side of the views, in pixels")
    options.add_argument("--batch", type=int, default=48)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    arrays = smooth(chosen.source, chosen.batch)
    pictures = [Image.fromarray(array) for array in arrays]
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(chosen.size, scale=AREA, ratio=ASPECT),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(JITTER, JITTER, JITTER, JITTER),
            transforms.RandomGrayscale(GREYSCALE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    steps = iter(range(1_000_000))
    torch.manual_seed(0)

    def ours() -> Tensor:
        return training_batch(arrays, chosen.size, 0, next(steps), MEAN, STD)

    def theirs() -> Tensor:
        return torch.stack([transform(picture) for picture in pictures])

    found = alternate(ours, theirs, chosen.rounds)
    shared = {"source": chosen.source, "size": chosen.size, "batch": chosen.batch}
    report("augment", {**found, **shared}, chosen.json)


if __name__ == "__main__":
    main()
