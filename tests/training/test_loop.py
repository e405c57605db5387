"""The loop: what a finished run holds, what it never looks at, and the same bits however often it was killed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import (
    TINY,
    Networks,
    Watch,
    assert_same_run,
    different,
    files,
    make_toy,
    refusal,
    stopped_at,
    tensors,
)
from torch import Tensor

import largedrop as ld
from largedrop.config import PROTOCOL, Config
from largedrop.data.sampling import batch_indices
from largedrop.data.views.batches import HostViews
from largedrop.errors import CollapseError, Interrupted, NoMemoryError, UserError
from largedrop.fast_paths import FastPaths, device_name, only
from largedrop.files import read_json
from largedrop.measures.calibration import fit_temperature
from largedrop.models.network import Network
from largedrop.runs.checkpoint import read_tensors
from largedrop.runs.run import Run
from largedrop.training import batches, loop
from largedrop.training.averages.swad import Swad
from largedrop.training.averaging import average_weights
from largedrop.training.evaluation import logits
from largedrop.training.features import VIEWS, FeatureCache
from largedrop.training.loop import cost, train
from largedrop.training.objectives import OBJECTIVES
from largedrop.training.resolve import resolve
from largedrop.training.state import STATE_FILE
from largedrop.training.step import TrainingStep

FILES = [
    "average.safetensors",
    "best.safetensors",
    "config.json",
    "final.safetensors",
    "log.json",
    "outputs/000000.safetensors",
    "outputs/000002.safetensors",
    "outputs/000004.safetensors",
    "outputs/000006.safetensors",
    "result.json",
    "split.csv",
]
KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.3},
    "cold": {"head": "random", "head_lr_multiplier": 10.0, "eval_every": 4},
    "frozen": {"weights_digest": ""},  # the weights of the fixture
    "swad": {"swad": True, "left_out": "ink", "decay_again_at": 0.8, "lr": 1e-5},
    "ema": {"ema": 0.7},
    "coral": {"objective": "coral", "penalty": 1.0},
    "vrex": {"objective": "vrex", "penalty": 1.0, "penalty_after": 2},
    "irm": {"objective": "irm", "penalty": 100.0, "penalty_after": 2},
    "mldg": {"objective": "mldg", "penalty": 1.0},
    "class weights": {"class_weights": "balanced", "held_out": 0.4},
    "balance": {"balance": True, "batch": 5},
    "masks": {"masks": 4, "dropout": 0.75},
    "mixout": {"objective": "mixout", "penalty": 0.8, "masks": 4, "dropout": 0.75},
    "l2sp": {"objective": "l2sp", "penalty": 0.1},
    "block dropout": {"model": "test_resnet", "block_dropout": 0.5},
}

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def changed(request: pytest.FixtureRequest, config: Config, weights: Path) -> Config:
    """The tiny config, changed as one of ``KINDS``."""
    settings = KINDS[request.param]
    return replace(config, **({**settings, "weights": str(weights)} if request.param == "frozen" else settings))


def share(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    return sum(int(row.argmax() == label) for row, label in zip(outputs, labels, strict=True)) / len(labels)


def step_by_step(config: Config, data: ld.Dataset, folder: Path) -> list[dict[str, Tensor]]:
    """Do a run, a process for each step; the states between them."""
    states: list[dict[str, Tensor]] = []
    for step in range(1, config.steps + 1):
        with pytest.raises(Interrupted, match=rf"^stopped after step {step} of {config.steps}$"):
            train(config, data, folder, reporter=Watch(stopped=lambda: True))
        states.append(load_file(folder / STATE_FILE))
    train(config, data, folder, reporter=Watch(stopped=lambda: True))
    return states


def network_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


def test_a_finished_run_holds_these_files(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    run = train(config, data, tmp_path / "run")
    assert files(run.folder) == FILES
    assert read_json(run.folder / "config.json") == {"protocol": PROTOCOL, **config.to_json()}
    assert json.loads((run.folder / "log.json").read_text()) == {"log": run.result["log"]}
    assert read_json(run.folder / "result.json") == run.result
    assert run == Run.open(run.folder)


def test_the_fields_of_a_result(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    result = train(config, data, tmp_path).result
    assert list(result) == [
        "largedrop",
        "run",
        "dataset",
        "device",
        "fast_paths",
        "memory",
        "methods",
        "best_step",
        "model",
        "model_scores",
        "probe",
        "log",
    ]
    assert result["dataset"]["fingerprint"] == data.fingerprint
    assert result["largedrop"] == ld.__version__
    assert list(result["methods"]) == ["fine-tuning", "ensemble", "weight-average", "linear-probe"]
    macro = ["iid_macro_accuracy", "ood_macro_accuracy"]
    for found in result["methods"].values():
        assert list(found) == ["iid_accuracy", "ood_accuracy", *macro, "steps", "seconds"]
        assert found["seconds"] > 0
        assert found["iid_accuracy"] * 6 == pytest.approx(round(found["iid_accuracy"] * 6))
        assert found["ood_accuracy"] * 18 == pytest.approx(round(found["ood_accuracy"] * 18))
    steps = {name: found["steps"] for name, found in result["methods"].items()}
    assert steps == {"fine-tuning": 6, "ensemble": 6, "weight-average": 6, "linear-probe": result["probe"]["steps"]}
    assert set(result["probe"]) == {
        *("iid_accuracy", "ood_accuracy", *macro, "steps", "fit_steps", "fit_loss", "converged", "seconds")
    }
    scores = ["step", "iid_accuracy", "ood_accuracy", *macro, "temperature", "iid_accuracy_pooled", "iid_by_domain"]
    assert list(result["log"][0]) == scores
    for entry, step, rate in zip(result["log"][1:], (2, 4, 6), (1e-3, 1e-4, 1e-4), strict=True):
        assert list(entry) == [*scores, "train_loss", "lr", "representation_rms"]
        assert entry["step"] == step
        assert entry["lr"] == pytest.approx(rate)
        assert list(entry["iid_by_domain"]) == ["ink", "oil"]
        assert entry["train_loss"] > 0
        assert entry["representation_rms"] > 0


def test_the_training_loss_is_the_mean_since_the_last_evaluation(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    each, third = (
        train(replace(config, eval_every=every), data, tmp_path / str(every)).result["log"][1:] for every in (1, 3)
    )
    losses = [entry["train_loss"] for entry in each]
    assert [entry["train_loss"] for entry in third] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])


def test_scores_are_those_of_the_stored_outputs(config: Config, uneven: Path, tmp_path: Path) -> None:
    """On domains of 9 and 3 held-out images, whose mean is not the mean over images."""
    data = ld.open_dataset(uneven)
    run = train(replace(config, data=data.name, fingerprint=data.fingerprint), data, tmp_path)
    split = data.split("photo", 0)
    labels = {"iid": data.labels[split.iid], "ood": data.labels[split.ood]}
    of = {name: data.domain_ids[split.iid] == data.domain_index(name) for name in ("ink", "oil")}
    assert [int(chosen.sum()) for chosen in of.values()] == [9, 3]

    def by_domain(outputs: npt.NDArray[Any]) -> dict[str, float]:
        return {name: share(outputs[chosen], labels["iid"][chosen]) for name, chosen in of.items()}

    def mean(outputs: npt.NDArray[Any]) -> float:
        return sum(by_domain(outputs).values()) / 2

    stored = [load_file(run.folder / name) for name in FILES if name.startswith("outputs")]
    pooled = []
    for entry, outputs in zip(run.result["log"], stored, strict=True):
        for part in ("iid", "ood"):
            assert outputs[part].dtype == torch.float16
            assert outputs[part].shape == (len(labels[part]), 3)
        iid, ood = outputs["iid"].numpy(), outputs["ood"].numpy()
        assert entry["iid_accuracy"] == pytest.approx(mean(iid), abs=1e-12)
        assert entry["iid_by_domain"] == by_domain(iid)
        assert entry["iid_accuracy_pooled"] == share(iid, labels["iid"])
        assert entry["ood_accuracy"] == share(ood, labels["ood"])
        assert entry["temperature"] == fit_temperature(iid, labels["iid"], split.iid_domains)
        pooled.append(entry["iid_accuracy_pooled"] == pytest.approx(entry["iid_accuracy"]))
    assert not all(pooled)
    # The ensemble and the average are over the evaluations after the first step.
    methods = run.result["methods"]
    ensemble = {part: np.mean([outputs[part].double().numpy() for outputs in stored[1:]], 0) for part in ("iid", "ood")}
    network = ld.load_model(run.average)
    average = {part: logits(network, HostViews(data), getattr(split, part), "float32") for part in ("iid", "ood")}
    assert network.temperature == fit_temperature(average["iid"], labels["iid"], split.iid_domains)
    for model, step in ((run.best, run.result["best_step"]), (run.final, 6)):
        line = next(entry for entry in run.result["log"] if entry["step"] == step)
        assert ld.load_model(model).temperature == line["temperature"]
    for method, found in (("ensemble", ensemble), ("weight-average", average)):
        assert methods[method]["iid_accuracy"] == pytest.approx(mean(found["iid"]), abs=1e-12)
        assert methods[method]["ood_accuracy"] == share(found["ood"], labels["ood"])


def test_the_head_that_a_run_starts_from_is_a_checkpoint(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    run = train(replace(config, lr=1e-30, weight_decay=0.0), data, tmp_path / "still")
    assert run.result["log"][0]["iid_accuracy"] == 1
    assert run.result["best_step"] == 0
    assert not run.beats_start
    network, split = ld.load_model(run.best), data.split("photo", 0)
    np.testing.assert_array_equal(
        logits(network, HostViews(data), split.ood, "float32"), load_file(run.folder / FILES[5])["ood"].numpy()
    )
    found = run.result["methods"]["fine-tuning"]
    assert (found["ood_accuracy"], found["steps"]) == (run.result["log"][0]["ood_accuracy"], 6)


def test_a_run_is_killed_while_the_head_is_evaluated(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_log", None)
        with pytest.raises(TypeError, match="not callable"):
            train(config, data, tmp_path / "cut")
    train(config, data, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_the_best_is_the_first_of_highest_iid_accuracy(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    for seed in range(3):
        changed = replace(config, seed=seed, eval_every=1, lr=0.01)
        folder = tmp_path / str(seed)
        states = step_by_step(changed, data, folder)
        run = Run.open(folder)
        accuracies = [entry["iid_accuracy"] for entry in run.result["log"]]
        first = accuracies.index(max(accuracies))
        assert run.result["best_step"] == first
        found = run.result["methods"]["fine-tuning"]
        assert found["ood_accuracy"] == run.result["log"][first]["ood_accuracy"]
        assert found["iid_accuracy"] == max(accuracies)
        weights, header = read_tensors(run.best, "model")
        assert first == 0 or different(weights, network_of(states[first - 1])) == []
        stored = load_file(folder / f"outputs/{first:06d}.safetensors")
        outputs = logits(ld.load_model(run.best), HostViews(data), data.split("photo", seed).ood, "float32")
        np.testing.assert_array_equal(outputs, stored["ood"].numpy())
        assert header["about"] == {
            "largedrop": ld.__version__,
            "run": changed.digest(),
            "config": changed.to_json(),
            "domains": ["ink", "oil", "photo"],
            "step": first,
            "iid_accuracy": max(accuracies),
            "ood_accuracy": found["ood_accuracy"],
            "iid_macro_accuracy": found["iid_macro_accuracy"],
            "ood_macro_accuracy": found["ood_macro_accuracy"],
            "temperature": run.result["log"][first]["temperature"],
        }


def test_the_average_is_over_the_evaluated_networks_and_the_final_is_the_last(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    states = [network_of(state) for state in step_by_step(config, data, tmp_path)]
    run = Run.open(tmp_path)
    evaluated = [states[step - 1] for step in config.evaluations]
    for name, tensor in load_file(run.average).items():
        values = [entry[name] for entry in evaluated]
        if tensor.is_floating_point():
            mean = torch.stack(values).double().mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
            assert torch.equal(values[0], values[-1]) or not torch.equal(tensor, values[-1])
        else:
            assert torch.equal(tensor, values[-1])
    final, header = read_tensors(run.final, "model")
    assert different(final, states[-1]) == []
    line = run.result["log"][-1]
    assert {name: header["about"][name] for name in ("step", "iid_accuracy", "ood_accuracy")} == {
        name: line[name] for name in ("step", "iid_accuracy", "ood_accuracy")
    }


def test_held_out_images_can_be_scored_in_the_training_view(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "evaluation")
    for name in ("one", "other"):
        train(replace(config, held_out_view="training"), data, tmp_path / name)
    for step in (0, *config.evaluations):
        file = f"outputs/{step:06d}.safetensors"
        plain, one, other = (load_file(tmp_path / name / file) for name in ("evaluation", "one", "other"))
        assert torch.equal(one["iid"], other["iid"])
        assert torch.equal(one["ood"], plain["ood"])
        assert not torch.equal(one["iid"], plain["iid"])


class Garbage:
    """Images of which those of one domain are replaced by noise or white."""

    bound = 320

    def __init__(self, data: ld.Dataset, domain: str, white: bool) -> None:
        self.data, self.domain, self.white = data, data.domain_index(domain), white

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        image = self.data.images[index]
        if self.data.domain_ids[index] != self.domain:
            return image
        if self.white:
            return np.full_like(image, 255)
        return np.random.default_rng(index).integers(0, 256, image.shape, dtype=np.uint8)


@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize("changed", ["sgd", "frozen"], indirect=True)
def test_the_test_domain_is_never_learned_from(data: ld.Dataset, changed: Config, tmp_path: Path, white: bool) -> None:
    labels = data.labels.copy()
    labels[data.indices("photo")] = np.random.default_rng(1).permutation(labels[data.indices("photo")])
    spoiled = replace(data, images=Garbage(data, "photo", white), labels=labels)
    one, other = train(changed, data, tmp_path / "one"), train(changed, spoiled, tmp_path / "other")
    spoilt = different(tensors(one.folder), tensors(other.folder))
    assert spoilt == [f"{step:06d}.safetensors:ood" for step in (0, 2, 4, 6)]
    for here, there in zip(one.result["log"], other.result["log"], strict=True):
        untested = {"ood_accuracy": 0, "ood_macro_accuracy": 0}
        assert {**here, **untested} == {**there, **untested}
    assert one.result["best_step"] == other.result["best_step"]
    for key in ("iid_accuracy", "steps", "fit_steps", "fit_loss", "converged"):
        assert one.result["probe"][key] == other.result["probe"][key]


@pytest.mark.parametrize("changed", KINDS, indirect=True)
def test_a_process_for_every_step_ends_with_the_same_bits(data: ld.Dataset, changed: Config, tmp_path: Path) -> None:
    train(changed, data, tmp_path / "whole")
    states = step_by_step(changed, data, tmp_path / "steps")
    assert_same_run(tmp_path / "whole", tmp_path / "steps")
    assert not torch.equal(states[0]["network.head.weight"], states[-1]["network.head.weight"])


def test_a_run_stopped_once_has_no_result_until_it_goes_on(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, data, tmp_path / "cut", reporter=stopped_at(3))
    assert not (tmp_path / "cut" / "result.json").exists()
    train(config, data, tmp_path / "cut", reporter=stopped_at(0))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_crash_goes_on_from_the_last_saved_step(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # at every step
    train(config, data, tmp_path / "whole")
    third = iter([False, False])
    with pytest.raises(StopIteration):
        train(config, data, tmp_path / "cut", reporter=Watch(stopped=lambda: next(third)))
    assert read_tensors(tmp_path / "cut" / STATE_FILE, "state")[1]["trajectory"]["step"] == 2
    asked = iter(range(100))
    train(config, data, tmp_path / "cut", reporter=Watch(stopped=lambda: next(asked) < 0))
    assert next(asked) == 4
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


KILL = """
import functools, json, os, random, signal, sys, time
from pathlib import Path

import torch

import largedrop as ld
import largedrop.api
import largedrop.data.views.kernels  # here, not in each child
from largedrop.training import head, setup

torch.set_num_threads(1)
setup.fit_head = functools.partial(head.fit_head, round_steps=5)
source, root, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
data = ld.open_dataset(source)

def begin(folder):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ld.finetune(data, "photo", output=folder, device="cpu", **settings)
        code = 0
    finally:
        os._exit(code)

def finish(folder):
    assert os.waitstatus_to_exitcode(os.waitpid(begin(folder), 0)[1]) == 0

def kill_once(folder, due):
    child = begin(folder)
    while not due():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

def after(seconds):
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until

def writing(folder):
    return lambda: any(folder.glob("**/.*.tmp")) and random.random() < 0.3

random.seed(int(sys.argv[4]))
finish(root / "whole")
killed = {
    "evaluated": [kill_once(root / "evaluated", (root / "evaluated/outputs/000004.safetensors").exists)],
    "writing": [kill_once(root / "writing", writing(root / "writing")) for _ in range(5)],
    "delays": [kill_once(root / "delays", after(random.uniform(0, most))) for most in (0.02, 0.1, 0.2, 0.3, 0.3)],
}
for name in killed:
    finish(root / name)
print(json.dumps(killed))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(data: ld.Dataset, toy: Path, tmp_path: Path) -> None:
    settings = {**TINY, "recipe": "short", "precision": "float32", "eval_every": 2, "steps": 6}
    command = [sys.executable, "-c", KILL, str(toy), str(tmp_path), json.dumps(settings), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert killed["evaluated"] == [True]
    assert True in killed["writing"]
    assert True in killed["delays"]
    assert files(tmp_path / "whole") == FILES
    for name in killed:
        assert_same_run(tmp_path / "whole", tmp_path / name)


def test_an_image_that_goes_in_the_middle_ends_the_run_and_loses_no_step(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room in the cache, so that each image is read from its file whenever it is used."""
    monkeypatch.setenv("LARGEDROP_CACHE_GB", "1e-6")
    toy = make_toy(tmp_path / "toy", images=5)
    data = ld.open_dataset(toy, cache=tmp_path / "cache")
    config = replace(config, data=data.name, fingerprint=data.fingerprint)
    whole = train(config, data, tmp_path / "whole")
    steps = iter(range(1, 100))

    def damage() -> bool:
        if next(steps) == 3:
            for path in toy.glob("ink/*/*.png"):
                path.rename(path.with_suffix(".gone"))
        return False

    said = refusal(train, config, data, tmp_path / "cut", reporter=Watch(stopped=damage))
    assert re.fullmatch(r"\S+/ink/\w+/\d.png has changed since the data were opened", said)
    assert read_tensors(tmp_path / "cut" / STATE_FILE, "state")[1]["trajectory"]["step"] == 3
    for path in toy.glob("ink/*/*.gone"):
        path.rename(path.with_suffix(".png"))
    train(config, ld.open_dataset(toy, cache=tmp_path / "cache"), tmp_path / "cut")
    assert_same_run(whole.folder, tmp_path / "cut")


def test_swad_averages_every_step_of_its_evaluations(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    dense = replace(config, swad=True)
    states = step_by_step(dense, data, tmp_path / "dense")
    swad = Swad()
    for step in dense.evaluations:
        since = [network_of(state) for state in states[step - 2 : step]]
        outputs, _ = read_tensors(tmp_path / "dense" / "outputs" / f"{step:06d}.safetensors", "outputs")
        labels = torch.from_numpy(data.labels[data.split("photo", 0).iid])
        loss = float(torch.nn.functional.cross_entropy(outputs["iid"].double(), labels))
        swad.add(step, average_weights(since), loss)
    run = Run.open(tmp_path / "dense")
    kept, _ = read_tensors(run.swad, "model")
    for name, value in swad.result().state.items():
        torch.testing.assert_close(kept[name], value)
    assert [record.method for record in run.records].count("swad") == 1
    # It only watches: all else is as without it.
    plain = train(config, data, tmp_path / "plain")
    rest = {name: value for name, value in tensors(run.folder).items() if not name.startswith("swad")}
    assert different(tensors(plain.folder), rest) == []


def test_swad_follows_the_weighed_loss(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    real = Swad.add

    def add(self: Swad, step: int, state: Any, loss: float) -> None:
        losses.append(loss)
        real(self, step, state, loss)

    monkeypatch.setattr(Swad, "add", add)
    monkeypatch.setattr(loop, "held_out_weights", lambda config, labels, split, classes: np.zeros(len(split.iid)))
    train(replace(config, swad=True, steps=2), data, tmp_path / "run")
    assert losses == [0.0]


def test_the_exponential_average_is_over_every_step(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    averaged = replace(config, ema=0.7)
    states = [network_of(state) for state in step_by_step(averaged, data, tmp_path / "averaged")]
    run = Run.open(tmp_path / "averaged")
    expected = average_weights(states, [0.7 ** (len(states) - step) for step in range(1, len(states) + 1)])
    for name, value in load_file(run.ema).items():
        torch.testing.assert_close(value, expected[name])
    assert [record.method for record in run.records].count("ema") == 1
    # It only watches: all else is as without it.
    plain = train(config, data, tmp_path / "plain")
    rest = {name: value for name, value in tensors(run.folder).items() if not name.startswith("ema")}
    assert different(tensors(plain.folder), rest) == []


def test_a_domain_that_is_left_out_is_never_seen(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    without = replace(config, left_out="ink")
    changed = replace(data, images=Garbage(data, "ink", False))
    one, other = train(without, data, tmp_path / "one"), train(without, changed, tmp_path / "other")
    assert_same_run(one.folder, other.folder)
    assert set(one.result["log"][0]["iid_by_domain"]) == {"oil"}
    assert all(record.settings["left_out"] == "ink" for record in one.records)


def test_linear_fits_are_not_for_this_loop(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fit 'probe' is trained on cached features"):
        train(replace(config, fit="probe", head="random"), data, tmp_path)


def test_a_finished_run_is_not_run_again(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(config, data, tmp_path)
    monkeypatch.setattr(loop, "create_network", None)
    done: list[float] = []
    again = train(config, data, tmp_path, reporter=Watch(advance=done.append, stopped=lambda: True))
    assert again == run
    assert done == [cost(config, data.split("photo", 0))]


def test_runs_that_share_features_have_the_bits_of_runs_that_do_not(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [replace(config, dropout=dropout) for dropout in (0.0, 0.9)]
    shared, seen = FeatureCache(HostViews(data)), [0]
    represent = Network.represent

    def counted(self: Network, images: Tensor) -> Tensor:
        seen[0] += len(images) if torch.is_inference_mode_enabled() else 0
        return represent(self, images)

    for number, one in enumerate(configs):
        train(one, data, tmp_path / f"alone{number}")
        monkeypatch.setattr(Network, "represent", counted)
        before = seen[0]
        train(one, data, tmp_path / f"shared{number}", features=shared)
        evaluations = (6 + 18) * (1 + len(one.evaluations) + 1)
        assert seen[0] - before - evaluations == (VIEWS * len(data) if number == 0 else 0)
        monkeypatch.setattr(Network, "represent", represent)
        assert_same_run(tmp_path / f"alone{number}", tmp_path / f"shared{number}")


def test_what_was_drawn_before_or_during_a_run_does_not_matter(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    def draw(done: float) -> None:
        torch.rand(3)

    train(config, data, tmp_path / "one")
    torch.manual_seed(123)
    np.random.seed(5)
    torch.rand(77)
    before = torch.get_rng_state()
    train(config, data, tmp_path / "other", reporter=Watch(advance=draw))
    assert_same_run(tmp_path / "one", tmp_path / "other")
    assert torch.equal(torch.get_rng_state(), before)


COLD: dict[str, Any] = {"head": "random"}
VARIED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seed": ({}, {"seed": 1}),
    "dropout": ({**COLD, "dropout": 0.0}, {**COLD, "dropout": 0.5}),  # with cold heads, the masks alone
    "block dropout": ({"model": "test_resnet"}, KINDS["block dropout"]),
    **{name: ({}, KINDS[name]) for name in ("coral", "vrex", "irm", "mldg")},
}


@pytest.mark.parametrize("name", VARIED)
def test_each_of_these_settings_changes_the_weights(
    data: ld.Dataset, config: Config, tmp_path: Path, name: str
) -> None:
    one, other = (
        tensors(train(replace(config, **changes), data, tmp_path / str(number)).folder)
        for number, changes in enumerate(VARIED[name])
    )
    assert {"final.safetensors:head.weight", "average.safetensors:head.weight"} <= {*different(one, other)}


@pytest.mark.parametrize("changes", [{}, {"eval_every": 5}, {"steps": 3, "batch": 1}])
def test_all_the_work_is_reported(data: ld.Dataset, config: Config, tmp_path: Path, changes: dict[str, Any]) -> None:
    changed = replace(config, **changes)
    split = data.split("photo", 0)
    steps, batch, rounds = changed.steps, changed.batch, len(changed.evaluations)
    assert cost(changed, split) == 5 * steps * batch * 2 + (6 + 18) * (1 + rounds + 1)
    done: list[float] = []
    train(changed, data, tmp_path, reporter=Watch(advance=done.append))
    assert sum(done) == pytest.approx(cost(changed, split))


@pytest.mark.parametrize("how", ["overwritten", "truncated", "deleted", "cache deleted"])
@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed")
def test_images_that_change_while_a_run_goes_on_change_no_bit(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    train(config, data, tmp_path / "whole")
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    mine = ld.open_dataset(make_toy(tmp_path / data.name))
    assert mine.fingerprint == data.fingerprint
    images = sorted((tmp_path / data.name).glob("*/*/*.png"))
    asked: list[bool] = []

    def spoil() -> bool:
        asked.append(True)
        if len(asked) == 3:
            if how == "cache deleted":
                shutil.rmtree(tmp_path / "cache")
            for number, path in enumerate(images):
                if how == "overwritten":
                    shutil.copyfile(images[number - 7], path)
                elif how == "truncated":
                    path.write_bytes(path.read_bytes()[:100])
                elif how == "deleted":
                    path.unlink()
        return False

    train(config, mine, tmp_path / "spoiled", reporter=Watch(stopped=spoil))
    assert len(asked) == 6
    assert_same_run(tmp_path / "whole", tmp_path / "spoiled")
    if how in ("overwritten", "truncated", "deleted"):  # and whoever opens them now is told, or has another dataset
        try:
            assert ld.open_dataset(tmp_path / data.name).fingerprint != data.fingerprint
        except UserError:
            assert how != "overwritten"


def test_an_unknown_test_domain_is_said_before_anything_is_written(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^no domain 'pohto' in .*; did you mean 'photo'\?"):
        train(replace(config, test_domain="pohto"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["coral", "vrex", "irm", "mldg", "mixout", "l2sp"])
def test_the_defaults_of_every_objective(data: ld.Dataset, objective: str) -> None:
    chosen = resolve(data, torch.device("cpu"), recipe="short", test_domain="photo", objective=objective, size=32)
    assert chosen.penalty == OBJECTIVES[objective].default_weight
    assert chosen.penalty_after == (chosen.steps // 10 if objective in ("vrex", "irm") else None)


def test_cross_entropy_with_a_penalty_of_0_is_the_run_without(data: ld.Dataset) -> None:
    one, other = (
        resolve(data, torch.device("cpu"), recipe="short", test_domain="photo", size=32, penalty=penalty)
        for penalty in (0.0, None)
    )
    assert one == other
    assert one.penalty is None


def test_an_objective_that_compares_domains_needs_two(data: ld.Dataset) -> None:
    chosen = np.flatnonzero(data.domain_ids < 2)
    images = {name: getattr(data, name)[chosen] for name in ("labels", "domain_ids", "groups")}
    small = replace(data, domains=data.domains[:2], keys=tuple(data.keys[index] for index in chosen), **images)
    with pytest.raises(UserError, match="coral compares training domains: it needs 2 or more, not 1"):
        resolve(small, torch.device("cpu"), recipe="short", test_domain="ink", objective="coral", size=32)


ENDS: dict[str, type[Exception]] = {
    "interrupted": Interrupted,
    "collapsed": CollapseError,
    "out of memory": NoMemoryError,
}


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        *((kind, "finished") for kind in ("frozen", "vrex", "mixout", "swad", "block dropout")),
        *(("frozen", end) for end in ENDS),
    ],
    indirect=["changed"],
)
def test_nothing_but_the_files_is_left_of_a_run(
    data: ld.Dataset,
    changed: Config,
    tmp_path: Path,
    networks: Networks,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    """Its network is freed when it ends, however it does, without Python's collector: on a GPU it would fill it."""
    compute = TrainingStep._compute

    def spoiled(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if ends == "out of memory" and self._step == 1:
            raise MemoryError
        loss, size = compute(self, inputs, labels)
        return loss * (float("nan") if ends == "collapsed" else 1), size

    monkeypatch.setattr(TrainingStep, "_compute", spoiled)
    if ends == "finished":
        train(changed, data, tmp_path)
    else:
        with pytest.raises(ENDS[ends]):
            train(changed, data, tmp_path, reporter=stopped_at(2 if ends == "interrupted" else 0))
    assert len(networks.made) == 1
    assert networks.alive == 0


def test_a_run_says_by_which_fast_paths_it_was_computed_and_where(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, exactly = TrainingStep._compute, []

    def seen(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        exactly.append(not torch.backends.cudnn.allow_tf32)
        return compute(self, inputs, labels)

    monkeypatch.setattr(TrainingStep, "_compute", seen)
    with only(FastPaths()), pytest.raises(Interrupted):
        train(config, data, tmp_path, reporter=stopped_at(3))
    notes: list[str] = []
    result = train(config, data, tmp_path, reporter=Watch(note=notes.append)).result
    assert notes == ["fast paths: none up to step 3, and from there folded, kernels: the last bits may differ"]
    assert result["fast_paths"] == [[], ["folded", "kernels"]]
    assert result["device"] == device_name(torch.device("cpu"))
    assert exactly == [True] * config.steps  # float32 is float32
    assert torch.backends.cudnn.allow_tf32


def test_a_run_tested_on_two_domains_is_the_one_that_leaves_one_of_them_out(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    both = train(replace(config, test_domain="ink", also_tested="photo"), data, tmp_path / "both")
    single = {
        domain: train(replace(config, test_domain=domain, left_out=other), data, tmp_path / domain)
        for domain, other in (("ink", "photo"), ("photo", "ink"))
    }
    for run in single.values():
        spoilt = different(tensors(both.folder), {**tensors(both.folder), **_weights(run)})
        assert spoilt == []
    methods = {name: each["ood_by_domain"] for name, each in both.result["methods"].items()}
    assert methods == {
        name: {domain: run.result["methods"][name]["ood_accuracy"] for domain, run in single.items()}
        for name in methods
    }
    assert [(each.method, each.test_domain) for each in both.records[:2]] == [
        ("fine-tuning", "ink"),
        ("fine-tuning", "photo"),
    ]
    assert [each.ood_accuracy for each in both.records] == [
        each.ood_accuracy for pair in zip(*(run.records for run in single.values()), strict=True) for each in pair
    ]
    assert both.model_scores is not None
    assert both.model_scores[1] == both.result["methods"]["fine-tuning"]["ood_accuracy"]


def _weights(run: Run) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors(run.folder).items() if not name.endswith((":iid", ":ood"))}


def test_a_run_without_a_test_domain_trains_on_every_domain(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    more: dict[str, Any] = {"swad": True, "ema": 0.7, "hand_over": "ema", "way_back": 0.2}
    alone = replace(config, test_domain="", **more)
    run = train(replace(alone, wise_ft=True), data, tmp_path / "all")
    assert [each["iid_by_domain"].keys() for each in run.result["log"]] == [{"ink", "oil", "photo"}] * 4
    assert {each["ood_accuracy"] for each in run.result["log"]} == {None}
    assert {(each.test_domain, each.ood_accuracy) for each in run.records} == {("", None)}
    assert run.model_scores is not None
    assert run.model_scores[1] is None
    assert ld.load_model(run.model).classes == data.classes
    train(alone, data, tmp_path / "whole")
    step_by_step(alone, data, tmp_path / "steps")
    assert_same_run(tmp_path / "whole", tmp_path / "steps")


def test_macro_accuracy_selects(toy: Path, config: Config, tmp_path: Path) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    for domain in ("ink", "oil"):
        for path in sorted((root / domain / "red").iterdir())[2:]:
            path.unlink()
    data = ld.open_dataset(root)
    chosen = replace(config, fingerprint=data.fingerprint, hand_over="wise-ft", wise_ft=True, held_out=0.5)
    run = train(replace(chosen, select_by="iid-macro"), data, tmp_path / "run")
    log, key = run.result["log"], "iid_macro_accuracy"
    assert any(each["iid_accuracy"] != each[key] for each in log)
    best = max(log, key=lambda each: (each[key], -each["step"]))
    assert run.result["best_step"] == best["step"]
    assert run.result["methods"]["fine-tuning"][key] == best[key]
    curve = run.result["methods"]["wise-ft"]
    safest = max(curve, key=lambda each: (each[key], each["alpha"]))
    start = log[0][key]
    if safest[key] < start:
        assert run.hands_over_start
    else:
        assert run.result["model_scores"][key] == safest[key]
    plain = train(chosen, data, tmp_path / "plain")
    assert [each["ood_accuracy"] for each in plain.result["log"]] == [each["ood_accuracy"] for each in log]


def test_balanced_batches_are_those_of_the_loop(
    toy: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    for path in sorted((root / "ink" / "red").iterdir())[2:]:
        path.unlink()
    data = ld.open_dataset(root)
    drawn: list[int] = []

    def recorded(*arguments: Any) -> npt.NDArray[np.int64]:
        chosen = batch_indices(*arguments)
        drawn.extend(data.labels[chosen[: len(chosen) // 2]].tolist())
        return chosen

    monkeypatch.setattr(batches, "batch_indices", recorded)
    counts = []
    for balance in (False, True):
        drawn.clear()
        chosen = replace(config, fingerprint=data.fingerprint, balance=balance, steps=12, eval_every=12)
        train(chosen, data, tmp_path / str(balance))
        counts.append([drawn.count(label) for label in range(3)])
    assert counts == [[22, 22, 4], [16, 16, 16]]  # of 5, 5 and 1


def test_class_weights_train_otherwise_only_where_classes_differ(toy: Path, config: Config, tmp_path: Path) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    for path in sorted((root / "ink" / "red").iterdir())[2:]:
        path.unlink()
    for data, alike in ((ld.open_dataset(toy), True), (ld.open_dataset(root), False)):
        chosen = replace(config, fingerprint=data.fingerprint)
        kinds = ("none", "balanced")
        runs = [train(replace(chosen, class_weights=kind), data, tmp_path / f"{alike}-{kind}") for kind in kinds]
        one, other = (load_file(run.final)["head.weight"] for run in runs)
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5) == alike
