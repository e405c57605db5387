"""Everything that can be wrong with a table of images, and how it is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.tables import ROWS, csv_of, json_of, list_table, make_shots, write, wrong
from tests.helpers import refusal

import largedrop as ld
from largedrop.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the images of ``ROWS``."""
    return make_shots(tmp_path / "shots")


LINES: dict[str, tuple[str, str]] = {
    "no path": (",dog,day", "line 4 has no path"),
    "no domain": ('a/3.png,dog,""', "line 4 has no domain"),
    "missing": ("a/9.png,dog,day", "line 4: there is no file a/9.png"),
    "folder": ("a,dog,day", "line 4: a is a folder"),
    "twice": ("./a/1.png,dog,day", "line 4 lists a/1.png, which line 2 lists already"),
    "few": ("a/3.png,dog", "line 4 has 2 values in 3 columns; a value with ',' in it needs quotes"),
    "one": ("a/3.png", "line 4 has 1 value in 3 columns; a value with ',' in it needs quotes"),
    "many": ("b,5.png,dog,day", "line 4 has 4 values in 3 columns; a value with ',' in it needs quotes"),
    "newline": ('a/3.png,"do\ng",day', r"line 4 has a control character in its label: 'do\ng'"),
    "escape": ("a/3.png,dog,\x1b[31mday", r"line 4 has a control character in its domain: '\x1b[31mday'"),
    "quote": ('a/3.png,"dog"s,day', "line 4: ',' expected after '\"'; is a quote not closed?"),
    "long": (f"{'x' * 300}.png,dog,day", f"line 4: there is no file {'x' * 60}…"),
    "address": ("https://host/3.png,dog,day", "line 4: there is no file https://host/3.png"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_row_that_is_wrong_is_named_by_its_line(root: Path, case: str) -> None:
    line, said = LINES[case]
    assert wrong(root, "t.csv", csv_of().replace("a/3.png,dog,day", line)) == [said]


def test_all_rows_that_are_wrong_are_told_at_once(root: Path) -> None:
    rows = [("a/1.png", "cat", ""), *ROWS[1:3], ("c.png", "cat", "night"), ROWS[1]]
    assert wrong(root, "t.csv", csv_of(rows, end="\r\n")) == [
        "line 2 has no domain",
        "line 5: there is no file c.png",
        "line 6 lists a/2.png, which line 3 lists already",
    ]
    unclosed = csv_of(ROWS[:4]).replace("a/3.png", '"a/3.png')
    assert wrong(root, "t.csv", unclosed) == ["line 4: unexpected end of data; is a quote not closed?"]


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "is empty"),
    "mark alone": (b"\xef\xbb\xbf\n", "is empty"),
    "separators": (",,\n,,\n", "has no names of columns"),
    "header alone": ("path,label,domain\n", "lists no images"),
    "no header": (
        "a/1.png,cat,day\n",
        "has no column 'path' and 'label', only a/1.png, cat, day; --column path=NAME says which it is",
    ),
    "no label": (
        "path;domain\na/1.png;day\n",
        "has no column 'label', only path, domain; --column label=NAME says which it is",
    ),
    "label twice": ("path,label,domain,label\n", "has 2 columns 'label'"),
    "header's quote": ('"path,label,domain\n', "line 1: unexpected end of data; is a quote not closed?"),
    "utf-16": (csv_of().encode("utf-16"), "is in UTF-16; save it in UTF-8"),
    "latin-1": (csv_of().replace("a/2.png,cat", "a/2.png,é").encode("latin-1"), "line 3 is not UTF-8 (byte 0xe9)"),
    "nul": (csv_of().replace("a/2.png", "a/2\0.png"), "line 3 has a NUL byte; is it a table in UTF-8?"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_wrong_as_a_whole(root: Path, case: str) -> None:
    content, said = TABLES[case]
    assert wrong(root, "t.csv", content) == [said]


def test_json_lines_that_are_wrong(root: Path) -> None:
    bad = ["[1]", "{", '{"path": "a/1.png", "label": 1.5, "domain": true}', '{"path": "a/2.png", "label": null}']
    far = '{"path": "\\ud800", "label": "a\\u0000", "domain": ["x"]}'
    nowhere = '{"path": "\\ud800.png", "label": "cat", "domain": "day"}'
    assert wrong(root, "t.jsonl", json_of(ROWS[:1]) + "\n".join([*bad, far, nowhere])) == [
        "line 2 is not a JSON object",
        "line 3 is not JSON: Expecting property name enclosed in double quotes",
        "line 4 has a label that is no text, whole number or truth value: 1.5",
        "line 5 has no domain",
        r"line 6 has a control character in its label: 'a\x00'",
        "line 6 has a domain that is no text, whole number or truth value: ['x']",
        r"line 7: there is no file \ud800.png",
    ]
    (deep,) = wrong(root, "u.jsonl", "[" * 100_000)
    assert deep.startswith("line 1 is not JSON: ")


def test_where_no_file_is_there_it_is_said_once_and_where_it_was_looked_for(root: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [(f"images/{p}", lab, d) for p, lab, d in ROWS]
    said = "none of the 5 files is there (line 2: there is no file images/a/1.png); relative paths start at"
    assert wrong(root, "t.csv", csv_of(rows)) == [f"{said} {root}"]
    frame = pandas.DataFrame(rows, columns=["path", "label", "domain"])
    said = f"the data frame: {said.replace('line 2', 'row 0')} {root}, or where folder= says"
    assert refusal(ld.open_dataset, frame, folder=root) == said
    assert len(wrong(root, "u.csv", csv_of([ROWS[0], *rows]))) == 5


def test_no_such_table(root: Path) -> None:
    write(root / "labels.csv", csv_of())
    assert refusal(ld.open_dataset, root / "label.csv") == (
        f"there is no table {root}/label.csv; did you mean 'labels.csv'?"
    )
    assert refusal(ld.open_dataset, root / "none" / "x.csv") == f"there is no table {root}/none/x.csv"
    assert "expects domain/class/image" in refusal(ld.open_dataset, write(root / "t.xlsx", ""))
    os.mkfifo(root / "pipe.csv")
    assert refusal(ld.open_dataset, root / "pipe.csv") == f"{root}/pipe.csv is neither a file nor a folder"
    folder = root / "folder.csv"
    folder.mkdir()
    assert refusal(ld.open_dataset, folder) == f"{folder}: expects domain/class/image, found no folders"


WORD = st.text(max_size=8) | st.sampled_from(["train", "val", "test", "cat", "a/b", "%", "ä", "ä"])
CELLS = st.fixed_dictionaries(
    {"path": st.sampled_from([*(row[0] for row in ROWS), "./b 4.png", "a", "x.png"]) | WORD},
    optional=dict.fromkeys(("label", "domain", "group", "split"), WORD | st.integers() | st.none() | st.booleans()),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(CELLS, min_size=1, max_size=6))
def test_any_table_is_a_list_or_one_message(root: Path, cells: list[dict[str, Any]]) -> None:
    table = write(root / "t.jsonl", "\n".join(map(json.dumps, cells)))
    keys: tuple[str, ...] = ()
    try:
        keys = list_table(table).keys
    except UserError as error:
        said = str(error)
    else:
        said = f"{table}: {len(set(keys))}"
    assert said.startswith(str(table))
    assert len(set(keys)) == len(keys)
    unlabelled = sum(not str(cell.get("label") if cell.get("label") is not None else "").strip() for cell in cells)
    assert len(keys) in (0, len(cells) - unlabelled)
    assert not any(character < " " for key in keys for character in key)
