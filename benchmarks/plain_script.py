"""Fine-tuning by the paper's protocol (section 4.1) in plain PyTorch; benchmarks/time_to_accuracy.py compares with it.

It is what a practitioner writes: torchvision's transforms on images that Pillow decodes each time, a ``DataLoader``,
SGD with momentum from a random head, a tenth of the learning rate in the second half, frozen batch-norm statistics,
float32, nothing compiled or converted. It has nothing of largedrop but the file of the pretrained weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

WEIGHT_DECAY = 5e-5
"""The middle one of the paper's."""

Sample = tuple[Tensor, int]


class Files(Dataset[Sample]):
    """Training views of image files, (3, size, size), and their classes."""

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.paths, self.labels = paths, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.7, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
                transforms.RandomGrayscale(0.1),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __getitem__(self, index: int) -> Sample:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.labels[index]


class DomainBatches(Sampler[list[int]]):
    """Batches with as many images of each domain, which is shuffled again whenever it has been gone through."""

    def __init__(self, domains: Sequence[Sequence[int]], batch: int, steps: int) -> None:
        self.orders = [self.order(domain) for domain in domains]
        self.batch, self.steps = batch, steps

    @staticmethod
    def order(domain: Sequence[int]) -> Iterator[int]:
        while True:
            for position in torch.randperm(len(domain)).tolist():
                yield int(domain[position])

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.steps):
            yield [next(order) for order in self.orders for _ in range(self.batch)]

    def __len__(self) -> int:
        return self.steps


def loader(files: Files, domains: Sequence[Sequence[int]], batch: int, steps: int, workers: int) -> DataLoader[Sample]:
    """``steps`` batches, with ``batch`` images of each domain."""
    batches = DomainBatches(domains, batch, steps)
    return DataLoader(files, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0)


class Script:
    """The network and its optimiser.

    Args:
        backbone: pretrained network without its head, to ``units`` features.
        steps: steps of the whole run, of which the second half has a tenth of the learning rate.
    """

    def __init__(self, backbone: nn.Module, units: int, classes: int, lr: float, steps: int) -> None:
        self.model = nn.Sequential(backbone, nn.Linear(units, classes)).train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, weight_decay=WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [steps // 2], gamma=0.1)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step on a batch."""
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
