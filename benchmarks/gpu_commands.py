"""Every command on a GPU as a user would call it, and what happens where its memory runs out: parts of ``gpu.py``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image

import largedrop as ld
from gpu_paths import Found

STEPS = ("--size", "96", "--steps", "60", "--eval-every", "30")


def commands(options: argparse.Namespace, device: torch.device) -> Found:
    """The commands on the embedded emoji, several at a time: exit codes, seconds, and the ends of what they print."""
    on = "--device", str(device)
    with tempfile.TemporaryDirectory() as folder:
        fast, images = f"{folder}/fast", f"{folder}/images"
        write_images(Path(images), 400)
        first = ("train", "emoji", "--test-domain", "openmoji", *STEPS, *on)
        found = side_by_side(
            {
                "train --plain": (*first, "--plain", "--output", f"{folder}/plain"),
                "train": (*first, "--output", fast),
                "train in float32": (*first, "--precision", "float32", "--output", f"{folder}/float32"),
                "train a transformer": transformer(folder, on),
                "train --fit linear": (*first, "--fit", "linear", "--output", f"{folder}/linear"),
                "compare --jobs 2": comparison(folder, on),
                "advise": ("advise", "emoji", "--size", "96", "--output", f"{folder}/advice", *on),
            }
        )
        run = str(next(Path(fast).glob("runs/*"), fast))
        found |= side_by_side(
            {
                "predict": ("predict", run, images, "--output", f"{folder}/predicted.csv", *on),
                "evaluate": ("evaluate", run, images, "--output", f"{folder}/evaluation", *on),
                "inspect": ("inspect", fast, "--data", "emoji", "--output", f"{folder}/inspection", *on),
                "export": ("export", run, "--output", f"{folder}/model.pt2"),
                "report": ("report", f"{folder}/compared", "--output", f"{folder}/report"),
            }
        )
    return found


def side_by_side(calls: Mapping[str, Sequence[str]]) -> Found:
    """What some calls of ``largedrop`` ended with, one for two processors at a time."""
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        found = dict(zip(calls, pool.map(called, calls.values()), strict=True))
    for name, ended in found.items():
        print(f"  {name}: {ended}", flush=True)
    return found


def transformer(folder: str, on: Sequence[str]) -> tuple[str, ...]:
    """A small vision transformer with random weights."""
    model = ("--model", "vit_tiny_patch16_224", "--weights", "random", "--size", "96")
    steps = ("--steps", "40", "--eval-every", "20")
    return ("train", "emoji", "--test-domain", "noto", *model, *steps, *on, "--output", f"{folder}/transformer")


def comparison(folder: str, on: Sequence[str]) -> tuple[str, ...]:
    """Plain fine-tuning and dropout on two test domains."""
    arms = ("--dropout", "0,0.9", "--test-domains", "openmoji,noto", "--jobs", "2")
    return ("compare", "emoji", *arms, *STEPS, *on, "--output", f"{folder}/compared")


def write_images(folder: Path, count: int) -> None:
    """Some of the emoji as PNG files in folders of their classes."""
    data = ld.open_dataset("emoji")
    for number in range(0, len(data), max(1, len(data) // count)):
        to = folder / data.classes[int(data.labels[number])]
        to.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[number]).save(to / f"{number}.png")


def environment() -> dict[str, str]:
    """This process's, in which a command finds this package and all that this process finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(ld.__file__).parents[1]), *sys.path[1:]])}


def called(arguments: Sequence[str], seconds: float = 240.0) -> Found:
    """What ``largedrop`` with some arguments ended with."""
    began = time.perf_counter()
    whole = [sys.executable, "-m", "largedrop", *arguments]
    try:
        done = subprocess.run(whole, env=environment(), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"code": None, "seconds": seconds}
    told = done.stderr if done.returncode else done.stdout + done.stderr
    lines = told.strip().splitlines()[-12 if done.returncode else -3 :]
    return {"code": done.returncode, "seconds": round(time.perf_counter() - began, 1), "told": lines}


def memory(options: argparse.Namespace, device: torch.device) -> Found:
    """Runs while something else holds nearly all of the GPU's memory: none may end with more than a line.

    With 6 GiB left the images stay on the host; with 1.5 GiB a large step finds no room, is tried again with the images
    on the host, and ends.
    """
    found: Found = {}
    for left, batch in ((6.0, 8), (1.5, 128)):
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.empty(max(0, free - int(left * 2**30)), dtype=torch.uint8, device=device)
        with tempfile.TemporaryDirectory() as folder:
            large = ("--size", "224", "--batch", str(batch), "--steps", "20", "--eval-every", "10")
            arguments = ("train", "emoji", "--test-domain", "noto", *large, "--device", str(device))
            found[f"{left} GiB, batch {batch}"] = called([*arguments, "--output", folder])
        print(f"  {left} GiB: {found[f'{left} GiB, batch {batch}']}", flush=True)
        del held
        torch.cuda.empty_cache()
    return found
