"""Logits of a network of ImageNet's classes on the sets of figure 1."""

from __future__ import annotations

import numpy as np
import pytest

from largedrop.catalog.facts import published
from largedrop.catalog.layouts import class_names, imagenet_names
from largedrop.catalog.shifted import projection
from largedrop.errors import UserError

NAMES = imagenet_names()


@pytest.mark.parametrize("name", ["ImageNet-V2", "ImageNet-A", "ImageNet-R", "ImageNet-Sketch", "ObjectNet"])
def test_every_class_of_a_set_has_its_logit(name: str) -> None:
    facts = published(name)
    folders = class_names(facts)
    found = projection(name, NAMES, folders)
    assert found.classes == folders
    logits = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    scored = found(logits)
    assert scored.shape == (4, facts.class_count)
    assert scored.dtype == np.float32
    if facts.imagenet:
        np.testing.assert_array_equal(scored, logits[:, list(facts.imagenet)])


def test_a_coarser_class_has_the_largest_logit_of_its_classes() -> None:
    found = projection("ObjectNet", NAMES, class_names(published("ObjectNet")))
    logits = np.zeros((2, 1000), np.float32)
    logits[0, 530], logits[0, 409], logits[1, 409] = 3, 2, 5
    column = found.classes.index("alarm_clock")
    assert found.columns[column] == (409, 530)
    assert found(logits)[:, column].tolist() == [3, 5]


def test_a_network_may_know_some_classes_in_any_order() -> None:
    known = (NAMES[11], NAMES[0], NAMES[6])
    found = projection("imagenet_a", known, class_names(published("ImageNet-A")))
    assert found.classes == (NAMES[6], NAMES[11])
    assert found(np.array([[1, 2, 3]], np.float32)).tolist() == [[3, 1]]


def test_classes_may_be_numbers() -> None:
    assert projection("ImageNet-A", [str(index) for index in range(1000)], [NAMES[6]]).columns[0] == (6,)
    numbered = projection("ImageNet-V2", NAMES, ["0", "1", "10"])
    assert (numbered.classes[10], numbered.columns[10]) == ("10", (10,))


def test_other_networks_and_datasets_are_refused() -> None:
    with pytest.raises(UserError, match="PACS is no shifted ImageNet: its own classes are scored"):
        projection("PACS", NAMES, ["dog"])
    with pytest.raises(
        UserError,
        match="the model knows no class of ImageNet-R: its classes must be called as ImageNet's folders, such as "
        "n01440764, and are blue, green, red",
    ):
        projection("ImageNet-R", ["blue", "green", "red"], [NAMES[1]])
