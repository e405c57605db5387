"""Which fast paths a device takes: ways to the same results in less time, which can be wrong where nobody has tried.

On the processor those that every test of this package runs; on a GPU, of which no two are alike, only those of which
``largedrop doctor`` has found, on that GPU and with that torch, that they agree with the plain path and are faster. The
doctor's report is a file in the cache. A fast path changes the last bits of a run, as the device does, and is therefore
no part of its config: ``result.json`` says which were taken.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ._version import __version__
from .errors import UserError, one_of
from .files import read_json
from .paths import cache_folder, fitting

__all__ = [
    "FORMAT",
    "PATHS",
    "VARIABLE",
    "FastPaths",
    "available",
    "chosen_paths",
    "device_name",
    "fast_paths",
    "machine_key",
    "only",
    "report_file",
]

PATHS: Mapping[str, str] = {
    "resident": "the images lie in the GPU's memory, and their views are made there",
    "recorded": "the training step is recorded as a CUDA graph",
    "folded": "frozen batch norms are folded into convolutions",
    "kernels": "each gradient of a convolution takes its fastest kernel",
}
"""What each fast path does."""

VARIABLE = "LARGEDROP_FAST_PATHS"
"""Environment variable that names the paths to take, separated by commas, or is ``none``; processes inherit it."""

NONE = "none"

FORMAT = 2
"""Version of the doctor's report."""


@dataclass(frozen=True)
class FastPaths:
    """Which of ``PATHS`` are taken; without any, the plain path."""

    resident: bool = False
    recorded: bool = False
    folded: bool = False
    kernels: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> FastPaths:
        """Those of these names."""
        return cls(**dict.fromkeys(names, True))

    @property
    def names(self) -> list[str]:
        """Their names, in the order of ``PATHS``."""
        return [name for name, taken in zip(PATHS, astuple(self), strict=True) if taken]

    def __str__(self) -> str:
        return ", ".join(self.names) or "none"


def available(device: torch.device) -> FastPaths:
    """All fast paths that there are on a kind of device."""
    return FastPaths(True, True, True, False) if device.type == "cuda" else FastPaths(False, False, True, True)


def fast_paths(device: torch.device, pixels: float | None = None, without: Collection[str] = ()) -> FastPaths:
    """The fast paths to take on a device: as ``VARIABLE`` says, else as the doctor found, else the usual ones.

    Args:
        pixels: those of the images of a training step, on whose number it depends what is fastest: of the steps that
            the doctor timed the nearest one's paths are taken, by the ratio. None for what is best on average.
        without: names of paths that cannot be taken; the best set without them is.

    Raises:
        UserError: ``VARIABLE`` names a path that there is not.
    """
    return chosen_paths(device, pixels, without).paths


class Chosen(NamedTuple):
    """The fast paths of a device.

    Attributes:
        paths: the paths.
        why: a line that says what they are and why; empty where they are those that a processor usually takes.
        slow: whether the device may have faster ones, of which nothing is known.
    """

    paths: FastPaths
    why: str
    slow: bool = False


def chosen_paths(device: torch.device, pixels: float | None = None, without: Collection[str] = ()) -> Chosen:
    """``fast_paths`` with their reason; the arguments are the same.

    Raises:
        UserError: ``VARIABLE`` names a path that there is not.
    """
    if given := os.environ.get(VARIABLE):
        paths = FastPaths.of(name for name in _named(given, device).names if name not in without)
        return Chosen(paths, f"fast paths: {paths} ({'--plain' if given == NONE else VARIABLE})")
    gpu = device.type == "cuda"
    usual = FastPaths() if gpu else available(device)
    try:
        path = report_file(device)
        if os.path.lexists(path):
            paths, steps = _found(read_json(path), path, device, pixels, without)
            return Chosen(paths, f"fast paths: {paths}{steps}, by {path}" if gpu or paths != usual else "")
        why = f"{device_name(device)} was not examined yet"
    except UserError as error:
        why = str(error)
    else:
        if not gpu:
            return Chosen(usual, "")
    advice = "; `largedrop doctor` (2 minutes) finds which are right here, and faster" if gpu else ""
    return Chosen(usual, f"fast paths: {usual}, as {why}{advice}", slow=gpu)


@contextmanager
def only(paths: FastPaths) -> Iterator[None]:
    """Within the block, and in the processes that it starts, take these paths and no others."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = ",".join(paths.names) or NONE
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def report_file(device: torch.device) -> Path:
    """Where the doctor's report on a device and this torch is, if there is one."""
    return cache_folder() / "doctor" / fitting(device_name(device), f", torch {torch.__version__}.json")


def machine_key(device: torch.device) -> dict[str, str]:
    """What a report is of: it holds for nothing else."""
    return {
        "device": device_name(device),
        "driver": _driver() if device.type == "cuda" else "",
        "torch": torch.__version__,
        "largedrop": __version__,
    }


@cache
def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@cache
def _driver() -> str:
    """The version of NVIDIA's driver; empty where none can be found, as with AMD's GPUs."""
    module = Path("/sys/module/nvidia/version")
    if module.exists():
        return module.read_text(encoding="utf-8").strip()
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def _named(text: str, device: torch.device) -> FastPaths:
    names = [] if text.strip() == NONE else [name.strip() for name in text.split(",")]
    for name in names:
        if name == NONE:
            raise UserError(f"{VARIABLE}={text}: '{NONE}' stands alone")
        if name not in PATHS:
            raise UserError(f"{VARIABLE}={text}: unknown fast path '{name}'; {one_of(name, [*PATHS, NONE])}")
    return FastPaths.of(name for name in names if name in available(device).names)


def _found(
    report: Mapping[str, Any], path: Path, device: torch.device, pixels: float | None, without: Collection[str]
) -> tuple[FastPaths, str]:
    """What a report chooses; and for which steps, where it chooses others for others.

    Raises:
        UserError: it is of another machine or version, or is no report.
    """
    if report.get("format") != FORMAT:
        raise UserError(f"{path} is not a doctor's report of this version")
    theirs, ours = report.get("machine"), machine_key(device)
    for name, own in ours.items():
        other = theirs.get(name) if isinstance(theirs, dict) else None
        if other != own:
            raise UserError(f"{path} is of {name} {str(other)[:80]!r}, and this is {own!r}")
    chosen, known = report.get("chosen"), available(device).names
    choices: list[Any] = chosen if isinstance(chosen, list) and chosen else [chosen]
    if not all(_is_choice(choice, known, average=number == 0) for number, choice in enumerate(choices)):
        raise UserError(f"{path} chooses {str(chosen)[:80]}, which are no fast paths of this device")
    choice, *cases = choices
    if cases and pixels:
        choice = min(cases, key=lambda case: abs(math.log(case["images"] * case["size"] ** 2 / pixels)))
    paths = FastPaths.of(next((names for names in choice["sets"] if not set(names) & set(without)), ()))
    if all(case["sets"][:1] == choice["sets"][:1] for case in cases):
        return paths, ""
    steps = f"steps like {choice['images']} images of {choice['size']} px" if pixels else "all steps on average"
    return paths, f", best for {steps}"


def _is_choice(choice: Any, known: Collection[str], average: bool) -> bool:
    """Whether an entry of a report's choices is one: sets of paths of the device, best first, on average or for a step
    that was timed.
    """
    if not isinstance(choice, dict) or not isinstance(sets := choice.get("sets"), list):
        return False
    if not all(isinstance(names, list) and all(name in known for name in names) for names in sets):
        return False
    case = (choice.get(name) for name in ("images", "size"))
    return all(each is None if average else type(each) is int and each > 0 for each in case)
