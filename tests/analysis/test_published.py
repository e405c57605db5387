"""Datasets that are published ones, or nearly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.helpers import list_images

import largedrop as ld
from largedrop.analysis.published import against_published, recognised
from largedrop.catalog.facts import published
from largedrop.data.dataset import Dataset


class Nothing(list[np.ndarray]):
    bound = 320


def made(name: str, domains: dict[str, int], classes: tuple[str, ...]) -> Dataset:
    """A dataset of so many images a domain; none is looked at."""
    domain_ids = np.repeat(np.arange(len(domains)), [*domains.values()])
    return Dataset(
        name=name,
        classes=classes,
        domains=tuple(domains),
        labels=np.arange(len(domain_ids)) % len(classes),
        domain_ids=domain_ids,
        groups=np.arange(len(domain_ids)),
        keys=tuple(map(str, range(len(domain_ids)))),
        images=Nothing(),
        fingerprint="f00d",
    )


PACS = published("PACS")


def test_the_published_counts() -> None:
    (found,) = against_published(made("mine", dict(PACS.domains), PACS.classes))
    assert (found.kind, found.level, found.items) == ("published", "note", ())
    assert found.text.startswith("this is PACS with its published counts: 9,991 images (Li, Yang, Song")
    same = replace(made("mine", dict(PACS.domains), PACS.classes), fingerprint=PACS.contents)
    (found,) = against_published(same)
    assert "9,991 images, each with its published bytes (" in found.text


def test_domains_have_other_names_in_copies() -> None:
    renamed = {("art" if name == "art_painting" else name.upper()): count for name, count in PACS.domains.items()}
    (found,) = against_published(made("mine", renamed, PACS.classes))
    assert found.level == "note"


def test_what_differs() -> None:
    counts = {"art_painting": 2047, "cartoon": 2344, "photo": 1670}
    (found,) = against_published(made("mine", counts, (*PACS.classes[1:], "zebra")))
    assert (found.level, found.text) == ("warning", "this seems to be PACS, but differs from it as published")
    assert [item.text for item in found.items] == [
        "domains that are missing: 'sketch'",
        "'art_painting' has 2,047 images instead of 2,048",
        "6,061 images instead of 9,991",
        "classes that it has not: 'zebra'",
        "classes that are missing: 'dog'",
    ]


def test_a_name_alone() -> None:
    (found,) = against_published(made("pacs", {"ink": 20, "oil": 20}, PACS.classes))
    assert [item.text for item in found.items][:2] == [
        "domains that it has not: 'ink', 'oil'",
        "domains that are missing: 'art_painting', 'cartoon', 'photo', 'sketch'",
    ]


def test_other_datasets_are_not_recognised() -> None:
    assert recognised(made("mine", {"photo": 5, "sketch": 5}, ("cat", "mouse"))) is None
    assert recognised(ld.open_dataset("emoji")) is None
    assert [*against_published(made("mine", {"all": 9}, PACS.classes))] == []


def test_an_imagenet_with_classes_of_its_own() -> None:
    names = [
        name for name in ("ImageNet-R", "ImageNet-A") if recognised(made(name, {"all": 9}, ("n01443537", "n01484850")))
    ]
    assert names == ["ImageNet-R", "ImageNet-A"]


SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "PACS"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs PACS in {SHARED}")
def test_pacs_itself() -> None:
    """Its folders alone; ``studies/check.py`` looks at its images as well, which takes minutes."""
    listed = list_images(SHARED)
    data = replace(
        made("PACS", {"all": len(listed.keys)}, listed.classes),
        domains=listed.domains,
        domain_ids=listed.domain_ids,
        labels=listed.labels,
        keys=listed.keys,
    )
    assert recognised(data) == PACS
    (found,) = against_published(data)
    assert found.text.startswith("this is PACS with its published counts: 9,991 images")
