"""Every arm on PACS and emoji where plain fine-tuning is trained out: docs/studies/working-point.md has the rule.

Runs are done in the order of the ``--queues``, several side by side, until all are done or ``--seconds`` are over;
those that are finished in ``--output``, or recorded, are not done again. The record working_point.jsonl beside this
file has one line for each finished run, without its weights; ``--collect`` adds to it what it lacks.

    python studies/working_point.py --data path/to/PACS --size 160 --device cuda --jobs 12 --output runs/PACS
    python studies/working_point.py --data emoji --size 96 --device cuda --jobs 12 --output runs/emoji
    python studies/working_point.py --collect runs/PACS runs/emoji       # into the record
    python studies/working_point.py --data emoji --queues rates seeds longer     # docs/studies/nine-domains.md's runs
    python studies/working_point.py --data emoji --queues heads                  # docs/studies/heads.md's
    python studies/working_point.py --data emoji --seeds 3 4                     # docs/studies/confirmation.md's runs
    python studies/working_point.py --data emoji --seeds 3 --keep-weights --arms "0.9, 1 mask"      # richness.md's
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import largedrop as ld
from ending import exit_with
from largedrop.config import Config
from largedrop.errors import Interrupted, RunError, UserError
from largedrop.experiments.processes import train_side_by_side
from largedrop.experiments.tasks import Task
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
WIDER = (*RATES, 1e-3)
WIDEST = (*WIDER, 3e-3)
"""Those of docs/studies/wider-rates.md and of docs/studies/nine-domains.md."""
COLLAPSED = "the run collapsed"
"""What says that a run failed by its own settings, and not for want of memory."""


@dataclass(frozen=True)
class Cell:
    """A run: an arm, its learning rate (None: the one chosen among ``rates``), seed, test domain, further settings.

    Attributes:
        head: how its head starts; its learning rate is chosen by runs with the same.
    """

    arm: str
    lr: float | None
    seed: int
    domain: str
    more: tuple[tuple[str, Any], ...] = ()
    rates: tuple[float, ...] = RATES
    head: str = "warm"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the config, without the learning rate."""
        # Only a fitted head is a start to go back to, by the share that the recipe had when the study was registered.
        back = {"way_back": 0.2} if self.head == "warm" else {"way_back": 0.0, "wise_ft": False, "head": self.head}
        return {**ARMS[self.arm], **dict(self.more), **back, "seed": self.seed, "test_domain": self.domain}


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
    yield from (Cell(arm, 3e-4, 0, domain, head="random") for arm in BOTH for domain in domains)


def further(domains: Sequence[str], seeds: Sequence[int], arms: Sequence[str]) -> Iterator[Cell]:
    """Some arms with further seeds, at the learning rates already chosen."""
    yield from (Cell(arm, None, seed, domain) for seed in seeds for domain in domains for arm in arms)


def rates(domains: Sequence[str]) -> Iterator[Cell]:
    """The learning rates beyond ``RATES`` with seed 0; then what the third seed of wider-rates.md lacks."""
    yield from (Cell(arm, lr, 0, domain) for lr in (1e-3, 3e-3) for arm in FURTHER for domain in domains)
    yield from (Cell(arm, None, 2, domain, rates=WIDER) for arm in FURTHER for domain in domains)


def seeds(domains: Sequence[str]) -> Iterator[Cell]:
    """The further seeds, at the learning rates chosen among all four."""
    yield from (Cell(arm, None, seed, domain, rates=WIDEST) for seed in (1, 2) for arm in FURTHER for domain in domains)


def longer(domains: Sequence[str], seeds: Sequence[int] = (0,)) -> Iterator[Cell]:
    """Three times as many steps, at the learning rates chosen among all four."""
    more = (("steps", 1_800), ("eval_every", 450))
    yield from (Cell(arm, None, seed, domain, more, WIDEST) for seed in seeds for arm in FURTHER for domain in domains)


def heads(domains: Sequence[str]) -> Iterator[Cell]:
    """Heads that were not fitted, at three learning rates with seed 0; then the further seeds, at the chosen ones."""
    starts = [*((arm, "zero") for arm in FURTHER), ("plain", "random")]
    yield from (Cell(arm, lr, 0, domain, head=head) for lr in WIDER for arm, head in starts for domain in domains)
    for seed in (1, 2):
        yield from (Cell(arm, None, seed, domain, rates=WIDER, head=head) for arm, head in starts for domain in domains)


QUEUES: dict[str, Callable[[Sequence[str]], Iterator[Cell]]] = {
    "registered": queue,
    "rates": rates,
    "seeds": seeds,
    "longer": longer,
    "longer, further seeds": lambda domains: longer(domains, (1, 2)),
    "heads": heads,
}


class Cells(Queue):
    """Cells in their order, without those that have a record; one whose learning rate is not known yet waits for it.

    Args:
        cells: the runs.
        record: The file of those that are recorded.
    """

    def __init__(
        self, cells: Iterable[Cell], data: ld.Dataset, size: int, device: torch.device, output: Path, record: Path
    ) -> None:
        self.wait = True
        self.data, self.size, self.device, self.output = data, size, device, output
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        self._digests: dict[tuple[str, str], str] = {}
        self._ended: dict[str, dict[str, Any]] = {run["run"]: run.get("methods", {}) for run in map(json.loads, lines)}
        self._given: set[str] = set()
        self.cells = list(dict.fromkeys(cells))
        self._drop()
        asked = {self.config(cell, cell.lr).run_name for cell in self.cells if cell.lr}
        for cell in self.cells:
            for first in () if cell.lr else self._tried(cell):
                if self._methods(first.run_name) is None and first.run_name not in asked:
                    raise UserError(
                        f"{first.run_name}, by which a learning rate is chosen, is not done nor in these queues"
                    )

    def __len__(self) -> int:
        return len(self.cells)

    def take(self) -> Task | None:
        self._drop()
        for cell in self.cells:
            if (lr := cell.lr or self.chosen(cell)) is not None:
                self.cells.remove(cell)
                config = self.config(cell, lr)
                self._given.add(config.run_name)
                return config, self.output / "runs" / config.run_name
        return None

    def put_back(self, task: Task) -> None:
        """Leave a run to another process that has it; where a learning rate hangs on it, its end is waited for."""

    def _drop(self) -> None:
        """Leave out what is recorded, finished or in work; the same run may be named by several cells."""
        left = []
        for cell in self.cells:
            lr = cell.lr or self.chosen(cell)
            name = self.config(cell, lr).run_name if lr else ""
            if not lr or (name not in self._given and self._methods(name) is None):
                left.append(cell)
        self.cells = left

    @cache  # noqa: B019  # as long as the program
    def config(self, cell: Cell, lr: float) -> Config:
        """The config of a cell."""
        shared = {"size": self.size, "lr": lr, "eval_every": 150, "precision": "bfloat16"}
        settings = {**shared, **cell.settings}
        return resolve(self.data, self.device, recipe="robust", digests=self._digests, **settings)

    def _methods(self, name: str) -> dict[str, Any] | None:
        """A run's scores by method; without any where it has failed, and None where it has not ended."""
        if name not in self._ended:
            path = self.output / "runs" / name / "result.json"
            if path.is_file():
                self._ended[name] = read_json(path)["methods"]
            elif (self.output / f"{name}.failed").is_file():
                self._ended[name] = {}
        return self._ended.get(name)

    def _tried(self, cell: Cell) -> list[Config]:
        """The runs by which a cell's learning rate is chosen: with seed 0, at each."""
        return [self.config(Cell(cell.arm, lr, 0, cell.domain, head=cell.head), lr) for lr in cell.rates]

    def chosen(self, cell: Cell) -> float | None:
        """The learning rate of best i.i.d. accuracy with seed 0 on the cell's test domain, the first in a tie; None
        before all of its rates have ended.
        """
        found = {}
        for first in self._tried(cell):
            methods = self._methods(first.run_name)
            if methods is None:
                return None
            if methods:
                found[first.lr] = methods["fine-tuning"]["iid_accuracy"]
        return max(found, key=lambda lr: found[lr], default=cell.rates[0])


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
    if options.seeds:
        cells = further(data.domains, options.seeds, options.arms or FURTHER)
    else:
        cells = (cell for name in options.queues for cell in QUEUES[name](data.domains))
    wanted = (cell for cell in cells if cell.settings.get("steps", 0) <= options.longest)
    tasks = Cells(wanted, data, options.size, device, options.output, options.record)
    train(tasks, data, device, options.output, options.jobs, options.seconds, options.keep_weights)


def train(
    tasks: Cells | Sequence[Task],
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
    waiting = tasks if isinstance(tasks, Cells) else Queue(tasks, reporter, wait=True)
    total = len(waiting)
    with closing(train_side_by_side(waiting, data, device, jobs, reporter)) as together:
        try:
            for config, outcome in together:
                done += 1
                at = f"{time.monotonic() - began:.0f} s, {done} of {total}: {config.run_name}"
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
    """Add the runs of some folders, of this study or of a sweep, to the record: those that finished or collapsed."""
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    known = {json.loads(line)["run"] for line in lines}
    for name, run, failed in ended_early(folders):
        if COLLAPSED in failed and name not in known:
            early = {"run": name, "machine": machine, "config": read_json(run / "config.json"), "failed": failed}
            lines.append(json.dumps(early, separators=(",", ":")))
            known.add(name)
    for path in sorted(path for folder in folders for path in folder.glob("runs/*/result.json")):
        if path.parent.name in known:
            continue
        known.add(path.parent.name)
        result = read_json(path)
        log = [{key: entry[key] for key in ("step", "iid_accuracy", "ood_accuracy")} for entry in result["log"]]
        content: dict[str, Any] = {
            "run": path.parent.name,
            "machine": machine,
            "config": read_json(path.parent / "config.json"),
            "methods": result["methods"],
            **{key: result[key] for key in ("model", "model_scores") if key in result},
            "log": log,
        }
        lines.append(json.dumps(_rounded(content), separators=(",", ":")))
    write_text(record, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines)} runs in {record.name}")


def ended_early(folders: Sequence[Path]) -> Iterator[tuple[str, Path, str]]:
    """Name, folder and reason of each run that failed: as ``train`` notes it here, and as a sweep does."""
    for folder in folders:
        for path in sorted(folder.glob("*.failed")):
            yield path.stem, folder / "runs" / path.stem, read_json(path)["failed"]
        for path in sorted(folder.glob("runs/*/failure.json")):
            yield path.parent.name, path.parent, read_json(path)["reason"]


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
    parser.add_argument("--queues", nargs="+", choices=tuple(QUEUES), default=("registered",))
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
    exit_with(main)
