"""The doctor: what it finds and chooses on this processor, and what it says of what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Watch

import largedrop as ld
from largedrop.errors import NoMemoryError
from largedrop.experiments import doctor, doctor_steps
from largedrop.experiments.doctor import THOROUGH, choices, choose, examine, sets, work
from largedrop.experiments.doctor_steps import Effort
from largedrop.fast_paths import FORMAT, VARIABLE, FastPaths, fast_paths, machine_key, report_file
from largedrop.files import write_stored
from largedrop.models.fast import convolution
from largedrop.models.fast.folding import speed_up
from largedrop.models.fast.gradients import gradients
from largedrop.reporter import SILENT
from largedrop.training import loop
from largedrop.training.resolve import resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")

H200: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "doctor-h200.json").read_text("utf-8")
)
"""What the doctor found of each set on an H200."""

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def effort(weights: Path) -> Effort:
    return Effort(
        "test_efficientnet", str(weights), cases=((32, 2), (40, 1)), steps=3, rounds=1, timed=1, warm=0, run=2
    )


def test_what_is_found_on_a_processor(
    data: ld.Dataset, effort: Effort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[float] = []
    report = examine(CPU, data, effort, Watch(advance=done.append))
    assert sum(done) == work(CPU) == 7
    assert (report["format"], report["machine"]) == (FORMAT, machine_key(CPU))
    assert [entry["paths"] for entry in report["paths"]] == [["folded"], ["kernels"], ["folded", "kernels"]]
    for entry in report["paths"]:
        assert entry["agrees"]
        assert [(each["size"], each["images"]) for each in entry["times"]] == [(32, 4), (40, 2)]
        assert entry["ratio"] > 0
        assert 0 <= entry["float32"]["weights"] < 1e-4
    assert not report["paths"][0]["float32"]["same_bits"]
    assert report["again"]["float32"] == {"loss": 0.0, "weights": 0.0, "same_bits": True}
    both = ["folded", "kernels"]
    assert report["chosen"] == [{"images": None, "size": None, "sets": [both, ["folded"], ["kernels"]]}]
    (runs,) = report["runs"]
    assert runs["paths"] == both
    assert len(set(runs["held_bytes"])) == 1
    assert (len(runs["seconds"]), runs["again_apart"], runs["resumed_apart"]) == (3, 0.0, 0.0)
    assert report["problems"] == []
    # It is what training reads.
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path))
    report["chosen"][0]["sets"] = [["folded"]]
    write_stored(report_file(CPU), json.loads(json.dumps(report)))
    assert fast_paths(CPU) == FastPaths(folded=True)


def test_a_wrong_gradient_and_an_error_are_found(
    data: ld.Dataset, effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*rest: Any) -> Any:
        of_x, of_weight, of_bias = gradients(*rest)
        return of_x, of_weight, None if of_bias is None else 0.9 * of_bias

    def failing(network: Any, paths: FastPaths) -> Any:
        if paths == FastPaths(kernels=True):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return speed_up(network, paths)

    monkeypatch.setattr(convolution, "gradients", wrong)
    monkeypatch.setattr(doctor_steps, "speed_up", failing)
    configs = [resolve(data, CPU, recipe="short", test_domain="ink", **_given(effort), size=32, batch=2)]
    found = doctor_steps.compare_steps(configs, data, CPU, effort, sets(CPU), SILENT)
    folded, kernels, both = found["paths"]
    assert folded["agrees"]  # by the library's gradients
    assert kernels == {
        "paths": ["kernels"],
        "agrees": False,
        "ratio": 0.0,
        "failed": "OutOfMemoryError: CUDA out of memory.",
    }
    assert not both["agrees"]
    assert both["float32"]["weights"] > 0.01
    assert both["times"] == []
    assert choose(found["paths"], CPU) == ["folded"]


def _given(effort: Effort) -> dict[str, Any]:
    return {"model": effort.model, "weights": effort.weights, "precision": "float32", "steps": 10, "optimizer": "sgd"}


def entry(names: str, ratio: float, agrees: bool = True) -> dict[str, Any]:
    return {"paths": names.split(), "ratio": ratio, "agrees": agrees}


@pytest.mark.parametrize(
    ("entries", "gpu", "processor"),
    [
        ([], [], []),
        ([entry("folded", 1.04)], [], ["folded"]),
        ([entry("folded", 1.06), entry("recorded", 8.0, agrees=False)], ["folded"], ["folded"]),
        ([entry("folded", 0.5), entry("recorded", 7.3), entry("recorded folded", 8.0)], ["recorded"], None),
        ([entry("recorded", 7.0), entry("recorded folded", 8.0)], ["recorded", "folded"], ["recorded", "folded"]),
        ([entry("kernels", 0.5), entry("folded kernels", 0.4)], [], ["folded", "kernels"]),
    ],
)
def test_the_choice(entries: list[dict[str, Any]], gpu: list[str], processor: list[str] | None) -> None:
    """On a GPU what is fastest, or as good as that with fewer paths; on a processor, all that is right."""
    assert choose(entries, CUDA) == gpu
    assert processor is None or choose(entries, CPU) == processor


def test_the_choice_for_each_size_of_step_on_an_h200() -> None:
    """Of the times that the doctor measured on one: folding costs at small steps and pays at large ones."""
    every, resident = ["resident", "recorded", "folded"], ["resident", "recorded"]
    folded, recorded = ["recorded", "folded"], ["recorded"]
    assert choices(H200, CUDA) == [
        {"images": None, "size": None, "sets": [resident, folded, recorded, every]},
        {"images": 32, "size": 96, "sets": [resident, folded, every, recorded]},
        {"images": 64, "size": 224, "sets": [folded, recorded, every, resident, ["resident"]]},
    ]
    small = [{**each, "times": each["times"][:1]} for each in H200]  # as where there is no room for the larger step
    assert [each["size"] for each in choices(small, CUDA)] == [None, 96]
    others = [{**each, "agrees": each["paths"] != folded} for each in H200]
    assert all(folded not in each["sets"] for each in choices(others, CUDA))
    none = [{"images": None, "size": None, "sets": list[Any]()}]
    assert choices([{**each, "agrees": False} for each in H200], CUDA) == choices([], CUDA) == none
    assert len(choices(H200, CPU)) == 1


def test_every_set_that_is_chosen_trains_whole_runs(
    data: ld.Dataset, effort: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; what is wrong with one of them lets all go."""
    ran: list[str | None] = []
    good = {name: value for name, value in GOOD.items() if name != "paths"}
    found = {"resident,recorded": good, "recorded,folded": good}

    def run(config: Any, data: Any, device: Any, reporter: Any) -> dict[str, Any]:
        ran.append(os.environ.get(VARIABLE))
        for _ in range(doctor.RUNS + 1):
            reporter.advance(1)
        return found[ran[-1] or ""]

    monkeypatch.setattr(doctor, "resolve", lambda data, device, **given: resolve(data, CPU, **given))
    monkeypatch.setattr(doctor, "compare_steps", lambda *rest: {"again": {}, "paths": H200})
    monkeypatch.setattr(doctor, "_libraries", lambda device: {})
    monkeypatch.setattr(doctor, "machine_key", lambda device: {})
    monkeypatch.setattr(doctor, "_runs", run)
    done: list[float] = []
    report = examine(CUDA, data, effort, Watch(advance=done.append))
    assert ran == ["resident,recorded", "recorded,folded"]
    assert [(runs["paths"], report["problems"]) for runs in report["runs"]] == [
        (["resident", "recorded"], []),
        (["recorded", "folded"], []),
    ]
    assert report["chosen"] == choices(H200, CUDA)
    assert sum(done) == doctor.RUNS + 1
    found["recorded,folded"] = {"failed": "RuntimeError: no kernel"}
    report = examine(CUDA, data, effort)
    assert report["problems"] == ["a run failed: RuntimeError: no kernel (by recorded, folded)"]
    assert report["chosen"] == choices([], CUDA)


def test_the_sets() -> None:
    assert [str(each) for each in sets(CUDA)] == [
        *("resident", "recorded", "folded"),
        *("resident, recorded", "resident, folded", "recorded, folded", "resident, recorded, folded"),
    ]
    assert work(CUDA) == 11
    assert THOROUGH.keys() == {"cpu", "cuda"}


GOOD: dict[str, Any] = {
    "paths": ["folded"],
    "held_bytes": [5 << 20, 5 << 20, 5 << 20],
    "again_apart": 0.0,
    "resumed_apart": 0.0,
}


@pytest.mark.parametrize(
    ("runs", "on_cpu", "on_gpu"),
    [
        ({}, None, None),
        ({"again_apart": 1e-5, "resumed_apart": 1e-5}, "two runs of one config differ by 1e-05", None),
        *(
            ({"resumed_apart": 0.5}, text, text)
            for text in ["a run that was cut and went on differs by 0.5 from one that was not"]
        ),
        *(
            ({"held_bytes": [5 << 20, 8 << 20, 11 << 20]}, text, text)
            for text in ["each run leaves memory: 5 MiB after the first, 11 MiB after the last"]
        ),
    ],
)
def test_problems(runs: dict[str, Any], on_cpu: str | None, on_gpu: str | None) -> None:
    for device, told in ((CPU, on_cpu), (CUDA, on_gpu)):
        assert doctor._problems({**GOOD, **runs}, device) == ([f"{told} (by folded)"] if told else [])


def test_a_run_that_fails_is_a_problem(
    data: ld.Dataset, config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*rest: Any, **options: Any) -> None:
        raise NoMemoryError("a run needs more memory")

    monkeypatch.setattr(doctor, "train", fail)
    runs = doctor._runs(config, data, CPU, SILENT)
    assert runs == {"failed": "NoMemoryError: a run needs more memory"}
    told = "a run failed: NoMemoryError: a run needs more memory (by none)"
    assert doctor._problems({"paths": [], **runs}, CPU) == [told]


def test_memory_that_a_run_leaves_is_seen(data: ld.Dataset, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[torch.Tensor] = []
    real = loop.train

    def leaking(*rest: Any, **options: Any) -> Any:
        kept.append(torch.zeros(1 << 19))
        return real(*rest, **options)

    monkeypatch.setattr(doctor, "train", leaking)
    first, second, third = doctor._runs(config, data, CPU, SILENT)["held_bytes"]
    assert second - first == third - second == 1 << 21
