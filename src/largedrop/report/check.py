"""The output of a dataset's check: tables on the terminal, and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ..analysis.check import Diagnosis
from ..analysis.findings import Finding, Item
from ..data.dataset import Dataset
from ..errors import visible
from .text import Table, render

__all__ = ["check_json", "class_table", "counts_table", "render_check", "verdict"]

_ROWS = 20
"""Most classes that have a row each; of more, each domain's smallest and largest are shown."""

_SHOWN = 3
"""Cases of a finding that the terminal shows."""

_STYLES = {"problem": "bold red", "warning": "yellow", "note": "dim"}


def verdict(diagnosis: Diagnosis) -> str:
    """Whether the dataset can be trained on, in a sentence without a full stop."""
    count = {level: len(diagnosis.of(level)) for level in ("problem", "warning")}
    told = [f"{number} {level}{'s'[: number != 1]}" for level, number in count.items() if number]
    can = "can" if diagnosis.trainable else "cannot"
    return f"{diagnosis.data.name} {can} be trained on: {' and '.join(told) or 'nothing was found that is wrong'}"


def class_table(diagnosis: Diagnosis) -> Table:
    """Images by class and domain, a row for each class and one for all."""
    counts = _with_all(diagnosis)
    rows = [[name, *(f"{each[name]:,}" for each in counts.values())] for name in diagnosis.data.classes]
    rows.append(["all", *(f"{sum(each.values()):,}" for each in counts.values())])
    return Table("", ["class", *counts], rows, ())


def counts_table(diagnosis: Diagnosis) -> Table:
    """``class_table``, or of many classes a row for each domain with the smallest and the largest class."""
    if len(diagnosis.data.classes) <= _ROWS:
        return class_table(diagnosis)
    rows = []
    for domain, each in _with_all(diagnosis).items():
        there = {name: count for name, count in each.items() if count}
        ranked = sorted(there, key=lambda name: there[name])
        ends = [f"{there[end]:,} ({end})" for end in (ranked[0], ranked[-1])]
        rows.append([domain, f"{sum(there.values()):,}", f"{len(there):,}", *ends])
    return Table("", ["domain", "images", "classes", "fewest of a class", "most"], rows, ())


def _with_all(diagnosis: Diagnosis) -> dict[str, dict[str, int]]:
    """Images by domain and class, and of several domains those of all."""
    counts = diagnosis.counts
    if len(counts) > 1:
        counts["all"] = {name: sum(each[name] for each in counts.values()) for name in diagnosis.data.classes}
    return counts


def render_check(diagnosis: Diagnosis, console: Console) -> None:
    """Print the counts, each finding with its first cases, and the verdict."""
    render([counts_table(diagnosis)], console)
    for finding in diagnosis.findings:
        console.print()
        console.print(Text.assemble((finding.level, _STYLES[finding.level]), ": ", visible(finding.text)))
        for line in _cases(finding, diagnosis.data):
            console.print(Text(f"  {visible(line)}", style="dim"), soft_wrap=True)
    console.print()
    console.print(Text(f"{visible(verdict(diagnosis))}.", style="bold"))


def check_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The content of check.json; images are named by their keys."""
    return {
        "trainable": diagnosis.trainable,
        "verdict": verdict(diagnosis),
        **diagnosis.about,
        "counts": diagnosis.counts,
        "findings": [
            {
                "kind": finding.kind,
                "level": finding.level,
                "text": finding.text,
                "items": [
                    {"images": [diagnosis.data.keys[index] for index in item.images], "text": item.text}
                    for item in finding.items
                ],
            }
            for finding in diagnosis.findings
        ],
    }


def _cases(finding: Finding, data: Dataset) -> Iterator[str]:
    yield from (_case(item, data) for item in finding.items[:_SHOWN])
    if len(finding.items) > _SHOWN:
        yield f"… and {len(finding.items) - _SHOWN:,} more"


def _case(item: Item, data: Dataset, most: int = 3) -> str:
    keys = " = ".join(data.keys[index] for index in item.images[:most])
    more = f" = … ({len(item.images)} images)" if len(item.images) > most else ""
    return f"{keys}{more}{': ' if keys and item.text else ''}{item.text}"
