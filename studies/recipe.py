"""The trials behind the recipe ``robust`` (docs/recipe.md): settings judged on training domains that are left out.

Question: which number of masks, schedule, learning rate, average and share of the way back to the start should
``--recipe robust`` have, for a domain shift that nobody has seen?

Protocol: EfficientNet-Lite0, 96 px, 400 steps of 8 images a domain, AdamW, seed 100 (which no table uses). Each cell
leaves two domains out: ``left_out``, which stands for the user's unknown one and is not looked at, and the one whose
accuracy judges. On PACS each domain judges once and on emoji three styles do. Of each trajectory the last weights, the
average of the evaluations and the exponential average are judged, each at several shares α of the way back.

Rule, written before the runs: the setting, average and α (one for all cells) of the best mean accuracy over the cells
on the judging domain, averaged over the two datasets, among those whose mean i.i.d. accuracy is at most 1.5 percentage
points below the best. Within half a point the simpler one. The accuracies on ``left_out`` are never computed. What is
chosen on one dataset alone is looked at on the other.

    python studies/recipe.py --pacs path/to/PACS --output trials      # train what is missing; may run several at once
    python studies/recipe.py --table                                  # the table, from the record beside this file
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np

import largedrop as ld
from ending import exit_with
from largedrop.data.views.batches import HostViews
from largedrop.files import write_json
from largedrop.models.fast.folding import speed_up
from largedrop.runs.checkpoint import read_tensors
from largedrop.training.device import choose_device
from largedrop.training.evaluation import logits, scores
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
from largedrop.training.resolve import resolve
from largedrop.training.setup import create_network, start_head
from largedrop.training.way_back import walk

SEED = 100
RECORD = Path(__file__).with_suffix(".json")

COSINE = {"schedule": "cosine", "warmup": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {
    "16 masks, cosine, 3e-4": {"dropout": 0.9, "masks": 16, "lr": 3e-4, **COSINE},
    "16 masks, cosine, 1e-4": {"dropout": 0.9, "masks": 16, "lr": 1e-4, **COSINE},
    "1 mask, cosine, 3e-4": {"dropout": 0.9, "lr": 3e-4, **COSINE},
    "16 masks, step, 3e-4": {"dropout": 0.9, "masks": 16, "lr": 3e-4},
    "plain, cosine, 3e-4": {"dropout": 0.0, "lr": 3e-4, **COSINE},
    "16 masks, cosine, 6e-4": {"dropout": 0.9, "masks": 16, "lr": 6e-4, **COSINE},
    "plain, cosine, 1e-4": {"dropout": 0.0, "lr": 1e-4, **COSINE},
    "1 mask, step, 1e-4": {"dropout": 0.9, "lr": 1e-4},
}
CELLS = [
    # dataset, judging domain, domain left out
    ("emoji", "openmoji", "noto"),
    ("PACS", "sketch", "cartoon"),
    ("PACS", "art_painting", "photo"),
    ("emoji", "fluent-high-contrast", "twemoji"),
    ("PACS", "cartoon", "art_painting"),
    ("PACS", "photo", "sketch"),
    ("emoji", "noto", "openmoji"),
]
FIRST = 3
"""Number of cells on which all settings are tried before any is on the others."""

ALPHAS = (0.2, 0.3, 0.5)
WEIGHTS = {"last": "final", "average": "average", "exponential": "ema"}
MOST = 1_000
"""Number of judging images for the curves; the same for all settings."""


def trial(name: str, cell: tuple[str, str, str], data: ld.Dataset, features: FeatureCache, folder: Path) -> Any:
    """Train one cell of a setting, and the accuracies of its weights at each α: {weights: {α: [i.i.d., judged]}}."""
    device = choose_device()
    _, judge, left_out = cell
    shared = {"test_domain": judge, "left_out": left_out, "size": 96, "seed": SEED, "steps": 400, "eval_every": 100}
    settings: dict[str, Any] = {**shared, "ema": 0.99, **SETTINGS[name]}
    config = resolve(data, device, recipe="short", **settings)
    run = train(config, data, folder / config.run_name, device=device, features=features)
    split = config.split_of(data)
    judged = np.sort(np.random.default_rng(0).permutation(split.ood)[:MOST])
    network = create_network(config, data.classes)
    start_head(config, data, split, network, features)
    start = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    speed_up(network)
    small = type(split)(**{**vars(split), "ood": judged})
    curves: dict[str, dict[str, list[float]]] = {}
    for weights, file in WEIGHTS.items():
        tuned = read_tensors(run.folder / f"{file}.safetensors", "model")[0]
        curves[weights] = {}
        for alpha in walk(network, start, tuned, (0.0, *ALPHAS, *((1.0,) if weights == "last" else ()))):
            found = {
                part: logits(network, features.views, indices, config.precision)
                for part, indices in (("iid", split.iid), ("ood", judged))
            }
            both = scores(found, data.labels, small)
            curves[weights][f"{alpha:g}"] = [round(both[f"{part}_accuracy"], 5) for part in ("iid", "ood")]
    best = next(record for record in run.records if record.method == "fine-tuning")
    return {"curves": curves, "best": [best.iid_accuracy, best.ood_accuracy], "best_step": run.result["best_step"]}


def key(name: str, cell: tuple[str, str, str]) -> str:
    return " | ".join((name, *cell))


def pending(folder: Path) -> Iterator[tuple[str, tuple[str, str, str], Path]]:
    """The trials that nobody has claimed."""
    for cells in (CELLS[:FIRST], CELLS[FIRST:]):
        for name, cell in product(SETTINGS, cells):
            path = folder / (key(name, cell).replace(" ", "_").replace("|", "-") + ".json")
            try:
                path.with_suffix(".claim").touch(exist_ok=False)
            except FileExistsError:
                continue
            yield name, cell, path


def table() -> None:
    """Mean i.i.d. / judged accuracy in % over the first cells, at every α: by dataset, and the mean of the datasets."""
    found = json.loads(RECORD.read_text(encoding="utf-8"))
    cells = CELLS[:FIRST]
    print("| setting | weights | α | emoji | PACS | mean |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for name, weights, alpha in product(SETTINGS, WEIGHTS, ("0", *(f"{alpha:g}" for alpha in ALPHAS))):
        own = {cell: found[key(name, cell)]["curves"][weights][alpha] for cell in cells if key(name, cell) in found}
        if len(own) < len(cells):
            continue
        by_dataset = [
            100 * np.mean([value for cell, value in own.items() if cell[0] == dataset], axis=0)
            for dataset in ("emoji", "PACS")
        ]
        told = [f"{iid:.1f} / {judged:.1f}" for iid, judged in (*by_dataset, np.mean(by_dataset, axis=0))]
        print("|", " | ".join((name, weights, alpha, *told)), "|")


def main() -> None:
    """Train, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pacs", default="PACS")
    parser.add_argument("--output", type=Path, default=Path("trials"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table()
    options.output.mkdir(parents=True, exist_ok=True)
    opened: dict[str, tuple[ld.Dataset, FeatureCache]] = {}
    for name, cell, path in pending(options.output):
        if cell[0] not in opened:
            data = ld.open_dataset("emoji" if cell[0] == "emoji" else options.pacs)
            opened[cell[0]] = data, FeatureCache(HostViews(data))
        result = trial(name, cell, *opened[cell[0]], options.output)
        write_json(path, {key(name, cell): result})
        print(key(name, cell), result["curves"], flush=True)
        together: dict[str, Any] = {}
        for each in sorted(options.output.glob("*.json")):
            together |= json.loads(each.read_text(encoding="utf-8"))
        write_json(RECORD, together)
    return None


if __name__ == "__main__":
    exit_with(main)
