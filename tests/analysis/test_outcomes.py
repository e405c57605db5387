"""Outcomes: what is read from stored logits is what the checkpoint says, and pairs are of the same seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.helpers import TINY, refusal

import largedrop as ld
from largedrop.analysis.outcomes import Outcome, Pairing, outcome_of, pairing_of
from largedrop.config import Config
from largedrop.measures.calibration import calibration, softmax
from largedrop.runs.checkpoint import load_model
from largedrop.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_heads")


def test_the_outcome_of_a_run(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    run = train(replace(config, steps=2), data, tmp_path / "run")
    found = outcome_of(run, data)
    split = data.split("photo", 0)
    logits = load_file(run.folder / f"outputs/{run.result['best_step']:06d}.safetensors")["ood"].numpy()
    assert found.temperature == load_model(run.best).temperature
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    assert found.accuracy["ood"] == found.right.mean() == run.result["methods"]["fine-tuning"]["ood_accuracy"]
    assert found.before["ood"] == calibration(softmax(logits), data.labels[split.ood])
    assert found.after["ood"] == calibration(softmax(logits, found.temperature or 1.0), data.labels[split.ood])
    assert found.before["iid"].n == len(split.iid)
    fewer = replace(data, labels=data.labels.copy(), classes=(*data.classes, "violet"))
    assert refusal(outcome_of, run, fewer).endswith(" must have the logits of 6 'iid' images and 4 classes")
    run.result["best_step"] = None
    assert refusal(outcome_of, run, data) == "run: its result.json has no best step"


def outcome(config: Config, right: list[bool]) -> Outcome:
    run: Any = ld.Run(Path("run"), config, {})
    return Outcome(run, 1.0, np.zeros(len(right), np.int64), np.array(right), {}, {}, {})


def test_pairs_are_of_seeds_that_both_have(data: ld.Dataset) -> None:
    config = Config(data.name, data.fingerprint, "photo", **TINY, weights_digest="random", dropout=0.0)
    count = len(data.indices("photo"))
    yes, no = [True] * count, [False] * count
    mixed = [at == 0 for at in range(count)]
    every = [
        outcome(config, no),
        outcome(replace(config, seed=1), mixed),
        outcome(replace(config, seed=2), yes),
        outcome(replace(config, dropout=0.9, seed=1), yes),
        outcome(replace(config, dropout=0.9), yes),
        outcome(replace(config, dropout=0.5), no),
        outcome(replace(config, dropout=0.9, test_domain="ink", seed=2), no),
    ]
    found = pairing_of(every, data, "photo", 0.9)
    assert isinstance(found, Pairing)
    assert [each.run.config.seed for each in found.plain] == [each.run.config.seed for each in found.dropout] == [0, 1]
    # The first image is recognised by plain fine-tuning with one seed.
    assert found.only(dropout=True).tolist() == data.indices("photo").tolist()[1:]
    assert found.only(dropout=False).tolist() == []
    assert pairing_of(every, data, "oil", 0.9) is None
    # Of runs that are tested on two domains, each has its own images.
    both = replace(config, also_tested="ink")
    marks = [domain == data.domain_index("ink") for domain in data.domain_ids[both.split_of(data).ood]]
    together = [outcome(both, marks), outcome(replace(both, dropout=0.9), [not mark for mark in marks])]
    for domain, dropout in (("ink", False), ("photo", True)):
        pairing = pairing_of(together, data, domain, 0.9)
        assert pairing is not None
        assert pairing.only(dropout).tolist() == pairing.indices.tolist() == data.indices(domain).tolist()
    assert pairing_of(every, data, "ink", 0.9) is None
