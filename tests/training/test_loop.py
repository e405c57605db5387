"""The loop: what a finished run holds, which network is the best, and what changes its weights and what does not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import (
    FILES,
    KINDS,
    Watch,
    assert_same_run,
    different,
    files,
    network_of,
    step_by_step,
    stopped_at,
    tensors,
)
from torch import Tensor

import largedrop as ld
from largedrop.config import PROTOCOL, Config
from largedrop.data.views.batches import HostViews
from largedrop.errors import Interrupted, UserError
from largedrop.fast_paths import FastPaths, device_name, only
from largedrop.files import read_json
from largedrop.measures.calibration import fit_temperature
from largedrop.runs.checkpoint import read_tensors
from largedrop.runs.run import Run
from largedrop.training import loop
from largedrop.training.evaluation import logits
from largedrop.training.loop import cost, train
from largedrop.training.step import TrainingStep

pytestmark = pytest.mark.usefixtures("quick_heads")


def share(outputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    return sum(int(row.argmax() == label) for row, label in zip(outputs, labels, strict=True)) / len(labels)


def test_a_finished_run_holds_these_files(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    run = train(config, data, tmp_path / "run")
    assert files(run.folder) == FILES
    assert read_json(run.folder / "config.json") == {"protocol": PROTOCOL, **config.to_json()}
    assert read_json(run.folder / "log.json") == {"log": run.result["log"]}
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
            "checkpoint": "best",
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
