"""``largedrop datasets``: the list, one of them, and JSON."""

from __future__ import annotations

import json

import pytest

from largedrop.cli import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["datasets", *arguments]) == 0
    return capsys.readouterr().out


def test_every_dataset_with_its_classes_and_images(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    rows = [line.split() for line in lines]
    assert ["PACS", "7", "9,991"] in [[*row[:1], *row[-2:]] for row in rows]
    assert ["ObjectNet", "113", "–"] in [[*row[:1], *row[-2:]] for row in rows]
    assert lines[-1] == "`largedrop datasets NAME` shows all that is known of one."


def test_one_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "vlcs").splitlines()[1:5] == [
        "domains:   Caltech101 1,415, LabelMe 2,656, SUN09 3,282, VOC2007 3,376",
        "images:    10,729",
        "classes:   5: bird, car, chair, dog, person",
        "licence:   not stated",
    ]
    assert "kind:      shifted ImageNet: images to test on, of 200 classes of ImageNet" in said(capsys, "imagenet-r")
    assert "by hand:   accept its terms at https://objectnet.dev" in said(capsys, "ObjectNet")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "--json"))
    assert len(found) == 10
    assert found["DomainNet"]["images"] == 586_575
    assert list(json.loads(said(capsys, "PACS", "--json"))) == ["PACS"]


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "office-hom"]) == 2
    assert capsys.readouterr().err.startswith(
        "largedrop: no published dataset 'office-hom' is known; did you mean 'OfficeHome'? (there are: PACS, "
    )
