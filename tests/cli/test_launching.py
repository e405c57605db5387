"""The options of launchers, and a worker's command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.cli.launching import OPTIONS, command_of, request_of
from largedrop.experiments.launchers.worker import Request

NONE: dict[str, Any] = dict.fromkeys(OPTIONS)


def test_what_is_asked_of_a_launcher() -> None:
    assert request_of("local", None, NONE) == Request()
    assert request_of("ray", None, {**NONE, "--address": "auto", "--gpus": 0.5, "--cpus": 2}) == Request(
        None, 0.5, 2, "auto"
    )
    given = {"--time-limit": "90m", "--slurm": ["partition=gpu", "--mem=32G", "mail_type=END"], "--gpus": 1.0}
    assert request_of("slurm", 4, {**NONE, **given}) == Request(
        4, 1.0, time_limit=5400.0, slurm={"partition": "gpu", "mem": "32G", "mail-type": "END"}
    )
    assert request_of("local", None, {**NONE, "--gpus": 0.5}, worker=True) == Request(gpus=0.5)


@pytest.mark.parametrize(
    ("launcher", "jobs", "options", "text"),
    [
        ("slrum", 1, {}, "unknown launcher 'slrum'; did you mean 'slurm'? (there are: local, ray, slurm, commands)"),
        ("local", 1, {"--address": "auto"}, "--address is for --launcher ray, not for 'local'"),
        ("commands", 1, {"--gpus": 1.0}, "--gpus is for --launcher ray and --launcher slurm, not for 'commands'"),
        ("ray", 1, {"--slurm": ["mem=1G"]}, "--slurm is for --launcher slurm, not for 'ray'"),
        ("ray", 1, {"--time-limit": "1h"}, "--time-limit is for --launcher slurm, not for 'ray'"),
        ("slurm", None, {}, "--launcher slurm needs --jobs: how many workers"),
        ("ray", 0, {}, "--jobs auto is for this machine; --launcher ray needs a number"),
        ("commands", None, {}, "--launcher commands needs --jobs: how many workers"),
        ("ray", 1, {"--gpus": -1.0}, "--gpus must be a share from 0 to 1 or a whole number, not -1"),
        ("ray", 1, {"--gpus": 1.5}, "--gpus must be a share from 0 to 1 or a whole number, not 1.5"),
        ("ray", 1, {"--gpus": float("nan")}, "--gpus must be a share from 0 to 1 or a whole number, not nan"),
        ("slurm", 1, {"--gpus": 0.5}, "--gpus 0.5: Slurm gives whole GPUs"),
        ("slurm", 1, {"--time-limit": "4"}, "--time-limit 4 has no unit: say 4s, 4m or 4h"),
        ("slurm", 1, {"--time-limit": "x"}, "--time-limit must be a time such as 90s, 10m or 1.5h, not 'x'"),
        (
            *("slurm", 1, {"--time-limit": "2m"}),
            "--time-limit 2m: a job takes minutes to begin and to save; say 5m or more",
        ),
        ("slurm", 1, {"--slurm": ["gpu"]}, "--slurm gpu must be like partition=gpu"),
        ("slurm", 1, {"--slurm": ["mem=1G", "--mem=2G"]}, "--slurm names mem twice"),
        ("slurm", 1, {"--slurm": ["time=60"]}, "--slurm time: --time-limit says that"),
    ],
)
def test_mistakes(launcher: str, jobs: int | None, options: dict[str, Any], text: str) -> None:
    assert refusal(request_of, launcher, jobs, {**NONE, **options}) == text


def test_a_worker_has_no_launcher() -> None:
    said = refusal(request_of, "ray", None, NONE, worker=True)
    assert said == "--worker is what --launcher ray starts: leave one of them out"


def test_a_worker_s_command_has_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "w.safetensors"):
        (tmp_path / name).touch()
    options = {
        "--weights": ["w.safetensors", "resnet50=w.safetensors", "hub/name"],
        "--precision": "float32",
        "--split": None,
        "--skip-bad-images": True,
        "--other": False,
    }
    assert command_of("rivals", "photos", Path("out"), "1-ab", options) == (
        *("sweep", "rivals", "--data", f"{tmp_path}/photos", "--output", f"{tmp_path}/out", "--worker", "1-ab"),
        *("--weights", f"{tmp_path}/w.safetensors", "--weights", f"resnet50={tmp_path}/w.safetensors"),
        *("--weights", "hub/name", "--precision", "float32", "--skip-bad-images"),
    )
    assert command_of("rivals", "emoji", Path("out"), "1-ab", {})[3] == "emoji"
