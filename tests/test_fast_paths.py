"""Which fast paths a device takes: the usual ones, those of a doctor's report on it, or those that are named."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import refusal

from largedrop import __version__
from largedrop import fast_paths as module
from largedrop.experiments.doctor import choices
from largedrop.fast_paths import (
    FORMAT,
    VARIABLE,
    FastPaths,
    available,
    chosen_paths,
    device_name,
    fast_paths,
    machine_key,
    only,
    report_file,
)
from largedrop.files import write_stored

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")
PLAIN, ON_CPU = FastPaths(), FastPaths(folded=True, kernels=True)
ADVICE = "; `largedrop doctor` (2 minutes) finds which are right here, and faster"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU, a driver, and an empty cache."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 {device.index}")
    monkeypatch.setattr(module, "_driver", lambda: "580.1")
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    device_name.cache_clear()


def choice(*sets: Any, images: Any = None, size: Any = None) -> dict[str, Any]:
    return {"images": images, "size": size, "sets": list(sets)}


def report(device: torch.device = CUDA, paths: Any = ("resident", "recorded"), **changes: Any) -> Path:
    content = {"format": FORMAT, "machine": machine_key(device), "chosen": [choice(paths)]}
    write_stored(report_file(device), {**content, **changes})
    return report_file(device)


def test_a_processor_takes_its_own_and_says_nothing() -> None:
    assert chosen_paths(CPU) == (ON_CPU, "", False)
    assert available(CPU) == ON_CPU
    report(CPU, ["folded", "kernels"])
    assert chosen_paths(CPU) == (ON_CPU, "", False)


def test_a_processor_leaves_out_what_was_found_to_be_wrong_there() -> None:
    path = report(CPU, ["folded"])
    assert chosen_paths(CPU) == (FastPaths(folded=True), f"fast paths: folded, by {path}", False)


def test_a_gpu_that_was_not_examined_is_plain() -> None:
    why = f"fast paths: none, as NVIDIA H200 1 was not examined yet{ADVICE}"
    assert chosen_paths(CUDA) == (PLAIN, why, True)
    assert fast_paths(CUDA) == PLAIN


@pytest.mark.parametrize("chosen", [[], ["recorded"], ["recorded", "folded", "resident"]])
def test_a_gpu_takes_what_was_found_on_it(chosen: list[str]) -> None:
    path = report(paths=chosen)
    paths = FastPaths.of(chosen)
    assert chosen_paths(CUDA) == (paths, f"fast paths: {paths}, by {path}", False)
    assert path.name == f"NVIDIA H200 1, torch {torch.__version__}.json"
    assert fast_paths(torch.device("cuda:0")) == PLAIN  # another one


def test_the_nearest_size_of_a_step_decides() -> None:
    """By the ratio; here the middle is between 973,159 and 973,160 pixels."""
    both, folded = ["resident", "recorded"], ["recorded", "folded"]
    small, large = choice(both, ["recorded"], images=32, size=96), choice(folded, images=64, size=224)
    path = report(chosen=[choice(both, ["folded"]), small, large])
    for pixels, names, on_host, step in (
        (1, both, ["recorded"], "32 images of 96 px"),
        (973_159, both, ["recorded"], "32 images of 96 px"),
        (973_160, folded, folded, "64 images of 224 px"),
        (10**9, folded, folded, "64 images of 224 px"),
    ):
        paths = FastPaths.of(names)
        assert fast_paths(CUDA, pixels) == paths
        assert chosen_paths(CUDA, pixels).why == f"fast paths: {paths}, best for steps like {step}, by {path}"
        assert fast_paths(CUDA, pixels, ["resident"]) == FastPaths.of(on_host)
        assert fast_paths(CUDA, pixels, ["recorded"]) == PLAIN  # never the rest of a set
    told = f"fast paths: resident, recorded, best for all steps on average, by {path}"
    assert chosen_paths(CUDA) == (FastPaths.of(both), told, False)
    assert fast_paths(CUDA, without=["resident"]) == fast_paths(CUDA, without=["recorded"]) == FastPaths(folded=True)
    path = report(chosen=[choice(both), choice(both, images=32, size=96), choice(both, images=64, size=224)])
    assert chosen_paths(CUDA, 10**6).why == f"fast paths: resident, recorded, by {path}"  # whatever the step


def test_what_the_doctor_found_on_an_h200_is_taken_there() -> None:
    found = json.loads((Path(__file__).parent / "fixtures" / "doctor-h200.json").read_text("utf-8"))
    report(chosen=choices(found, CUDA))
    assert fast_paths(CUDA, 3 * 8 * 96**2).names == ["resident", "recorded"]
    assert fast_paths(CUDA, 3 * 8 * 96**2, ["resident"]).names == ["recorded", "folded"]
    assert fast_paths(CUDA, 3 * 32 * 224**2).names == ["recorded", "folded"]
    for pixels in (3 * 8 * 96**2, 3 * 32 * 224**2):
        assert fast_paths(CUDA, pixels, ["resident", "recorded"]) == PLAIN  # folding alone costs 30 %


def test_named_paths_without_those_that_a_run_cannot_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "resident,folded")
    assert fast_paths(CUDA, 10**6) == FastPaths(resident=True, folded=True)
    assert fast_paths(CUDA, 10**6, ["resident"]) == FastPaths(folded=True)


@pytest.mark.parametrize("name", ["device", "driver", "torch", "largedrop"])
def test_a_report_of_another_machine_or_version(name: str) -> None:
    own = machine_key(CUDA)
    path = report(machine={**own, name: "other"})
    why = f"fast paths: none, as {path} is of {name} 'other', and this is {own[name]!r}{ADVICE}"
    assert chosen_paths(CUDA) == (PLAIN, why, True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 1}, " is not a doctor's report of this version"),
        ({"machine": None}, " is of device 'None', and this is 'NVIDIA H200 1'"),
        *(
            ({"chosen": chosen}, f" chooses {str(chosen)[:80]}, which are no fast paths of this device")
            for chosen in (
                [choice(["kernels"])],
                [choice([["folded"]])],
                [choice("folded")],
                [{**choice(), "sets": "folded"}],
                [{"pixels": None, "paths": ["folded"]}],
                [choice(images=32, size=96)],
                [choice(), choice(images=32, size=0)],
                [choice(), choice(images=32, size=96.5)],
                [choice(), choice(images=True, size=96)],
                [choice(), choice()],
                ["folded"],
                [],
                "folded",
                None,
            )
        ),
    ],
)
def test_a_report_that_is_none(changes: dict[str, Any], told: str) -> None:
    path = report(**changes)
    assert chosen_paths(CUDA) == (PLAIN, f"fast paths: none, as {path}{told}{ADVICE}", True)


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace("driver", "drivers"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("damage", [edited, cut, folder, pipe, dangling, deep])
def test_a_damaged_report_is_one_line_and_the_plain_path(damage: Any) -> None:
    damage(path := report())
    paths, why, slow = chosen_paths(CUDA)
    assert (paths, slow) == (PLAIN, True)
    assert why.startswith(f"fast paths: none, as {path} ")
    assert "\n" not in why
    damage(report(CPU, []))
    paths, why, slow = chosen_paths(CPU)
    assert (paths, slow) == (ON_CPU, False)  # the usual ones
    assert why.startswith(f"fast paths: folded, kernels, as {report_file(CPU)} ")


def test_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LARGEDROP_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert chosen_paths(CUDA).why.startswith("fast paths: none, as there is no home folder")


def test_named_paths_win(monkeypatch: pytest.MonkeyPatch) -> None:
    report()
    monkeypatch.setenv(VARIABLE, "folded, recorded")
    both = FastPaths(recorded=True, folded=True)
    assert chosen_paths(CUDA) == (both, f"fast paths: recorded, folded ({VARIABLE})", False)
    assert fast_paths(CPU) == FastPaths(folded=True)
    monkeypatch.setenv(VARIABLE, "none")
    assert chosen_paths(CPU) == (PLAIN, "fast paths: none (--plain)", False)
    monkeypatch.setenv(VARIABLE, "fold")
    assert refusal(fast_paths, CPU) == (
        f"{VARIABLE}=fold: unknown fast path 'fold'; did you mean 'folded'? "
        "(there are: resident, recorded, folded, kernels, none)"
    )
    monkeypatch.setenv(VARIABLE, "folded,none")
    assert refusal(fast_paths, CPU) == f"{VARIABLE}=folded,none: 'none' stands alone"


def test_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with only(PLAIN):
        assert fast_paths(CPU) == PLAIN
        with only(FastPaths(folded=True)):
            assert fast_paths(CPU) == FastPaths(folded=True)
        assert os.environ[VARIABLE] == "none"  # what processes that it starts inherit
    assert fast_paths(CPU) == ON_CPU
    assert VARIABLE not in os.environ


def test_the_processors_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nmodel name\t: another\n")
    monkeypatch.setattr(module, "Path", lambda name: information)
    assert device_name(CPU) == "AMD EPYC 9R14"
    device_name.cache_clear()
    information.unlink()
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert device_name(CPU) == "arm64"
    device_name.cache_clear()


def test_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    version = tmp_path / "version"
    monkeypatch.setattr(module, "Path", lambda name: version)
    found = module._driver.__wrapped__

    def says(command: list[str], **options: Any) -> Any:
        assert command[0] == "nvidia-smi"
        return subprocess.CompletedProcess(command, 0, "535.2\n535.2\n")

    monkeypatch.setattr(subprocess, "run", says)
    assert found() == "535.2"
    version.write_text("580.95\n")
    assert found() == "580.95"
    version.unlink()
    monkeypatch.setattr(subprocess, "run", lambda *rest, **options: (_ for _ in ()).throw(FileNotFoundError))
    assert found() == ""


def test_a_report_can_be_read_by_people() -> None:
    content = json.loads(report().read_text())
    assert content["machine"] == {
        "device": "NVIDIA H200 1",
        "driver": "580.1",
        "torch": torch.__version__,
        "largedrop": __version__,
    }
