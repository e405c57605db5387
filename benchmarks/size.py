"""A dataset of DomainNet's shape: how long it takes to open, how much memory, and whether a batch costs more.

Makes 586,575 tiny images in 345 classes and 6 domains (2.4 GB on a file system with blocks of 4 KiB), and opens them in
processes of their own: the first time, when they are read and decoded, and again, when nothing has changed. Seconds are
those of the processor where `--processor-time` is given, for a machine that others use.

    python benchmarks/size.py --folder /tmp/domainnet-shaped --processor-time
    python benchmarks/size.py --share 0.01
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from largedrop.catalog.facts import published

KINDS = 64
"""Number of different images."""


def main() -> None:
    """Make the images where they are not there, open them twice, and print what it took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, help="of the images, which stay there; by default a temporary one")
    options.add_argument("--share", type=float, default=1.0, help="of the number of images")
    options.add_argument("--rounds", type=int, default=3, help="how often they are opened again")
    options.add_argument("--processor-time", action="store_true")
    options.add_argument("--json", action="store_true")
    options.add_argument("--opens", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.opens:
        print(json.dumps(opened(*chosen.opens)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary) / "images"
        count = write(folder, chosen.share)
        cache = Path(temporary) / "cache"
        found = [once(folder, cache) for _ in range(1 + chosen.rounds)]
    clock = "processor" if chosen.processor_time else "seconds"
    again = [each[clock] for each in found[1:]]
    result = {
        "images": count,
        "first": found[0][clock],
        "again": float(np.median(again)),
        "again_range": [min(again), max(again)],
        "gigabytes_first": found[0]["gigabytes"],
        "gigabytes_again": max(each["gigabytes"] for each in found[1:]),
        "gigabytes_of_imports": found[0]["imports"],
        "batch_milliseconds": float(np.median([each["batch"] for each in found])),
    }
    print(json.dumps(result, indent=None if chosen.json else 2))


def write(folder: Path, share: float = 1.0) -> int:
    """Write images in DomainNet's domains and classes, unless the folder is there; return their number."""
    facts = published("DomainNet")
    pixels = np.random.default_rng(0).integers(0, 256, (KINDS, 12, 16, 3), np.uint8)
    contents = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    total = 0
    for domain, images in facts.domains.items():
        each, rest = divmod(max(round(share * images), len(facts.classes)), len(facts.classes))
        for number, name in enumerate(facts.classes):
            count = each + (number < rest)
            total += count
            inside = folder / domain / name
            if inside.is_dir():
                continue
            inside.mkdir(parents=True)
            for index in range(count):
                (inside / f"{domain}_{number:03d}_{index:06d}.jpg").write_bytes(contents[index % KINDS])
    return total


def once(folder: Path, cache: Path) -> dict[str, float]:
    """What opening the images takes, in a process of its own."""
    command = [sys.executable, __file__, "--opens", str(folder), str(cache)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def opened(folder: Path, cache: Path) -> dict[str, float]:
    """Seconds, the processor's seconds, and the largest memory, of opening; and milliseconds for the indices and views
    of a training batch of 32 images from each domain but one.
    """
    import torch

    from largedrop.data import open_dataset
    from largedrop.data.sampling import batch_indices
    from largedrop.data.views.host import training_batch

    torch.set_num_threads(1)
    imports = memory()
    began, worked = time.perf_counter(), time.process_time()
    data = open_dataset(folder, cache=cache)
    result = {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - worked,
        "gigabytes": memory(),
        "imports": imports,
    }
    split = data.split(data.domains[-1], seed=0)
    times = []
    for step in range(40):
        worked = time.process_time()
        indices = batch_indices(split.train, 32, 0, step)
        training_batch([data.images[index] for index in indices], 32, 0, step, (0.5,) * 3, (0.5,) * 3)
        times.append(1000 * (time.process_time() - worked))
    return {**result, "batch": float(np.median(times[10:]))}


def memory() -> float:
    """The largest memory that this process has had, in gigabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
