"""ONNX and torch.export: the network's probabilities for any batch, with all that is needed to use them inside."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.helpers import refusal
from tests.prediction.models import save

import largedrop as ld
from largedrop.export import graphs
from largedrop.export.deployed import Deployed, agree, inputs_of, sample_views
from largedrop.export.graphs import write_onnx, write_program


@pytest.fixture
def network(tmp_path: Path) -> Any:
    return ld.load_model(save(tmp_path / "model.safetensors", 0))


def test_onnx_takes_pixels_and_says_what_it_is(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert write_onnx(network, path) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["red", "green", "blue"]
    assert (told["temperature"], told["architecture"]) == ("1.5", "test_efficientnet")
    assert told["input"].startswith("uint8 (n, 32, 32, 3), RGB")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    views = sample_views(network, None)
    assert views.shape == (16, 32, 32, 3)
    for count in (1, 3, 16):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": views[:count]})
        with torch.inference_mode():
            images = torch.stack([network.transform(view) for view in views[:count]])
            expected = network(images)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        np.testing.assert_allclose(probabilities, (expected / 1.5).softmax(1), atol=1e-5)


def test_an_exported_program_takes_what_it_is_told(network: Any, toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    assert write_program(network, path, bare=True, images=[toy / "ink"]) < 1e-5
    extra = {"largedrop.json": ""}
    program: Any = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra).module()
    assert json.loads(extra["largedrop.json"])["input"].startswith("normalised float32 (n, 3, 32, 32)")
    with torch.inference_mode():
        image = network.transform(toy / "ink" / "red" / "0.png")[None]
        torch.testing.assert_close(program(image)[1], (network(image) / 1.5).softmax(1), atol=1e-5, rtol=0)


def test_pixels_are_normalised_as_by_the_transform(network: Any, toy: Path) -> None:
    views = sample_views(network, [toy / "oil"])
    assert views.shape == (18, 32, 32, 3)
    bare = inputs_of(network, views, bare=True)
    torch.testing.assert_close(bare[0], network.transform(toy / "oil" / "blue" / "0.png"), atol=1e-6, rtol=0)
    with torch.inference_mode():
        for one, other in zip(
            Deployed(network)(torch.from_numpy(views)), Deployed(network, bare=True)(bare), strict=True
        ):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_other_numbers_are_not_written(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(agree, "it", [[0.5, 0.5]], [[0.4, 0.6]]).startswith(
        "it gives other probabilities than the network, up to"
    )
    assert "apart: not written" in refusal(agree, "it", [[0.5]], [[float("nan")]])
    monkeypatch.setattr(graphs, "agree", lambda *found: agree(found[0], found[1], np.zeros((16, 3))))
    assert "the exported program gives other" in refusal(write_program, network, tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()


class Lacking(torch.nn.Module):
    """What no exporter follows: a branch on values."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if float(images.sum()) > 0 else images.amax((2, 3))


def test_an_operator_that_cannot_be_written_is_one_line(network: Any, tmp_path: Path) -> None:
    network.backbone, network.head = Lacking(), torch.nn.Linear(3, 3)
    said = refusal(write_program, network, tmp_path / "model.pt2")
    assert said.startswith("test_efficientnet cannot be exported: ")
    assert "\n" not in said


def test_without_the_packages(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = refusal(write_onnx, network, tmp_path / "model.onnx")
    assert said == 'ONNX needs onnx, onnxscript and onnxruntime: pip install "largedrop[onnx]"'


def test_a_torch_whose_exporter_fails(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    said = refusal(write_onnx, network, tmp_path / "model.onnx")
    assert said == "ONNX is written by torch 2.7 or later, and this is 2.6.0+cu124"
