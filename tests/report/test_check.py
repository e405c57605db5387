"""The tables and the JSON of a check."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import largedrop as ld
from largedrop.analysis.check import Diagnosis
from largedrop.analysis.findings import Finding, Item
from largedrop.report.check import check_json, counts_table, render_check, verdict


@pytest.fixture
def found(data: ld.Dataset) -> Diagnosis:
    items = tuple(Item((index, index + 1), "") for index in range(5))
    return Diagnosis(
        data,
        (
            Finding("unreadable", "problem", "1 of 55 images cannot be decoded", (Item((), "ink/red/x: [b]empty"),)),
            Finding("near-duplicates", "warning", "10 images are nearly the same as another", items),
        ),
        {"quick": True},
    )


def printed(diagnosis: Diagnosis, width: int = 100) -> str:
    file = io.StringIO()
    render_check(diagnosis, Console(file=file, width=width))
    return file.getvalue()


def test_the_terminal_shows_counts_findings_and_the_verdict(found: Diagnosis) -> None:
    said = printed(found)
    assert said.splitlines()[0].split() == ["class", "ink", "oil", "photo", "all"]
    assert "red       6     6       6    18" in said
    assert "problem: 1 of 55 images cannot be decoded\n  ink/red/x: [b]empty\n" in said
    assert "  ink/blue/0.png = ink/blue/1.png\n" in said
    assert "… and 2 more" in said
    assert said.endswith("toy0 cannot be trained on: 1 problem and 1 warning.\n")


def test_many_classes_have_a_row_for_each_domain(found: Diagnosis) -> None:
    names = tuple(f"class {number:02}" for number in range(30))
    many = replace(found, data=replace(found.data, classes=names))
    table = counts_table(many)
    assert table.heads == ["domain", "images", "classes", "fewest of a class", "most"]
    assert table.rows[0] == ["ink", "18", "3", "6 (class 00)", "6 (class 02)"]
    assert table.rows[-1] == ["all", "54", "3", "18 (class 00)", "18 (class 02)"]


def test_the_verdict(found: Diagnosis) -> None:
    assert verdict(replace(found, findings=())) == "toy0 can be trained on: nothing was found that is wrong"
    assert verdict(replace(found, findings=found.findings[1:])) == "toy0 can be trained on: 1 warning"


def test_json_names_images_by_their_keys(found: Diagnosis, tmp_path: Path) -> None:
    content = json.loads(json.dumps(check_json(found)))
    assert content["trainable"] is False
    assert content["counts"]["ink"] == {"blue": 6, "green": 6, "red": 6}
    assert content["findings"][1]["items"][0] == {"images": ["ink/blue/0.png", "ink/blue/1.png"], "text": ""}
    assert content["quick"] is True
