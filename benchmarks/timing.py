"""What the benchmarks share: both sides alternating in one process, the median of each, the spread of their ratio."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import timm
import torch

CPU = torch.device("cpu")


def alternate(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    device: torch.device = CPU,
    processor_time: bool = False,
) -> dict[str, float]:
    """Time both sides in turn, after two calls of each that do not count.

    Args:
        ours: one side.
        theirs: the other.
        rounds: how often both are timed.
        device: waited for before a time is taken.
        processor_time: of this process, not the time that passes; comparable with one thread only.

    Returns:
        ``ratio`` of theirs to ours (above 1: ours is faster), its ``spread`` (half of the range of the middle half of
        the rounds' ratios), and the median seconds of ``ours`` and ``theirs``.
    """

    def timed(side: Callable[[], object]) -> float:
        began = clock()
        side()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    clock = time.process_time if processor_time else time.perf_counter
    for side in (ours, theirs) * 2:
        timed(side)
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((timed(ours), timed(theirs)))
    return {**summary(times), "rounds": rounds}


def summary(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """What ``alternate`` returns, but for ``rounds``, from the seconds of (ours, theirs) in each round."""
    ratios = sorted(their / our for our, their in times)
    low, _, high = statistics.quantiles(ratios, n=4) if len(times) > 1 else (ratios[0], ratios[0], ratios[0])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "spread": round((high - low) / 2, 3),
        "ours_seconds": statistics.median(our for our, _ in times),
        "theirs_seconds": statistics.median(their for _, their in times),
    }


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Options of every benchmark."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--rounds", type=int, default=rounds, help="how often both sides are timed")
    result.add_argument("--threads", type=int, default=torch.get_num_threads())
    result.add_argument(
        "--processor-time",
        action="store_true",
        help="count this process's own time, with one thread and on a machine that others use",
    )
    result.add_argument("--json", action="store_true", help="print one JSON object")
    return result


def report(name: str, found: dict[str, object], as_json: bool, device: torch.device = CPU) -> None:
    """Print what was found, with the versions and the machine that it was found on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    about = {"torch": torch.__version__, "timm": timm.__version__, "threads": torch.get_num_threads(), "cpu": processor}
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    if as_json:
        print(json.dumps({"benchmark": name, **found, **about}))
        return
    for key, value in {**found, **about}.items():
        print(f"{key:>16}  {value}")
