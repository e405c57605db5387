"""The comparison image by image: means over seeds, counts over all of them, and what only one side recognises."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.helpers import TINY

import largedrop as ld
from largedrop.analysis.outcomes import outcome_of
from largedrop.config import Config
from largedrop.report import behaviour as module
from largedrop.report.behaviour import behaviour_of
from largedrop.runs.run import Run
from largedrop.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> list[Run]:
    """Two seeds of plain fine-tuning and of dropout on a domain, and one of another rate."""
    data, folder = ld.open_dataset(toy), tmp_path_factory.mktemp("runs")
    config = Config(data.name, data.fingerprint, "photo", **{**TINY, "steps": 2}, weights_digest="random")
    settings = [(0.0, 0), (0.0, 1), (0.9, 0), (0.9, 1), (0.5, 0)]
    configs = [replace(config, dropout=dropout, seed=seed) for dropout, seed in settings]
    return [train(each, data, folder / each.run_name) for each in configs]


def test_what_the_page_shows(runs: list[Run], data: ld.Dataset) -> None:
    found = behaviour_of(runs, data, ["photo"], 0.9)
    assert found is not None
    assert (found.rate, found.seeds, found.notes) == (0.9, 2, [])
    assert [[cell for cell, _ in row[:2]] for row in found.confidence] == [
        ["held-out images", "plain"],
        ["", "dropout 0.9"],
        ["", "difference"],
        ["test domain", "plain"],
        ["", "dropout 0.9"],
        ["", "difference"],
    ]
    ood = [run.result["methods"]["fine-tuning"]["ood_accuracy"] for run in runs]
    cells = [row[2][0] for row in found.confidence]
    assert cells[3].startswith(f"{50 * (ood[0] + ood[1]):.1f} ± ")
    assert cells[4].startswith(f"{50 * (ood[2] + ood[3]):.1f} ± ")
    (domain,) = found.domains
    assert domain.name == "photo"
    assert [row[0][0] for row in domain.classes] == ["blue", "green", "red"]
    assert {row[1][0] for row in domain.classes} == {"6"}
    for matrix in domain.matrices:  # six images a class, with two seeds
        assert [sum(int(text) for text, *_ in cells if text != "·") for _, cells in matrix.rows] == [12, 12, 12]
    assert (len(domain.plain), len(domain.dropout)) == (min(6, domain.only[0]), min(6, domain.only[1]))


def test_cards_say_what_each_side_predicts(runs: list[Run], data: ld.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_or_none(run: Run, of: ld.Dataset) -> object:
        outcome = outcome_of(run, of)
        right = np.full(18, run.config.dropout > 0)
        labels = of.labels[of.indices("photo")]
        return replace(outcome, right=right, predicted=labels if right.all() else (labels + 1) % 3)

    monkeypatch.setattr(module, "outcome_of", all_or_none)
    found = behaviour_of(runs, data, ["photo"], 0.9)
    assert found is not None
    (domain,) = found.domains
    assert domain.only == (0, 18)
    assert domain.plain == []
    assert len(domain.dropout) == 6
    first = domain.dropout[0]
    assert (first.name, first.first, first.second) == ("photo/blue/0.png", "blue", "plain: green, dropout: blue")
    assert Image.open(io.BytesIO(base64.b64decode(first.jpeg))).size == (128, 128)


def test_where_there_is_nothing_to_compare(runs: list[Run], data: ld.Dataset) -> None:
    assert behaviour_of(runs, data, ["ink"], 0.9) is None
    assert behaviour_of(runs[:2], data, ["photo"], 0.9) is None
    half = behaviour_of(runs, data, ["photo"], 0.5)
    assert half is not None
    assert half.seeds == 1


def test_a_run_without_logits_is_said(runs: list[Run], data: ld.Dataset, tmp_path: Path) -> None:
    lost = replace(runs[0], folder=tmp_path / "lost")
    found = behaviour_of([lost, *runs[1:]], data, ["photo"], 0.9)
    assert found is not None
    assert found.seeds == 1
    assert len(found.notes) == 1
    assert "lost" in found.notes[0]
