"""A run's folder: what opening it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop import __version__
from largedrop.config import Config
from largedrop.runs.folder import claim
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run

SCORES = {"iid_accuracy": 0.75, "ood_accuracy": 0.5, "steps": 6, "seconds": 1.5}

AGAIN = "remove it and train it again"


def opening(folder: Path) -> str:
    return refusal(Run.open, folder)


@pytest.fixture
def finished(config: Config, tmp_path: Path) -> Path:
    claim(tmp_path / "run", "config.json", "run", config.to_json())
    content = {"methods": {"fine-tuning": SCORES, "linear-probe": {**SCORES, "steps": 100}}}
    (tmp_path / "run" / "result.json").write_text(json.dumps(content))
    return tmp_path / "run"


def test_opening_a_finished_run(config: Config, finished: Path) -> None:
    run = Run.open(str(finished))
    assert run.folder == finished
    assert run.config == config
    assert run.best == finished / "best.safetensors"
    assert run.average == finished / "average.safetensors"


def test_a_record_for_each_method(config: Config, finished: Path) -> None:
    one, other = Run.open(finished).records
    assert (one.method, one.steps, other.method, other.steps) == ("fine-tuning", 6, "linear-probe", 100)
    for record in (one, other):
        assert (record.dropout, record.test_domain, record.seed) == (0.9, "photo", 0)
        assert (record.iid_accuracy, record.ood_accuracy, record.seconds) == (0.75, 0.5, 1.5)
        assert record.settings == config.settings
    (stored,) = read_runs(finished).runs
    assert [record.settings for record in stored.records] == [config.settings] * 2


def test_a_record_for_each_share_of_the_way_back(config: Config, finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    curve = [{"alpha": alpha, **SCORES, "iid_accuracy": iid} for alpha, iid in ((0.0, 0.5), (0.5, 1.0))]
    result["methods"]["wise-ft"] = curve
    (finished / "result.json").write_text(json.dumps(result))
    *_, one, other = Run.open(finished).records
    assert (one.method, one.iid_accuracy, one.settings) == ("wise-ft", 0.5, {**config.settings, "alpha": 0.0})
    assert (other.method, other.iid_accuracy, other.settings) == ("wise-ft", 1.0, {**config.settings, "alpha": 0.5})
    curve[1]["alpha"] = 5
    (finished / "result.json").write_text(json.dumps(result))
    said = "result.json, wise-ft: 'alpha' must be a number from 0 to 1, not 5"
    assert opening(finished) == f"cannot open the run in {finished}: {said}; {AGAIN}"


def test_each_share_has_one_record(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    for curve in ([], [{"alpha": 0.5, **SCORES}] * 2):
        result["methods"]["wise-ft"] = curve
        (finished / "result.json").write_text(json.dumps(result))
        said = "result.json, wise-ft: must have one entry for each alpha"
        assert opening(finished) == f"cannot open the run in {finished}: {said}; {AGAIN}"


def test_the_model_of_a_damaged_or_older_run(config: Config, finished: Path) -> None:
    run = Run.open(finished)
    assert (run.model, run.model_scores) == (run.best, (0.75, 0.5))
    fit = replace(config, fit="probe", head="random", optimizer="sgd")
    assert replace(run, config=fit).model_name == "the fit of best i.i.d. accuracy, without the network"
    run.result["model"] = "ema.safetensors"
    assert run.model_scores is None
    for more, said in (
        (
            {"model_scores": {"iid_accuracy": 0.5, "ood_accuracy": 2}},
            "'model_scores' must have two fractions, not {'iid_accuracy': 0.5, 'ood_accuracy': 2}",
        ),
        ({"model": 3}, "'model' must be the name of a file, not 3"),
        ({"model": "../other/best.safetensors"}, "'model' must be the name of a file, not '../other/best.safetensors'"),
    ):
        (finished / "result.json").write_text(json.dumps({**run.result, **more}))
        assert opening(finished) == f"cannot open the run in {finished}: result.json: {said}; {AGAIN}"
        assert refusal(read_runs, finished).endswith(f"damaged: result.json: {said}")


def test_a_model_that_is_gone(finished: Path) -> None:
    run = Run.open(finished)
    run.model.write_bytes(b"")
    assert run.existing_model() == run.model
    run.model.unlink()
    assert refusal(run.existing_model) == (
        f"{run.model} is gone, though its run is finished: remove {finished} and train it again"
    )


def test_opening_what_is_not_there(config: Config, tmp_path: Path) -> None:
    assert opening(tmp_path / "none") == f"no finished run in {tmp_path / 'none'}"
    claim(tmp_path / "begun", "config.json", "run", config.to_json())
    assert opening(tmp_path / "begun") == (
        f"no finished run in {tmp_path / 'begun'} (one was begun there and is not finished)"
    )


@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_opening_a_damaged_run(finished: Path, name: str) -> None:
    start = f"cannot open the run in {finished}: {name}"
    (finished / name).write_text("{")
    assert opening(finished) == f"{start} ends in the middle, after 1 bytes; {AGAIN}"
    (finished / name).write_bytes(b"\xff\xfe{}")
    assert opening(finished).startswith(f"{start} is not JSON: ")
    (finished / name).write_text("3}")
    assert opening(finished).startswith(f"{start} is not JSON: Extra data")
    (finished / name).write_text("[{}]")
    assert opening(finished) == f"{start} is not a JSON object; {AGAIN}"
    (finished / name).unlink()
    (finished / name).mkdir()
    assert opening(finished) == f"{start} cannot be read: Is a directory; {AGAIN}"


def test_the_records_of_a_damaged_run(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    result["methods"]["fine-tuning"]["ood_accuracy"] = 7.667
    for content, said in (
        (result, "result.json, fine-tuning: 'ood_accuracy' must be a fraction from 0 to 1 (not %), not 7.667"),
        ({}, "result.json has no 'methods'"),
    ):
        (finished / "result.json").write_text(json.dumps(content))
        assert opening(finished) == f"cannot open the run in {finished}: {said}; {AGAIN}"


def test_opening_a_run_of_a_newer_version(config: Config, finished: Path) -> None:
    (finished / "config.json").write_text(json.dumps({**config.to_json(), "zzz": 1}))
    assert opening(finished).startswith(
        f"cannot open the run in {finished}: config.json: unknown setting 'zzz'; there are: "
    )
    (finished / "config.json").write_text(json.dumps({**config.to_json(), "protocol": 4, "zzz": 1}))
    assert opening(finished) == (
        f"cannot open the run in {finished}: of protocol 4, and largedrop {__version__} knows 3; update it"
    )


def test_opening_a_run_without_its_config(finished: Path) -> None:
    (finished / "config.json").unlink()
    said = "there is a result.json but no config.json"
    assert opening(finished) == f"cannot open the run in {finished}: {said}; {AGAIN}"
