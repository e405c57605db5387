"""``largedrop export``, from a run's folder to files for other programs."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from tests.helpers import TINY, files, one_line
from tests.prediction.models import save

import largedrop as ld
from largedrop.cli import main

pytestmark = pytest.mark.usefixtures("quick_heads")


def test_a_run_in_timms_layout(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**TINY, "steps": 2}
    run = ld.finetune(ld.open_dataset(toy), "photo", output=tmp_path / "run", recipe="short", device="cpu", **settings)
    output = tmp_path / "out"
    assert main(["export", str(run.folder), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("the same probabilities as the model to ")
    assert said.endswith(f"; written: {output}\n")
    assert files(output) == ["README.md", "config.json", "model.safetensors"]
    assert "n = 18, 95 % interval over images" in (output / "README.md").read_text("utf-8")
    assert "is not empty" in one_line(capsys, "export", run.folder, "--output", output)
    assert main(["export", str(run.folder), "--output", str(output), "--overwrite"]) == 0


def test_mistakes(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(tmp_path / "model.safetensors", 0)
    (tmp_path / "there.onnx").touch()

    def said(output: str, *more: str | Path) -> str:
        return one_line(capsys, "export", model, "--output", tmp_path / output, *more)

    assert said("x.tflite").endswith("its ending may be .onnx or .pt2; or name it with --format")
    assert said("x", "--format", "onx") == "unknown format 'onx'; did you mean 'onnx'? (there are: onnx, torch, timm)"
    assert said("there.onnx") == f"{tmp_path / 'there.onnx'} exists: name another --output, or say --overwrite"
    assert "for a folder in timm's layout" in said("x.onnx", "--push", "me/model")
    assert "--bare is for ONNX and torch" in said("x", "--bare")
    assert "is a file" in said("there.onnx", "--format", "timm")
    assert "is a folder" in said(".", "--format", "onnx")
    assert "there is no file or folder" in said("x.pt2", "--images", tmp_path / "none.jpg")
    assert "cannot be read" in said("x", "--evaluation", tmp_path / "none.json")


@pytest.mark.parametrize("name", ["", "model", "me/", "me/mod el", "me/a/b", "../model"])
def test_a_push_is_checked_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save(tmp_path / "model.safetensors", 0)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    said = one_line(capsys, "export", model, "--output", tmp_path / "x", "--push", name)
    assert said.startswith(f"--push takes OWNER/NAME, not '{name}'")
    said = one_line(capsys, "export", model, "--output", tmp_path / "x", "--push", "me/model")
    assert said == "the hub needs a token: log in with 'hf auth login', or set HF_TOKEN"
    assert files(tmp_path) == ["model.safetensors"]
