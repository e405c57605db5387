"""Evaluation: the accuracies of a run again, classes by name, counts by hand, and what is said of old images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import TINY, refusal
from tests.prediction.models import save

import largedrop as ld
from largedrop.catalog.layouts import imagenet_names
from largedrop.measures.calibration import calibration, softmax
from largedrop.measures.intervals import wilson
from largedrop.models.network import weights_crc
from largedrop.prediction.evaluate import evaluate
from largedrop.runs.checkpoint import load_model, save_model

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> ld.Run:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    settings = {**TINY, "steps": 2}
    return ld.finetune(ld.open_dataset(toy), "photo", output=folder, recipe="short", device="cpu", **settings)


def test_the_test_domain_has_the_accuracy_of_the_run(run: ld.Run, data: ld.Dataset) -> None:
    found = evaluate(run, data, device="cpu")
    assert run.model_scores is not None
    (model,) = found.models
    assert model.domains["photo"].accuracy.value == run.model_scores[1]
    assert found.notes == (f"{run.folder} was trained on images of 'ink', 'oil' here; only 'photo' is new to it",)
    assert model.temperatures == (load_model(run.model).temperature,)
    assert model.weights == (weights_crc(load_model(run.model)),)
    assert found.dataset["fingerprint"] == data.fingerprint
    assert json.loads(json.dumps(found.to_json()))["models"][0]["confusion"]["ink"] == model.confusion["ink"].tolist()


def test_images_that_were_trained_on_are_known_by_their_names_in_other_data(
    run: ld.Run, toy: Path, tmp_path: Path
) -> None:
    """With a new image, and one domain alone; of a checkpoint away from its run nothing is known."""
    grown = shutil.copytree(toy, tmp_path / "grown")
    shutil.copy(grown / "photo" / "red" / "0.png", grown / "photo" / "red" / "new.png")

    def told(data: Path, model: ld.Run | Path = run) -> list[str]:
        found = evaluate(model, data, device="cpu")
        return [note.partition(" have the names")[0] for note in found.notes if "was trained on" in note]

    assert told(grown) == ["36 of the 55 images"]
    assert told(grown / "photo") == []
    assert told(toy / "ink") == ["18 of the 18 images"]
    renamed = shutil.copytree(toy / "ink", tmp_path / "pen")
    assert told(renamed) == []  # numbered as in the test domain, so these may be those
    for path in (grown / "ink").glob("*/*.png"):
        path.rename(path.with_name(f"ink-{path.name}"))
    data = ld.open_dataset(grown)
    again = ld.finetune(data, "photo", output=tmp_path / "run", recipe="short", device="cpu", **{**TINY, "steps": 2})
    assert told(shutil.copytree(grown / "ink", tmp_path / "brush"), again) == ["18 of the 18 images"]
    away = shutil.copy(run.model, tmp_path / "model.safetensors")
    assert told(grown, Path(away)) == []


def test_images_that_a_split_keeps_for_tests_are_scored_alone(run: ld.Run, data: ld.Dataset) -> None:
    parts = np.where(np.arange(len(data)) % 3 == 0, 2, 0)
    parts[data.indices("photo")] = 0
    kept = replace(data, parts=parts)
    found = evaluate(run, kept, device="cpu")
    assert kept.for_test == ("ink", "oil")
    assert [found.models[0].domains[domain].accuracy.n for domain in data.domains] == [6, 6, 18]
    assert found.notes == ("of 'ink', 'oil' the images in the split's test are scored, and no others",)
    parts[data.indices("oil")] = 0
    assert evaluate(run, replace(data, parts=parts), device="cpu").notes == (
        "of 'ink' the images in the split's test are scored, and no others",
        f"{run.folder} was trained on images of 'oil' here; new to it: 'ink', 'photo'",
    )


def test_all_of_it_by_hand(toy: Path, tmp_path: Path) -> None:
    """Two networks, whose outputs are computed here as a user would."""
    one, other = save(tmp_path / "one.safetensors", 0), save(tmp_path / "other.safetensors", 3)
    data = ld.open_dataset(toy)
    network = load_model(one)
    order = [network.classes.index(name) for name in data.classes]
    assert order != [0, 1, 2]  # classes are matched by name
    found = evaluate(one, toy, against=other, device="cpu")
    rights = []
    for model, path in zip(found.models, (one, other), strict=True):
        network = load_model(path)
        with torch.inference_mode():
            images = torch.stack([network.transform(data.images[at]) for at in range(len(data))])
            logits = network(images).numpy()
        truth = np.array(order)[data.labels]
        right = logits.argmax(1) == truth
        rights.append(right)
        for number, domain in enumerate(data.domains):
            of = data.domain_ids == number
            scores = model.domains[domain]
            assert (scores.accuracy.value, scores.accuracy.n) == (pytest.approx(right[of].mean()), 18)
            assert (scores.accuracy.low, scores.accuracy.high) == wilson(right[of].sum(), 18)
            by_class = [float(right[of & (data.labels == label)].mean()) for label in range(3)]
            assert [each.value for each in scores.classes if each] == pytest.approx(by_class)
            assert scores.macro.value == pytest.approx(np.mean(by_class))
            assert model.confusion[domain].sum() == 18
            for label in range(3):
                row = logits[of & (data.labels == label)].argmax(1)
                assert model.confusion[domain][label].tolist() == [int((row == at).sum()) for at in range(3)]
            for got, temperature in ((model.before[domain], 1.0), (model.after[domain], 1.5)):
                expected = calibration(softmax(logits[of], temperature), truth[of])
                assert (got.ece, got.nll, got.brier) == pytest.approx(
                    (expected.ece, expected.nll, expected.brier), abs=1e-4
                )
            assert model.coverage[domain].risk[-1] == pytest.approx(1 - right[of].mean())
        assert model.mean.accuracy.value == pytest.approx(right.mean())
        sure = softmax(logits, 1.5).max(1)
        assert [each.index for each in model.mistakes] == sorted(np.flatnonzero(~right), key=lambda at: -sure[at])[:24]
        for each in model.mistakes:
            assert (data.keys[each.index], data.classes[data.labels[each.index]]) == (each.key, each.label)
            assert each.predicted == network.classes[logits[each.index].argmax()]
            assert each.probability == pytest.approx(sure[each.index], abs=1e-4)
    assert found.difference is not None
    for number, domain in enumerate(data.domains):
        first, second = (right[data.domain_ids == number] for right in rights)
        assert found.difference.only[domain] == (int((first & ~second).sum()), int((second & ~first).sum()))
        assert found.difference.domains[domain].accuracy.value == pytest.approx(first.mean() - second.mean())
    assert any(sum(only) for only in found.difference.only.values())


def test_an_ensemble_is_the_mean_of_calibrated_probabilities(toy: Path, tmp_path: Path) -> None:
    members = [save(tmp_path / "one.safetensors", 0, 3.0), save(tmp_path / "two.safetensors", 1, None)]
    data = ld.open_dataset(toy)
    (model,) = evaluate(members, data, device="cpu").models
    assert model.name == " + ".join(map(str, members))
    assert model.temperatures == (3.0, None)
    after = []
    for path in members:
        network = load_model(path)
        with torch.inference_mode():
            logits = network(torch.stack([network.transform(data.images[at]) for at in range(len(data))]))
        after.append((logits / (network.temperature or 1)).softmax(1).numpy())
    sure = np.mean(after, axis=0).max(1)
    for number, domain in enumerate(data.domains):
        assert model.after[domain].confidence == pytest.approx(sure[data.domain_ids == number].mean(), abs=1e-5)


@pytest.mark.parametrize("unknown", ["wrong", "skip"])
def test_classes_that_the_model_does_not_know(run: ld.Run, toy: Path, tmp_path: Path, unknown: str) -> None:
    for domain in ("film", "ink"):
        shutil.copytree(toy / "photo", tmp_path / "images" / domain)
    (tmp_path / "images" / "ink" / "red").rename(tmp_path / "images" / "ink" / "violet")
    for path in (tmp_path / "images" / "film").glob("*/[3-5].png"):
        path.unlink()
    found = evaluate(run, tmp_path / "images", device="cpu", unknown=unknown)
    told = "count as wrong" if unknown == "wrong" else "are left out"
    assert found.notes == (
        f"not known to the model: 'violet'; 6 of 27 images {told}",
        f"12 of the 27 images have the names of images that {run.folder} was trained on or chosen by: "
        "if they are these, the accuracy is not that of new images",
    )
    (model,) = found.models
    assert found.classes == ("blue", "green", "red", "violet")
    ink = model.domains["ink"]
    assert (ink.accuracy.n, ink.classes[2]) == (18 if unknown == "wrong" else 12, None)
    violet = ink.classes[3]
    assert (violet and (violet.value, violet.n)) == ((0, 6) if unknown == "wrong" else None)
    assert model.confusion["ink"][3].sum() == (6 if unknown == "wrong" else 0)
    assert model.confusion["ink"].shape == (4, 3)
    if unknown == "skip":  # a domain that has none left is gone
        shutil.rmtree(tmp_path / "images" / "ink" / "blue")
        shutil.rmtree(tmp_path / "images" / "ink" / "green")
        (tmp_path / "images" / "film" / "red").rename(tmp_path / "images" / "film" / "violet")
        found = evaluate(run, tmp_path / "images", device="cpu", unknown=unknown)
        assert found.notes[-1] == "no image is left of 'ink'"
        assert list(found.models[0].domains) == ["film"]


def test_images_of_one_class_are_enough(run: ld.Run, toy: Path, tmp_path: Path) -> None:
    (kind,) = sorted((toy / "ink").iterdir())[:1]
    shutil.copytree(kind, tmp_path / "new" / "pen" / kind.name)
    (model,) = evaluate(run, tmp_path / "new", device="cpu").models
    count = len(list(kind.iterdir()))
    assert (model.domains["pen"].accuracy.n, model.domains["pen"].macro.n) == (count, count)
    assert model.confusion["pen"].sum() == count


def test_mistakes(run: ld.Run, toy: Path, tmp_path: Path) -> None:
    asked = {"device": "cpu"}
    assert refusal(evaluate, run, toy, unknown="maybe", **asked) == "unknown must be 'wrong' or 'skip', not 'maybe'"
    network = load_model(run.model)
    network.spec = replace(network.spec, classes=("Red", "Green", "Blue"))
    save_model(tmp_path / "other.safetensors", network, {})
    assert refusal(evaluate, tmp_path / "other.safetensors", toy, **asked) == (
        f"{tmp_path / 'other.safetensors'} knows none of the classes of toy0 ('blue', 'green', 'red'): "
        "did you mean 'Blue'? (there are: Red, Green, Blue)"
    )
    torch.nn.init.constant_(network.head.bias, float("inf"))
    network.spec = replace(network.spec, classes=("red", "green", "blue"))
    save_model(tmp_path / "broken.safetensors", network, {})
    assert "its weights or outputs overflow" in refusal(evaluate, tmp_path / "broken.safetensors", toy, **asked)
    assert "there is no folder" in refusal(evaluate, run, tmp_path / "none", **asked)
    assert "give classes to open_dataset" in refusal(evaluate, run, ld.open_dataset(toy), classes="common", **asked)


def test_it_is_public(run: ld.Run, toy: Path) -> None:
    seen: list[float] = []
    found = ld.evaluate(run, toy, device="cpu", progress=seen.append)
    assert isinstance(found, ld.Evaluation)
    assert sum(seen) == 54


def test_a_shifted_imagenet_is_scored_among_its_classes(toy: Path, tmp_path: Path) -> None:
    """Classes 6 and 11 of ImageNet are in ImageNet-A; 0, which the model knows, and 1, of other images, are not."""
    names = [imagenet_names()[index] for index in (0, 6, 11)]
    model, folder = save(tmp_path / "model.safetensors", 0, classes=tuple(names)), tmp_path / "images" / "ImageNet-A"
    for colour, name in zip(("red", "blue", "green"), (names[1], names[2], imagenet_names()[1]), strict=True):
        shutil.copytree(toy / "photo" / colour, folder / name)
    data = ld.open_dataset(folder.parent)
    found = evaluate(model, data, test_on="imagenet-a", device="cpu")
    network, kept = load_model(model), np.flatnonzero(data.labels != 0)
    with torch.inference_mode():
        logits = network(torch.stack([network.transform(data.images[int(at)]) for at in kept])).numpy()
    right = logits[:, 1:].argmax(1) + 1 == data.labels[kept]
    (scored,) = found.models
    assert scored.classes == tuple(names[1:])
    assert (scored.mean.accuracy.value, scored.mean.accuracy.n) == (pytest.approx(right.mean()), 12)
    assert found.notes == (f"not known to the model: '{data.classes[0]}'; 6 of 18 images are left out",)
    plain = evaluate(model, data, unknown="skip", device="cpu")
    assert plain.models[0].classes == tuple(names)
    assert "is no shifted ImageNet" in refusal(evaluate, model, data, test_on="PACS", device="cpu")
