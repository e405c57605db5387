"""``largedrop check``: what it prints and writes, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.helpers import make_toy, one_line

from largedrop.cli import main

NETWORK = ["--model", "test_efficientnet", "--weights", "random", "--size", "32", "--device", "cpu"]


@pytest.fixture
def folder(toy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy, tmp_path / "toy"))


def test_a_dataset_that_can_be_trained_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "ink/red/0.png", folder / "oil/red/copy.png")
    assert main(["check", str(folder), *NETWORK]) == 0
    said = capsys.readouterr().out
    assert "toy can be trained on: 2 warnings." in said
    content = json.loads((tmp_path / "largedrop-check" / "toy" / "check.json").read_text())
    assert content["trainable"] is True
    assert [each["kind"] for each in content["findings"]] == ["identical", "copies-across-domains"]
    assert content["model"] == "test_efficientnet"


def test_one_that_cannot(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ink/red/0.png").write_bytes(b"")
    arguments = ["check", str(folder), "--quick", "--output", str(tmp_path / "out")]
    said = one_line(capsys, *arguments)
    assert said.startswith("toy cannot be trained on: 1 problem")
    assert "1 of 54 images cannot be decoded (--skip-bad-images leaves them out)" in said
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    assert content["findings"][0]["items"][0]["text"] == "ink/red/0.png: the file is empty"
    assert main([*arguments, "--skip-bad-images"]) == 0


def test_mistakes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in one_line(capsys, "check", tmp_path / "nothing")
    assert "largedrop" not in one_line(capsys, "check", folder, *NETWORK, "--model", "resnet_of_mine")


def test_the_size_has_a_bound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = one_line(capsys, "check", make_toy(tmp_path / "toy"), "--quick", "--size", str(10**9))
    assert said == "size must be a whole number of pixels from 16 to 4096, not 1000000000"
