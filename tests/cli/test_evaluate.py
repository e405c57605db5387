"""``largedrop evaluate``, from a run's folder and labelled images to a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import files, one_line
from tests.prediction.models import save

from largedrop.cli import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save(folder / "one.safetensors", 0), save(folder / "other.safetensors", 3, None)


def test_two_models_on_a_folder(
    models: tuple[Path, Path], toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["evaluate", str(models[0]), str(toy), "--against", str(models[1]), "--output", str(output)]
    assert main([*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 of the 2 models have no temperature (of an earlier version?)")
    assert f"A: {models[0]}" in said
    assert said.endswith(f"written:\n  {output / 'evaluation.html'}\n  {output / 'evaluation.json'}\n")
    assert files(output) == ["evaluation.html", "evaluation.json"]
    found = json.loads((output / "evaluation.json").read_text("utf-8"))
    assert [each["name"] for each in found["models"]] == list(map(str, models))
    assert list(found["models"][0]["domains"]) == ["ink", "oil", "photo"]
    assert found["difference"]["only"].keys() == {"ink", "oil", "photo"}
    assert found["command"].startswith("largedrop")
    said = one_line(capsys, *arguments, "--device", "cpu")
    assert said == f"{output / 'evaluation.html'} exists: name another --output, or say --overwrite"
    assert main([*arguments, "--device", "cpu", "--overwrite"]) == 0


def test_an_ensemble_and_mistakes(
    models: tuple[Path, Path], toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["evaluate", models[0], toy, "--with", models[1], "--output", output, "--device", "cpu"]
    assert main(list(map(str, arguments))) == 0
    capsys.readouterr()
    (found,) = json.loads((output / "evaluation.json").read_text("utf-8"))["models"]
    assert (found["name"], found["temperatures"]) == (f"{models[0]} + {models[1]}", [1.5, None])
    assert "no run or checkpoint" in one_line(capsys, "evaluate", tmp_path / "none", toy, "--device", "cpu")
    arguments = ["evaluate", models[0], toy, "--unknown", "maybe", "--output", tmp_path / "x", "--device", "cpu"]
    assert main(list(map(str, arguments))) == 2
    assert "unknown must be 'wrong' or 'skip', not 'maybe'" in capsys.readouterr().err
