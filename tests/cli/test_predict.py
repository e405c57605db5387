"""``largedrop predict``, from a run's folder and images to a file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import TINY, one_line

import largedrop as ld
from largedrop.cli import main
from largedrop.cli import predict as module
from largedrop.prediction.predict import Prediction
from largedrop.runs.checkpoint import save_model

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Path:
    """A run on the toy data."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    settings = {**TINY, "steps": 2}
    return ld.finetune(ld.open_dataset(toy), "photo", output=folder, recipe="short", device="cpu", **settings).folder


def rows(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(content.splitlines()))


def test_a_table_on_standard_output_and_the_rest_beside_it(
    run: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(run), str(toy / "photo"), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    found = rows(said.out)
    assert list(found[0]) == ["path", "class", "probability", "error"]
    expected = ld.predict(ld.Run.open(run).model, toy / "photo", device="cpu")
    assert [(row["path"], row["class"], float(row["probability"])) for row in found] == [
        (each.path, each.label, round(each.top[0][1], 6)) for each in expected
    ]
    assert re.fullmatch(r"18 images in [0-9.]+ s \([0-9.]+ images/s\)\n", said.err)


def test_a_file_with_reasons_and_what_is_unsure(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    output = tmp_path / "out.jsonl"
    arguments = ["predict", str(run), str(tmp_path / "*.jpg"), str(toy / "ink"), "--device", "cpu", "--batch", "5"]
    arguments += ["--output", str(output), "--top", "3", "--unsure-below", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith(f"; 1 cannot be read; 18 unsure (below 1); written: {output}\n")
    found = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert found[0]["error"] == "not an image of a known format"
    assert {row["class"] for row in found} == {None}
    for row in found[1:]:
        assert sum(row[f"probability{rank}"] for rank in ("", "_2", "_3")) == pytest.approx(1, abs=1e-5)
    assert one_line(capsys, *arguments) == f"{output} exists: name another --output, or say --overwrite"
    assert main([*arguments, "--overwrite", "--with", str(run / "final.safetensors")]) == 0


def test_a_model_of_an_earlier_version_is_not_calibrated(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = ld.load_model(ld.Run.open(run).model)
    assert network.temperature is not None
    save_model(tmp_path / "old.safetensors", network, {})
    said = []
    for model, more in ((run, []), (run, ["--uncalibrated"]), (tmp_path / "old.safetensors", [])):
        assert main(["predict", str(model), str(toy / "photo"), "--device", "cpu", *more]) == 0
        said.append(capsys.readouterr())
    assert said[0].out != said[1].out == said[2].out
    note = "the model has no temperature (of an earlier version?), so probabilities are not calibrated\n"
    assert said[2].err.startswith(note)
    assert note not in said[0].err + said[1].err


def test_where_no_image_can_be_read_it_fails_after_writing_why(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    assert main(["predict", str(run), str(tmp_path), "--output", str(tmp_path / "out.csv"), "--device", "cpu"]) == 2
    summary, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"1 image in .* images/s\); 1 cannot be read; written: .*out\.csv", summary)
    assert last == "largedrop: none of the images could be read (1); the column 'error' says why"
    assert rows((tmp_path / "out.csv").read_text())[0]["error"] == "not an image of a known format"


def test_an_interrupted_file_is_not_written(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = module._counted

    def interrupted(*arguments: Any) -> Iterator[Prediction]:
        for number, each in enumerate(counted(*arguments), 1):
            if number == 3:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(module, "_counted", interrupted)
    output = tmp_path / "out.csv"
    said = one_line(capsys, "predict", run, toy / "ink", "--output", output, "--device", "cpu")
    assert said == f"interrupted after 3 images; {output} is not written"
    assert list(tmp_path.iterdir()) == []


def test_mistakes(run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, "predict", tmp_path, toy) == f"no finished run in {tmp_path}"
    assert "there is no image in" in one_line(capsys, "predict", run, tmp_path)
    said = one_line(capsys, "predict", run, toy, "--with", tmp_path / "none")
    assert said == f"there is no run or checkpoint {tmp_path / 'none'}"
    assert one_line(capsys, "predict", run, toy, "--top", "4", "--device", "cpu") == (
        "the model has 3 classes, so the 4 most probable cannot be given"
    )
    assert "--unsure-below" in one_line(capsys, "predict", run, toy, "--unsure-below", "1.5")
    assert "--batch" in one_line(capsys, "predict", run, toy, "--batch", "0")
