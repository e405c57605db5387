"""Linear fits as runs: what they hold, that they are the trainer's, and that batching them changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.helpers import Watch

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews
from largedrop.errors import BusyError, CollapseError, Interrupted, RunError, UserError
from largedrop.experiments.compare import compare, plan
from largedrop.lease import take
from largedrop.linear.features import FeatureStore
from largedrop.linear.runs import train_linear_runs
from largedrop.runs.checkpoint import load_model, read_tensors
from largedrop.runs.run import Run
from largedrop.training.loop import cost
from largedrop.training.resolve import resolve

CPU = torch.device("cpu")
LINEAR: dict[str, Any] = {
    "model": "test_convnext",
    "weights": "random",
    "size": 32,
    "steps": 6,
    "batch": 4,
    "eval_every": 2,
    "lr": 1e-2,
    "precision": "float32",
}


def config(data: ld.Dataset, fit: str, **settings: Any) -> Config:
    given = {"dropout": 0.5, "test_domain": "photo", **LINEAR, **settings}
    return resolve(data, CPU, recipe="short", fit=fit, **given)


def trained(data: ld.Dataset, folder: Path, *configs: Config, **options: Any) -> list[Run | RunError]:
    tasks = [(each, folder / each.run_name) for each in configs]
    return [run for _, run in train_linear_runs(tasks, data, HostViews(data), **options)]


def by_domain(right: npt.NDArray[np.bool_], data: ld.Dataset) -> float:
    """I.i.d. accuracy where the test domain is ``photo``: the mean of that of ``ink`` and of ``oil``."""
    iid = data.split("photo", 0).iid
    parts = [iid[data.domain_ids[iid] == data.domain_index(name)] for name in ("ink", "oil")]
    assert [len(part) for part in parts] == [9, 3]
    return float(np.mean([right[part].mean() for part in parts]))


@pytest.mark.parametrize(
    ("fit", "model"), [("linear", "test_convnext"), ("linear", "test_mambaout"), ("probe", "test_convnext")]
)
def test_a_finished_run(uneven: Path, tmp_path: Path, fit: str, model: str) -> None:
    data = ld.open_dataset(uneven)
    one = config(data, fit, model=model)
    (run,) = trained(data, tmp_path, one)
    assert isinstance(run, Run)
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        *("config.json", "log.json", "result.json"),
        *(f"{name}.safetensors" for name in ("best", "average", "final")),
    }
    main = {"linear": "linear-fine-tuning", "probe": "linear-probe"}[fit]
    assert [record.method for record in run.records] == [main, "ensemble", "weight-average"]
    assert all(record.settings["fit"] == fit for record in run.records)
    assert [line["step"] for line in run.result["log"]] == [2, 4, 6]
    best = max(run.result["log"], key=lambda line: (line["iid_accuracy"], -line["step"]))
    assert run.result["best_step"] == best["step"]
    assert run.records[0].ood_accuracy == best["ood_accuracy"]
    # What is stored gives that accuracy on the features, computed by hand.
    tensors, header = read_tensors(run.best, "linear")
    assert header["step"] == best["step"]
    features = FeatureStore(data, HostViews(data)).features(one)
    values = torch.from_numpy(features.values).float()
    parts = values.split(list(features.taps.widths), dim=1)
    if fit == "probe":
        adapted = parts[-1]
    else:
        v = tensors["v"]
        adapted = sum(row * part for row, part in zip(v, parts, strict=True)) if len(v) > 1 else v[0] * values
    logits = adapted @ tensors["weight"].T + tensors["bias"]
    split = data.split("photo", 0)
    right = logits.argmax(1).numpy() == data.labels
    assert float(np.mean(right[split.ood])) == pytest.approx(best["ood_accuracy"])
    assert float(np.mean(right[split.iid])) == pytest.approx(best["iid_accuracy_pooled"])
    assert best["iid_accuracy"] == pytest.approx(by_domain(right, data), abs=1e-12)
    with pytest.raises(UserError, match="of the kind 'linear', not 'model'"):
        load_model(run.best)


def test_together_or_alone_is_the_same(data: ld.Dataset, tmp_path: Path) -> None:
    configs = [
        config(data, fit, dropout=rate, lr=lr, seed=seed, test_domain=domain)
        for fit in ("linear", "probe")
        for rate, lr, seed, domain in ((0.0, 1e-2, 0, "ink"), (0.9, 1e-2, 0, "ink"), (0.9, 3e-2, 1, "oil"))
    ]
    together = trained(data, tmp_path / "together", *configs)
    for each, run in zip(configs, together, strict=True):
        (alone,) = trained(data, tmp_path / "alone", each)
        assert isinstance(run, Run)
        assert isinstance(alone, Run)
        assert alone.result["log"] == run.result["log"]


def test_finished_runs_are_read_and_the_others_trained(data: ld.Dataset, tmp_path: Path) -> None:
    one, other = config(data, "probe"), config(data, "probe", lr=3e-2)
    (first,) = trained(data, tmp_path, one)
    assert isinstance(first, Run)
    before = (first.folder / "result.json").stat().st_mtime_ns
    begun: list[Config] = []
    done: list[float] = []
    again = trained(data, tmp_path, one, other, reporter=Watch(begin=begun.append, advance=done.append))
    assert [run.config for run in again if isinstance(run, Run)] == [one, other] == begun
    assert (first.folder / "result.json").stat().st_mtime_ns == before
    assert sum(done) == pytest.approx(sum(cost(each, each.split_of(data)) for each in (one, other)))


def test_a_run_that_diverges_is_a_collapse_and_harms_no_other(data: ld.Dataset, tmp_path: Path) -> None:
    good, bad = config(data, "probe"), config(data, "probe", lr=1e30)
    run, collapsed = trained(data, tmp_path, good, bad)
    assert isinstance(run, Run)
    assert isinstance(collapsed, CollapseError)
    assert "NaN or infinity at step 2; try a learning rate below 1e+30" in str(collapsed)
    assert not (tmp_path / bad.run_name / "result.json").exists()


def test_an_interruption_leaves_nothing_half(data: ld.Dataset, tmp_path: Path) -> None:
    one = config(data, "linear")
    with pytest.raises(Interrupted):
        trained(data, tmp_path, one, reporter=Watch(stopped=lambda: True))
    assert not (tmp_path / one.run_name / "result.json").exists()
    (run,) = trained(data, tmp_path, one)
    assert isinstance(run, Run)


def test_folders_of_others(data: ld.Dataset, tmp_path: Path) -> None:
    one = config(data, "probe")
    folder = tmp_path / one.run_name
    folder.mkdir()
    lease = take(folder)
    (error,) = trained(data, tmp_path, one)
    assert isinstance(error, BusyError)
    lease.give_back(ended=False)
    with pytest.raises(UserError, match="fit must be 'linear' or 'probe', not 'all'"):
        trained(data, tmp_path, ld.Config(data.name, data.fingerprint, "photo"))


def test_a_network_without_residual_blocks(data: ld.Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^test_efficientnet does not have several residual blocks, .*'probe'$"):
        trained(data, tmp_path, config(data, "linear", model="test_efficientnet"))


def test_the_library_and_a_comparison(data: ld.Dataset, tmp_path: Path) -> None:
    run = ld.finetune(data, "photo", fit="probe", dropout=0.5, output=tmp_path / "one", device="cpu", **LINEAR)
    assert run.records[0].method == "linear-probe"
    planned = plan(data, CPU, test_domains=["photo"], dropouts=(0.0, 0.5), fit="probe", **LINEAR)
    result = compare(data, planned, tmp_path / "compared", device=CPU)
    assert [one.config.dropout for one in result.runs] == [0.0, 0.5]
    (same,) = (one for one in result.runs if one.config == run.config)
    assert same.result["log"] == run.result["log"]


def test_networks_side_by_side(data: ld.Dataset, tmp_path: Path) -> None:
    both = config(data, "probe", model="test_convnext+test_efficientnet")
    assert both.weights_digest == "random+random"
    (run,) = trained(data, tmp_path, both)
    assert isinstance(run, Run)
    tensors, _ = read_tensors(run.best, "linear")
    widths = [config(data, "probe", model=name) for name in ("test_convnext", "test_efficientnet")]
    units = sum(FeatureStore(data, HostViews(data)).features(each).taps.widths[-1] for each in widths)
    assert tensors["weight"].shape == (3, units)


def test_a_probe_by_the_converged_solver(data: ld.Dataset, tmp_path: Path) -> None:
    one = config(data, "probe", optimizer="lbfgs", weight_decay=1e-2)
    (run,) = trained(data, tmp_path, one)
    assert isinstance(run, Run)
    (record,) = run.records
    assert (record.method, record.steps) == ("linear-probe", run.result["best_step"])
    tensors, _ = read_tensors(run.best, "linear")
    # At the minimum more steps of the protocol's SGD, begun anew at a small rate, come to the same weights.
    (slow,) = trained(data, tmp_path, config(data, "probe", dropout=0.0, weight_decay=1e-2, steps=4000, lr=1e-2))
    (solved,) = trained(data, tmp_path, config(data, "probe", dropout=0.0, weight_decay=1e-2, optimizer="lbfgs"))
    assert isinstance(slow, Run)
    assert isinstance(solved, Run)
    by_steps, by_solver = (read_tensors(each.final, "linear")[0]["weight"] for each in (slow, solved))
    centred = by_steps - by_steps.mean(0)
    assert float((centred - by_solver).norm() / by_solver.norm()) < 0.1
    assert tensors["weight"].shape == by_solver.shape


def test_a_solved_probe_is_scored_by_domain(uneven: Path, tmp_path: Path) -> None:
    data = ld.open_dataset(uneven)
    one = config(data, "probe", optimizer="lbfgs", weight_decay=1.0)
    (run,) = trained(data, tmp_path, one)
    assert isinstance(run, Run)
    tensors, _ = read_tensors(run.best, "linear")
    features = FeatureStore(data, HostViews(data)).features(one)
    values = torch.from_numpy(features.values).float()[:, -features.taps.widths[-1] :]
    right = (values @ tensors["weight"].T + tensors["bias"]).argmax(1).numpy() == data.labels
    assert run.records[0].iid_accuracy == pytest.approx(by_domain(right, data), abs=1e-12)


def test_a_probe_without_a_minimum(data: ld.Dataset, tmp_path: Path) -> None:
    bad = config(data, "probe", dropout=0.0, weight_decay=0.0, optimizer="lbfgs")
    found, good = trained(data, tmp_path, bad, config(data, "probe", weight_decay=1e-2, optimizer="lbfgs"))
    assert isinstance(found, CollapseError)
    assert re.search(r"no minimum of the probe was found .*set --weight-decay above 0$", str(found))
    assert isinstance(good, Run)


def test_augmented_views_are_drawn_from(data: ld.Dataset, tmp_path: Path) -> None:
    plain, augmented = trained(data, tmp_path, config(data, "probe"), config(data, "probe", feature_views=2))
    assert isinstance(plain, Run)
    assert isinstance(augmented, Run)
    assert json.dumps(plain.result["log"]) != json.dumps(augmented.result["log"])


@pytest.mark.parametrize(("fit", "optimizer"), [("linear", "sgd"), ("probe", "sgd"), ("probe", "lbfgs")])
def test_several_test_domains_or_none(data: ld.Dataset, tmp_path: Path, fit: str, optimizer: str) -> None:
    chosen: dict[str, Any] = {"fit": fit, "optimizer": optimizer, "weight_decay": 0.1}
    both = config(data, **chosen, test_domain=["photo", "ink"])
    single = [
        config(data, **chosen, test_domain=domain, left_out=other)
        for domain, other in (("ink", "photo"), ("photo", "ink"))
    ]
    found = trained(data, tmp_path, both, *single, config(data, **chosen, test_domain=()))
    assert all(isinstance(run, Run) for run in found)
    together, one, other, none = (run.records for run in found if isinstance(run, Run))
    pairs = [each for pair in zip(one, other, strict=True) for each in pair]
    assert [(each.method, each.test_domain, each.iid_accuracy, each.ood_accuracy) for each in together] == [
        (each.method, each.test_domain, each.iid_accuracy, each.ood_accuracy) for each in pairs
    ]
    assert {(each.test_domain, each.ood_accuracy) for each in none} == {("", None)}
    scores = [run.model_scores or (0, 0) for run in found if isinstance(run, Run)]
    assert scores[0][1] == pytest.approx(np.mean([each.ood_accuracy for each in together[:2]]))
    assert scores[3][1] is None


@pytest.mark.parametrize("fit", ["linear", "probe"])
def test_a_linear_fit_on_balanced_batches(uneven: Path, tmp_path: Path, fit: str) -> None:
    data = ld.open_dataset(uneven)
    both = [config(data, fit, test_domain="ink", balance=balance) for balance in (False, True)]
    runs = trained(data, tmp_path, *both)
    models = [read_tensors(run.final, "linear")[0]["weight"] for run in runs if isinstance(run, Run)]
    assert not torch.equal(models[0], models[1])
    (alone,) = trained(data, tmp_path / "alone", both[1])
    assert isinstance(alone, Run)
    assert torch.equal(read_tensors(alone.final, "linear")[0]["weight"], models[1])
