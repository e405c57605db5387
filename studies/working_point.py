"""Every arm on PACS and emoji where plain fine-tuning is trained out: docs/studies/working-point.md has the rule.

Runs are done in the order of ``queue``, several side by side, until all are done or ``--seconds`` are over; those that
are finished in ``--output``, or recorded, are not done again. The record working_point.jsonl beside this file has one
line for each finished run, without its weights; ``--collect`` adds to it what it lacks.

    python studies/working_point.py --data path/to/PACS --size 160 --device cuda --jobs 12 --output runs/PACS
    python studies/working_point.py --data emoji --size 96 --device cuda --jobs 12 --output runs/emoji
    python studies/working_point.py --collect runs/PACS runs/emoji       # into the record
    python studies/working_point.py --data emoji --seeds 3 4             # docs/studies/confirmation.md's runs
    python studies/working_point.py --data emoji --seeds 3 --keep-weights --arms "0.9, 1 mask"      # richness.md's
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import Interrupted, RunError
from largedrop.experiments.processes import train_side_by_side
from largedrop.experiments.tasks import Tasks as Queue
from largedrop.files import read_json, write_json, write_text
from largedrop.reporter import Reporter
from largedrop.training.device import choose_device
from largedrop.training.resolve import resolve

RECORD = Path(__file__).with_suffix(".jsonl")

ARMS: dict[str, dict[str, Any]] = {
    "plain": {"dropout": 0.0, "wise_ft": True},
    "0.9, 16 masks": {"dropout": 0.9, "masks": 16, "wise_ft": True},
    "0.9, 1 mask": {"dropout": 0.9, "masks": 1},
    "0.5, 16 masks": {"dropout": 0.5, "masks": 16},
    "mixout": {"dropout": 0.0, "objective": "mixout", "penalty": 0.8},
    "0.5, 1 mask": {"dropout": 0.5, "masks": 1},
    "l2sp": {"dropout": 0.0, "objective": "l2sp", "penalty": 0.1},
    "0.9, 4 masks": {"dropout": 0.9, "masks": 4},
    "0.9, 64 masks": {"dropout": 0.9, "masks": 64},
    "0.95, 16 masks": {"dropout": 0.95, "masks": 16},
    "0.98, 16 masks": {"dropout": 0.98, "masks": 16},
}
BOTH = ("plain", "0.9, 16 masks")
FURTHER = (*BOTH, "0.5, 16 masks")
"""Those that further seeds are drawn of."""
RATES = (3e-4, 1e-4)
"""Learning rates among which each arm's is chosen; those of ``BOTH`` are also tried at one step further out."""


@dataclass(frozen=True)
class Cell:
    """A run: an arm, its learning rate (None: the chosen one), seed, test domain, and further settings."""

    arm: str
    lr: float | None
    seed: int
    domain: str
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the config, without the learning rate."""
        return {**ARMS[self.arm], **dict(self.more), "seed": self.seed, "test_domain": self.domain}


def queue(domains: Sequence[str]) -> Iterator[Cell]:
    """All runs in their order; the chosen learning rates follow from the first ones."""
    rivals = ("0.9, 1 mask", "0.5, 16 masks", "mixout")
    for arms in (BOTH, rivals):
        yield from (Cell(arm, lr, 0, domain) for lr in RATES for arm in arms for domain in domains)
    for arms in (BOTH, rivals):
        yield from (Cell(arm, None, seed, domain) for seed in (1, 2) for arm in arms for domain in domains)
    more: tuple[tuple[str, Any], ...]
    for steps in (150, 1_800):
        more = (("steps", steps), ("eval_every", steps // 4))
        yield from (Cell(arm, None, 0, domain, more) for arm in BOTH for domain in domains)
    yield from (Cell(arm, 1e-3, 0, domain) for arm in BOTH for domain in domains)
    for arm in ("0.9, 4 masks", "0.95, 16 masks", "0.9, 64 masks", "0.98, 16 masks", "0.5, 1 mask", "l2sp"):
        yield from (Cell(arm, 3e-4, 0, domain) for domain in domains)
    yield from (Cell(arm, 3e-5, 0, domain) for arm in BOTH for domain in domains)
    more = (("head", "random"), ("wise_ft", False))
    yield from (Cell(arm, 3e-4, 0, domain, more) for arm in BOTH for domain in domains)


def further(domains: Sequence[str], seeds: Sequence[int], arms: Sequence[str]) -> Iterator[Cell]:
    """Some arms with further seeds, at the learning rates already chosen."""
    yield from (Cell(arm, None, seed, domain) for seed in seeds for domain in domains for arm in arms)


class Tasks(Sequence[tuple[Config, Path]]):
    """The configs of the cells without a record, and their folders; a learning rate is chosen when a run is asked for.

    Args:
        seeds: Further seeds of ``arms``; without, all cells of the study.
        longest: Cells of more steps are left out.
    """

    def __init__(
        self,
        data: ld.Dataset,
        size: int,
        device: torch.device,
        output: Path,
        record: Path,
        seeds: Sequence[int] = (),
        arms: Sequence[str] = FURTHER,
        longest: float = math.inf,
    ) -> None:
        self.data, self.size, self.device, self.output = data, size, device, output
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        self._recorded = {run["run"]: run["methods"] for run in map(json.loads, lines)}
        self._made: dict[int, tuple[Config, Path]] = {}
        self._digests: dict[tuple[str, str], str] = {}
        cells = further(data.domains, seeds, arms) if seeds else queue(data.domains)
        self.cells = [
            cell
            for cell in cells
            if cell.settings.get("steps", 0) <= longest
            and self.config(cell, cell.lr or self.chosen(cell)).run_name not in self._recorded
        ]

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> tuple[Config, Path]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Config, Path]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Config, Path] | Sequence[tuple[Config, Path]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index not in self._made:
            cell = self.cells[index]
            config = self.config(cell, cell.lr or self.chosen(cell))
            self._made[index] = config, self.output / "runs" / config.run_name
        return self._made[index]

    def config(self, cell: Cell, lr: float) -> Config:
        """The config of a cell."""
        # The way back that the recipe had when the study was registered; a random head is nothing to go back to.
        back = 0.0 if cell.settings.get("head") == "random" else 0.2
        shared = {"size": self.size, "lr": lr, "eval_every": 150, "precision": "bfloat16", "way_back": back}
        settings = {**shared, **cell.settings}
        return resolve(self.data, self.device, recipe="robust", digests=self._digests, **settings)

    def chosen(self, cell: Cell) -> float:
        """The learning rate of best i.i.d. accuracy with seed 0 on the cell's test domain; the first in a tie."""
        found = {}
        for lr in RATES:
            config = self.config(Cell(cell.arm, lr, 0, cell.domain), lr)
            path = self.output / "runs" / config.run_name / "result.json"
            methods = read_json(path)["methods"] if path.is_file() else self._recorded.get(config.run_name)
            if methods:
                found[lr] = methods["fine-tuning"]["iid_accuracy"]
        return max(found, key=lambda lr: found[lr], default=RATES[0])


class Clock(Reporter):
    """Asks to stop when the time is over, and prints what collapsed."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def stopped(self) -> bool:
        return time.monotonic() > self.end

    def failed(self, config: Config, reason: str) -> None:
        print(f"{config.run_name}: {reason}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def do(options: argparse.Namespace) -> None:
    """Do the runs of one dataset."""
    data, device = ld.open_dataset(options.data), choose_device(options.device)
    which = options.seeds, options.arms or FURTHER, options.longest
    tasks = Tasks(data, options.size, device, options.output, options.record, *which)
    train(tasks, data, device, options.output, options.jobs, options.seconds, options.keep_weights)


def train(
    tasks: Sequence[tuple[Config, Path]],
    data: ld.Dataset,
    device: torch.device,
    output: Path,
    jobs: int,
    seconds: float = math.inf,
    keep_weights: bool = False,
) -> None:
    """Do some runs, several side by side, in their order, until all are done or the seconds are over."""
    began = time.monotonic()
    reporter, done = Clock(seconds), 0
    waiting = Queue(tasks, reporter, wait=True)
    with closing(train_side_by_side(waiting, data, device, jobs, reporter)) as together:
        try:
            for config, outcome in together:
                done += 1
                at = f"{time.monotonic() - began:.0f} s, {done} of {len(tasks)}: {config.run_name}"
                if isinstance(outcome, RunError):
                    print(f"{at}: {outcome}", flush=True)
                    write_json(output / f"{config.run_name}.failed", {"failed": str(outcome)})
                else:
                    scores = outcome.result["methods"]["fine-tuning"]
                    print(f"{at}: {scores['iid_accuracy']:.4f} {scores['ood_accuracy']:.4f}", flush=True)
                    for path in () if keep_weights else outcome.folder.rglob("*.safetensors"):
                        path.unlink()
        except Interrupted as error:
            print(error, flush=True)


def collect(folders: Sequence[Path], machine: str, record: Path) -> None:
    """Add the finished runs of some folders to the record."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    known = {json.loads(line)["run"] for line in lines}
    for path in sorted(path for folder in folders for path in folder.glob("runs/*/result.json")):
        if path.parent.name in known:
            continue
        result = read_json(path)
        log = [{key: entry[key] for key in ("step", "iid_accuracy", "ood_accuracy")} for entry in result["log"]]
        content = {
            "run": path.parent.name,
            "machine": machine,
            "config": read_json(path.parent / "config.json"),
            "methods": result["methods"],
            "model": result["model"],
            "model_scores": result["model_scores"],
            "log": log,
        }
        lines.append(json.dumps(_rounded(content), separators=(",", ":")))
    write_text(record, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} runs in {record.name}")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def main() -> None:
    """Do runs, or collect them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="emoji")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=(), help="further seeds of --arms")
    parser.add_argument(
        "--arms", nargs="+", choices=tuple(ARMS), metavar="ARM", help="of --seeds [default: the main ones]"
    )
    parser.add_argument("--longest", type=float, default=math.inf, help="leave out runs of more steps")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--keep-weights", action="store_true")
    parser.add_argument("--collect", type=Path, nargs="+")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--machine", default="", help="what the runs were done on, for the record")
    options = parser.parse_args()
    if options.arms and not options.seeds:
        parser.error("--arms are those that further --seeds are drawn of: name the seeds")
    if options.collect:
        collect(options.collect, options.machine, options.record)
    else:
        do(options)


if __name__ == "__main__":
    main()
