"""Between pretrained and fine-tuned: the ends are the two models, and what lies between is as a loop has it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import TINY, Watch

import largedrop as ld
from largedrop.analysis.interpolation import Shifted, interpolate_run, interpolation_cost
from largedrop.catalog.facts import published
from largedrop.catalog.layouts import imagenet_names
from largedrop.config import Config
from largedrop.data.dataset import Dataset
from largedrop.data.views.batches import HostViews
from largedrop.data.views.host import evaluation_batch
from largedrop.errors import Interrupted, UserError
from largedrop.files import write_json
from largedrop.report.report import write_report
from largedrop.report.tables import curves_table
from largedrop.runs.checkpoint import load_model
from largedrop.runs.interpolation import Interpolation
from largedrop.runs.read import read_runs
from largedrop.runs.record import Record
from largedrop.runs.run import Run
from largedrop.selection.curves import mean_curves, names_of
from largedrop.training.evaluation import logits
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
from largedrop.training.setup import create_network, start_head
from largedrop.training.way_back import ALPHAS

SETTINGS: dict[str, Any] = {
    **TINY,
    **{"steps": 2, "eval_every": 1, "dropout": 0.5, "lr": 1e-2, "head": "random", "weight_decay": 1e-4},
}

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def trained(uneven: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> tuple[Dataset, Path]:
    """Two seeds × two test domains."""
    root = tmp_path_factory.mktemp("runs")
    data = ld.open_dataset(uneven)
    for domain in ("ink", "photo"):
        for seed in (0, 1):
            config = Config(data.name, data.fingerprint, domain, seed=seed, weights_digest="random", **SETTINGS)
            train(config, data, root / config.run_name)
    return data, root


@pytest.fixture
def run(trained: tuple[Dataset, Path], tmp_path: Path) -> Run:
    """A copy of one that a test may change."""
    (folder,) = trained[1].glob("*-photo-*-s0-*")
    shutil.copytree(folder, tmp_path / folder.name)
    return Run.open(tmp_path / folder.name)


@pytest.fixture
def data(trained: tuple[Dataset, Path]) -> Dataset:
    return trained[0]


def pretrained(run: Run, data: Dataset) -> tuple[torch.nn.Module, FeatureCache]:
    """The network as the run began, with a fitted head."""
    cache = FeatureCache(HostViews(data))
    network = create_network(run.config, data.classes)
    split = data.split(run.config.test_domain, run.config.seed)
    start_head(replace(run.config, head="warm"), data, split, network, cache)
    return network.eval(), cache


def share(outputs: torch.Tensor, data: Dataset, indices: Any) -> float:
    """Accuracy, the mean over domains."""
    right = outputs.to(torch.float16).argmax(1).numpy() == data.labels[indices]
    domains = data.domain_ids[indices]
    return float(np.mean([right[domains == domain].mean() for domain in np.unique(domains)]))


def test_every_alpha_against_two_networks(run: Run, data: Dataset) -> None:
    seen: list[float] = []
    before, features = pretrained(run, data)
    found = interpolate_run(run, data, features, reporter=Watch(advance=seen.append))
    assert found.alphas == ALPHAS == tuple(number / 10 for number in range(11))
    assert sum(seen) == interpolation_cost(run, data)
    after, mixed = load_model(run.final), load_model(run.final)
    split = data.split("photo", 0)
    for place, part in enumerate((split.iid, split.ood)):
        batch = evaluation_batch([data.images[int(index)] for index in part], 32, after.spec.mean, after.spec.std)
        for alpha, by_weights, by_representations in zip(
            found.alphas, found.weights, found.representations, strict=True
        ):
            ours, theirs = after.state_dict(), before.state_dict()
            mixed.load_state_dict(
                {
                    name: (alpha * theirs[name].double() + (1 - alpha) * tensor.double()).to(tensor.dtype)
                    for name, tensor in ours.items()
                }
            )
            with torch.no_grad():
                phi = alpha * before.represent(batch) + (1 - alpha) * after.represent(batch)  # type: ignore[operator]
                assert by_weights[place] == pytest.approx(share(mixed(batch), data, part), abs=1e-9)
                assert by_representations[place] == pytest.approx(share(mixed.head(phi), data, part), abs=1e-9)
    # The end points are the two models, whichever way.
    last = run.result["log"][-1]
    assert found.weights[0] == found.representations[0] == (last["iid_accuracy"], last["ood_accuracy"])
    assert found.weights[-1] == found.representations[-1]
    assert found.weights[0] != found.weights[-1]


def test_it_is_stored_and_not_computed_again(run: Run, data: Dataset) -> None:
    features = FeatureCache(HostViews(data))
    first = interpolate_run(run, data, features)
    path = run.folder / "interpolation.json"
    assert Interpolation.read(path, run.digest) == first
    content = json.loads(path.read_text())
    assert content["weights"]["ood"] == [pair[1] for pair in first.weights]

    def never(work: float) -> None:
        raise AssertionError("computed again")

    assert interpolate_run(run, data, features, reporter=Watch(advance=never)) == first
    write_json(path, replace(first, pooled=True).to_json())
    assert Interpolation.read(path, run.digest).pooled
    assert interpolate_run(run, data, features) == first  # computed again, by the mean over domains
    best = interpolate_run(run, data, features, which="best")
    line = next(each for each in run.result["log"] if each["step"] == run.result["best_step"])
    assert best.weights[0] == best.representations[0] == (line["iid_accuracy"], line["ood_accuracy"])
    assert Interpolation.read(path, run.digest) == best


def test_a_run_that_cannot_be_written_to(run: Run, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: Any) -> None:
        raise UserError(f"cannot write {path}")

    features, notes = FeatureCache(HostViews(data)), list[str]()
    first = interpolate_run(run, data, features)
    path = run.folder / "interpolation.json"
    path.unlink()
    monkeypatch.setattr("largedrop.analysis.interpolation.write_stored", refuse)
    with pytest.raises(UserError, match=r"^cannot write "):  # a full disk, say
        interpolate_run(run, data, features)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert interpolate_run(run, data, features, reporter=Watch(note=notes.append)) == first
    told = "the run cannot be written to, so its interpolation is computed anew each time"
    assert notes == [f"cannot write {path}; {told}"]


def test_features_are_shared(run: Run, data: Dataset) -> None:
    _, cache = pretrained(run, data)
    done: list[float] = []
    cache.reporter = Watch(advance=done.append)
    interpolate_run(run, data, cache)
    assert done == []


def test_mistakes(run: Run, data: Dataset) -> None:
    features = FeatureCache(HostViews(data))
    with pytest.raises(Interrupted):
        interpolate_run(run, data, features, reporter=Watch(stopped=lambda: True))
    assert not (run.folder / "interpolation.json").exists()
    path = run.folder / "interpolation.json"
    found = interpolate_run(run, data, features)
    path.write_text("{")
    assert interpolate_run(run, data, features) == found == Interpolation.read(path, run.digest)
    path.write_text('{"format": 99}')
    with pytest.raises(UserError, match=r"written by a newer largedrop .*; remove that file"):
        interpolate_run(run, data, features)
    run.final.unlink()
    with pytest.raises(UserError, match=r"\(of an older version\?\) has no final\.safetensors"):
        interpolate_run(run, data, features)


def test_damaged_files() -> None:
    good = Interpolation("final", (0.0, 1.0), ((0.5, 0.4), (0.3, 0.2)), ((0.6, 0.5), (0.4, 0.3))).to_json()
    assert Interpolation.from_json(good, "x").to_json() == good
    for changes, text in (
        ({"format": 99}, "x: written by a newer largedrop (format 99, this reads 2)"),
        ({"alphas": [0, 2]}, "x: α must be ascending numbers from 0 to 1, not 0, 2"),
        ({"alphas": [0.5, 0.1]}, "x: α must be ascending numbers from 0 to 1, not 0.5, 0.1"),
        ({"weights": {"iid": [0.5, 90.0], "ood": [0.4, 0.2]}}, "x: an accuracy must be a fraction from 0 to 1"),
        ({"weights": {"iid": [0.5], "ood": [0.4, 0.2]}}, "x: zip() argument 2 is shorter than argument 1"),
        ({"weights": {"iid": [0.5, 0.1]}}, "x: 'ood' is missing"),
    ):
        with pytest.raises(UserError) as caught:
            Interpolation.from_json({**good, **changes}, "x")
        assert str(caught.value) == text


def record(domain: str, seed: int, **settings: Any) -> Record:
    return Record("fine-tuning", 0.9, domain, seed, 0.5, 0.5, 1, 1.0, {"size": 32, **settings})


def test_means_over_domains_and_seeds_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    found = []
    for lr in (1e-3, 1e-4):
        for domain in ("a", "b"):
            for seed in (0, 1, 2):
                table = rng.uniform(size=(2, 3, 2))
                pairs = [tuple((float(i), float(o)) for i, o in kind) for kind in table]
                found.append((record(domain, seed, lr=lr), Interpolation("final", (0.0, 0.5, 1.0), pairs[0], pairs[1])))
    means, problems = mean_curves(found)
    assert problems == []
    assert names_of(means) == ["lr 0.0001", "lr 0.001"]
    for lr, mean in zip((1e-4, 1e-3), means, strict=True):
        by_seed = []
        for seed in (0, 1, 2):
            own = [each for of, each in found if of.seed == seed and of.settings["lr"] == lr]
            by_seed.append(sum(each.representations[1][1] for each in own) / 2)
        estimate = mean.estimates["representations"][1][1]
        assert estimate.mean == pytest.approx(sum(by_seed) / 3)
        assert estimate.error == pytest.approx(np.std(by_seed, ddof=1) / 3**0.5)
        assert estimate.n == 3
    # A seed without one of the test domains is not averaged, and is named.
    means, _ = mean_curves(found[1:])
    assert means[1].missing == (("a", 0),)
    assert means[1].estimates["weights"][0][0].n == 2
    shown = curves_table(means)
    assert shown.rows[0][:3] == ["lr 0.0001", "weights", "o.o.d."]
    assert shown.notes[-1] == "Missing interpolations: lr 0.001: a, seed 0."
    assert {len(row) for row in shown.rows} == {len(shown.heads)} == {6}
    # Groups that cannot be averaged are told.
    means, problems = mean_curves([found[0], found[4]])
    assert (means, problems) == (
        [],
        ["interpolation of fine-tuning, dropout 0.9: no seed has every test domain (b and a)"],
    ) or problems == ["interpolation of fine-tuning, dropout 0.9: no seed has every test domain (a and b)"]
    other = replace(found[1][1], which="best")
    assert mean_curves([found[0], (found[1][0], other)])[1] == [
        "interpolation of fine-tuning, dropout 0.9: its runs have different α, checkpoints or sets"
    ]
    assert mean_curves([]) == ([], [])


def test_runs_on_imagenet_are_tested_on_shifted_ones(run: Run, data: Dataset, tmp_path: Path) -> None:
    """Against the accuracies of the two models at the ends, counted image by image."""
    names = [imagenet_names()[index] for index in published("ImageNet-A").imagenet[:3]]
    own = replace(data, classes=tuple(sorted(names)))
    config = replace(run.config, test_domain="", seed=0)
    there = train(config, own, tmp_path / "imagenet")
    # Of ImageNet-A two classes, of which one has other images than the run's; a class that the model does not know.
    shifted = replace(own, classes=(*own.classes[:2], "n00000000"), fingerprint="5")
    views = HostViews(shifted)
    test_on = [Shifted("ImageNet-A", shifted, own.classes, views)]
    assert set(shifted.labels[test_on[0].indices].tolist()) == {0, 1}
    found = interpolate_run(there, own, FeatureCache(HostViews(own)), test_on=test_on)
    network = load_model(there.final)
    outputs = logits(network, views, test_on[0].indices, "float32").astype(np.float32)
    right = float((outputs.argmax(1) == shifted.labels[test_on[0].indices]).mean())
    assert found.weights[0][1] == found.representations[0][1] == pytest.approx(right)
    assert found.weights[-1] == found.representations[-1]
    assert found.tested_on["ImageNet-A"]["weights"] == [pair[1] for pair in found.weights]
    stored = Interpolation.read(there.folder / "interpolation.json", there.digest)
    assert stored == found
    again = [Shifted("ImageNet-A", replace(shifted, fingerprint="6"), own.classes, views)]
    assert interpolate_run(there, own, FeatureCache(HostViews(own)), test_on=again).tested_on != found.tested_on
    with pytest.raises(UserError, match=r"has no test domain; --test-on names sets$"):
        interpolate_run(there, own, FeatureCache(HostViews(own)))
    with pytest.raises(UserError, match=r"has a test domain, so it is not tested on others$"):
        interpolate_run(run, data, FeatureCache(HostViews(data)), test_on=test_on)
    (means, problems) = mean_curves([(there.records[0], found)])
    assert (means[0].tested_on, problems) == (("ImageNet-A",), [])
    assert "averaged over ImageNet-A (o.o.d.); no selection" in curves_table(means).notes[0]
    write_report(read_runs(tmp_path / "imagenet"), tmp_path / "report")
    assert (tmp_path / "report" / "alpha.png").is_file()


def test_the_report_draws_figure_1(trained: tuple[Dataset, Path], tmp_path: Path) -> None:
    data, root = trained
    shutil.copytree(root, tmp_path / "runs")
    runs = [Run.open(path) for path in sorted((tmp_path / "runs").iterdir())]
    features = FeatureCache(HostViews(data))
    by_hand = [interpolate_run(each, data, features) for each in runs]
    write_report(read_runs(tmp_path / "runs"), tmp_path / "out")
    assert {"alpha.png", "alpha.svg"} <= {path.name for path in (tmp_path / "out").iterdir()}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Interpolation of the pretrained and the fine-tuned network" in text
    assert "![O.o.d. accuracy between the fine-tuned and the pretrained network" in text
    (mean,) = json.loads((tmp_path / "out" / "report.json").read_text())["interpolations"]
    for kind in ("weights", "representations"):
        for place in range(len(ALPHAS)):
            wanted = np.mean([each.of(kind)[place][1] for each in by_hand])
            assert mean[kind]["ood"][place]["mean"] == pytest.approx(wanted)
            assert mean[kind]["ood"][place]["n"] == 2
    (runs[0].folder / "interpolation.json").write_text('{"alphas": [0]}')
    again = read_runs(tmp_path / "runs")
    assert [(entry.name, entry.kind, entry.reason) for entry in again.unusable] == [
        (f"{runs[0].folder.name}/interpolation.json", "damaged", "'weights' is missing")
    ]
    assert len(again.runs) == 4  # the run itself is used
