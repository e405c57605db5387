"""Linear probes of many settings at once against a plain loop over them in PyTorch, by the paper's protocol.

By default 216 settings on PACS: rates 0, 0.5, 0.9, 0.95 × learning rates 1e-3, 5e-4 × weight decays 1e-4, 5e-5, 1e-5 ×
3 seeds × 3 test domains, 10,000 steps of 32 images from each of three domains. Ours trains all of them, evaluations
included. The loop holds all features in memory as float32, uses ``F.dropout`` and ``torch.optim.SGD`` in its fastest
form, and is timed without its evaluations: its seconds are those of some steps of a few settings of each rate, in turn
with ours, times all settings and steps. Both sides' held-out losses and accuracies are compared where the loop trains
to the end (``--compare``), which draws other masks, so they differ by noise.

    python benchmarks/linear_sweep.py --features features.safetensors --data path/to/PACS
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from largedrop.config import make_config
from largedrop.data import Dataset, open_dataset
from largedrop.data.sampling import batch_indices
from largedrop.linear.problem import LinearSetting, Problem
from largedrop.linear.train import LinearResult, train_linear
from largedrop.training.checkpoint import read_tensors, write_tensors
from largedrop.training.features import FeatureCache
from largedrop.training.setup import create_network
from largedrop.training.views import open_views
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


class Loop:
    """One setting in plain PyTorch."""

    def __init__(self, problem: Problem, features: Tensor, setting: LinearSetting, form: dict[str, bool]) -> None:
        self.problem, self.features, self.setting = problem, features, setting
        self.labels = torch.from_numpy(problem.labels)
        self.layer = torch.nn.Linear(features.shape[1], problem.classes)
        self.optimizer = torch.optim.SGD(
            self.layer.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay, **form
        )

    def run(self, first: int, last: int) -> float:
        """Take some steps, on batches that were drawn before. Returns the seconds that they took."""
        setting = self.setting
        batches = [
            torch.from_numpy(batch_indices(self.problem.train, setting.batch, setting.seed, step))
            for step in range(first, last)
        ]
        began = time.perf_counter()
        for step, batch in enumerate(batches, first):
            self.optimizer.param_groups[0]["lr"] = setting.lr * setting.factor(step)
            x = F.dropout(self.features[batch], setting.dropout)
            loss = F.cross_entropy(self.layer(x), self.labels[batch])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return time.perf_counter() - began

    def score(self) -> tuple[float, float]:
        """Loss and accuracy on the held-out images."""
        chosen = torch.from_numpy(self.problem.iid)
        with torch.no_grad():
            logits = self.layer(self.features[chosen])
        right = logits.argmax(1) == self.labels[chosen]
        return float(F.cross_entropy(logits, self.labels[chosen])), float(right.double().mean())


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=1)
    options.add_argument("--data", default="emoji", help="a folder domain/class/image")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--features", type=Path, help="a file to keep the features in")
    options.add_argument("--steps", type=int, default=10_000)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--domains", type=int, default=3, help="how many domains are test domains in turn")
    options.add_argument("--loop-steps", type=int, default=200, help="of the loop that are timed, for each rate")
    options.add_argument(
        "--compare", type=int, default=0, help="settings that the loop trains to the end, of each rate"
    )
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    data = open_dataset(chosen.data)
    with tempfile.TemporaryDirectory() as temporary:
        path = chosen.features or Path(temporary) / "features.safetensors"
        features = features_of(data, chosen.size, path)
    splits = [(domain, seed) for domain in data.domains[: chosen.domains] for seed in range(chosen.seeds)]
    tasks = [
        (problem, LinearSetting("probe", rate, lr, decay, seed, steps=chosen.steps))
        for domain, seed in splits
        for problem in [Problem.of([features], [features.shape[1]], data, data.split(domain, seed))]
        for rate in RATES
        for lr in LRS
        for decay in DECAYS
    ]
    compare(chosen, tasks, features)


def compare(chosen: argparse.Namespace, tasks: list[tuple[Problem, LinearSetting]], features: Tensor) -> None:
    """Time ours whole and the loop in part, in turn, and compare what they reach."""
    train_linear([(tasks[0][0], LinearSetting("probe", 0.5, 1e-3, 0.0, 0, steps=2))])  # compile
    table = features.float()
    problem = tasks[0][0]

    def loop(rate: float, form: dict[str, bool]) -> float:
        side = Loop(problem, table, LinearSetting("probe", rate, 1e-3, 5e-5, 0, steps=chosen.steps), form)
        side.run(0, 20)
        steps: int = chosen.loop_steps
        return side.run(20, 20 + steps) / steps

    form = min(FORMS, key=lambda one: min(loop(0.0, one) for _ in range(3)))
    ours, theirs = [], []
    by_rate: dict[float, list[float]] = {rate: [] for rate in RATES}
    results: list[LinearResult] = []
    for _ in range(chosen.rounds):
        for rate in RATES:
            by_rate[rate].append(loop(rate, form))
        began = time.perf_counter()
        results = train_linear(tasks)
        ours.append(time.perf_counter() - began)
        for rate in RATES:
            by_rate[rate].append(loop(rate, form))
        per_step = [statistics.fmean(by_rate[setting.dropout][-2:]) for _, setting in tasks]
        theirs.append(sum(per_step) * chosen.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    found: dict[str, object] = {
        "ratio": round(statistics.median(ratios), 1),
        "spread": round((max(ratios) - min(ratios)) / 2, 1),
        "ours_seconds": round(statistics.median(ours), 1),
        "loop_seconds": round(statistics.median(theirs), 1),
        "loop_us_a_step": {rate: [round(1e6 * seconds) for seconds in found] for rate, found in by_rate.items()},
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
        found.update(differences(tasks, table, results, chosen.compare, form))
    report("linear_sweep", found, chosen.json)


def differences(
    tasks: list[tuple[Problem, LinearSetting]],
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
