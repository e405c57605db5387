"""Predicting image files against the bare network on a batch that is in memory already.

Ours is all that `largedrop predict` does, from the files to a CSV file: reading, decoding, views, network, writing. The
other side gives the same networks as many images of the same size, in batches of the same size.

    python benchmarks/predict.py
    python benchmarks/predict.py --images-in path/to/photos --model resnet50 --batch 32
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch

from evaluation import written
from largedrop.prediction.images import find_images
from largedrop.prediction.output import write_predictions
from largedrop.prediction.predict import predictions, probabilities, ready
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from timing import alternate, parser, report
from training_step import network


def main() -> None:
    """Time both and print the ratio: the share of the bare network's speed that is left."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--images-in", help="a folder of images; by default the emoji, written as JPEG files")
    options.add_argument("--model", default="tf_efficientnet_lite0")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--side", type=int, default=227, help="of the JPEG files, in pixels")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="float32", help="auto, float32 or bfloat16")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)
    precision = choose_precision(chosen.precision, device)
    keep_freed_memory()
    net = network(chosen.model, chosen.size)
    with tempfile.TemporaryDirectory() as temporary:
        images = chosen.images_in or written(Path(temporary) / "emoji", chosen.side)
        paths = find_images([images])[: chosen.images]
        output = Path(temporary) / "predictions.csv"

        def ours() -> None:
            found = predictions(
                [net],
                paths,
                top=1,
                unsure_below=0.0,
                calibrated=True,
                batch=chosen.batch,
                device=device,
                precision=precision,
            )
            with open(output, "wb") as file:
                write_predictions(found, file, "csv", 1)

        views = torch.randint(256, (chosen.batch, chosen.size, chosen.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

        def bare() -> None:
            with ExitStack() as stack:
                stack.enter_context(ready(net, device))
                for start in range(0, len(paths), chosen.batch):
                    part = views[: len(paths) - start]
                    probabilities([net], {chosen.size: part.to(device)}, device, precision)

        found = alternate(ours, bare, chosen.rounds, device, chosen.processor_time)
    result = {
        **found,
        "ours_images_per_s": round(len(paths) / found["ours_seconds"], 1),
        "bare_images_per_s": round(len(paths) / found["theirs_seconds"], 1),
        "model": chosen.model,
        "size": chosen.size,
        "batch": chosen.batch,
        "images": len(paths),
        "precision": precision,
    }
    report("predict", result, chosen.json, device)


if __name__ == "__main__":
    main()
