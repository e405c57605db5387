"""Linear probes of many settings at once against a plain loop over them in PyTorch, by the paper's protocol.

By default 216 settings on PACS: rates 0, 0.5, 0.9, 0.95 × learning rates 1e-3, 5e-4 × weight decays 1e-4, 5e-5, 1e-5 ×
3 seeds × 3 test domains, 10,000 steps of 32 images from each of three domains. The loop holds all features in memory
as float32, uses ``F.dropout`` and ``torch.optim.SGD`` in its fastest form, and is timed without its evaluations and
without drawing its batches: its seconds are extrapolated from some steps of a setting of each rate, in turn with ours.

Ours is trained whole in the first round, evaluations included. In the other rounds its first ``--our-steps`` steps are,
to see how the ratio spreads. The loop trains ``--compare`` settings of each rate to the end, and their held-out losses
and accuracies are compared; it draws other masks, so they differ by noise. Where other programs are busy, look at the
processor's seconds. The peak memory includes the making of the features unless ``--features`` has them.

    python benchmarks/linear_sweep.py --features features.safetensors --data path/to/PACS
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.config import Config, make_config
from largedrop.data import Dataset, open_dataset
from largedrop.data.sampling import batch_indices
from largedrop.data.views.batches import open_views
from largedrop.linear.problem import Problem
from largedrop.linear.sgd.result import LinearResult
from largedrop.linear.sgd.train import train_linear
from largedrop.runs.checkpoint import read_tensors, write_tensors
from largedrop.training.features import FeatureCache
from largedrop.training.setup import create_network
from timing import CPU, parser, report

RATES, LRS, DECAYS = (0.0, 0.5, 0.9, 0.95), (1e-3, 5e-4), (1e-4, 5e-5, 1e-5)
FORMS: tuple[dict[str, bool], ...] = ({"foreach": False}, {"foreach": True}, {"fused": True})


def features_of(data: Dataset, size: int, path: Path) -> Tensor:
    """Lite0's representation of every image, float16 (n, 1280); kept in ``path``."""
    if not path.exists():
        config = make_config(
            "paper", data=data.name, fingerprint=data.fingerprint, test_domain=data.domains[0], size=size
        )
        found = FeatureCache(open_views(data, CPU)).get(config, create_network(config, data.classes), 0)
        write_tensors(path, {"features": found}, "features", {"data": data.fingerprint})
    return read_tensors(path, "features")[0]["features"]


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of all threads on the processor."""

    wall: float
    cpu: float

    @classmethod
    def on(cls, call: Callable[[], object]) -> Spent:
        """What a call takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)

    def times(self, factor: float) -> Spent:
        """As much of this."""
        return Spent(self.wall * factor, self.cpu * factor)


class Loop:
    """One setting in plain PyTorch."""

    def __init__(self, problem: Problem, features: Tensor, setting: Config, form: dict[str, bool]) -> None:
        self.problem, self.features, self.setting = problem, features, setting
        self.labels = torch.from_numpy(problem.labels)
        self.layer = torch.nn.Linear(features.shape[1], problem.classes)
        self.optimizer = torch.optim.SGD(
            self.layer.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay, **form
        )

    def run(self, first: int, last: int) -> Spent:
        """Take some steps, on batches that were drawn before. Returns what they took."""
        setting = self.setting
        batches = [
            torch.from_numpy(batch_indices(self.problem.train, setting.batch, setting.seed, step))
            for step in range(first, last)
        ]
        return Spent.on(lambda: self._steps(first, batches))

    def _steps(self, first: int, batches: list[Tensor]) -> None:
        setting = self.setting
        for step, batch in enumerate(batches, first):
            self.optimizer.param_groups[0]["lr"] = setting.lr * setting.lr_factor(step)
            x = F.dropout(self.features[batch], setting.dropout)
            loss = F.cross_entropy(self.layer(x), self.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def score(self) -> tuple[float, float]:
        """Loss and accuracy on the held-out images."""
        chosen = torch.from_numpy(self.problem.iid)
        with torch.no_grad():
            logits = self.layer(self.features[chosen])
        right = logits.argmax(1) == self.labels[chosen]
        return float(F.cross_entropy(logits, self.labels[chosen])), float(right.double().mean())


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--data", default="emoji", help="a folder domain/class/image")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--features", type=Path, help="a file to keep the features in")
    options.add_argument("--steps", type=int, default=10_000)
    options.add_argument("--our-steps", type=int, default=1000, help="of ours that are timed after the first round")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--domains", type=int, default=3, help="how many domains are test domains in turn")
    options.add_argument("--loop-steps", type=int, default=200, help="of the loop that are timed, for each rate")
    options.add_argument(
        "--compare", type=int, default=1, help="settings that the loop trains to the end, of each rate"
    )
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    data = open_dataset(chosen.data)
    with tempfile.TemporaryDirectory() as temporary:
        path = chosen.features or Path(temporary) / "features.safetensors"
        features = features_of(data, chosen.size, path)
    splits = [(domain, seed) for domain in data.domains[: chosen.domains] for seed in range(chosen.seeds)]
    tasks = [
        (problem, probe(data, domain, seed=seed, dropout=rate, lr=lr, weight_decay=decay, steps=chosen.steps))
        for domain, seed in splits
        for problem in [Problem.of([features], [features.shape[1]], data, data.split(domain, seed))]
        for rate in RATES
        for lr in LRS
        for decay in DECAYS
    ]
    compare(chosen, tasks, features)


def probe(data: Dataset, domain: str, **settings: Any) -> Config:
    """By the paper's protocol."""
    return make_config(
        "paper", data=data.name, fingerprint=data.fingerprint, test_domain=domain, fit="probe", **settings
    )


def compare(chosen: argparse.Namespace, tasks: list[tuple[Problem, Config]], features: Tensor) -> None:
    """Time ours whole and the loop in part, in turn, and compare what they reach."""
    table = features.float()
    problem = tasks[0][0]

    def loop(rate: float, form: dict[str, bool]) -> Spent:
        side = Loop(problem, table, replace(tasks[0][1], dropout=rate, lr=1e-3, weight_decay=5e-5, seed=0), form)
        side.run(0, 20)
        return side.run(20, 20 + chosen.loop_steps).times(1 / chosen.loop_steps)

    form = min(FORMS, key=lambda one: min(loop(0.0, one).cpu for _ in range(3)))
    ours, theirs = [], []
    by_rate: dict[float, list[Spent]] = {rate: [] for rate in RATES}
    results: list[LinearResult] = []
    for number in range(chosen.rounds):
        steps = chosen.steps if number == 0 else min(chosen.our_steps, chosen.steps)
        shorter = [(of, replace(setting, steps=steps)) for of, setting in tasks]
        for rate in RATES:
            by_rate[rate].append(loop(rate, form))
        found: list[LinearResult] = []
        ours.append(Spent.on(partial(_train_into, found, shorter)).times(chosen.steps / steps))
        for rate in RATES:
            by_rate[rate].append(loop(rate, form))
        pairs = [by_rate[setting.dropout][-2:] for _, setting in tasks]
        half = chosen.steps / 2
        theirs.append(Spent(sum(a.wall + b.wall for a, b in pairs) * half, sum(a.cpu + b.cpu for a, b in pairs) * half))
        results = results or found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    output: dict[str, object] = {
        **_ratios("", [(their.wall, our.wall) for our, their in zip(ours, theirs, strict=True)]),
        **_ratios("cpu_", [(their.cpu, our.cpu) for our, their in zip(ours, theirs, strict=True)]),
        "measured": f"ours: {chosen.steps} steps once, then {min(chosen.our_steps, chosen.steps)} extrapolated to "
        f"{chosen.steps}; the loop: extrapolated from {chosen.loop_steps} steps at each rate, twice a round",
        "ours_whole_run": f"{ours[0].wall:.1f} s, processor {ours[0].cpu:.1f} s",
        "our_ms_a_step": round(1e3 * statistics.median(our.cpu for our in ours) / chosen.steps, 2),
        "loop_us_a_step": {rate: [round(1e6 * one.cpu) for one in of_rate] for rate, of_rate in by_rate.items()},
        "loop_optimizer": str(form),
        "settings": len(tasks),
        "steps": chosen.steps,
        "rounds": chosen.rounds,
        "peak_gib": round(peak, 2),
        "iid_accuracy": {
            rate: round(
                statistics.fmean(r.best.iid_accuracy for r in results if r.best and r.setting.dropout == rate), 4
            )
            for rate in RATES
        },
    }
    if chosen.compare:
        output.update(differences(tasks, table, results, chosen.compare, form))
    report("linear_sweep", output, chosen.json)


def _train_into(found: list[LinearResult], tasks: list[tuple[Problem, Config]]) -> None:
    found.extend(train_linear(tasks))


def _ratios(name: str, seconds: list[tuple[float, float]]) -> dict[str, object]:
    """Median and half the range of theirs to ours, and the median seconds of each."""
    ratios = [their / our for their, our in seconds]
    return {
        f"{name}ratio": round(statistics.median(ratios), 1),
        f"{name}spread": round((max(ratios) - min(ratios)) / 2, 1),
        f"{name}ours_seconds": round(statistics.median(our for _, our in seconds), 1),
        f"{name}loop_seconds": round(statistics.median(their for their, _ in seconds), 1),
    }


def differences(
    tasks: list[tuple[Problem, Config]],
    table: Tensor,
    results: list[LinearResult],
    count: int,
    form: dict[str, bool],
) -> dict[str, object]:
    """How far a loop over some settings ends from ours, in held-out loss (nats) and accuracy."""
    losses, accuracies = [], []
    for rate in RATES:
        of_rate = [number for number, (_, setting) in enumerate(tasks) if setting.dropout == rate]
        for number in of_rate[:: max(1, len(of_rate) // count)][:count]:
            problem, setting = tasks[number]
            side = Loop(problem, table, setting, form)
            side.run(0, setting.steps)
            loss, accuracy = side.score()
            last = results[number].evaluations[-1]
            losses.append(last.iid_loss - loss)
            accuracies.append(last.iid_accuracy - accuracy)
    return {
        "compared": len(losses),
        "loss_difference": f"mean {statistics.fmean(losses):+.5f}, largest {max(losses, key=abs):+.5f}",
        "accuracy_difference": f"mean {statistics.fmean(accuracies):+.5f}, largest {max(accuracies, key=abs):+.5f}",
    }


if __name__ == "__main__":
    main()
