"""The whole training loop against the bare step on a resident batch: what the rest of the loop costs.

The loop is ``training.loop.train`` itself: sampling, views, step, losses, collapse watch. After each of its steps a
bare step of the same kind of network is timed. A ratio of 1 means that the rest costs nothing; evaluations are not in
it (benchmarks/evaluation.py).

    python benchmarks/end_to_end.py
    python benchmarks/end_to_end.py --data path/to/PACS --size 224 --batch 32
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from largedrop.data import open_dataset
from largedrop.reporter import Reporter
from largedrop.training.device import choose_device
from largedrop.training.loop import TRAINING_COST, train
from largedrop.training.resolve import resolve
from timing import parser, report, summary
from training_step import ours


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=30)
    options.add_argument("--data", default="emoji")
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--batch", type=int, default=16, help="images from each training domain")
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)
    data = open_dataset(chosen.data, bound=max(320, chosen.size * 5 // 4))
    warm = 5
    steps = chosen.rounds + warm
    config = resolve(
        data,
        device,
        recipe="short",
        test_domain=data.domains[-1],
        size=chosen.size,
        batch=chosen.batch,
        steps=steps,
        eval_every=steps,
        head="random",
        lr=1e-6,  # a random head may stay one, and must not collapse
    )
    images = chosen.batch * (len(data.domains) - 1)
    step, _ = ours(config.model, chosen.size, torch.device("cpu"), config.precision)
    resident = torch.randn(images, 3, chosen.size, chosen.size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(7, (images,))
    pairs: list[tuple[float, float]] = []
    began: float | None = None

    class Bare(Reporter):
        def advance(self, work: float) -> None:
            nonlocal began
            now = time.perf_counter()
            if work != TRAINING_COST * images:
                return  # a part of an evaluation
            step(resident, labels)
            step.read()
            after = time.perf_counter()
            if began is not None:
                pairs.append((now - began, after - now))
            began = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        train(config, data, Path(folder) / "run", device=device, reporter=Bare())
    kept = pairs[warm - 1 :]
    found = {**summary(kept), "rounds": len(kept)}
    what = {"data": data.name, "size": chosen.size, "images": images, "precision": config.precision}
    speed = {"ours_images_per_s": round(images / found["ours_seconds"], 1)}
    report("end_to_end", {**found, **what, **speed}, chosen.json, device)


if __name__ == "__main__":
    main()
