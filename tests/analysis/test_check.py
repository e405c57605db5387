"""The doctor as a whole, on folders made ill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.helpers import Watch, refusal

import largedrop as ld
from largedrop.analysis.check import open_all, work

NETWORK: dict[str, Any] = {"model": "test_efficientnet", "weights": "random", "size": 32, "device": "cpu"}


@pytest.fixture
def ill(tmp_path: Path) -> Path:
    """Two domains of two classes with ten pictures each, with a copy of each kind."""
    rng = np.random.default_rng(0)
    for domain in ("north", "south"):
        for name in ("cat", "dog"):
            folder = tmp_path / "ill" / domain / name
            folder.mkdir(parents=True)
            for number in range(10):
                noise = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(noise).resize((80, 80), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    root = tmp_path / "ill"
    shutil.copy(root / "north/cat/0.png", root / "north/cat/same.png")
    shutil.copy(root / "north/cat/1.png", root / "north/dog/wrong.png")
    with Image.open(root / "north/dog/2.png") as image:
        ImageOps.mirror(image).save(root / "south/dog/mirrored.jpg")
    Image.new("RGB", (80, 80), "white").save(root / "south/cat/blank.png")
    return root


def kinds(found: ld.Diagnosis) -> dict[str, list[tuple[str, ...]]]:
    names = {each.kind: [item.images for item in each.items] for each in found.findings}
    return {kind: [tuple(found.data.keys[index] for index in item) for item in items] for kind, items in names.items()}


EXPECTED = {
    "identical": [
        ("north/cat/0.png", "north/cat/same.png"),
        ("north/cat/1.png", "north/dog/wrong.png"),
    ],
    "near-duplicates": [("north/dog/2.png", "south/dog/mirrored.jpg")],
    "copies-across-classes": [("north/cat/1.png", "north/dog/wrong.png")],
    "copies-across-domains": [("north/dog/2.png", "south/dog/mirrored.jpg")],
    "blank": [("south/cat/blank.png",)],
}


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_wrong_is_found(ill: Path, quick: bool) -> None:
    found = ld.check(ill, quick=quick, **NETWORK)
    told = kinds(found)
    assert {kind: told.get(kind) for kind in EXPECTED} == EXPECTED
    assert found.trainable
    assert {each.level for each in found.findings} == {"warning"}
    assert found.counts == {"north": {"cat": 11, "dog": 11}, "south": {"cat": 11, "dog": 11}}
    assert found.about["quick"] is quick
    assert ("model" in found.about) is not quick


def test_a_healthy_dataset_and_its_work(toy: Path) -> None:
    data = ld.open_dataset(toy)
    for quick in (True, False):
        done: list[float] = []
        found = ld.check(data, quick=quick, reporter=Watch(advance=done.append), **NETWORK)
        assert found.trainable
        assert sum(done) == work(data, quick)
        # The toy's noise has no structure that a network could contradict, or copy.
        assert [each.kind for each in found.findings] == []


def test_the_same_dataset_has_the_same_diagnosis(ill: Path) -> None:
    assert ld.check(ill, **NETWORK).findings == ld.check(ill, **NETWORK).findings


def test_unreadable_images(ill: Path) -> None:
    (ill / "north/cat/3.png").write_bytes(b"no image")
    (ill / "south/dog/4.png").write_bytes((ill / "south/dog/4.png").read_bytes()[:200])
    found = ld.check(ill, quick=True)
    assert not found.trainable
    assert found.findings[0].kind == "unreadable"
    assert [item.text.split(":")[0] for item in found.findings[0].items] == ["north/cat/3.png", "south/dog/4.png"]
    assert ld.check(ill, quick=True, skip_bad_images=True).trainable


def test_what_cannot_be_opened_at_all(ill: Path, tmp_path: Path) -> None:
    assert "there is no folder" in refusal(ld.check, tmp_path / "il")
    for path in ill.glob("*/cat/*"):
        path.write_bytes(b"no image")
    said = refusal(ld.check, ill, quick=True)
    assert said.startswith("22 of 44 images cannot be decoded")
    assert "the class 'cat' has no usable images" in refusal(ld.check, ill, quick=True, skip_bad_images=True)


def test_encodings_are_told_of_files(ill: Path) -> None:
    with Image.open(ill / "north/cat/5.png") as image:
        image.convert("CMYK").save(ill / "north/cat/print.jpg")
    assert kinds(ld.check(ill, quick=True))["cmyk"] == [("north/cat/print.jpg",)]
    data, places = open_all(ill)
    assert [place.name for place in places] == [key.rpartition("/")[2] for key in data.keys]
    assert "cmyk" not in kinds(ld.check(data, quick=True))
    assert "cmyk" in kinds(ld.check(data, places=places, quick=True))


def test_the_emoji(tmp_path: Path) -> None:
    data, places = open_all("emoji")
    assert places == ()
    assert len(data) == 4155


def test_options_of_the_source_and_mistakes(ill: Path) -> None:
    assert ld.check(ill, quick=True, classes="common").data.classes == ("cat", "dog")
    assert "classes must be 'union' or 'common'" in refusal(ld.check, ill, quick=True, classes="all")
    assert "size must be" in refusal(ld.check, ill, **{**NETWORK, "size": 0})
