"""Plain fine-tuning and dropout 0.9 with sixteen masks on PACS at 96 px, seeds 1 and 2: docs/studies/pacs-96.md.

python studies/pacs_96.py --data path/to/PACS --output runs        # train what is missing, and add it to the record
python studies/pacs_96.py --table                                  # from the record beside this file
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import largedrop as ld
from ending import exit_with
from largedrop.experiments.compare import compare, plan
from largedrop.files import read_json, write_json
from largedrop.training.device import choose_device
from paired import interval

RECORD = Path(__file__).with_suffix(".json")
FIRST = Path(__file__).with_name("pacs-first-look.json")
SEEDS = (1, 2)

Scores = dict[tuple[str, float, str, int], tuple[float, float]]


def train(data: ld.Dataset, folder: Path) -> None:
    """Train seed by seed, test domain by test domain; the record is written after each test domain."""
    device = choose_device("cpu")
    settings: dict[str, Any] = {"size": 96, "eval_every": 200, "dropouts": (0.0, 0.9)}
    records = read_json(RECORD)["records"] if RECORD.exists() else []
    known = {(record["test_domain"], record["seed"]) for record in records}
    for seed in SEEDS:
        for domain in data.domains:
            if (domain, seed) in known:
                continue
            planned = plan(data, device, test_domains=[domain], seeds=[seed], **settings)
            found = compare(data, planned, folder, device=device)
            records += [record.to_json() for record in found.records]
            write_json(RECORD, {"records": records})
            print(seed, domain, {record.method: round(100 * (record.ood_accuracy or 0), 1) for record in found.records})


def table() -> None:
    """I.i.d. / o.o.d. by method, and the difference that the rule is about."""
    scores: Scores = {}
    for path in (FIRST, RECORD):
        for each in read_json(path)["records"]:
            if each["method"] != "wise-ft":
                key = each["method"], each["dropout"], each["test_domain"], each["seed"]
                scores[key] = 100 * each["iid_accuracy"], 100 * each["ood_accuracy"]
    domains = sorted({key[2] for key in scores})
    seeds = [
        seed
        for seed in (0, *SEEDS)
        if all(("ema", rate, name, seed) in scores for rate in (0.0, 0.9) for name in domains)
    ]
    print(f"| seed | weights | i.i.d. | o.o.d. | {' | '.join(domains)} |")
    print(f"| --- | --- | ---: | ---: |{' ---: |' * len(domains)}")
    for seed in seeds:
        for told, method, rate in (
            ("plain, best checkpoint", "fine-tuning", 0.0),
            ("plain, exponential average", "ema", 0.0),
            ("0.9, 16 masks, best checkpoint", "fine-tuning", 0.9),
            ("0.9, 16 masks, exponential average", "ema", 0.9),
        ):
            found = np.array([scores[method, rate, name, seed] for name in domains])
            means = " | ".join(f"{value:.1f}" for value in (*found.mean(axis=0), *found[:, 1]))
            print(f"| {seed} | {told} | {means} |")
    new = [seed for seed in seeds if seed]
    gains = np.array(
        [
            np.mean([scores["ema", 0.9, name, seed][1] - scores["fine-tuning", 0.0, name, seed][1] for seed in new])
            for name in domains
        ]
    )
    mean, half = interval(gains)
    verdict = "holds" if mean >= 2 and mean > half else "does not hold"
    print(f"\nSeeds {new}: {mean:+.1f} ± {half:.1f} points: {verdict}.")


def main() -> None:
    """Train, or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="PACS")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table()
    else:
        train(ld.open_dataset(options.data), options.output)


if __name__ == "__main__":
    exit_with(main)
