"""The model card: what a checkpoint says, scores with intervals, and nothing that it does not know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal
from tests.prediction.models import save

import largedrop as ld
from largedrop.config import Config
from largedrop.export.card import card_of
from largedrop.measures.calibration import COLDEST, HOTTEST
from largedrop.measures.intervals import wilson


@pytest.fixture
def network(tmp_path: Path) -> Any:
    found = ld.load_model(save(tmp_path / "model.safetensors", 0))
    config = Config("PACS", "f00d" * 16, "sketch|<b>", dropout=0.9)
    found.about = {
        "config": config.to_json(),
        "domains": ["art_painting", "photo", "sketch|<b>"],
        "iid_accuracy": 0.9,
        "ood_accuracy": 0.75,
    }
    return found


def test_what_a_run_says(network: Any) -> None:
    card = card_of(network, name="sketches", test_images=200, licence="mit", address="hf-hub:me/model")
    assert card.startswith('---\nlicense: "mit"\nlibrary_name: timm\n')
    assert "# sketches\n" in card
    assert 'timm.create_model("hf-hub:me/model", pretrained=True)' in card
    assert "import timm, torch\n" in card
    assert "torch.softmax(logits / 1.5, dim=1)" in card
    assert "| trained on the domains | art\\_painting, photo |" in card
    low, high = (f"{100 * limit:.1f}" for limit in wilson(150, 200))
    assert (
        f"on what it had never seen, sketch\\|\\<b\\>, n = 200, 95 % interval over images | 75.0 [{low}, {high}] |"
        in card
    )
    assert "(mean of the domains) | 90.0 |" in card
    assert "the temperature 1.5, fitted on held-out images" in card
    assert "licence: not stated" in card
    assert "Evaluated on" not in card


@pytest.mark.parametrize(("temperature", "end"), [(COLDEST, "smallest"), (HOTTEST, "largest")])
def test_a_temperature_at_the_end_of_its_range(network: Any, temperature: float, end: str) -> None:
    network.temperature = temperature
    card = card_of(network, name="m")
    assert f"the temperature {temperature:g}, the {end} that is fitted" in card
    assert "too sure" not in card
    assert "import timm, torch  # timm 1.0.16 or newer loads folders\n" in card


def test_several_test_domains_or_none(network: Any) -> None:
    config = network.about["config"]
    network.about = {**network.about, "config": {**config, "also_tested": "photo"}}
    card = card_of(network, name="x")
    assert "| trained on the domains | art\\_painting |" in card
    assert "on what it had never seen, sketch\\|\\<b\\>, photo | 75.0 |" in card
    assert "- It was tested on sketch\\|\\<b\\>, photo, which it had not seen;" in card
    network.about = {**network.about, "config": {**config, "test_domain": ""}, "ood_accuracy": None}
    card = card_of(network, name="x")
    assert "| never trained on | none of its domains |" in card
    assert "It was tested on no domain that it had not seen" in card


def test_what_is_not_known_is_not_said(network: Any) -> None:
    network.about, network.temperature = {}, None
    card = card_of(network, name="a model")
    assert "The checkpoint says none." in card
    assert "does not say what it was tested on" in card
    assert "None was fitted" in card
    assert "logits / 1, dim=1" in card
    assert "interval" not in card
    assert network.spec.weights == "random"
    assert "Pretrained weights" not in card
    network.spec = replace(network.spec, weights="some file")
    assert "- Pretrained weights: some file;" in card_of(network, name="a model")


def test_an_evaluation_is_added(network: Any, toy: Path, tmp_path: Path) -> None:
    found = ld.evaluate(save(tmp_path / "same.safetensors", 0), toy, device="cpu")
    card = card_of(network, name="x", evaluation=found.to_json())
    accuracy = found.models[0].domains["ink"].accuracy
    assert "## Evaluated on toy0\n" in card
    cells = f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}] |"
    assert f"| ink | 18 | {cells}" in card
    assert refusal(card_of, network, name="x", evaluation={"models": []}).startswith("this is no evaluation.json")
    second = ld.evaluate(save(tmp_path / "b.safetensors", 1), toy, against=tmp_path / "same.safetensors", device="cpu")
    assert "| ink | 18 | " + cells in card_of(network, name="x", evaluation=second.to_json())
    (other,), (own,) = (model.weights for model in second.models)
    only = {**second.to_json(), "models": second.to_json()["models"][:1]}
    said = refusal(card_of, network, name="x", evaluation=only)
    assert said == f"the evaluation is of another model: of {other}, and this is {own}; evaluate this one"
    del only["models"][0]["weights"]  # as of an earlier version
    assert "of unknown weights, and this is" in refusal(card_of, network, name="x", evaluation=only)
    network.spec = ld.load_model(save(tmp_path / "z.safetensors", 0, classes=("a", "b", "c"))).spec
    said = refusal(card_of, network, name="x", evaluation=found.to_json())
    assert said == "the evaluation is of a model with other classes"


@pytest.mark.parametrize("field", ["value", "low", "high", "n"])
@pytest.mark.parametrize("odd", [7.667, -1, "x", None])
def test_an_evaluation_that_was_edited(network: Any, toy: Path, tmp_path: Path, field: str, odd: Any) -> None:
    found = ld.evaluate(save(tmp_path / "same.safetensors", 0), toy, device="cpu").to_json()
    found["models"][0]["domains"]["ink"]["accuracy"][field] = odd
    assert refusal(card_of, network, name="x", evaluation=found).startswith("this is no evaluation.json of largedrop")


def test_an_evaluation_whose_confidence_was_edited(network: Any, toy: Path, tmp_path: Path) -> None:
    found = ld.evaluate(save(tmp_path / "same.safetensors", 0), toy, device="cpu").to_json()
    found["models"][0]["after"]["ink"]["confidence"] = 1e308
    said = refusal(card_of, network, name="x", evaluation=found)
    assert said.endswith("(a confidence or calibration error is no fraction)")
