"""A plain script: a timm network, timm's transforms, AdamW at torch's defaults, a cosine; the last weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from peer.job import Watch, answer, job


class Files(Dataset[tuple[Tensor, int]]):
    """Views of image files, and their classes."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def main() -> None:
    """Train and predict."""
    asked = job()
    watch = Watch()
    torch.manual_seed(asked.seed)
    network: Any = timm.create_model(asked.model, num_classes=len(asked.classes), **asked.pretrained)
    network = network.to(memory_format=torch.channels_last)  # a quarter less time
    known = resolve_data_config({"input_size": (3, asked.size, asked.size)}, model=network)  # type: ignore[no-untyped-call]
    sides = {"input_size": known["input_size"], "mean": known["mean"], "std": known["std"]}
    views = create_transform(**sides, is_training=True, interpolation="random")
    plain = create_transform(**sides, interpolation=known["interpolation"], crop_pct=known["crop_pct"])
    keys, labels, _ = zip(*asked.train, strict=True)
    files = Files(asked.files(keys), labels, views)
    loader = DataLoader(files, asked.batch, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), asked.lr)
    schedule: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.steps)
    if rising := round(asked.settings.get("warmup", 0) * asked.steps):
        first = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / rising, total_iters=rising)
        rest = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, asked.steps - rising)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, rest], [rising])
    network.train()
    if asked.settings.get("frozen_batchnorm"):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    step = 0
    while step < asked.steps:
        for images, targets in loader:
            loss = F.cross_entropy(network(images), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
            if step == asked.steps:
                break
    watch.stop()
    network.eval()

    def predicted(keys: Sequence[str]) -> list[int]:
        batches = DataLoader(Files(asked.files(keys), [0] * len(keys), plain), 64)
        with torch.inference_mode():
            return [int(each) for images, _ in batches for each in network(images).argmax(1)]

    iid = predicted([key for key, _ in asked.iid])
    answer(watch, step, "timm", iid=iid, ood=predicted(asked.ood))


if __name__ == "__main__":
    main()
