"""Evaluation: the logits of a plain forward pass on torchvision's resize, whatever the batches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from tests.helpers import Watch, resized_crop
from torchvision.transforms import v2

import largedrop as ld
from largedrop.data.views.batches import HostViews
from largedrop.models.network import Network, Spec
from largedrop.models.sizes import representation_units
from largedrop.training import evaluation
from largedrop.training.evaluation import (
    accuracy,
    autocast,
    iid_accuracy,
    iid_loss,
    logits,
    macro_over_domains,
    mean_over_domains,
    representations,
    scores,
    scores_in,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(3)
    backbone = timm.create_model("test_efficientnet", pretrained=False, num_classes=0)
    spec = Spec("test_efficientnet", "random", ("a", "b", "c"), 24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 0.9, False)
    return Network(backbone, representation_units(backbone), spec)


@pytest.fixture
def odd(tmp_path: Path) -> ld.Dataset:
    """Images of other sizes than the network's, larger and smaller, upright and lying."""
    rng = np.random.default_rng(0)
    for number in range(6):
        for domain in ("one", "two"):
            for name in ("a", "b", "c"):
                (tmp_path / domain / name).mkdir(parents=True, exist_ok=True)
                shape = (int(rng.integers(12, 60)), int(rng.integers(12, 60)), 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
                    tmp_path / domain / name / f"{number}.png"
                )
    return ld.open_dataset(tmp_path)


def plain(network: Network, data: ld.Dataset, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Representation and logits, one image at a time, with torchvision's resize and normalisation."""
    view = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(network.spec.mean, network.spec.std)])
    network.eval()
    pixels = [torch.from_numpy(np.array(data.images[int(index)])).permute(2, 0, 1) for index in indices]
    images = [view(resized_crop(each, (0, 0, *each.shape[1:]), 24)) for each in pixels]
    with torch.inference_mode():
        features = torch.cat([network.backbone(image[None]) for image in images])
        return features, features @ network.head.weight.T + network.head.bias


@pytest.mark.parametrize("batch", [1, 5, 36, 64])
def test_logits_are_those_of_a_plain_forward_pass(
    network: Network, odd: ld.Dataset, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(evaluation, "BATCH", batch)
    indices = np.random.default_rng(1).permutation(len(odd))
    features, outputs = plain(network, odd, indices)
    done: list[int] = []
    found = logits(network, HostViews(odd), indices, "float32", Watch(advance=done.append))
    assert found.dtype == np.float16
    assert found.shape == (36, 3)
    np.testing.assert_allclose(found.astype(np.float64), outputs.double().numpy(), rtol=2e-3, atol=2e-3)
    represented = representations(network, HostViews(odd), indices, "float32")
    assert represented.dtype == torch.float32
    torch.testing.assert_close(represented, features, rtol=1e-4, atol=1e-5)
    assert done == [min(batch, 36 - start) for start in range(0, 36, batch)]


def test_evaluation_views_come_in_larger_batches_where_these_are_cheap_and_training_views_do_not(
    network: Network, odd: ld.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    indices = np.arange(len(odd))
    expected = logits(network, HostViews(odd), indices, "float32")
    views = logits(network, HostViews(odd), indices, "float32", view=1)
    monkeypatch.setattr(evaluation, "BATCH", 5)
    trained: list[int] = []
    logits(network, HostViews(odd), indices, "float32", Watch(advance=trained.append), view=1)
    monkeypatch.setitem(evaluation.BATCH_PIXELS, "cpu", 10 * network.spec.size**2)
    done: list[int] = []
    found = logits(network, HostViews(odd), indices, "float32", Watch(advance=done.append))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert done == [10, 10, 10, 6]
    trained_again: list[int] = []
    logits(network, HostViews(odd), indices, "float32", Watch(advance=trained_again.append), view=1)
    assert trained_again == trained == [5] * 7 + [1]
    monkeypatch.setattr(evaluation, "BATCH", 64)
    np.testing.assert_array_equal(logits(network, HostViews(odd), indices, "float32", view=1), views)


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_restored_and_nothing_is_learned(network: Network, data: ld.Dataset, mode: bool) -> None:
    network.train(mode)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    indices = np.arange(4)
    first = logits(network, HostViews(data), indices, "float32")
    assert network.training is mode
    assert network.dropout.training is mode
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    np.testing.assert_array_equal(first, logits(network, HostViews(data), indices, "float32"))  # no dropout was drawn


def test_the_mode_is_restored_after_an_error(network: Network, data: ld.Dataset) -> None:
    network.train()
    with pytest.raises(IndexError):
        logits(network, HostViews(data), np.array([len(data)]), "float32")
    assert network.training


def test_bfloat16_is_close_and_not_the_same(network: Network, data: ld.Dataset) -> None:
    exact = representations(network, HostViews(data), np.arange(8), "float32")
    rough = representations(network, HostViews(data), np.arange(8), "bfloat16")
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert float((exact - rough).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_lowest_class_wins_a_tie() -> None:
    outputs = np.array([[1, 1, 0], [0, 2, 2], [3, 3, 3], [0, 0, 1]], dtype=np.float16)
    assert accuracy(outputs, np.array([0, 1, 0, 2])) == 1.0
    assert accuracy(outputs, np.array([1, 2, 2, 2])) == 0.25


def test_ties_are_those_of_what_is_stored() -> None:
    outputs = np.array([[1.0, 1.0001]])
    assert accuracy(outputs, np.array([1])) == 1.0
    assert accuracy(outputs.astype(np.float16), np.array([1])) == 0.0


def test_the_loss_against_torch() -> None:
    outputs = np.random.default_rng(0).normal(0, 30, (50, 4)).astype(np.float16)
    labels = np.random.default_rng(1).integers(0, 4, 50)
    wanted = torch.nn.functional.cross_entropy(torch.from_numpy(outputs).double(), torch.from_numpy(labels))
    assert iid_loss(outputs, labels, np.zeros(50, np.int64)) == pytest.approx(float(wanted), rel=1e-12)


def test_iid_accuracy_and_loss_by_hand() -> None:
    # Domain 0: 1 of 4 right; domain 2: 2 of 2. Pooled over images it would be 3 of 6. Of domain 1 nothing is held out.
    labels, domains = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 2, 0, 0, 2])
    outputs = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float16)
    assert iid_accuracy(outputs, labels, domains) == (1 / 4 + 2 / 2) / 2
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert iid_loss(outputs, labels, domains) == pytest.approx(((right + 3 * wrong) / 4 + right) / 2, rel=1e-11)
    weights = np.array([2.0, 1, 1, 1, 0, 1])
    assert iid_loss(outputs, labels, domains, weights) == pytest.approx(((2 * right + 2 * wrong) / 4 + right) / 2)
    outputs[3, 1] = np.inf
    assert iid_loss(outputs, labels, domains) == math.inf


def test_a_mean_over_domains_is_of_each_column_and_ties_are_exact() -> None:
    values = np.array([[True, False], [False, False], [True, True], [True, False], [False, True]])
    found = mean_over_domains(values, np.array([0, 0, 1, 1, 1]))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [(1 / 2 + 2 / 3) / 2, (0 + 2 / 3) / 2], atol=1e-12)
    # 1, 2 and 3 tenths in one order or another: added up one by one they are not the same.
    tenths, domains = np.array([1, 2, 3, 3, 2, 1]), np.repeat([0, 1, 2], 10)
    one, other = (np.concatenate([np.arange(10) < count for count in part]) for part in (tenths[:3], tenths[3:]))
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1
    assert mean_over_domains(one, domains) == mean_over_domains(other, domains)


def test_scores_on_several_test_domains_or_none(data: ld.Dataset) -> None:
    rng = np.random.default_rng(0)
    several, none = data.split(("ink", "photo"), 0), data.split((), 0)
    outputs = {part: rng.normal(size=(len(getattr(several, part)), 3)) for part in ("iid", "ood")}
    found = scores(outputs, data.labels, several)
    one = {}
    for number, domain in enumerate(("ink", "photo")):
        own = data.indices(domain)
        single = replace(several, ood=own, ood_domains=0 * own, test_domains=(domain,))
        one[domain] = scores({**outputs, "ood": outputs["ood"][several.ood_domains == number]}, data.labels, single)
    assert found["ood_by_domain"] == {domain: each["ood_accuracy"] for domain, each in one.items()}
    assert len(set(found["ood_by_domain"].values())) == 2
    assert found["ood_accuracy"] == pytest.approx(sum(found["ood_by_domain"].values()) / 2, abs=1e-12)
    assert {each["iid_accuracy"] for each in one.values()} == {found["iid_accuracy"]}
    assert all("ood_by_domain" not in each for each in one.values())
    assert scores_in({"step": 3, **found, "lr": 1.0}) == found
    alone = {"iid": rng.normal(size=(len(none.iid), 3)), "ood": np.empty((0, 3))}
    assert scores(alone, data.labels, none) == {
        "iid_accuracy": iid_accuracy(alone["iid"], data.labels[none.iid], none.iid_domains),
        "ood_accuracy": None,
        "iid_macro_accuracy": macro(alone["iid"].argmax(1), data.labels[none.iid], none.iid_domains),
        "ood_macro_accuracy": None,
    }


def macro(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], domains: npt.NDArray[np.int64]) -> float:
    """Macro accuracy by loops."""
    of_domains = []
    for domain in sorted({*domains.tolist()}):
        here = domains == domain
        recalls = [
            float(np.mean(predicted[here & (labels == label)] == label)) for label in sorted({*labels[here].tolist()})
        ]
        of_domains.append(sum(recalls) / len(recalls))
    return round(sum(of_domains) / len(of_domains), 12)


def test_macro_accuracy_by_hand_and_by_loops() -> None:
    # Domain 0: class 0 has 3 of 4 right, class 2 its only image; domain 1: class 0 has 0 of 1, class 1 has 1 of 2.
    labels, domains = np.array([0, 0, 2, 0, 0, 1, 0, 1]), np.array([0, 0, 0, 0, 0, 1, 1, 1])
    right = np.array([True, False, True, True, True, True, False, False])
    assert macro_over_domains(right, labels, domains) == ((3 / 4 + 1) / 2 + (0 + 1 / 2) / 2) / 2
    rng = np.random.default_rng(0)
    labels, domains = rng.integers(0, 7, 300) ** 2 // 7, rng.integers(0, 4, 300) * 2
    predicted = rng.integers(0, 6, (300, 5))
    found = macro_over_domains(predicted == labels[:, None], labels, domains)
    np.testing.assert_array_equal(found, [macro(column, labels, domains) for column in predicted.T])
    one = np.zeros(1, np.int64)
    assert macro_over_domains(np.array([True]), one, one) == 1


def test_balanced_classes_have_one_accuracy(data: ld.Dataset) -> None:
    split = data.split("photo", 0)
    outputs = {part: np.random.default_rng(1).normal(size=(len(getattr(split, part)), 3)) for part in ("iid", "ood")}
    found = scores(outputs, data.labels, split)
    assert (found["iid_macro_accuracy"], found["ood_macro_accuracy"]) == pytest.approx(
        (found["iid_accuracy"], found["ood_accuracy"]), abs=1e-12
    )


def test_no_images_have_no_logits(network: Network, data: ld.Dataset) -> None:
    found = logits(network, HostViews(data), np.empty(0, np.int64), "float32")
    assert (found.shape, found.dtype) == ((0, 3), np.float16)
