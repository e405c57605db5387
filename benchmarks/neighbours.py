"""Nearest neighbours, as ``largedrop check`` searches them: of every row in all others, and in nearby cells alone.

Rows like features are made: classes of several domains, and copies of one in fifty. Of a dataset (``--data``) they are
the small grey images that ``check`` compares, and the features of its network. Prints seconds of each way (of many
rows the exact way is timed on a sample) and the share of the exact neighbours that cells find: of all five, and of
those that are similar enough to be looked at as copies.

    python benchmarks/neighbours.py --rows 40000 600000 --processor-time
    python benchmarks/neighbours.py --data path/to/PACS
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import largedrop as ld
from largedrop.analysis import neighbours
from largedrop.analysis.duplicates import look_at
from largedrop.data.views.batches import open_views
from largedrop.linear.features import FeatureStore
from largedrop.training.resolve import resolve

COUNT, WIDTH, CLASSES, SAMPLE = 5, 256, 2070, 2048
"""Neighbours of a row, numbers in it, classes in domains (345 in each of six as of DomainNet), and rows of a sample."""


def main() -> None:
    """Search in both ways and print what it took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, nargs="*", default=[40_000])
    options.add_argument("--data", help="a dataset whose rows are compared instead")
    options.add_argument("--exact-up-to", type=int, default=40_000, help="rows; of more, 2,000 are compared with all")
    options.add_argument("--processor-time", action="store_true")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    clock = time.process_time if chosen.processor_time else time.perf_counter
    named = of_data(chosen.data) if chosen.data else ((str(count), made(count), None, 0.7) for count in chosen.rows)
    found = []
    for name, rows, others, similar in named:
        began = clock()
        cells = searched(rows, others, 0)
        entry = {"rows": name, "cells_seconds": round(clock() - began, 2), "threads": torch.get_num_threads()}
        some = torch.arange(len(rows))
        if len(rows) > chosen.exact_up_to:
            some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:SAMPLE]
        began = clock()
        exact = exactly(rows, others, some)
        share = len(rows) / len(some)
        found.append(
            entry | {"exact_seconds": round(share * (clock() - began), 2)} | shares(exact, cells, some, similar)
        )
    print(json.dumps({"searches": found}, indent=None if chosen.json else 2))


def exactly(rows: Tensor, others: Tensor | None, some: Tensor) -> neighbours.Neighbours:
    """The neighbours of some rows among all, as they are searched for few rows."""
    if len(some) == len(rows):
        return searched(rows, others, len(rows))
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for part in torch.split(some, 1024):
        blocks = torch.split(rows if others is None else others, 8192)
        products = torch.cat([rows[part].float() @ each.float().T for each in blocks], 1)
        products[torch.arange(len(part)), part] = -torch.inf
        for kept, each in zip(found, products.topk(COUNT, dim=1), strict=True):
            kept.append(each)
    values, indices = map(torch.cat, found)
    return neighbours.Neighbours(indices, values)


def searched(rows: Tensor, others: Tensor | None, exact: int) -> neighbours.Neighbours:
    """The neighbours, where more rows than ``exact`` are put into cells."""
    before, neighbours._EXACT = neighbours._EXACT, exact
    try:
        return neighbours.nearest(rows, COUNT, others)
    finally:
        neighbours._EXACT = before


def shares(exact: neighbours.Neighbours, cells: neighbours.Neighbours, some: Tensor, similar: float) -> dict[str, Any]:
    """Which share of the exact neighbours of some rows was found: of all, and of those that are ``similar``."""
    there = (exact.indices[:, :, None] == cells.indices[some][:, None]).any(2)
    alike = exact.values >= similar
    return {
        "found": round(float(there.float().mean()), 4),
        "similar": int(alike.sum()),
        "similar_found": round(float(there[alike].float().mean()), 4) if alike.any() else None,
    }


def made(count: int) -> Tensor:
    """Rows of length 1, float16 (count, 256): classes whose images are alike by 0.35, one row in fifty with a copy."""
    draw = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(CLASSES, WIDTH, generator=draw))
    of = torch.randint(CLASSES, (count,), generator=draw)
    rows = torch.empty(count, WIDTH, dtype=torch.float16)
    for part in torch.split(torch.arange(count), 65_536):
        noise = normalize(torch.randn(len(part), WIDTH, generator=draw))
        rows[part] = normalize(0.6 * centres[of[part]] + 0.8 * noise).half()
    copies = torch.randperm(count, generator=draw)[: count // 50 * 2].view(2, -1)
    noise = normalize(torch.randn(copies.shape[1], WIDTH, generator=draw))
    rows[copies[0]] = normalize(rows[copies[1]].float() + 0.5 * noise).half()
    return rows


def of_data(source: str) -> Iterator[tuple[str, Tensor, Tensor | None, float]]:
    """The rows of a dataset that are compared, what they are compared with, and what similarity is looked at."""
    data = ld.open_dataset(source)
    grey = torch.from_numpy(look_at(data.images).small).float()
    flat, mirrored = (each.flatten(1) - each.mean((1, 2))[:, None] for each in (grey, grey.flip(2)))
    yield "grey", normalize(flat).half(), None, 0.85
    yield "mirrored", normalize(flat).half(), normalize(mirrored).half(), 0.85
    device = torch.device("cpu")
    config = resolve(data, device, recipe="short", fit="probe", size=128)
    features = FeatureStore(data, open_views(data, device)).features(config, count=1).representation
    yield "features", neighbours.projected(features, neighbours.principal_axes(features)), None, 0.7


if __name__ == "__main__":
    main()
