"""Steps by fast paths against those by the plain path: losses and weights from the same start, and times in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.dataset import Dataset
from ..data.random import torch_seed
from ..data.views.batches import HostViews, ResidentViews, Views
from ..errors import UserError, out_of_memory
from ..fast_paths import FastPaths
from ..models.fast.folding import speed_up
from ..reporter import Reporter
from ..runtime import free_memory
from ..training.batches import training_batches
from ..training.device import exact
from ..training.setup import create_network, make_optimizer, set_learning_rate
from ..training.step import TrainingStep

__all__ = ["TOLERANCES", "Effort", "compare_steps", "failure"]

Found = dict[str, Any]

TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "float32": {"loss": 1e-3, "weights": 0.01},
    "bfloat16": {"loss": 0.1, "rounding": 1.5},
}
"""By precision, how far losses, in nats, and weights, over the way from their start, may be from the plain path's to
agree. In bfloat16, where any two orders of the same sums are far apart, weights may be so many times as far from the
plain ones in float32 as the plain ones in bfloat16 are."""

LEVELS = 1.5
"""Grey levels by which views made on the two sides may differ."""

NOISE = 3
"""Times as far as the plain path is from itself, where it is, that a set may be in float32."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        model, weights: name and initial weights of the network.
        cases: side of the images, in pixels, and images of each training domain in a batch, for each kind of step.
        steps: steps that are compared; some of them before a step is recorded.
        rounds: rounds that are timed, of ``timed`` steps of either side.
        timed: steps of a round, after ``warm`` that are not timed.
        run: steps of each of the runs.
    """

    model: str = "tf_efficientnet_lite0"
    weights: str = "pretrained"
    cases: tuple[tuple[int, int], ...] = ((96, 8), (224, 16))
    steps: int = 12
    rounds: int = 5
    timed: int = 8
    warm: int = 3
    run: int = 40


def compare_steps(
    configs: Sequence[Config],
    data: Dataset,
    device: torch.device,
    effort: Effort,
    sets: Iterable[FastPaths],
    reporter: Reporter,
) -> Found:
    """Compare sets of fast paths with the plain path.

    Args:
        configs: a config for each kind of step that is timed; the first is compared as well.
        reporter: receives 1 for each set.

    Returns:
        ``again``, by precision, how far the plain path is from itself; and ``paths``, what was found of each set: its
        names, whether it agrees, the ratio of the plain path's time to its own, and the numbers.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), exact(), ExitStack() as held:
        bench = _Bench(data, device, configs, effort, held)
        entries = []
        for paths in sets:
            entries.append(bench.compared(paths))
            reporter.advance(1)
        return {"again": bench.again, "paths": entries}


class _Reached(NamedTuple):
    """Losses of the compared steps, and the weights before and after them."""

    losses: list[float]
    start: list[Tensor]
    weights: list[Tensor]


class _Side:
    """A network that is trained by some of the paths, from the same start as every other."""

    def __init__(self, config: Config, data: Dataset, views: Views, paths: FastPaths) -> None:
        self.config, self.notes, self.taken, self.losses = config, list[str](), 0, list[float]()
        split = config.split_of(data)
        with ExitStack() as held:
            network = create_network(config, data.classes, data.bits).to(views.device)
            self.network, self.optimizer = network, make_optimizer(config, network)
            self.start = self.weights()
            held.enter_context(speed_up(network, paths))
            network.train()
            spec = network.spec
            self.step = TrainingStep(
                network,
                self.optimizer,
                config.precision,
                lambda inputs: views.finish(inputs, spec),
                domains=len(split.train),
                note=self.notes.append,
                record=paths.recorded,
            )
            held.callback(self.step.close)
            self.batches = training_batches(config, data, split, views, spec, range(10**9))
            held.callback(self.batches.close)
            self.close = held.pop_all().close

    def take(self, steps: int) -> None:
        """Take steps; the host waits for the last one."""
        for number in range(self.taken, self.taken + steps):
            torch.manual_seed(torch_seed("step", self.config.seed, number))
            set_learning_rate(self.optimizer, self.config, number)
            self.step(*next(self.batches), number)
        self.taken += steps
        self.losses += [loss for loss, _ in self.step.read()]

    def weights(self) -> list[Tensor]:
        return [each.detach().to("cpu", torch.float32, copy=True) for each in self.network.parameters()]

    def seconds(self, effort: Effort) -> float:
        """The time of a step."""
        self.take(effort.warm)
        began = time.perf_counter()
        self.take(effort.timed)
        return (time.perf_counter() - began) / effort.timed


class _Bench:
    """The plain path's sides, with which all others are compared."""

    def __init__(
        self, data: Dataset, device: torch.device, configs: Sequence[Config], effort: Effort, held: ExitStack
    ) -> None:
        self.data, self.device, self.effort = data, device, effort
        self.host = HostViews(data, device)
        self._resident: ResidentViews | None = None
        self.references: dict[str, _Reached] = {}
        self.again: dict[str, Found] = {}
        self.compared_in = {each: replace(configs[0], precision=each) for each in ("float32", configs[0].precision)}
        for precision, config in self.compared_in.items():
            first, second = (self._reached(config, self.host, FastPaths())[0] for _ in range(2))
            self.references[precision], self.again[precision] = first, _apart(first, second)
        self.plain: list[_Side] = []
        for config in configs:
            try:
                side = held.enter_context(closing(_Side(config, data, self.host, FastPaths())))
                side.take(effort.steps)
            except (RuntimeError, MemoryError) as error:
                if not self.plain or not out_of_memory(error):
                    raise
                error.with_traceback(None)  # which would keep the network
                free_memory()
                break
            self.plain.append(side)

    def _reached(self, config: Config, views: Views, paths: FastPaths) -> tuple[_Reached, list[str]]:
        """Where the compared steps lead, and what the step notes."""
        with closing(_Side(config, self.data, views, paths)) as side:
            side.take(self.effort.steps)
            return _Reached(side.losses, side.start, side.weights()), side.notes

    def compared(self, paths: FastPaths) -> Found:
        """What is found of a set of paths; where it fails, with what."""
        found: Found = {"paths": paths.names, "agrees": False, "ratio": 0.0}
        try:
            found |= self._compared(paths)
        except (RuntimeError, MemoryError, UserError) as error:
            found["failed"] = failure(error)
            error.with_traceback(None)  # which would keep the networks
        free_memory()
        return found

    def _compared(self, paths: FastPaths) -> Found:
        views: Views = self._resident_views() if paths.resident else self.host
        found: Found = {}
        agrees = True
        if paths.resident:
            found["levels"] = self._levels_apart()
            agrees = found["levels"] <= LEVELS
        for precision, config in self.compared_in.items():
            reached, notes = self._reached(config, views, paths)
            found[precision] = apart = _apart(self.references[precision], reached)
            if precision != "float32":
                exactly = self.references["float32"]
                noise = _apart(exactly, self.references[precision])["weights"]
                apart["rounding"] = _apart(exactly, reached)["weights"] / max(noise, 1e-12)
            again = self.again[precision]
            agrees &= all(
                apart[name] <= max(most, NOISE * again.get(name, 0.0)) for name, most in TOLERANCES[precision].items()
            )
            if notes:
                found["note"], agrees = notes[0], False
        found["times"] = [self._timed(plain, views, paths) for plain in self.plain] if agrees else []
        ratios = [each["ratio"] for each in found["times"]]
        return {**found, "agrees": agrees, "ratio": round(statistics.geometric_mean(ratios), 3) if ratios else 0.0}

    def _timed(self, plain: _Side, views: Views, paths: FastPaths) -> Found:
        """Rounds of steps of either side in turn: medians of the times, and of their ratios."""
        config = plain.config
        with closing(_Side(config, self.data, views, paths)) as side:
            side.take(self.effort.steps)
            pairs = [(plain.seconds(self.effort), side.seconds(self.effort)) for _ in range(self.effort.rounds)]
        images = config.batch * len(config.split_of(self.data).train)
        theirs, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        case = {"size": config.size, "images": images}
        return {**case, "plain_ms": round(1e3 * theirs, 2), "ms": round(1e3 * ours, 2), "ratio": round(ratio, 3)}

    def _resident_views(self) -> ResidentViews:
        if self._resident is None:
            self._resident = ResidentViews(self.data, self.device)
        return self._resident

    def _levels_apart(self) -> float:
        """The largest difference between views of the two sides, in grey levels."""
        spec, indices = self.plain[0].network.spec, np.arange(min(64, len(self.data)), dtype=np.int64)
        scale = torch.tensor(spec.std).view(3, 1, 1) * 255
        pairs = [
            (views.training(indices, spec, 0, 1).cpu(), views.evaluation(indices, spec).cpu())
            for views in (self._resident_views(), self.host)
        ]
        return max(float(((one - other).abs() * scale).max()) for one, other in zip(*pairs, strict=True))


def _apart(one: _Reached, other: _Reached) -> Found:
    """The largest difference of losses, in nats, and the distance of the weights over the way from their start; and
    whether both have the same bits. Infinite where a value is not finite.
    """
    losses = max(abs(mine - theirs) for mine, theirs in zip(one.losses, other.losses, strict=True))
    way, between = (
        math.sqrt(sum(float((a.double() - b.double()).square().sum()) for a, b in zip(first, second, strict=True)))
        for first, second in ((one.weights, one.start), (one.weights, other.weights))
    )
    same = all(torch.equal(*pair) for pair in zip(one.weights, other.weights, strict=True))
    found = {"loss": losses, "weights": between / way if way else math.inf}
    return {**{name: value if math.isfinite(value) else 1e9 for name, value in found.items()}, "same_bits": same}


def failure(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
