"""A run's folder: whose it is, what may stand in it, and what opening it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from largedrop.config import Config
from largedrop.errors import UserError
from largedrop.files import read_json
from largedrop.runs.folder import claim_folder
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run

SCORES = {"iid_accuracy": 0.75, "ood_accuracy": 0.5, "steps": 6, "seconds": 1.5}


def refusal(folder: Path, config: Config) -> str:
    with pytest.raises(UserError) as caught:
        claim_folder(folder, config)
    return str(caught.value)


def opening(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Run.open(folder)
    return str(caught.value)


@pytest.fixture
def finished(config: Config, tmp_path: Path) -> Path:
    claim_folder(tmp_path / "run", config)
    content = {"methods": {"fine-tuning": SCORES, "linear-probe": {**SCORES, "steps": 100}}}
    (tmp_path / "run" / "result.json").write_text(json.dumps(content))
    return tmp_path / "run"


def test_a_folder_is_claimed_once_and_for_one_config(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    for _ in range(2):
        claim_folder(folder, config)
        assert [entry.name for entry in folder.iterdir()] == ["config.json"]
        assert json.loads((folder / "config.json").read_text()) == config.to_json()


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        (
            {"test_domain": "ink", "dropout": 0.5, "lr": 0.1},
            "test_domain 'photo' instead of 'ink', dropout 0.9 instead of 0.5, lr 0.001 instead of 0.1",
        ),
        (
            {"seed": 1, "steps": 7, "batch": 8, "eval_every": 3, "size": 48},
            "seed 0 instead of 1, steps 6 instead of 7, batch 4 instead of 8, eval_every 2 instead of 3",
        ),
    ],
)
def test_another_config_is_told_by_its_settings(
    config: Config, tmp_path: Path, changes: dict[str, Any], listed: str
) -> None:
    claim_folder(tmp_path, config)
    assert refusal(tmp_path, replace(config, **changes)) == (
        f"{tmp_path} belongs to another config: {listed}; name another --output"
    )


def test_a_config_of_an_older_version_lacks_a_setting(config: Config, tmp_path: Path) -> None:
    content = {name: value for name, value in config.to_json().items() if name != "held_out"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert "held_out None instead of 0.2" in refusal(tmp_path, config)


def test_other_files_are_left_alone(config: Config, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert refusal(tmp_path, config) == f"{tmp_path} holds other files and no run; name another --output"
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [".lock", ".config.json.x1y2.tmp"])
def test_what_a_killed_process_leaves_is_no_other_file(config: Config, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    claim_folder(tmp_path, config)
    assert (tmp_path / "config.json").is_file()


def test_a_folder_that_is_a_file(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    assert refusal(tmp_path / "run", config) == (
        f"cannot write {tmp_path / 'run' / 'config.json'}: {tmp_path / 'run'} is a file"
    )
    assert refusal(tmp_path / "run" / "below", config) == (
        f"cannot write {tmp_path / 'run' / 'below' / 'config.json'}: Not a directory"
    )


@pytest.mark.parametrize(("content", "reason"), [("{", "Expecting property name"), ("[1]", "it holds no object")])
def test_a_damaged_config(config: Config, tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert refusal(tmp_path, config).startswith(f"{tmp_path / 'config.json'} is damaged: {reason}")


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


def test_opening_what_is_not_there(config: Config, tmp_path: Path) -> None:
    assert opening(tmp_path / "none") == f"no finished run in {tmp_path / 'none'}"
    claim_folder(tmp_path / "begun", config)
    assert opening(tmp_path / "begun") == (
        f"no finished run in {tmp_path / 'begun'} (one was begun there and is not finished)"
    )


@pytest.mark.parametrize(
    ("name", "before"), [("result.json", ""), ("config.json", "cannot open the run in {folder}: ")]
)
def test_opening_a_damaged_run(finished: Path, name: str, before: str) -> None:
    start = before.format(folder=finished)
    (finished / name).write_text("{")
    assert opening(finished).startswith(f"{start}{finished / name} is damaged: Expecting property name")
    (finished / name).write_bytes(b"\xff\xfe{")
    assert opening(finished).startswith(f"{start}{finished / name} is damaged: ")
    (finished / name).write_text("3")
    assert opening(finished) == f"{start}{finished / name} is damaged: it holds no object"


def test_opening_a_run_of_a_newer_version(config: Config, finished: Path) -> None:
    (finished / "config.json").write_text(json.dumps({**config.to_json(), "zzz": 1}))
    assert opening(finished).startswith(f"cannot open the run in {finished}: unknown setting 'zzz'; there are: ")


def test_opening_a_run_without_its_config(finished: Path) -> None:
    (finished / "config.json").unlink()
    assert opening(finished) == (
        f"cannot open the run in {finished}: cannot read {finished / 'config.json'}: No such file or directory"
    )


def test_reading_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_json(tmp_path)
    assert str(caught.value) == f"cannot read {tmp_path}: Is a directory"
