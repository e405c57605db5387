"""Methods across trajectories, against loops over the stored checkpoints and outputs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import TINY, Watch, refusal

import largedrop as ld
from largedrop.analysis.across import across, across_cost
from largedrop.config import Config
from largedrop.data.dataset import Dataset
from largedrop.data.views.batches import HostViews
from largedrop.data.views.host import evaluation_view, normalise
from largedrop.errors import Interrupted, UserError
from largedrop.files import read_json
from largedrop.measures.calibration import fit_temperature
from largedrop.report.report import write_report
from largedrop.runs.across import Across, groups_of, methods_across
from largedrop.runs.checkpoint import load_model, read_tensors, write_tensors
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run
from largedrop.training.evaluation import logits as logits_of
from largedrop.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(uneven: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> tuple[Dataset, Path]:
    """Two learning rates × two seeds × two test domains, two steps each."""
    root = tmp_path_factory.mktemp("sweep")
    data = ld.open_dataset(uneven)
    for domain in ("ink", "photo"):
        for seed in (0, 1):
            for lr in (1e-4, 1e-3):
                train(made(data, domain, seed, lr), data, root / "runs" / made(data, domain, seed, lr).run_name)
    return data, root


def made(data: Dataset, domain: str, seed: int, lr: float, **changes: Any) -> Config:
    settings = {**TINY, "steps": 2, "eval_every": 1, "dropout": 0.0, "lr": lr, **changes}
    return Config(data.name, data.fingerprint, domain, seed=seed, weights_digest="random", **settings)


@pytest.fixture
def sweep(trained: tuple[Dataset, Path], tmp_path: Path) -> tuple[Dataset, Path]:
    """A copy that a test may spoil."""
    data, root = trained
    shutil.copytree(root, tmp_path / "sweep")
    return data, tmp_path / "sweep"


def runs_of(folder: Path) -> list[Run]:
    return [Run.open(path) for path in sorted((folder / "runs").iterdir())]


def done(data: Dataset, folder: Path, **more: Any) -> list[str]:
    """What could not be computed."""
    return across(runs_of(folder), data, folder, device=CPU, **more)


def written(folder: Path) -> dict[Path, int]:
    """The results there, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "across").glob("*.json")}


def stored(folder: Path, method: str, domain: str, seed: int | str) -> tuple[Across, Path]:
    (path,) = (folder / "across").glob(f"{method}-{domain}-d0-s{seed}-*.json")
    return Across.read(path), path


def mean_over(data: Dataset, indices: Any, found: list[int]) -> float:
    """Accuracy of predictions, the mean over domains."""
    right: dict[int, list[bool]] = {}
    for index, each in zip(indices, found, strict=True):
        right.setdefault(int(data.domain_ids[index]), []).append(each == data.labels[index])
    return round(fmean(sum(part) / len(part) for part in right.values()), 12)


def scored(path: Path, data: Dataset, indices: Any) -> float:
    """Accuracy of a checkpoint on images seen one at a time, without the evaluation's machinery."""
    model = load_model(path)
    found = []
    for index in indices:
        image = normalise(evaluation_view([data.images[int(index)]], 32), model.spec.mean, model.spec.std)
        with torch.no_grad():
            found.append(int(model(image).to(torch.float16).argmax()))
    return mean_over(data, indices, found)


def test_groups_are_what_the_paper_averages(trained: tuple[Dataset, Path]) -> None:
    runs = runs_of(trained[1])
    groups = groups_of((run.folder.name, run.config) for run in runs)
    assert [(group.test_domain, group.seed, len(group.names)) for group in groups] == [
        *(("ink", 0, 2), ("ink", 1, 2), ("photo", 0, 2), ("photo", 1, 2)),
        *(("ink", None, 4), ("photo", None, 4)),
    ]
    assert all(not group.missing for group in groups)
    first = groups[0]
    assert [run.config.lr for name in first.names for run in runs if run.folder.name == name] == [1e-4, 1e-3]
    assert "lr" not in dict(first.settings)
    assert dict(first.settings)["weight_decay"] == 1e-2  # the same in all: nothing that was tuned
    assert methods_across(first) == ("ensemble-across", "weight-average-across", "greedy-soup")
    assert methods_across(groups[-1]) == ("ensemble-across", "weight-average-across")
    assert first.stem("greedy-soup") != groups_of((run.folder.name, run.config) for run in runs[1:])[0].stem(
        "greedy-soup"
    )


def test_groups_that_lack_a_run_or_have_one_setting() -> None:
    def named(**changes: Any) -> tuple[str, Config]:
        config = Config("x", "f" * 8, **{"test_domain": "a", "weights_digest": "w", **changes})
        return config.run_name, config

    grid = [named(seed=seed, lr=lr, dropout=rate) for seed in (0, 1) for lr in (1e-3, 1e-4) for rate in (0.0, 0.9)]
    groups = groups_of(grid[:-1])
    assert [(group.dropout, group.seed, group.missing) for group in groups] == [
        (0.0, 0, ()),
        (0.0, 1, ()),
        (0.0, None, ()),
        (0.9, 0, ()),
        (0.9, 1, ("lr 0.0001, seed 1",)),
        (0.9, None, ("lr 0.0001, seed 1",)),
    ]
    assert groups_of([named(seed=seed) for seed in range(3)]) == []  # one setting: nothing to average across
    apart = [named(lr=lr, fit="probe", optimizer="sgd", head="random") for lr in (1e-3, 1e-4)]
    assert groups_of(apart) == []
    assert groups_of([named(lr=1e-3, left_out="b"), named(lr=1e-4)]) == []


def test_every_result_against_a_loop(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    work: list[float] = []
    cost = across_cost(runs_of(folder), data, folder)
    refused = done(data, folder, reporter=Watch(advance=work.append))
    assert len(written(folder)) == 4 * 3 + 2
    assert sum(work) == cost
    # Random weights differ between seeds, so that their average over every seed is refused.
    assert len(refused) == 2
    assert refused[0] == (
        "weight-average-across, dropout 0, test domain ink, every seed: these weights were fine-tuned from different "
        "ones (random weights of seed 0 and random weights of seed 1), so they cannot be averaged"
    )
    members = [run for run in runs_of(folder) if (run.config.test_domain, run.config.seed) == ("photo", 1)]
    split = data.split("photo", 1)
    ensemble, _ = stored(folder, "ensemble-across", "photo", 1)
    for part, indices, found in (
        ("iid", split.iid, ensemble.iid_accuracy),
        ("ood", split.ood, ensemble.ood_accuracy),
    ):
        logits = [load_file(run.folder / "outputs" / "000002.safetensors")[part].double() for run in members]
        chosen = torch.stack(logits).mean(0).argmax(1).tolist()
        assert found == pytest.approx(mean_over(data, indices, chosen), abs=1e-12)
    average, path = stored(folder, "weight-average-across", "photo", 1)
    one, other = (load_file(run.final) for run in members)
    mean = load_file(path.with_suffix(".safetensors"))
    assert set(mean) == set(one)
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            wanted = (one[name].double() + other[name].double()) / 2
            torch.testing.assert_close(tensor.double(), wanted, rtol=1e-5, atol=1e-6)
    assert average.iid_accuracy == scored(path.with_suffix(".safetensors"), data, split.iid)
    assert round(average.ood_accuracy, 12) == scored(path.with_suffix(".safetensors"), data, split.ood)
    assert dict(zip(average.members, average.scores, strict=True)) == {
        run.folder.name: (run.result["log"][-1]["iid_accuracy"], run.result["log"][-1]["ood_accuracy"])
        for run in members
    }
    # Both held out the same images.
    soup = load_model(path.with_suffix(".safetensors"))
    outputs = logits_of(soup, HostViews(data), split.iid, "float32")
    assert soup.temperature == fit_temperature(outputs, data.labels[split.iid], split.iid_domains)
    assert average.steps == 4
    assert average.seconds > sum(run.result["methods"]["fine-tuning"]["seconds"] for run in members)
    _, header = read_tensors(path.with_suffix(".safetensors"), "model")
    assert [each["run"] for each in header["about"]["members"]] == list(average.members)


def test_the_soup_is_greedy_and_says_why(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    done(data, folder)
    for seed in (0, 1):
        soup, path = stored(folder, "greedy-soup", "photo", seed)
        split = data.split("photo", seed)
        members = [run for run in runs_of(folder) if (run.config.test_domain, run.config.seed) == ("photo", seed)]
        own = {run.folder.name: scored(run.final, data, split.iid) for run in members}
        order = sorted(own, key=lambda name: -own[name])
        assert [(entry["name"], entry["score"]) for entry in soup.log] == [(name, own[name]) for name in order]
        assert (soup.log[0]["taken"], soup.log[0]["reason"]) == (True, "the best on its own")
        both = stored(folder, "weight-average-across", "photo", seed)[0].iid_accuracy
        assert soup.log[1]["soup_score"] == both
        assert soup.log[1]["taken"] == (both is not None and both >= own[order[0]])
        assert (
            soup.iid_accuracy
            == max(own[order[0]], both or 0)
            == scored(path.with_suffix(".safetensors"), data, split.iid)
        )


def test_what_is_stored_is_not_computed_again(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    done(data, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "across").iterdir()}
    done(data, folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "across").iterdir()} == before
    assert across_cost(runs_of(folder), data, folder) == 0
    # A damaged result, a lost checkpoint, and a member that was trained anew with another outcome.
    stored(folder, "ensemble-across", "ink", 0)[1].write_text("{")
    stored(folder, "greedy-soup", "ink", 1)[1].with_suffix(".safetensors").unlink()
    # So are a flipped byte in its weights, and another result's weights under its name.
    average, other, soup = (
        stored(folder, method, "ink", seed)[1].with_suffix(".safetensors")
        for method, seed in (("weight-average-across", 0), ("weight-average-across", 1), ("greedy-soup", 0))
    )
    content = average.read_bytes()
    average.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    shutil.copy(other, soup)
    changed = next(run for run in runs_of(folder) if (run.config.test_domain, run.config.seed) == ("photo", 0))
    changed.result["log"][-1]["ood_accuracy"] = 0.125
    (changed.folder / "result.json").write_text(json.dumps(changed.result))
    results = written(folder)
    done(data, folder)
    assert sum(results.get(path) != time for path, time in written(folder).items()) == 4 + 4
    assert sorted(before) == sorted((folder / "across").iterdir())


def test_members_that_cannot_be_used_are_named(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    members = [run for run in runs_of(folder) if run.config.test_domain == "ink"]
    old, spoilt = (next(run for run in members if run.config.seed == seed) for seed in (0, 1))
    old.final.unlink()
    tensors, header = read_tensors(spoilt.final, "model")
    del tensors["head.bias"]
    write_tensors(spoilt.final, tensors, "model", {name: header[name] for name in ("spec", "about")})
    endless = next(run for run in runs_of(folder) if run.config.test_domain == "photo" and run.config.seed == 0)
    place = endless.folder / "outputs" / "000002.safetensors"
    outputs, _ = read_tensors(place, "outputs")
    outputs["ood"][0, 0] = torch.inf
    write_tensors(place, outputs, "outputs", {"step": 2})
    refused = done(data, folder)
    assert [line for line in refused if "NaN" in line] == [
        f"ensemble-across, dropout 0, test domain photo, {seeds}: {endless.folder.name}: its logits contain NaN or "
        "infinity"
        for seeds in ("seed 0", "every seed")
    ]
    told = [line for line in refused if "test domain ink, seed" in line]
    assert told[0] == (
        f"weight-average-across, dropout 0, test domain ink, seed 0: {old.folder.name} (of an older version?) has no "
        "final.safetensors; train again in another folder"
    )
    assert len(told) == 4
    assert all("these weights are of different networks: only one has 'head.bias'" in line for line in told[2:])
    assert stored(folder, "ensemble-across", "ink", 0)[0].ood_accuracy >= 0
    assert len(written(folder)) == 4 * 3 + 2 - 4 - 2


def test_weights_of_every_seed_are_averaged_where_they_began_from_the_same(
    sweep: tuple[Dataset, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = sweep
    # The files stay those of the runs that were trained.
    monkeypatch.setattr(Run, "digest", property(lambda run: Run.open(run.folder).config.digest()))
    runs = [
        replace(run, config=replace(run.config, weights="pretrained", weights_digest="same"))
        for run in runs_of(folder)
        if run.config.test_domain == "ink"
    ]
    assert across(runs, data, folder, device=CPU) == []
    found, path = stored(folder, "weight-average-across", "ink", "all")
    mean = load_file(path.with_suffix(".safetensors"))["head.weight"]
    torch.testing.assert_close(mean, torch.stack([load_file(run.final)["head.weight"] for run in runs]).mean(0))
    assert found.iid_accuracy is None
    wanted = scored(path.with_suffix(".safetensors"), data, data.indices("ink"))
    assert found.ood_accuracy == pytest.approx(wanted, abs=1e-12)


def test_interruption(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    asked = iter([False] * 5)
    with pytest.raises(Interrupted):
        done(data, folder, reporter=Watch(stopped=lambda: next(asked, True)))
    before = written(folder)
    assert 0 < len(before) < 14
    done(data, folder)
    assert len(written(folder)) == 14
    assert before.items() <= written(folder).items()


def test_results_edited_by_hand_are_refused(sweep: tuple[Dataset, Path]) -> None:
    data, folder = sweep
    done(data, folder)
    found, path = stored(folder, "ensemble-across", "ink", "all")
    assert (found.seed, found.iid_accuracy, len(found.members)) == (None, None, 4)
    with pytest.raises(ValueError, match="members of every seed have no"):
        _ = found.record
    content = read_json(path)
    path.write_text(path.read_text().replace('"method"', '"methods"'))
    said = f"{path.name} was changed after it was written: its checksum is not that of its content"
    assert refusal(Across.read, path) == said
    for changes, text in (
        ({"format": 99}, "written by a newer largedrop"),
        ({"iid_accuracy": 0.5}, "'iid_accuracy' must be null for members of every seed"),
        ({"ood_accuracy": 97.0}, "'ood_accuracy' must be a fraction"),
        ({"method": "ensemble"}, "'ensemble' is not a method across trajectories"),
        ({"members": content["members"][1:]}, "it was edited or renamed"),
    ):
        path.write_text(json.dumps({**content, **changes}))
        with pytest.raises(UserError) as caught:
            Across.read(path)
        assert text in str(caught.value)
    del content["log"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="'log' is missing"):
        Across.read(path)
    runs = read_runs(folder)
    assert [(entry.name, entry.kind) for entry in runs.unusable] == [(f"across/{path.name}", "damaged")]
    assert len(runs.across) == 13
    assert runs.not_across == (
        "dropout 0: ensemble-across (1 of 6 groups), weight-average-across (2 of 6 groups); largedrop sweep computes "
        "them where its preset has afterwards = ['across']",
    )


def test_the_report_shows_them(sweep: tuple[Dataset, Path], tmp_path: Path) -> None:
    data, folder = sweep
    done(data, folder)
    for place in (folder, folder / "runs"):
        assert len(read_runs(place).across) == 14
    write_report(read_runs(folder), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = {row["method"]: row for row in content["rows"]}
    for method in ("ensemble-across", "weight-average-across", "greedy-soup"):
        by_hand = [
            np.mean([stored(folder, method, domain, seed)[0].ood_accuracy for domain in ("ink", "photo")])
            for seed in (0, 1)
        ]
        assert rows[method]["ood"]["mean"] == pytest.approx(np.mean(by_hand))
        assert rows[method]["ood"]["n"] == 2
        plain = rows["fine-tuning"]["by_seed"]
        gains = [found - plain[str(seed)]["ood"] for seed, found in enumerate(by_hand)]
        assert rows[method]["gain"]["mean"] == pytest.approx(np.mean(gains))
    whole = {each["test_domain"]: each["ood_accuracy"] for each in content["across_every_seed"]}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Across the trajectories of every seed" in text
    mean = f"{100 * np.mean(list(whole.values())):.1f}"
    ink, photo = (f"{100 * whole[domain]:.1f}" for domain in ("ink", "photo"))
    assert f"| ensemble-across | 0 | – | {mean} | {ink} | {photo} | 4 |" in text
    assert "I.i.d. accuracy is undefined: each seed holds out other images" in text
    assert "- dropout 0: weight-average-across (2 of 6 groups); largedrop sweep computes them" in text
    drawn = (tmp_path / "out" / "clouds.svg").read_text()
    for method in ("ensemble-across", "weight-average-across", "greedy-soup"):
        assert f'id="cloud {method}"' in drawn
    assert 'id="arrow plain fine-tuning to ensemble-across"' not in drawn
    assert "none: every seed" in (tmp_path / "out" / "table.csv").read_text()
    # Of other runs than their members they are not shown.
    shutil.rmtree(runs_of(folder)[0].folder)
    fewer = read_runs(folder)
    assert len(fewer.across) == 3 * 3 + 1
    assert "no run with lr" in fewer.not_across[-1]
