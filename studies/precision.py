"""Does it matter for the accuracy whether a network is trained in bfloat16 or in float32?

The demo's setting on one test style: each seed once in each precision, with everything else the same, and the paired
differences. Prints a table and writes it as JSON.

    python studies/precision.py --seeds 4 --output precision.json
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from ending import exit_with
from largedrop.data import open_dataset
from largedrop.data.views.batches import HostViews
from largedrop.files import write_json
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
from largedrop.training.resolve import resolve

PRECISIONS = ("float32", "bfloat16")
SCORES = ("iid_accuracy", "ood_accuracy")


def estimate(values: list[float]) -> dict[str, float]:
    """Mean and standard error, in %, and n."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": round(100 * statistics.fmean(values), 2), "error": round(100 * error, 2), "n": len(values)}


def main() -> None:
    """Train every pair and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=4)
    options.add_argument("--test-domain", default="openmoji")
    options.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.9])
    options.add_argument("--steps", type=int, default=160)
    options.add_argument("--output", type=Path)
    chosen = options.parse_args()
    data = open_dataset("emoji")
    features = FeatureCache(HostViews(data))
    rows: list[dict[str, Any]] = []
    for dropout in chosen.dropout:
        found: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
        seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for seed in range(chosen.seeds):
            for precision in PRECISIONS:
                config = resolve(
                    data,
                    torch.device("cpu"),
                    recipe="short",
                    test_domain=chosen.test_domain,
                    dropout=dropout,
                    seed=seed,
                    steps=chosen.steps,
                    eval_every=max(1, chosen.steps // 4),
                    size=96,
                    precision=precision,
                )
                with tempfile.TemporaryDirectory() as folder:
                    run = train(config, data, Path(folder) / "run", features=features)
                result = run.result["methods"]["fine-tuning"]
                found[precision].append({score: result[score] for score in SCORES})
                seconds[precision].append(result["seconds"])
        for score in SCORES:
            sides = {name: [entry[score] for entry in found[name]] for name in PRECISIONS}
            paired = [low - full for full, low in zip(sides["float32"], sides["bfloat16"], strict=True)]
            row = {name: estimate(values) for name, values in {**sides, "difference": paired}.items()}
            rows.append({"dropout": dropout, "score": score, **row})
            shown = "   ".join(f"{name} {row[name]['mean']:6.2f} ± {row[name]['error']:.2f}" for name in row)
            print(f"dropout {dropout:g}  {score:12}  {shown}  (n = {chosen.seeds})", flush=True)
        times = {name: round(statistics.median(values), 1) for name, values in seconds.items()}
        print(f"dropout {dropout:g}  seconds a run: {times}", flush=True)
    if chosen.output:
        write_json(chosen.output, {"rows": rows, "steps": chosen.steps, "test_domain": chosen.test_domain})


if __name__ == "__main__":
    exit_with(main)
