"""Devices and precisions: what is chosen, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import refusal

from largedrop.errors import UserError
from largedrop.training import device as module
from largedrop.training.device import choose_device, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    current[:] = [0]

    def have(count: int, bfloat16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
        capability = (8, 6) if bfloat16 else (7, 5)
        capabilities = {torch.device("cuda", 1): capability}  # asked for another device, it would raise
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")

    return have


current = [0]
"""The GPUs that were made the current one, the first at the start."""


@pytest.mark.parametrize(("count", "name"), [(0, "cpu"), (1, "cuda:0")])
def test_auto_is_the_gpu_where_there_is_one(gpus: Any, count: int, name: str) -> None:
    gpus(count)
    assert choose_device() == choose_device("auto") == torch.device(name)


@pytest.mark.parametrize(
    ("name", "jobs", "chosen", "made_current"),
    [
        ("cpu", 1, "cpu", [0]),
        ("cuda", 1, "cuda:0", [0, 0]),
        ("cuda:0", 1, "cuda:0", [0, 0]),
        ("cuda:1", 1, "cuda:1", [0, 1]),
        ("cuda:1", 2, "cuda:1", [0, 1]),
        ("cuda", 2, "cuda", [0]),
        ("auto", 2, "cuda", [0]),
        ("cpu", 2, "cpu", [0]),
    ],
)
def test_named_devices(gpus: Any, name: str, jobs: int, chosen: str, made_current: list[int]) -> None:
    """A GPU is known by its number and is the current one; without a number, several processes take all of them."""
    gpus(2)
    assert choose_device(name, jobs) == torch.device(chosen)
    assert current == made_current


def test_a_gpu_without_a_number_is_the_current_one(gpus: Any) -> None:
    gpus(2)
    current.append(1)
    assert choose_device("cuda") == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("name", "tail"),
    [
        ("gpu", "did you mean 'cpu'? (there are: auto, cpu, cuda, cuda:0)"),
        ("mps", "there are: auto, cpu, cuda, cuda:0"),
        ("", "there are: auto, cpu, cuda, cuda:0"),
        ("cpu:x", "did you mean 'cpu'? (there are: auto, cpu, cuda, cuda:0)"),
        ("cuda:", "did you mean 'cuda:0'? (there are: auto, cpu, cuda, cuda:0)"),
        ("cuda:first", "did you mean 'cuda:0'? (there are: auto, cpu, cuda, cuda:0)"),
    ],
)
def test_unknown_devices(gpus: Any, name: str, tail: str) -> None:
    gpus(1)
    assert refusal(choose_device, name) == f"unknown device '{name}'; {tail}"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:first"])
def test_no_gpu(gpus: Any, name: str) -> None:
    gpus(0)
    said = refusal(choose_device, name)
    assert said == f"device '{name}': this machine has no GPU that torch {torch.__version__} can use"


def test_too_few_gpus(gpus: Any) -> None:
    gpus(1)
    with pytest.raises(UserError, match=r"^device 'cuda:1': this machine has 1 GPU\(s\)$"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "avx2": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_on_a_processor(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == precision
    # What is asked for is given, if slowly.
    assert choose_precision("bfloat16", CPU) == "bfloat16"
    assert choose_precision("float32", CPU) == "float32"


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", "bfloat16"),
        ("flags\t\t: fpu avx512_bf16\n", "bfloat16"),
        ("flags\t\t: fpu avx512f amx_bf16x\n", "float32"),
        (None, "float32"),
    ],
)
def test_an_older_torch_reads_what_linux_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, precision: str
) -> None:
    information = tmp_path / "cpuinfo"
    if text is not None:
        information.write_text(text)
    asked: list[str] = []

    def path(name: str) -> Path:
        asked.append(name)
        return information

    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "Path", path)
    assert choose_precision("auto", CPU) == precision
    assert asked == ["/proc/cpuinfo"]


@pytest.mark.parametrize(("has", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_a_gpu(gpus: Any, has: bool, precision: str) -> None:
    gpus(1, bfloat16=has)
    assert choose_precision("auto", CUDA) == precision


def test_a_gpu_without_bfloat16_refuses_it(gpus: Any) -> None:
    gpus(1, bfloat16=False)
    with pytest.raises(UserError, match=r"^precision 'bfloat16': Tesla T4 has none; use float32$"):
        choose_precision("bfloat16", CUDA)
    assert choose_precision("float32", CUDA) == "float32"


def test_unknown_precisions() -> None:
    assert refusal(choose_precision, "float16", CPU) == (
        "unknown precision 'float16'; did you mean 'bfloat16'? (there are: auto, float32, bfloat16)"
    )
    assert refusal(choose_precision, 16, CPU) == "unknown precision '16'; there are: auto, float32, bfloat16"
