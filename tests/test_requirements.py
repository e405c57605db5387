"""pyproject.toml's lower bounds and constraints-oldest.txt, the versions that they were tried with."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]

TOOLS = {"docs", "test"}
"""The extras that users do not install: their bounds are those of the other extras, or of tools."""


def release(version: str) -> tuple[int, ...]:
    """``2.4`` and ``2.4.0`` are one release."""
    numbers = [int(number) for number in version.split(".")]
    while numbers[-1:] == [0]:
        numbers.pop()
    return tuple(numbers)


def versions(lines: list[str], sign: str) -> dict[str, set[tuple[int, ...]]]:
    """The releases that stand behind ``sign`` by package."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for line in lines:
        if match := re.match(rf"([\w-]+)(?:\[[\w,]+\])?{sign}([\d.]+)", line):
            found.setdefault(match[1], set()).add(release(match[2]))
    return found


def disagreements(project: dict[str, Any], constraints: str) -> list[str]:
    """The packages whose bounds differ from each other or from the constraints, or that have none."""
    extras = project["optional-dependencies"]
    used = [*project["dependencies"], *(line for name, lines in extras.items() if name not in TOOLS for line in lines)]
    every = versions([*used, *(line for name in TOOLS for line in extras[name])], ">=")
    tried = versions(constraints.splitlines(), "==")
    return sorted(
        name
        for name in versions(used, ">=").keys() | (every.keys() & tried.keys())
        if len(every[name]) != 1 or every[name] != tried.get(name)
    )


def test_the_oldest_versions_that_were_tried_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert disagreements(project, (ROOT / "constraints-oldest.txt").read_text("utf-8")) == []


def test_each_disagreement_is_found() -> None:
    extras = {"a": ["two[x]>=2", "new>=1"], "test": ["two>=2.1", "tool>=3", "pandas>=4"], "docs": []}
    project = {
        "dependencies": ["one>=1.2", "own==1", "late>=2; python_version < '3.11'"],
        "optional-dependencies": extras,
    }
    tried = "# one==9\none==1.2.0\ntwo==2.0\nlate==2.0.1; python_version < '3.11'\npandas==4\nof-its-time==5\n"
    assert disagreements(project, tried) == ["late", "new", "two"]
