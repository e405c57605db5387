"""Files of earlier versions: runs of protocol 2 are read, reported, loaded, never gone on with; others are opened."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.helpers import FAST, Watch, make_fixture_images, one_line, refusal, store
from tests.helpers import result as result_of

import largedrop as ld
from largedrop.analysis.across import across
from largedrop.analysis.inspection import find_runs, inspect_run
from largedrop.config import PROTOCOL
from largedrop.data.cache import CachedImages
from largedrop.data.digests import _remembered
from largedrop.data.views.batches import HostViews
from largedrop.errors import UserError
from largedrop.files import read_json
from largedrop.linear.features import FeatureStore
from largedrop.report.report import write_report
from largedrop.runs.across import Across
from largedrop.runs.folder import claim, owned
from largedrop.runs.protocol import methods_of, read_config
from largedrop.runs.read import read_runs
from largedrop.runs.run import Run
from largedrop.training.features import FeatureCache
from largedrop.training.loop import TRAINING_COST, train

OLD = Path(__file__).parent / "fixtures" / "protocol2"
TRAINED = "toy-ink-d0.9-s0-6c3dfb8132f9"

CHOSEN_ANEW = {
    "sweep/runs/toy-ink-d0-s1-34084645a02f": (2, 0.5, 2 / 3),
    "sweep/runs/toy-ink-d0.9-s0-12156efd7f65": (12, 2 / 3, 23 / 24),
    "sweep/runs/toy-ink-d0.9-s0-861fac78c8ef": (2, 2 / 3, 15 / 16),
    "sweep/runs/toy-photo-d0-s0-9dd38a61cc17": (12, 8 / 9, 11 / 12),
    f"train/runs/{TRAINED}": (2, 2 / 3, 15 / 16),
}
"""Step, i.i.d. and o.o.d. accuracy of the best checkpoint, where the mean over domains chooses another."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_fixture_images(tmp_path / "toy")


@pytest.fixture(scope="module")
def unchecked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of file that the last version without checksums wrote."""
    folder = tmp_path_factory.mktemp("unchecked")
    with tarfile.open(OLD.with_name("protocol3") / "files.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(OLD, tmp_path / "old")


def test_every_run_is_read_with_its_accuracy_by_domain() -> None:
    runs = read_runs(OLD)
    assert len(runs.runs) == 18
    assert runs.unusable == ()
    assert runs.protocol == 2
    anew = {}
    for run in runs.runs:
        opened = Run.open(OLD / run.name)
        assert (opened.protocol, opened.config, tuple(opened.records)) == (2, run.config, run.records)
        assert opened.beats_start
        stored = opened.result["methods"]
        for record in run.records:
            if record.method == "fine-tuning":
                means = {line["step"]: fmean(line["iid_by_domain"].values()) for line in opened.result["log"]}
                assert record.iid_accuracy == pytest.approx(max(means.values()), abs=1e-12)
                step = min(step for step, mean in means.items() if mean == pytest.approx(max(means.values())))
                (line,) = [line for line in opened.result["log"] if line["step"] == step]
                assert record.ood_accuracy == line["ood_accuracy"]
                if step != opened.result["best_step"]:
                    anew[run.name] = (step, record.iid_accuracy, record.ood_accuracy)
            else:  # pooled over images, as they were stored
                found = stored[record.method]
                assert (record.iid_accuracy, record.ood_accuracy) == (found["iid_accuracy"], found["ood_accuracy"])
    assert anew.keys() == CHOSEN_ANEW.keys()
    for name, found in anew.items():
        assert found == pytest.approx(CHOSEN_ANEW[name], abs=1e-12)


def test_equal_checkpoints_are_told_apart_by_their_step() -> None:
    lines = [
        {"step": step, "iid_by_domain": {"a": one, "b": other}, "ood_accuracy": step / 10}
        for step, one, other in ((6, 0.3, 0.5), (2, 0.5, 0.3), (4, 0.4, 0.4), (8, 0.2, 0.5))
    ]
    common = {"steps": 8, "seconds": 1.0}
    result = {"log": lines, "methods": {"fine-tuning": common, "ensemble": {"iid_accuracy": 0.9, **common}}}
    assert methods_of(result, 2) == {
        "fine-tuning": {"iid_accuracy": 0.4, "ood_accuracy": 0.2, **common},
        "ensemble": {"iid_accuracy": 0.9, **common},
    }


def test_a_report_says_what_its_accuracies_are(tmp_path: Path) -> None:
    runs = read_runs(OLD / "sweep")
    assert len(runs.across) == 8 + 12 + 8
    write_report(runs, tmp_path, formats=("md", "json"))
    assert "\n\nThese runs are of protocol 2. " in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["protocol"] == 2
    assert runs.notes == [
        "These runs are of protocol 2. The i.i.d. accuracy of fine-tuning, by which its checkpoint is chosen, was "
        "recomputed from their logs: it is the mean over the training domains. The i.i.d. accuracy of ensemble, "
        "weight-average, ensemble-across, weight-average-across, greedy-soup, linear-probe and the interpolations is "
        "pooled over images, as it was stored."
    ]
    assert read_runs(OLD / "probe").notes == [
        "These runs are of protocol 2. The i.i.d. accuracy of ensemble, weight-average and linear-probe is pooled over "
        "images, as it was stored."
    ]


def test_interpolations_that_are_computed_again_are_not_called_pooled(old: Path) -> None:
    (path, *others) = sorted((old / "sweep").glob("runs/*/interpolation.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    (note,) = read_runs(old / "sweep").notes
    assert f"linear-probe and {len(others)} of {len(others) + 1} interpolations is pooled over images" in note


def test_runs_of_two_protocols_cannot_stand_side_by_side(old: Path) -> None:
    theirs = Run.open(old / "train" / "runs" / TRAINED)
    store(old, theirs.config, result_of(0.9, 0.7, steps=12), "mine")
    with pytest.raises(UserError, match=rf"\ndifferent protocol:\n  3: mine\n  2: train/runs/{TRAINED}$"):
        read_runs(old, only={"mine", TRAINED})
    sides = f"{TRAINED} of 2, mine of 3; inspect each side by itself"
    with pytest.raises(UserError, match=f"^these runs are of different protocols: {sides}$"):
        find_runs([theirs.folder, old / "mine"])


def test_checkpoints_give_the_logits_that_they_gave(images: Path) -> None:
    expected = json.loads((OLD / "expected.json").read_text())
    run = Run.open(OLD / "train" / "runs" / TRAINED)
    for path in (run.best, run.final, run.swad):
        model = ld.load_model(path)
        with torch.no_grad():
            found = model(model.transform(Image.open(images / expected["image"]).convert("RGB"))[None])[0]
        assert found.tolist() == pytest.approx(expected["logits"][path.stem], abs=1e-5)


def test_a_run_is_inspected(old: Path, images: Path) -> None:
    run = Run.open(old / "train" / "runs" / TRAINED)
    data = ld.open_dataset(images)
    found = inspect_run(run, data, FeatureCache(HostViews(data)), draws=2)
    assert found.richness["ood"].accuracy == run.result["methods"]["fine-tuning"]["ood_accuracy"]


def test_what_is_computed_across_runs_now_is_the_mean_over_domains(old: Path, images: Path) -> None:
    data, folder = ld.open_dataset(images), old / "sweep"
    runs = [Run.open(path) for path in sorted((folder / "runs").iterdir())]
    refused = across(runs, data, folder, device=torch.device("cpu"))
    # Weights were kept of no member.
    assert all("no final.safetensors" in line for line in refused)
    ensembles = [Across.read(path) for path in (folder / "across").glob("ensemble-across-*.json")]
    assert len(ensembles) == 12
    for found in ensembles:
        if found.seed is None:
            continue
        split = data.split(found.test_domain, found.seed)
        stored = [load_file(folder / "runs" / name / "outputs" / "000012.safetensors") for name in found.members]
        mean = torch.stack([each["iid"].float() for each in stored]).sum(0)
        right = mean.argmax(1).numpy() == data.labels[split.iid]
        by_domain = [
            right[data.domain_ids[split.iid] == number].mean() for number in np.unique(data.domain_ids[split.iid])
        ]
        assert found.iid_accuracy == pytest.approx(np.mean(by_domain), abs=1e-12)


def test_no_run_of_it_is_taken_for_a_new_one_or_gone_on_with(
    old: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ld.open_dataset(images)
    folder = old / "train" / "runs" / TRAINED
    run = Run.open(folder)
    assert run.config.run_name != folder.name
    refused = "was begun by protocol 2 or older, and this version trains by protocol 3; name another --output"
    settings = {name: getattr(run.config, name) for name in ("model", "weights", "size", "batch", "steps", "swad")}
    said = refusal(ld.finetune, data, "ink", output=folder, device="cpu", precision="float32", **settings)
    assert said == f"{folder} {refused}"
    arguments = ["train", str(images), "--test-domain", "ink", *FAST, "--output", str(old / "train")]
    assert one_line(capsys, *arguments) == f"{old / 'train'} {refused}"
    (folder / "result.json").unlink()  # one that was interrupted is not gone on with either
    said = refusal(ld.finetune, data, "ink", output=folder, device="cpu", precision="float32", **settings)
    assert said == f"{folder} {refused}"
    said = refusal(read_runs, old / "train")
    assert said.endswith(f"/{TRAINED}: unfinished: there is no result.json, and runs of protocol 2 are not resumed")
    given = ["--data", str(images), "--scale", "small", "--device", "cpu", "--output", str(old / "sweep")]
    assert one_line(capsys, "sweep", "paper-figure-2", *given) == f"{old / 'sweep'} {refused}"
    assert PROTOCOL == 3


def test_files_of_before_there_were_checksums_are_opened(unchecked: Path) -> None:
    run = Run.open(unchecked / "finished")
    assert run.model_scores == (0.75, 0.5)
    expected = json.loads((unchecked / "expected.json").read_text())
    for path in (run.best, run.final, run.model):
        model = ld.load_model(path, run=run.digest)
        with torch.no_grad():
            found = model(model.transform(unchecked / "images" / expected["image"])[None])[0]
        assert found.tolist() == pytest.approx(expected["logits"][path.stem], abs=1e-5)
    runs = read_runs(unchecked)
    assert [str(entry) for entry in runs.unusable] == [
        "begun: unfinished: there is no result.json yet; run it again to resume it"
    ]
    assert len(runs.runs) == 5
    assert len(runs.across) == 3
    assert sum(each.interpolation is not None for each in runs.runs) == 2
    claim(unchecked / "comparison", "comparison.json", "comparison", {"model": "test_resnet"})
    assert owned(unchecked / "sweep", "sweep.json", "sweep", {}, {"data": "images"})
    (entry,) = (unchecked / "cache" / "images").iterdir()
    images = CachedImages(entry)
    for index, path in enumerate(sorted((unchecked / "images").glob("*/*/*.png"))):
        np.testing.assert_array_equal(images[index], np.asarray(Image.open(path)))
    assert len(_remembered(next((unchecked / "cache" / "digests").iterdir()))) == 30


def test_their_features_are_not_computed_again(unchecked: Path) -> None:
    data = ld.open_dataset(unchecked / "images", cache=unchecked / "cache")
    config = Run.open(unchecked / "linear").config
    assert data.fingerprint == config.fingerprint
    watch = Watch(advance=lambda work: pytest.fail("computed again"), note=pytest.fail)
    found = FeatureStore(data, HostViews(data), unchecked / "cache", reporter=watch).features(config)
    assert found.values.shape[0] == 30


def test_a_run_without_checksums_goes_on(unchecked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ld.open_dataset(unchecked / "images", cache=unchecked / "cache")
    config, _, digest = read_config(read_json(unchecked / "begun" / "config.json"), "begun")
    assert digest == config.digest()
    steps: list[float] = []
    watch = Watch(advance=steps.append, note=pytest.fail)
    run = train(config, data, unchecked / "begun", reporter=watch)
    assert [line["step"] for line in run.result["log"]] == [0, 2, 4]
    assert steps.count(TRAINING_COST * config.batch * 2) == 1  # the last step alone
