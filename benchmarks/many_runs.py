"""A sweep of 100,000 runs: seconds and memory of its plan, its status and its report.

One tiny run is trained, with as many evaluations as one of the paper's protocol. Its config and result, with other
settings and accuracies, are written as the runs of a preset: 4 test domains × 25 tuned settings × 100 others × 10
seeds. A twentieth of them are not finished, and some of these have failed. Each command is then measured in a process
of its own.

    python benchmarks/many_runs.py --folder /tmp/many-runs
    python benchmarks/many_runs.py --runs 2000 --only status
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from largedrop.config import PROTOCOL
from largedrop.data import open_dataset
from largedrop.data.dataset import Dataset
from largedrop.errors import RunError
from largedrop.experiments.preset import read_preset
from largedrop.experiments.sweep import SweepPlan, begin_sweep, plan_sweep
from largedrop.files import stored_text
from largedrop.runs.failure import write_failure
from largedrop.training.loop import train

CPU = torch.device("cpu")

COMMANDS = ("plan", "status", "report")

EVALUATIONS = 34
"""Evaluations after the first step: of 10,000 steps, one every 300 and the last."""

UNFINISHED = 20
"""Of so many runs one is not finished."""

PRESET = f"""
title = "Many runs"
[settings]
model = "test_efficientnet"
weights = "random"
size = 32
batch = 4
optimizer = "sgd"
steps = {EVALUATIONS}
eval_every = 1
[grid]
lr = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3]
weight_decay = [0.0, 1e-5, 5e-5, 1e-4, 5e-4]
dropout = DROPOUTS
block_dropout = BLOCKS
seed = SEEDS
"""


def main() -> None:
    """Make the runs where they are not there, measure the commands, and print what they took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, help="of the runs, which stay there; by default a temporary one")
    options.add_argument("--runs", type=int, default=100_000, help="how many; a multiple of 100, above 10,000 of that")
    options.add_argument("--only", choices=COMMANDS, action="append", help="measure this command")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--measure", choices=COMMANDS, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(measured(chosen.measure, chosen.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        found: dict[str, Any] = {"runs": chosen.runs, "finished": make(folder, chosen.runs)}
        for command in chosen.only or COMMANDS:
            again = [sys.executable, __file__, "--measure", command, "--folder", str(folder)]
            done = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True)
            found |= {f"{command}_{name}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    print(json.dumps(found, indent=None if chosen.json else 2))


def make(folder: Path, runs: int) -> int:
    """Make images, a preset, and the files of its runs, unless they are there; the number of finished runs."""
    out = folder / "out"
    if not out.is_dir():
        _draw(folder / "images")
        dropouts = min(10, runs // 100)
        blocks = min(10, runs // 100 // dropouts)
        seeds = runs // 100 // dropouts // blocks
        text = PRESET.replace("DROPOUTS", str([round(0.1 * each, 1) for each in range(dropouts)]))
        text = text.replace("BLOCKS", str([round(0.02 * each, 2) for each in range(blocks)]))
        (folder / "many.toml").write_text(text.replace("SEEDS", str(list(range(seeds)))), encoding="utf-8")
        _write(*planned(folder))
    return len(list(out.glob("runs/*/result.json")))


def planned(folder: Path) -> tuple[Dataset, SweepPlan]:
    """The images and the plan of the sweep."""
    data = open_dataset(folder / "images", cache=folder / "cache")
    preset = read_preset(folder / "many.toml")
    return data, plan_sweep(preset, "full", data, folder / "out", device=CPU, precision="float32")


def _write(data: Dataset, plan: SweepPlan) -> None:
    """Train the first run, and write config and result of the others after it, all but every twentieth's."""
    begin_sweep(data, plan)
    first = plan.entries[0]
    train(first.config, data, first.folder, device=CPU)
    stored = (first.folder / "result.json").read_bytes()
    rng = np.random.default_rng(0)
    for number, entry in enumerate(plan.entries[1:], 1):
        entry.folder.mkdir()
        config = {"protocol": PROTOCOL, **entry.config.to_json()}
        (entry.folder / "config.json").write_text(stored_text(config), encoding="utf-8")
        if number % (UNFINISHED * UNFINISHED) == 0:
            write_failure(entry.folder, RunError("too little memory"), "Traceback:\n  …\nMemoryError: 1 GB")
        if number % UNFINISHED:
            named = stored.replace(first.config.digest().encode(), entry.config.digest().encode())
            (entry.folder / "result.json").write_bytes(_shifted(named, float(rng.normal(0, 0.1))))


def _shifted(result: bytes, by: float) -> bytes:
    """A result.json with its accuracies shifted, and the checksum of its bytes; to make JSON anew takes longer."""

    def shifted(found: re.Match[bytes]) -> bytes:
        return found[1] + str(min(1.0, max(0.0, float(found[2]) + by))).encode()

    text = re.sub(rb'(_accuracy": )([0-9.]+)', shifted, result)
    head = text[: text.rindex(b'"\n}') - 8]
    return head + b"%08x" % zlib.crc32(head) + b'"\n}\n'


def _draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for domain in ("art", "cartoon", "photo", "sketch"):
        for name in ("cat", "dog", "owl"):
            (folder / domain / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / domain / name / f"{number}.png")


def measured(command: str, folder: Path) -> dict[str, float]:
    """Seconds, the processor's seconds, and the largest memory of a command, in gigabytes."""
    imports = memory()
    began, worked = time.perf_counter(), time.process_time()
    {"plan": planned, "status": _status, "report": _report}[command](folder)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "processor": round(time.process_time() - worked, 2),
        "gigabytes": round(memory(), 2),
        "gigabytes_of_imports": round(imports, 2),
    }


def _status(folder: Path) -> None:
    from largedrop.cli import main

    main(["sweep", "--status", "--output", str(folder / "out")])


def _report(folder: Path) -> None:
    from largedrop.report.report import write_report
    from largedrop.runs.read import read_runs

    write_report(read_runs(folder / "out"), folder / "report")


def memory() -> float:
    """The largest memory that this process has had, in gigabytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


if __name__ == "__main__":
    main()
