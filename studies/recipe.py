"""The trials behind docs/recipe.md: single fine-tunings on ``emoji`` with a seed that the demo does not use.

    python studies/recipe.py --test-domain openmoji --output trials optimizer=adamw lr=1e-4 batch=8 steps=200

Prints, for each dropout rate, i.i.d. and o.o.d. accuracy of every method in %, the step that i.i.d. accuracy chose, and
the course of both accuracies. Only the i.i.d. column may choose.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import largedrop as ld
from largedrop.data.views.batches import HostViews
from largedrop.training.device import choose_device
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
from largedrop.training.resolve import resolve

SEED = 100


def setting(text: str) -> tuple[str, Any]:
    """``name=value``, the value as JSON where it is some and as text elsewhere."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    """Run one setting at each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", type=setting, metavar="NAME=VALUE")
    parser.add_argument("--test-domain", default="openmoji")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.9])
    parser.add_argument("--output", type=Path, default=Path("trials"))
    options = parser.parse_args()
    data, device = ld.open_dataset("emoji"), choose_device()
    features = FeatureCache(HostViews(data))
    for rate in options.dropout:
        settings = {"size": 96, "seed": SEED, **dict(options.settings)}
        config = resolve(data, device, recipe="short", test_domain=options.test_domain, dropout=rate, **settings)
        try:
            run = train(config, data, options.output / config.run_name, device=device, features=features)
        except ld.CollapseError as error:
            print(f"dropout {rate:g}: {error}")
            continue
        scores = {record.method: (record.iid_accuracy, record.ood_accuracy) for record in run.records}
        print(f"dropout {rate:g}, best step {run.result['best_step']}")
        for method, (iid, ood) in scores.items():
            print(f"  {method:16}{100 * iid:6.1f}{100 * ood:6.1f}")
        for entry in run.result["log"]:
            print(f"  {entry['step']:16}{100 * entry['iid_accuracy']:6.1f}{100 * entry['ood_accuracy']:6.1f}")


if __name__ == "__main__":
    main()
