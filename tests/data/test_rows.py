"""Rows of tables: whatever text, number or separator is in one comes out as it was put in, or is refused in a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.helpers import refusal

from largedrop.data.rows import columns_in, existing_table, read_rows, shown
from largedrop.errors import UserError

WANTED = {"path": "path", "label": "label"}
# Values that a cell may have: no NUL, and no surrogates, which no UTF-8 has.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=6)
FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def choose(header: Sequence[str]) -> Mapping[str, str]:
    columns_in("t", header, WANTED)
    return WANTED


def read(path: Path, content: str | bytes) -> tuple[list[tuple[object, object]], list[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[str] = []
    return [(row["path"], row["label"]) for _, row in read_rows(path, choose, problems)], problems


@FEW
@given(rows=ROWS, separator=st.sampled_from(",;\t"), end=st.sampled_from(["\n", "\r\n"]))
def test_a_csv_gives_back_what_was_written(
    rows: list[tuple[str, str, str]], separator: str, end: str, tmp_path: Path
) -> None:
    rows = [tuple(cell.lstrip(" ") for cell in row) for row in rows]  # type: ignore[misc]  # spaces after a separator
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("path", "other", "label"), *rows])
    kept = [(path, label) for path, other, label in rows if (path + other + label).strip()]
    assert read(tmp_path / "t.csv", text.getvalue()) == (kept, [])


@FEW
@given(rows=ROWS)
def test_json_lines_give_back_what_was_written(rows: list[tuple[str, str, str]], tmp_path: Path) -> None:
    lines = [json.dumps({"path": path, "label": label, "other": other}) for path, label, other in rows]
    assert read(tmp_path / "t.jsonl", "\n".join(lines)) == ([(path, label) for path, label, _ in rows], [])


@FEW
@given(rows=ROWS)
def test_parquet_gives_back_what_was_written(rows: list[tuple[str, str, str]], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    paths, labels, others = zip(*rows, strict=True)
    parquet.write_table(pyarrow.table({"o": others, "label": labels, "path": paths}), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    assert read(tmp_path / "t.parquet", content) == ([(path, label) for path, label, _ in rows], [])


@FEW
@given(
    content=st.binary(max_size=60) | st.builds(lambda text: b"path,label\n" + text.encode(), TEXT),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
)
def test_whatever_bytes_are_rows_or_one_message(content: bytes, suffix: str, tmp_path: Path) -> None:
    rows: list[tuple[object, object]] = []
    try:
        rows, said = read(tmp_path / f"t{suffix}", content)
    except UserError as error:
        said = [str(error)]
    assert all(line and "\n" not in line for line in said)
    assert len(rows) + len(said) <= content.count(b"\n") + content.count(b"\r") + 1


def test_a_separator_is_that_of_the_columns(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "path;label\na,1;b,2\n") == ([("a,1", "b,2")], [])
    assert read(tmp_path / "t.tsv", "path,label\na\tb,2\n") == ([("a\tb", "2")], [])
    for first in ("sep=|", '"sep=|"', "sep=| \r"):
        rows, said = read(tmp_path / "t.csv", f"{first}\npath|label\na,1|b\nc\n")
        assert rows == [("a,1", "b")]
        assert said == ["line 4 has 1 value in 2 columns; a value with '|' in it needs quotes"]


def test_a_column_of_json_lines_may_come_late(tmp_path: Path) -> None:
    assert read(tmp_path / "t.jsonl", '{"path": "a"}\n{"path": "b", "label": 1}')[0] == [("a", None), ("b", 1)]


def test_columns_that_are_missing_or_twice() -> None:
    assert refusal(columns_in, "t", ["x"], WANTED) == "t has no column 'path' and 'label', only x"
    assert refusal(columns_in, "t", ["label"], WANTED, "WHAT?") == "t has no column 'path', only label; path?"
    assert refusal(columns_in, "t", ["path", "label", "label"], WANTED) == "t has 2 columns 'label'"
    many = [f"c{number}" for number in range(20)]
    assert refusal(columns_in, "t", many, {"path": "p"}).endswith("c10, c11, …")


def test_existing_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert existing_table(tmp_path / "x" / ".." / "a.csv") == tmp_path / "a.csv"
    assert refusal(existing_table, tmp_path / "b.csv") == f"there is no table {tmp_path}/b.csv; did you mean 'a.csv'?"


def test_shown() -> None:
    assert (shown("abc", 3), shown("abcd", 3)) == ("abc", "abc…")
