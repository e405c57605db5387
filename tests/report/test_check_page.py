"""The page of a check: well-formed, self-contained, escaped, and bounded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.markup import Parser

import largedrop as ld
from largedrop.analysis.check import Diagnosis
from largedrop.analysis.findings import Finding, Item
from largedrop.report.check_page import write_check_page

NASTY = "<script>&\x1b[1m"


def page(tmp_path: Path, diagnosis: Diagnosis) -> tuple[str, Parser]:
    path = tmp_path / "check.html"
    write_check_page(path, diagnosis, command="largedrop check toy", seconds=61, machine="a processor")
    parser = Parser()
    parser.feed(path.read_text("utf-8"))
    assert parser.open == []
    return path.read_text("utf-8"), parser


@pytest.fixture
def found(data: ld.Dataset) -> Diagnosis:
    keys = (f"ink/blue/{NASTY}.png", *data.keys[1:])
    pairs = tuple(Item((index, index + 1), "'blue', 'red'") for index in range(0, 50, 2))
    findings = (
        Finding("unreadable", "problem", "2 of 56 images cannot be decoded", (Item((), f"ink/{NASTY}: empty"),)),
        Finding("copies-across-classes", "warning", "25 sets of copies have several classes", pairs),
        Finding("near-duplicates", "warning", "8 images are nearly the same", (Item(tuple(range(8)), ""),)),
    )
    return Diagnosis(replace(data, keys=keys), findings, {"quick": True, "seed": 0})


def test_it_shows_counts_findings_and_images(found: Diagnosis, tmp_path: Path) -> None:
    text, parser = page(tmp_path, found)
    assert "toy0 cannot be trained on: 1 problem and 2 warnings." in parser.text
    assert "54 images, 3 domains, 3 classes." in parser.text
    assert "Correct the labels." in parser.text
    assert len([tag for tag, _ in parser.tags if tag == "img"]) == 18 * 2 + 6  # of the first sets, and of a large one
    assert "7 more in check.json." in parser.text
    assert "and 2 more" in parser.text
    assert text.count("data:image/jpeg") == 42
    anchors = re.findall(r'href="#([\w-]+)"', text)
    assert anchors == [values["id"] for _, values in parser.tags if "id" in values]


def test_it_loads_nothing_and_escapes_names(found: Diagnosis, tmp_path: Path) -> None:
    text, parser = page(tmp_path, found)
    assert "script" not in {tag for tag, _ in parser.tags}
    assert r"<script>&\x1b[1m" in parser.text
    assert "\x1b" not in text
    assert {values["src"].split(";")[0] for tag, values in parser.tags if tag == "img" and values["src"]} == {
        "data:image/jpeg"
    }
    assert not re.search(r"(?:src|href)=.(?!data:|#)", text)


def test_nothing_wrong(found: Diagnosis, tmp_path: Path) -> None:
    _, parser = page(tmp_path, replace(found, findings=()))
    assert "can be trained on: nothing was found that is wrong." in parser.text
