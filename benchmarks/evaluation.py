"""Ten evaluations of a split against decoding it anew each time, as the field's scripts do.

Ours opens the folder with an empty cache, which decodes every image once, and evaluates ten times. Theirs reads,
decodes and transforms each file with Pillow and torchvision every time and evaluates in float32, NCHW. The third time
is that of theirs with our network: what the decoding alone costs.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --data path/to/PACS --size 224
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision import transforms

from largedrop.data import Dataset, open_dataset
from largedrop.data.views.batches import HostViews
from largedrop.models.fast.folding import speed_up
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from largedrop.training.evaluation import autocast, logits
from timing import alternate, parser, report
from training_step import network

TIMES = 10
BATCH = 64


def written(folder: Path, side: int = 227) -> Path:
    """The emoji as JPEG files of the size of PACS's images."""
    data = open_dataset("emoji")
    for number, key in enumerate(data.keys):
        image = data.images[number]
        path = (folder / key).with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def main() -> None:
    """Time both and print the ratio."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--data", help="a folder domain/class/image; by default the emoji, written as JPEG files")
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--precision", default="auto", help="of our side: auto, float32 or bfloat16")
    options.add_argument("--images", type=int, default=512, help="of the last domain")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device("cpu")
    precision = choose_precision(chosen.precision, device)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LARGEDROP_CACHE"] = str(Path(temporary) / "cache")
        root = Path(chosen.data) if chosen.data else written(Path(temporary) / "emoji")
        began = time.perf_counter()
        data = open_dataset(root)
        seconds_to_open = time.perf_counter() - began
        indices = data.indices(data.domains[-1])[: chosen.images]
        share = len(indices) / len(data)  # of the time to open, what these images took
        compare(chosen, data, root, indices, precision, seconds_to_open * share)


def compare(
    chosen: argparse.Namespace,
    data: Dataset,
    root: Path,
    indices: npt.NDArray[np.int64],
    precision: str,
    opening: float,
) -> None:
    """Time the three sides."""
    plain, fast = network(chosen.model, chosen.size).eval(), network(chosen.model, chosen.size).eval()
    fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    speed_up(fast)
    views = HostViews(data)
    transform = transforms.Compose(
        [
            transforms.Resize((chosen.size, chosen.size)),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def decoded(module: torch.nn.Module, kind: str) -> None:
        with torch.inference_mode(), autocast(kind, torch.device("cpu")):
            for start in range(0, len(indices), BATCH):
                paths = [root / data.keys[int(index)] for index in indices[start : start + BATCH]]
                module(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths]))

    found = alternate(lambda: logits(fast, views, indices, precision), lambda: decoded(plain, "float32"), chosen.rounds)
    same = alternate(lambda: logits(fast, views, indices, precision), lambda: decoded(fast, precision), chosen.rounds)
    ours = opening + TIMES * found["ours_seconds"]
    result = {
        "ratio": round(TIMES * found["theirs_seconds"] / ours, 3),
        "spread": found["spread"],
        "ratio_same_network": round(TIMES * same["theirs_seconds"] / ours, 3),
        "opening_seconds": round(opening, 3),
        "ours_images_per_s": round(len(indices) / found["ours_seconds"], 1),
        "theirs_images_per_s": round(len(indices) / found["theirs_seconds"], 1),
        "rounds": chosen.rounds,
        "model": chosen.model,
        "size": chosen.size,
        "images": len(indices),
        "precision": precision,
    }
    report("evaluation", result, chosen.json)


if __name__ == "__main__":
    main()
