"""Which networks predict: what a run, its folder and a checkpoint stand for, and what cannot predict together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tests.helpers import config, refusal, result, store

from largedrop.models.network import Network, Spec
from largedrop.models.sizes import representation_units
from largedrop.prediction.ensemble import open_networks
from largedrop.runs.checkpoint import save_model
from largedrop.runs.run import Run

SPEC = Spec("test_efficientnet", "random", ("red", "green"), 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), dropout=0.9)


def save(path: Path, classes: tuple[str, ...] = SPEC.classes, bias: float = 0.0) -> Path:
    backbone = timm.create_model(SPEC.model, pretrained=False, num_classes=0)
    network = Network(backbone, representation_units(backbone), replace(SPEC, classes=classes))
    torch.nn.init.constant_(network.head.bias, bias)
    save_model(path, network, {})
    return path


def bias(*models: Any) -> list[float]:
    return [float(network.head.bias[0].detach()) for network in open_networks(models)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run that hands over ``ema``."""
    folder = store(tmp_path / "trained" / "runs", config(), result(0.9, 0.8, model="ema.safetensors"))
    save(folder / "best.safetensors", bias=1)
    save(folder / "ema.safetensors", bias=2)
    return folder


def test_a_run_gives_the_model_that_it_hands_over(run: Path) -> None:
    assert bias(run) == bias(str(run)) == bias(Run.open(run)) == [2]
    assert bias(run / "best.safetensors", run) == [1, 2]
    (network,) = open_networks(run)
    assert not network.training


def test_another_runs_checkpoint_in_its_place_is_refused(run: Path) -> None:
    backbone = timm.create_model(SPEC.model, pretrained=False, num_classes=0)
    network = Network(backbone, representation_units(backbone), SPEC)
    save_model(run / "ema.safetensors", network, {"run": "0123456789ab"})
    assert "is of another run: of the config 0123456789ab" in refusal(open_networks, run)


def test_a_folder_with_one_run_stands_for_it(run: Path, tmp_path: Path) -> None:
    assert bias(tmp_path / "trained") == bias(run.parent) == [2]
    store(run.parent, config(seed=1), result(0.9, 0.8))
    said = refusal(open_networks, tmp_path / "trained")
    assert said == f"{tmp_path / 'trained'} holds 2 runs: name one of them, such as {run}"


def test_what_is_no_model(run: Path, tmp_path: Path) -> None:
    assert refusal(open_networks, []) == "no model is named"
    assert refusal(open_networks, tmp_path / "none") == f"there is no run or checkpoint {tmp_path / 'none'}"
    assert refusal(open_networks, tmp_path) == f"no finished run in {tmp_path}"
    begun = store(tmp_path, config(seed=2), None)
    assert refusal(open_networks, begun) == f"no finished run in {begun} (one was begun there and is not finished)"
    linear = store(tmp_path, config(fit="linear"), result(0.9, 0.8))
    assert refusal(open_networks, linear) == f"{linear} is a linear fit, which keeps no network to predict with"
    (run / "ema.safetensors").unlink()
    gone = f"{run / 'ema.safetensors'} is gone, though its run is finished: remove {run} and train it again"
    assert refusal(open_networks, run) == gone
    torch.save({}, tmp_path / "model.pt")
    assert "model.pt is a pickle, which is not opened" in refusal(open_networks, tmp_path / "model.pt")
    (network,) = open_networks(run / "best.safetensors")
    said = refusal(open_networks, [network])
    assert said == "a model is a run, its folder or a checkpoint file, not a Network"


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("green", "red"), "have their classes in different orders, so they cannot predict together"),
        (("red", "blue"), "have different classes, so they cannot predict together: only one of them knows 'green'"),
        (
            ("red", "green", "red"),
            "have different classes, so they cannot predict together: one of them has a class twice",
        ),
    ],
)
def test_members_with_other_classes_are_refused(tmp_path: Path, classes: tuple[str, ...], said: str) -> None:
    one, other = save(tmp_path / "one"), save(tmp_path / "other", classes)
    assert refusal(open_networks, [one, one, other]) == f"{other} and {one} {said}"
