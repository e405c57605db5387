"""The time until the o.o.d. accuracy that plain fine-tuning has at its end: ours against a plain PyTorch script.

Target: the mean over PACS's four test domains of the o.o.d. accuracy of our plain fine-tuning after 600 steps. Sides:
dropout 0.9 with sixteen masks or one and plain fine-tuning by our loop, and the script in benchmarks/plain_script.py,
plain fine-tuning as well; all with EfficientNet-Lite0, 96 px, 8 images a domain, seed 0. Learning rates are chosen by
i.i.d. accuracy at the end, the script's in runs of 200 steps with one test domain.

Accuracies over steps are a function of the config, so they are computed once (``--train``, hours on one core) and kept
in time_to_accuracy.json: for our arms at the end of several budgets, each a run of its own with its whole schedule, for
the script every 50 steps along its run, in which any of them may reach the target. Seconds are measured at each call:
our loop and the script in turn in one process, blocks of steps at a time, and once what ours does before its first step
(decoding all images, the features of the frozen network, the head's fit). Time to accuracy is the steps' seconds and
these. Evaluations, imports and compiling (6 s, once on a machine) are left out on both sides, and so is the choice of
the learning rate. The script keeps freed memory as our process does.

    python benchmarks/time_to_accuracy.py --data path/to/PACS --train --output runs     # train what is missing
    python benchmarks/time_to_accuracy.py --data path/to/PACS                           # measure seconds; the table
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import largedrop as ld
from largedrop.config import Config
from largedrop.data.dataset import Split
from largedrop.data.views.batches import HostViews
from largedrop.files import write_json
from largedrop.models.fast.folding import fold_batchnorm, speed_up
from largedrop.models.network import Network
from largedrop.models.pretrained import create_backbone, find_weights, normalisation
from largedrop.reporter import Reporter
from largedrop.training.evaluation import autocast, logits, scores
from largedrop.training.features import FeatureCache
from largedrop.training.loop import TRAINING_COST, train
from largedrop.training.resolve import resolve
from largedrop.training.setup import create_network
from plain_script import Files, Script, loader
from timing import parser, report, summary

RECORD = Path(__file__).with_suffix(".json")
SIZE, BATCH, SEED = 96, 8, 0
STEPS = 600
"""Steps of plain fine-tuning whose accuracy is the target, and of the script."""

TRIAL_STEPS = 200
"""Steps of the script's trials of learning rates, with one test domain."""

EVERY = 50
"""Steps between two evaluations of the script."""

BLOCK = 20
"""Steps that are timed at a time."""

SCRIPT, TRIAL, PLAIN = "script", "script's trial", "plain"
SCHEDULE: dict[str, Any] = {"schedule": "cosine", "warmup": 0.1, "ema": 0.99}
AVERAGE: dict[str, Any] = {"hand_over": "ema"}
ARMS: dict[str, tuple[dict[str, Any], str]] = {
    # settings, and the method whose accuracies count
    "16 masks": ({"dropout": 0.9, "masks": 16, **AVERAGE}, "ema"),
    "1 mask": ({"dropout": 0.9, **AVERAGE}, "ema"),
    PLAIN: ({"dropout": 0.0}, "fine-tuning"),
}
RATES: dict[str, tuple[float, ...]] = {
    "16 masks": (3e-4,),
    "1 mask": (3e-4,),
    PLAIN: (3e-4, 1e-4),
    TRIAL: (3e-3, 1e-3, 1e-2),
}
DOMAINS = ("sketch", "art_painting", "cartoon", "photo")
PLAN: tuple[tuple[str, tuple[float, ...], tuple[int, ...], tuple[str, ...]], ...] = (
    # side, learning rates (none: the one of best i.i.d. accuracy), budgets, test domains; in the order of their use
    (PLAIN, RATES[PLAIN][:1], (STEPS,), DOMAINS),
    ("16 masks", (), (200,), DOMAINS),
    (TRIAL, RATES[TRIAL], (TRIAL_STEPS,), DOMAINS[:1]),
    (SCRIPT, (), (STEPS,), DOMAINS),
    ("16 masks", (), (100, 150, 300, 400, STEPS), DOMAINS),
    ("1 mask", (), (200, 400, STEPS), DOMAINS),
    (PLAIN, RATES[PLAIN], (STEPS,), DOMAINS),
    (PLAIN, (), (200, 400), DOMAINS),
)

Accuracies = dict[str, list[float]]
"""[i.i.d., o.o.d.] accuracy of each method."""


@dataclass(frozen=True)
class Cell:
    """One training: of a side at a learning rate for a number of steps, with a test domain."""

    side: str
    lr: float
    steps: int
    domain: str

    @property
    def key(self) -> str:
        return f"{self.side} | {self.lr:g} | {self.steps} | {self.domain}"


class Hardly(ld.Dataset):
    """A dataset of which a few images are evaluated: where seconds of steps are measured, and no accuracies."""

    def split(self, test_domains: str | Sequence[str], seed: int, held_out: float = 0.2, left_out: str = "") -> Split:
        whole = super().split(test_domains, seed, held_out, left_out)
        few = slice(0, BATCH)
        test: dict[str, Any] = {"ood": whole.ood[few], "ood_domains": whole.ood_domains[few]}
        return replace(whole, iid=whole.iid[few], iid_domains=whole.iid_domains[few], **test)


def config_of(cell: Cell, data: ld.Dataset) -> Config:
    """The config of a cell; of the script's, that of its split, its network and its evaluations."""
    settings: dict[str, Any] = {"test_domain": cell.domain, "size": SIZE, "batch": BATCH, "seed": SEED, "lr": cell.lr}
    own = {**ARMS[cell.side][0], **SCHEDULE} if cell.side in ARMS else {"head": "random", "dropout": 0.0}
    settings |= {"steps": cell.steps, "eval_every": cell.steps, **own}
    return resolve(data, torch.device("cpu"), recipe="short", **settings)


def trained(cell: Cell, features: FeatureCache, folder: Path) -> dict[str, Accuracies]:
    """Train a cell of ours."""
    config = config_of(cell, features.views.data)
    run = train(config, features.views.data, folder / config.run_name, features=features)
    return {cell.key: {each.method: [each.iid_accuracy, each.ood_accuracy or 0.0] for each in run.records}}


def script_of(cell: Cell, data: ld.Dataset, root: Path, steps: int, workers: int) -> tuple[Script, Any]:
    """The script on a cell's training images, and a loader of ``steps`` batches."""
    torch.manual_seed(SEED)
    config = config_of(cell, data)
    backbone, units = create_backbone(config.model, find_weights(config.model), SIZE)
    script = Script(backbone, units, len(data.classes), cell.lr, cell.steps)
    files = Files([root / key for key in data.keys], data.labels.tolist(), SIZE, *normalisation(config.model))
    domains = [indices.tolist() for indices in config.split_of(data).train]
    return script, loader(files, domains, BATCH, steps, workers)


def scripted(cell: Cell, features: FeatureCache, root: Path) -> dict[str, Accuracies]:
    """Train a cell of the script, evaluated by our network, which computes the same in less time."""
    data = features.views.data
    config = config_of(cell, data)
    split = config.split_of(data)
    network = create_network(config, data.classes)
    speed_up(network)
    script, batches = script_of(cell, data, root, cell.steps, workers=0)
    # For the accuracies alone, sooner: they are the same in bfloat16 (studies/precision.py).
    script.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fold_batchnorm(script.model, torch.zeros(1, 3, SIZE, SIZE))
    result = {}
    for number, (images, labels) in enumerate(batches, 1):
        with autocast(config.precision, torch.device("cpu")):
            script.step(images, labels)
        if number % EVERY == 0:
            network.backbone.load_state_dict(script.model[0].state_dict())
            network.head.load_state_dict(script.model[1].state_dict())
            found = scored(network, features, split, config.precision)
            result[replace(cell, steps=number).key] = {"fine-tuning": found}
            print(number, found, flush=True)
    return result


def scored(network: Network, features: FeatureCache, split: Split, precision: str) -> list[float]:
    """[i.i.d., o.o.d.] accuracy."""
    parts = {"iid": split.iid, "ood": split.ood}
    found = {part: logits(network, features.views, indices, precision) for part, indices in parts.items()}
    both = scores(found, features.views.data.labels, split)
    return [both["iid_accuracy"], both["ood_accuracy"]]


class Found:
    """The accuracies on record."""

    def __init__(self, content: Mapping[str, Accuracies]) -> None:
        self.content = content

    def get(self, cell: Cell) -> list[float] | None:
        method = ARMS[cell.side][1] if cell.side in ARMS else "fine-tuning"
        return self.content[cell.key][method] if cell.key in self.content else None

    def lr(self, side: str) -> float:
        """The learning rate of best mean i.i.d. accuracy, over the test domains with which all of ``RATES`` were tried.

        Where there are none, the first rate. Plain fine-tuning is tried at its whole length, the script in its trials.
        """
        side, steps = (TRIAL, TRIAL_STEPS) if side == SCRIPT else (side, STEPS)
        tried = [[self.get(Cell(side, lr, steps, domain)) for lr in RATES[side]] for domain in DOMAINS]
        whole = [[each[0] for each in found if each] for found in tried if all(found)]
        return RATES[side][int(np.mean(whole, axis=0).argmax())] if whole else RATES[side][0]

    @property
    def domains(self) -> tuple[str, ...]:
        """The test domains of which the target and the script are on record."""
        sides = (PLAIN, SCRIPT)
        return tuple(each for each in DOMAINS if all(self.get(Cell(s, self.lr(s), STEPS, each)) for s in sides))

    def curve(self, side: str) -> dict[int, tuple[float, float]]:
        """Mean i.i.d. and o.o.d. accuracy over ``domains``, by steps, where all are on record."""
        budgets = {steps for name, _, steps, _ in PLAN if name == side}
        steps = range(EVERY, STEPS + 1, EVERY) if side == SCRIPT else sorted(set().union(*budgets))
        result = {}
        for number in steps:
            own = [self.get(Cell(side, self.lr(side), number, domain)) for domain in self.domains]
            if all(own):
                iid, ood = np.mean([each for each in own if each], axis=0).tolist()
                result[number] = (iid, ood)
        return result

    def first(self, side: str, target: float) -> int | None:
        """The smallest number of steps that reaches the target; None where none does."""
        return next((steps for steps, (_, ood) in self.curve(side).items() if ood >= target), None)


def pending(folder: Path) -> Iterator[tuple[Cell, Path]]:
    """The cells of ``PLAN`` that are not on record and that nobody has claimed."""

    def cells() -> Iterator[Cell]:
        for side, rates, budgets, domains in PLAN:
            for steps in budgets:
                for domain in domains:
                    for lr in rates or (collected(folder).lr(side),):
                        yield Cell(side, lr, steps, domain)

    for cell in cells():
        if collected(folder).get(cell):
            continue
        path = folder / (cell.key.replace(" | ", "-").replace(" ", "_") + ".json")
        try:
            path.with_suffix(".claim").touch(exist_ok=False)
        except FileExistsError:
            continue
        yield cell, path


def collected(folder: Path) -> Found:
    """All cells on record, and those that were trained in ``folder``."""
    together: dict[str, Accuracies] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for path in sorted(folder.glob("*.json")):
        together |= json.loads(path.read_text(encoding="utf-8"))
    return Found(together)


def train_missing(features: FeatureCache, root: Path, folder: Path) -> None:
    """Train the cells that are missing in ``folder``, and put them on record."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell, path in pending(folder):
        began = time.monotonic()
        result = trained(cell, features, folder) if cell.side in ARMS else scripted(cell, features, root)
        write_json(path, result)
        print(cell.key, f"{time.monotonic() - began:.0f} s", list(result.values())[-1], flush=True)
        write_json(RECORD, collected(folder).content)


class Turns(Reporter):
    """Times blocks of our loop's steps, and after each one a block of the script's."""

    def __init__(self, script: Script, batches: Iterable[Any], work: float) -> None:
        self.script, self.batches, self.work = script, batches, work
        self.steps, self.began = 0, 0.0
        self.pairs: list[tuple[float, float]] = []

    def advance(self, work: float) -> None:
        if work != self.work:
            return  # a part of an evaluation
        self.steps += 1
        if self.steps % BLOCK == 0:
            ours = time.perf_counter() - self.began
            self.pairs.append((ours / BLOCK, block(self.script, self.batches) / BLOCK))
            self.began = time.perf_counter()


def block(script: Script, batches: Iterable[Any]) -> float:
    """Seconds of the script's steps on all batches of a loader."""
    began = time.perf_counter()
    for images, labels in batches:
        script.step(images, labels)
    return time.perf_counter() - began


def seconds(chosen: argparse.Namespace, found: Found, folder: Path) -> dict[str, Any]:
    """Measure what comes before the first step, and the steps of every side."""
    root = chosen.data
    began = time.perf_counter()
    whole = ld.open_dataset(root, cache=folder / "cache")
    opening = time.perf_counter() - began
    data = Hardly(**vars(whole))
    cell = Cell("16 masks", found.lr("16 masks"), BLOCK * (chosen.rounds + 1), DOMAINS[-1])
    plain = replace(cell, side=SCRIPT, lr=found.lr(SCRIPT))
    features = FeatureCache(HostViews(data))
    config = config_of(cell, data)
    network = create_network(config, data.classes)
    features.views.training(np.arange(BATCH), network.spec, 0, 1)  # compiled, and read from the disk
    features.views.evaluation(np.arange(BATCH), network.spec)
    began = time.perf_counter()
    features.get(config, network, 0)
    computing = time.perf_counter() - began
    tried = {}
    for workers in chosen.workers:
        script, batches = script_of(plain, data, root, BLOCK, workers)
        block(script, batches)  # starts the workers
        tried[workers] = (block(script, batches), script, batches)
    workers = min(tried, key=lambda number: tried[number][0])
    _, script, batches = tried[workers]
    images = BATCH * (len(data.domains) - 1)
    target = found.curve(PLAIN)[STEPS][1]
    reached = found.first(SCRIPT, target)
    arms: dict[str, Any] = {}
    for side in ARMS:
        turns = Turns(script, batches, TRAINING_COST * images)
        config = config_of(replace(cell, side=side, lr=found.lr(side)), data)
        run = train(config, data, folder / config.run_name, features=features, reporter=turns)
        steps, head = found.first(side, target), run.result["probe"]["seconds"]
        kept = turns.pairs[1:]
        arms[side] = {"lr": found.lr(side), "steps": steps, "head_seconds": round(head, 2)}
        arms[side] |= {f"step_{name}": value for name, value in summary(kept).items()}
        if steps is not None:
            before = opening + computing + head
            total = summary([(before + steps * our, (reached or STEPS) * their) for our, their in kept])
            arms[side] |= {**total, "ood_accuracy": round(found.curve(side)[steps][1], 4)}
    return {
        "test_domains": ", ".join(found.domains),
        "target": round(target, 4),
        "script_reaches_it_after": reached,
        "script_steps": reached or STEPS,
        "script_lr": found.lr(SCRIPT),
        "script_at_its_end": [round(each, 4) for each in found.curve(SCRIPT)[STEPS]],
        "opening_seconds": round(opening, 2),
        "features_seconds": round(computing, 2),
        "workers": {number: round(each / BLOCK, 4) for number, (each, *_) in tried.items()},
        "rounds": chosen.rounds,
        "precision": config.precision,
        "arms": arms,
    }


def main() -> None:
    """Train, or measure."""
    options = parser(__doc__, rounds=6)
    options.add_argument("--data", type=Path, required=True, help="the folder of PACS")
    options.add_argument("--train", action="store_true", help="train what the record misses")
    options.add_argument("--output", type=Path, default=Path("time-to-accuracy"), help="folder of what is trained")
    options.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of the script; the fastest is used")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.train:
        data = ld.open_dataset(chosen.data)
        return train_missing(FeatureCache(HostViews(data)), chosen.data, chosen.output)
    found = Found(json.loads(RECORD.read_text(encoding="utf-8")))
    if not found.domains:
        options.error("the record has no test domain of which both the target and the script are there: --train")
    with tempfile.TemporaryDirectory() as temporary:
        result = seconds(chosen, found, Path(temporary))
    if not chosen.json:
        result |= {side: in_words(arm) for side, arm in result.pop("arms").items()}
    report("time_to_accuracy", result, chosen.json)
    return None


def in_words(arm: dict[str, Any]) -> str:
    """A line about an arm."""
    pace = f"{arm['step_ours_seconds']:.3f} s a step, the script {arm['step_theirs_seconds']:.3f}"
    if arm["steps"] is None:
        return f"does not reach it; {pace}"
    reached = f"{arm['steps']} steps ({arm['ood_accuracy']:.1%}), {arm['ours_seconds']:.1f} s"
    return f"{reached} against {arm['theirs_seconds']:.1f}: {arm['ratio']} ± {arm['spread']}; {pace}"


if __name__ == "__main__":
    main()
