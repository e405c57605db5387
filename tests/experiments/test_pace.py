"""Paces: of finished runs where there are any, else by the network's own speed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import TINY

import largedrop as ld
from largedrop.config import Config
from largedrop.experiments import pace
from largedrop.experiments.pace import LINEAR, Paces
from largedrop.files import write_json
from largedrop.training.loop import cost

CPU = torch.device("cpu")

ACCURACIES = {"iid_accuracy": 0.5, "ood_accuracy": 0.5}


@pytest.fixture
def config(data: ld.Dataset) -> Config:
    return Config(data.name, data.fingerprint, "photo", **TINY, weights_digest="random")


def finished(folder: Path, config: Config, seconds: Any) -> Path:
    write_json(folder / "config.json", config.to_json())
    scores = {**ACCURACIES, "steps": config.steps}
    methods = {"fine-tuning": {**scores, "seconds": seconds}, "linear-probe": {**scores, "seconds": 9}}
    log = [{**ACCURACIES, "step": 0, "iid_by_domain": {"ink": 0.5, "oil": 0.5}}]
    write_json(folder / "result.json", {"methods": methods, "best_step": 0, "log": log})
    return folder


def test_the_pace_of_finished_runs(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    other = replace(config, seed=1, steps=12)
    folders = [finished(tmp_path / "a", config, 3.0), finished(tmp_path / "b", other, 5.0)]
    work = cost(config, data.split("photo", 0)) + cost(other, data.split("photo", 1))
    paces = Paces(data, CPU, folders)
    assert paces.of(replace(config, dropout=0.1)) == pytest.approx(8.0 / work)
    assert not paces.rough


def test_what_says_nothing_of_the_pace(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_measure", lambda config, device: 0.25)
    folders = [
        finished(tmp_path / "foreign", replace(config, fingerprint="else"), 1.0),
        finished(tmp_path / "larger", replace(config, size=64), 1.0),
        finished(tmp_path / "damaged", config, "soon"),
        tmp_path / "missing",
    ]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "result.json").write_text(json.dumps({"methods": {}}))
    paces = Paces(data, CPU, [*folders, tmp_path / "cut"])
    assert not paces.rough
    assert paces.of(config) == 0.25
    assert paces.rough


def test_a_look_at_the_network(data: ld.Dataset, config: Config) -> None:
    before = torch.random.get_rng_state()
    paces = Paces(data, CPU, [])
    assert paces.of(config) > 0
    assert paces.of(replace(config, lr=0.5)) == paces.of(config)  # looked at once
    assert torch.equal(torch.random.get_rng_state(), before)
    linear = Config(data.name, data.fingerprint, "photo", fit="probe", head="random", optimizer="sgd")
    assert paces.of(linear) == LINEAR
