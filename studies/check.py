"""How well ``largedrop check`` finds copies and wrong labels: the tables of docs/check.md, as Markdown.

    python studies/check.py path/to/PACS emoji

Copies: of 50 images a domain a copy is made in each way, one way at a time, and put among 600 images a domain (all,
where there are fewer). Recall is the share of the copies that are found with their originals. Labels: a share of all
labels is replaced by others at random, over three seeds. What is found where nothing was changed, and how much of that
was right to the eye, is in docs/check.md.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps

import largedrop as ld
from ending import exit_with
from largedrop.analysis.duplicates import identical, look_at, proposed, same_pictures
from largedrop.analysis.findings import doubted
from largedrop.analysis.neighbours import doubts, nearest, principal_axes, projected
from largedrop.data.dataset import Dataset
from largedrop.data.views.batches import open_views
from largedrop.linear.features import FeatureStore
from largedrop.training.device import choose_device
from largedrop.training.resolve import resolve

SOURCES, AMONG, SIZE = 50, 600, 128

Pixels = npt.NDArray[np.uint8]


class Some(list[Pixels]):
    """Images in memory, as ``Dataset.images``."""

    bound = 320


def encoded(quality: int) -> Callable[[Image.Image], Image.Image]:
    def encode(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return encode


def scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Without a share of the width at the left and of the height at the top: the worst shift."""
    return lambda image: image.crop((round(image.width * share), round(image.height * share), *image.size))


def narrowed(share: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.crop((round(image.width * share), 0, *image.size))


def bright(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 60": encoded(60),
    "JPEG of quality 20": encoded(20),
    "half the size": scaled(0.5),
    "twice the size": scaled(2),
    "cropped by 2 % at two sides": cropped(0.02),
    "cropped by 5 %": cropped(0.05),
    "cropped by 10 %": cropped(0.1),
    "cropped by 10 % at one side": narrowed(0.1),
    "brighter by 30 %": bright(1.3),
    "darker by 30 %": bright(0.7),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "cropped by 5 %, 0.6 × the size, brighter by 20 %, JPEG 60": lambda image: encoded(60)(
        bright(1.2)(scaled(0.6)(cropped(0.05)(image)))
    ),
}


def features(data: Dataset) -> npt.NDArray[np.float16]:
    device = choose_device("cpu")
    config = resolve(data, device, recipe="short", fit="probe", size=SIZE)
    return FeatureStore(data, open_views(data, device)).features(config, count=1).representation


def chosen(data: Dataset, indices: npt.NDArray[np.int64], change: str = "") -> Dataset:
    """Some images of a dataset, each changed in one way."""
    images = Some(data.images[int(index)] for index in indices)
    if change:
        images = Some(np.asarray(COPIES[change](Image.fromarray(np.ascontiguousarray(each)))) for each in images)
    name = hashlib.sha256(f"{data.fingerprint} {indices.tolist()} {change}".encode()).hexdigest()
    return replace(
        data,
        images=images,
        labels=data.labels[indices],
        domain_ids=data.domain_ids[indices],
        groups=np.arange(len(indices)),
        keys=tuple(data.keys[index] for index in indices),
        fingerprint=name,
    )


def copies_table(data: Dataset) -> dict[str, tuple[float, float]]:
    """Recall of each kind of copy, with features and without."""
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(data.indices(domain))[:AMONG] for domain in data.domains]
    among = np.concatenate(drawn)
    sources = np.concatenate([np.arange(SOURCES) + start for start in np.cumsum([0, *map(len, drawn[:-1])])])
    originals, known = chosen(data, among), features(data)[among]
    table = {}
    for change in COPIES:
        made = chosen(data, among[sources], change)
        images = Some(each.images[index] for each in (originals, made) for index in range(len(each)))
        looks = look_at(images)
        both = np.concatenate([known, features(made)])
        near = nearest(projected(both, principal_axes(both)), 5)
        wanted = {(int(index), len(among) + number) for number, index in enumerate(sources)}
        shares = []
        for values in (near, None):
            pairs = [pair for pair in proposed(looks, values) if pair in wanted]
            found = {*same_pictures(images, pairs), *(wanted & {*identical(looks)})}
            shares.append(len(found) / len(wanted))
        table[change] = shares[0], shares[1]
        print(f"{data.name}, {change}: {shares[0]:.3f} {shares[1]:.3f}", file=sys.stderr)
    return table


def labels_table(data: Dataset) -> dict[float, tuple[float, float, float]]:
    """Share of the images doubted, recall and precision, by the share of wrong labels."""
    values = features(data)
    axes = principal_axes(values)
    near = nearest(projected(values, axes), 5).indices.numpy()
    table = {}
    for share in (0.0, 0.01, 0.02, 0.05, 0.1):
        found = []
        for seed in range(3 if share else 1):
            rng = np.random.default_rng(seed)
            wrong = rng.permutation(len(data))[: round(share * len(data))]
            labels = data.labels.copy()
            labels[wrong] = (labels[wrong] + rng.integers(1, len(data.classes), len(wrong))) % len(data.classes)
            changed = replace(data, labels=labels)
            told = [*doubted(changed, near, doubts(values, labels, len(data.classes), axes))]
            marked = np.array([item.images[0] for each in told for item in each.items], np.int64)
            right = np.isin(marked, wrong).sum()
            found.append((len(marked) / len(data), right / max(1, len(wrong)), right / max(1, len(marked))))
        doubtful, recall, precision = (float(value) for value in np.mean(found, axis=0))
        table[share] = doubtful, recall, precision
    return table


def main() -> None:
    torch.set_num_threads(1)
    opened = [ld.open_dataset(source) for source in sys.argv[1:]]
    tables = [copies_table(data) for data in opened]
    print("| copy |" + "".join(f" {data.name} | `--quick` |" for data in opened))
    print("| --- |" + " ---: | ---: |" * len(opened))
    for change in COPIES:
        print(f"| {change} |" + "".join(f" {100 * a:.0f} | {100 * b:.0f} |" for a, b in (t[change] for t in tables)))
    for data in opened:
        print(f"\n{data.name}\n\n| wrong labels | doubted | found | of those doubted, wrong |")
        print("| ---: | ---: | ---: | ---: |")
        for share, (doubtful, recall, precision) in labels_table(data).items():
            ends = f"{100 * recall:.0f} % | {100 * precision:.0f} %" if share else "– | –"
            print(f"| {100 * share:g} % | {100 * doubtful:.1f} % | {ends} |")


if __name__ == "__main__":
    exit_with(main)
