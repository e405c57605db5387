"""Does dropout change how sure a model is: confidence and its errors on stored logits, plain against 0.9.

    python studies/calibration.py path/to/PACS runs/PACS --output studies/calibration.json

DATA is what the runs below RUNS were trained on. Pairs are of the same test domain and seed, and of rate 0 and 0.9 with
the masks that are asked for; the numbers are those of the checkpoint of best i.i.d. accuracy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import largedrop as ld
from ending import exit_with
from largedrop.analysis.outcomes import PARTS, Outcome, outcome_of
from largedrop.files import write_json
from largedrop.runs.read import read_runs

MEASURES = ("accuracy", "confidence", "ece", "nll", "brier")


def row(outcome: Outcome) -> dict[str, Any]:
    """What is kept of a run."""
    config = outcome.run.config
    kept = ("test_domain", "seed", "dropout", "masks", "steps", "size", "lr")
    found: dict[str, Any] = {name: getattr(config, name) for name in kept}
    found |= {"data": config.data, "temperature": outcome.temperature}
    for part in PARTS:
        found[part] = {"accuracy": outcome.accuracy[part]}
        for name, each in (("", outcome.before[part]), (" at T", outcome.after[part])):
            found[part] |= {f"{measure}{name}": getattr(each, measure) for measure in MEASURES[1:]}
    return found


def table(rows: list[dict[str, Any]], rate: float) -> list[str]:
    """A line for each part and measure: plain, dropout, and the difference in each test domain."""
    found = {(each["test_domain"], each["seed"], each["dropout"]): each for each in rows}
    pairs = [(domain, seed) for domain, seed, dropout in found if dropout == 0 and (domain, seed, rate) in found]
    domains = sorted({domain for domain, _ in pairs})
    lines = [f"{len(pairs)} pairs, test domains {', '.join(domains)}"]
    for part in PARTS:
        for name in found[(*pairs[0], 0.0)][part]:
            sides = [np.array([found[(*pair, side)][part][name] for pair in pairs]) for side in (0.0, rate)]
            apart = sides[1] - sides[0]
            each = [apart[[domain == pair[0] for pair in pairs]].mean() for domain in domains]
            told = " ".join(f"{domain} {value:+.3f}" for domain, value in zip(domains, each, strict=True))
            told += f"; lower in {int((apart < 0).sum())}"
            lines.append(f"{part} {name}: {sides[0].mean():.3f} {sides[1].mean():.3f} {np.mean(each):+.3f} ({told})")
    means = [np.mean([found[(*pair, side)]["temperature"] for pair in pairs]) for side in (0.0, rate)]
    return [*lines, f"temperature: {means[0]:.2f} {means[1]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--masks", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--output", type=Path, help="JSON; rows that it has already are kept")
    chosen = parser.parse_args()
    data = ld.open_dataset(chosen.data)
    rows = []
    for folder in chosen.runs:
        for stored in read_runs(folder).runs:
            config, masks = stored.config, chosen.masks if stored.config.dropout else 1
            wanted = config.dropout in (0, 0.9) and config.masks == masks
            if wanted and config.steps == (chosen.steps or config.steps):
                rows.append(row(outcome_of(ld.Run.open(folder / stored.name), data)))
    print(*table(rows, 0.9), sep="\n")
    if chosen.output:
        before = json.loads(chosen.output.read_text("utf-8"))["rows"] if chosen.output.exists() else []
        write_json(chosen.output, {"rows": [*before, *rows]})


if __name__ == "__main__":
    exit_with(main)
