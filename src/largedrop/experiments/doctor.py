"""The doctor: every set of fast paths of a device against the plain path.

It compares and times steps (``doctor_steps``), chooses, and trains three short runs by what it has chosen, for the
memory that they leave and for the bits of one that is cut and goes on. Its report is what ``fast_paths`` reads.
"""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..config import Config
from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import Interrupted, UserError
from ..fast_paths import FORMAT, FastPaths, available, machine_key, only
from ..reporter import SILENT, Relay, Reporter
from ..runs.checkpoint import read_tensors
from ..runtime import free_memory, keep_freed_memory
from ..training.features import FeatureCache
from ..training.loop import train
from ..training.resolve import resolve
from .doctor_steps import TOLERANCES, Effort, compare_steps, failure

__all__ = ["THOROUGH", "choose", "examine", "work"]

Found = dict[str, Any]

FASTER = 1.05
"""Times as fast as the plain path that a set of fast paths must be on a GPU to be chosen."""

ALIKE = 0.9
"""Of sets that are this near to the fastest, that with the fewest paths is chosen: on an H200 the plain path's time of
one case, by which all are divided, differed by as much (8 %, standard deviation) from set to set."""

KEPT = 1 << 20
"""Bytes by which what a process holds after a run may differ from run to run."""


THOROUGH: Mapping[str, Effort] = {
    "cpu": Effort(cases=((96, 4),), steps=8, rounds=3, timed=2, warm=0, run=20),
    "cuda": Effort(),
}
"""What takes about two minutes on two processor cores, and on a GPU."""


def sets(device: torch.device) -> list[FastPaths]:
    """Every set of fast paths that there is on a device, small ones first."""
    names = available(device).names
    return [FastPaths.of(each) for count in range(1, len(names) + 1) for each in combinations(names, count)]


def work(device: torch.device) -> int:
    """The calls of ``Reporter.advance`` that ``examine`` makes, each with 1: one for each set, and for each run."""
    return len(sets(device)) + RUNS + 1


RUNS = 3


def examine(device: torch.device, data: Dataset, effort: Effort | None = None, reporter: Reporter = SILENT) -> Found:
    """The doctor's report on a device.

    Args:
        data: images to train on; of two domains or more.
        effort: how much is measured; ``THOROUGH`` by default.
        reporter: receives 1 for each part, as ``work`` counts them, and notes.

    Returns:
        The report as JSON: ``machine`` is what it is of, ``paths`` and ``again`` what ``compare_steps`` found,
        ``chosen`` what ``choices`` gives, ``runs`` what was found of whole runs by each set that is best,
        ``problems`` what is wrong, a line each.
    """
    effort = effort or THOROUGH[device.type]
    keep_freed_memory()
    began = time.monotonic()
    given: Found = {"model": effort.model, "weights": effort.weights, "optimizer": "sgd", "lr": 1e-3, "steps": 10**6}
    configs = [
        resolve(data, device, recipe="short", test_domain=data.domains[0], masks=16, size=size, batch=batch, **given)
        for size, batch in effort.cases
    ]
    steps = compare_steps(configs, data, device, effort, sets(device), reporter)
    free_memory()
    report: Found = {
        "format": FORMAT,
        "machine": machine_key(device),
        "libraries": _libraries(device),
        "precision": configs[0].precision,
        "tolerances": TOLERANCES,
        **steps,
        "chosen": choices(steps["paths"], device),
    }
    config = replace(configs[0], steps=effort.run, eval_every=math.ceil(effort.run / 2), optimizer="adamw", lr=1e-4)
    taken = list(dict.fromkeys(tuple(next(iter(choice["sets"]), ())) for choice in report["chosen"]))
    report["runs"] = []
    for paths in taken:
        with only(FastPaths.of(paths)):
            found = _runs(config, data, device, Relay(reporter, 1 / len(taken)))
        report["runs"].append({"paths": list(paths), **found})
        free_memory()
    report["problems"] = [line for runs in report["runs"] for line in _problems(runs, device)]
    if report["problems"] and device.type == "cuda":
        report["chosen"] = choices([], device)
    report["seconds"] = round(time.monotonic() - began, 1)
    return report


def choices(entries: Sequence[Found], device: torch.device) -> list[Found]:
    """What to take on average and, on a GPU, in each case that was timed: ``sets``, the best by ``choose`` first, so
    that the first without a path that a run cannot take is the best without it.
    """

    def choice(images: int | None, size: int | None, entries: Sequence[Found]) -> Found:
        found: list[list[str]] = []
        while names := choose([entry for entry in entries if entry["paths"] not in found], device):
            found.append(names)
        return {"images": images, "size": size, "sets": found}

    right = [entry for entry in entries if entry["agrees"]]
    found = [choice(None, None, right)]
    if device.type == "cuda" and right:
        for times in zip(*(entry["times"] for entry in right), strict=True):
            timed = [{**entry, "ratio": time["ratio"]} for entry, time in zip(right, times, strict=True)]
            found.append(choice(times[0]["images"], times[0]["size"], timed))
    return found


def choose(entries: Iterable[Found], device: torch.device) -> list[str]:
    """The names of the paths to take, of sets that agree with the plain path: on a processor as many as there are; on a
    GPU the fastest, where it is faster than the plain path.
    """
    right = [entry for entry in entries if entry["agrees"]]
    if device.type != "cuda":
        return max((list(entry["paths"]) for entry in right), key=len, default=[])
    best = max((entry["ratio"] for entry in right), default=0.0)
    if best < FASTER:
        return []
    near = [list(entry["paths"]) for entry in right if entry["ratio"] >= max(ALIKE * best, FASTER)]
    return min(near, key=len)


def _runs(config: Config, data: Dataset, device: torch.device, reporter: Reporter) -> Found:
    """Three short runs of one config, and one that is cut and goes on: what they leave, and whether they are the same.

    The collector is off, so that what it alone would free is seen.
    """
    features = FeatureCache(open_views(data, device, reporter))
    held, finals, seconds = list[int](), list[dict[str, Tensor]](), list[float]()
    gc.collect()
    gc.disable()
    try:
        with TemporaryDirectory(prefix="largedrop-doctor-") as folder:
            for number in range(RUNS):
                began = time.monotonic()
                finals.append(_final(config, data, Path(folder) / str(number), features))
                seconds.append(round(time.monotonic() - began, 2))
                held.append(_held(device, finals))
                reporter.advance(1)
            with suppress(Interrupted):
                train(config, data, Path(folder) / "cut", features=features, reporter=_Stops(config.steps // 2))
            resumed = _final(config, data, Path(folder) / "cut", features)
            reporter.advance(1)
    except (RuntimeError, MemoryError, UserError) as error:
        return {"failed": failure(error)}
    finally:
        gc.enable()
    return {
        "held_bytes": held,
        "seconds": seconds,
        "again_apart": max(_largest(finals[0], other) for other in finals[1:]),
        "resumed_apart": _largest(finals[0], resumed),
    }


class _Stops(Reporter):
    """Asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stopped(self) -> bool:
        self.left -= 1
        return self.left <= 0


def _final(config: Config, data: Dataset, folder: Path, features: FeatureCache) -> dict[str, Tensor]:
    return read_tensors(train(config, data, folder, features=features).final, "model")[0]


def _largest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of two state dicts; 0 where they have the same bits."""
    pairs = ((one[name].double(), other[name].double()) for name in one)
    return max((float((mine - theirs).abs().max()) for mine, theirs in pairs if mine.numel()), default=0.0)


def _held(device: torch.device, kept: Sequence[Mapping[str, Tensor]]) -> int:
    """Bytes of the tensors that are alive on a device, without ``kept``."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    alive = (each.untyped_storage() for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter))
    sizes = {storage.data_ptr(): storage.nbytes() for storage in alive if storage.device == device}
    own = {tensor.untyped_storage().data_ptr() for state in kept for tensor in state.values()}
    return sum(size for start, size in sizes.items() if start not in own)


def _problems(runs: Found, device: torch.device) -> list[str]:
    """What is wrong with whole runs by a set, a line each."""
    by = f" (by {FastPaths.of(runs['paths'])})"
    if "failed" in runs:
        return [f"a run failed: {runs['failed']}{by}"]
    found = []
    first, *_, last = runs["held_bytes"]
    if last > first + KEPT:
        found.append(f"each run leaves memory: {first >> 20} MiB after the first, {last >> 20} MiB after the last{by}")
    if device.type == "cpu" and runs["again_apart"]:
        found.append(f"two runs of one config differ by {runs['again_apart']:.2g}{by}")
    if runs["resumed_apart"] and not runs["again_apart"]:
        found.append(f"a run that was cut and went on differs by {runs['resumed_apart']:.2g} from one that was not{by}")
    return found


def _libraries(device: torch.device) -> Found:
    """What else a report's reader may ask for."""
    found: Found = {"python": platform.python_version(), "system": platform.platform(), "timm": timm.__version__}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "memory_gib": round(card.total_memory / 2**30, 1),
            "capability": f"{card.major}.{card.minor}",
        }
    return found
