"""Tables of five images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tests.helpers import refusal

from largedrop.data import table as tables
from largedrop.data.listing import Listing, make_listing

ROWS = [
    ("a/1.png", "cat", "day"),
    ("a/2.png", "cat", "day"),
    ("a/3.png", "dog", "day"),
    ("b 4.png", "cat", "night"),
    ("b,5.png", "dog", "night"),
]
KEYS = ("day/cat/a/1.png", "day/cat/a/2.png", "day/dog/a/3.png", "night/cat/b 4.png", "night/dog/b,5.png")


def list_table(path: Path, columns: Mapping[str, str] | None = None) -> Listing:
    return make_listing(tables.list_table(path, columns))


def make_shots(folder: Path) -> Path:
    """Draw the images of ``ROWS`` into ``folder``."""
    (folder / "a").mkdir(parents=True)
    for number, (name, *_) in enumerate(ROWS):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(folder / name)
    return folder


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if set(value) & set(',;\t"\n') else value


def csv_of(rows: Any = ROWS, header: str = "path,label,domain", end: str = "\n", separator: str = ",") -> str:
    lines = [header, *(separator.join(map(quoted, row)) for row in rows)]
    return end.join(lines) + end


def json_of(rows: Any = ROWS) -> str:
    return "".join(json.dumps(dict(zip(("path", "label", "domain"), row, strict=True))) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def wrong(root: Path, name: str, content: str | bytes) -> list[str]:
    """What is said of a table, without the table's name."""
    table = write(root / name, content)
    said = refusal(list_table, table)
    assert said.startswith(str(table))
    lines = said.removeprefix(str(table)).lstrip(": ").splitlines()
    return [line.strip() for line in lines[len(lines) > 1 :]]
