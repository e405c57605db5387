"""The self-contained HTML page of a dataset's check: counts, and each finding with its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..analysis.check import Diagnosis
from ..analysis.findings import Finding, Item
from ..data.dataset import Dataset
from ..files import write_text
from ..runs.estimate import duration
from ..runs.record import shown
from .check import class_table, verdict
from .html import filled, plain, versions
from .images import thumbnail

__all__ = ["write_check_page"]

_SETS = 18
"""Cases of a finding with images that are shown."""

_LINES = 100
"""Cases of a finding without images that are shown."""

_IMAGES = 6
"""Images of a case that are shown."""

_SIDE = 112
"""Side of a thumbnail, in pixels."""

_TITLES = {
    "unreadable": ("Files that cannot be decoded", "Replace them, or train with --skip-bad-images."),
    "split": ("The split", ""),
    "published": ("Against the published dataset", "Scores on other images cannot be set beside published ones."),
    "tiny-classes": (
        "Tiny classes",
        "Collect more, or leave the class out; their accuracies are nearly without meaning.",
    ),
    "blank": ("Images that show nothing", "Remove them."),
    "small": ("Small images", "Train at a smaller --size, or collect larger ones."),
    "long": ("Long images", "What is at their ends is squeezed, or cropped in training: crop them to what matters."),
    "identical": ("The same pixels", "Keep one of each set."),
    "near-duplicates": (
        "Nearly the same",
        "Keep one of each set, or say what belongs together: a table's column group, or --group-pattern.",
    ),
    "copies-across-classes": ("Copies with different classes", "Correct the labels."),
    "copies-across-domains": ("Copies in several domains", "Remove them from one of the domains."),
    "straddling": (
        "Copies on both sides of the i.i.d. split",
        "Remove them, or say what belongs together: a table's column group, or --group-pattern.",
    ),
    "doubtful-labels": (
        "Labels to look at",
        "Some are wrong and some are only hard; the clearest come first. docs/check.md says how many are which.",
    ),
    "groups-across-classes": (
        "Groups of several classes",
        "Right where a group is a place or a day; else correct one of them.",
    ),
    "groups-across-domains": ("Groups in several domains", "Right where the same things were taken in each domain."),
    "cmyk": ("Colours for print", "Convert them to RGB by a tool that knows their colour profile."),
    "deep": ("More than 8 bits", ""),
    "transparent": ("Transparency", ""),
    "animated": ("Several frames", "Take the frames apart, and make them a group, where all are wanted."),
    "turned": ("Orientation in the file", ""),
    "misnamed": (
        "Another format than the name says",
        "They are opened by their contents; other programs may go by the name.",
    ),
    "listing": ("From listing the files", ""),
}
"""Heading of each kind of finding, and what to do."""


def write_check_page(path: Path, diagnosis: Diagnosis, *, command: str, seconds: float, machine: str) -> None:
    """Write the page; it loads nothing from elsewhere and runs no script.

    Args:
        path: path of the page.
        diagnosis: what was found.
        command: command line.
        seconds: wall-clock time of the command.
        machine: processor, memory and GPU in one line.

    Raises:
        UserError: the file cannot be written.
    """
    data = diagnosis.data
    table = class_table(diagnosis)
    facts = {
        "command": command,
        "time": duration(seconds),
        "machine": machine,
        "versions": versions(),
        **{name.replace("_", " "): shown(value) for name, value in diagnosis.about.items() if name != "data"},
    }
    content = filled(
        "check.html",
        title=f"Check of {data.name}",
        finding=f"{verdict(diagnosis)}.",
        lead=f"{len(data):,} images, {_counted(data.domains, 'domain')}, {_counted(data.classes, 'class', 'classes')}.",
        heads=table.heads,
        counts=[plain(*row) for row in table.rows],
        findings=[_section(number, each, data) for number, each in enumerate(diagnosis.findings, 1)],
        facts=[plain(name, value) for name, value in facts.items()],
    )
    write_text(path, content)


def _section(number: int, finding: Finding, data: Dataset) -> dict[str, Any]:
    heading, advice = _TITLES[finding.kind]
    seen = [item for item in finding.items if item.images]
    lines = [item.text for item in finding.items if not item.images]
    hidden = max(0, len(seen) - _SETS) + max(0, len(lines) - _LINES)
    return {
        "id": f"finding-{number}",
        "level": finding.level,
        "heading": heading,
        "text": f"{finding.text[:1].upper()}{finding.text[1:]}.",
        "advice": advice,
        "sets": [_set(item, data) for item in seen[:_SETS]],
        "lines": lines[:_LINES],
        "hidden": hidden,
    }


def _set(item: Item, data: Dataset) -> dict[str, Any]:
    images = [
        {"jpeg": thumbnail(data.images[index], _SIDE), "name": data.keys[index]} for index in item.images[:_IMAGES]
    ]
    return {"text": item.text, "images": images, "hidden": len(item.images) - len(images)}


def _counted(names: Sequence[str], one: str, many: str = "") -> str:
    return f"{len(names):,} {one if len(names) == 1 else many or one + 's'}"
