"""The rows of a table: CSV, JSON lines or Parquet, each value by what it says of an image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..paths import expanded

__all__ = ["TABLES", "Choose", "Rows", "columns_in", "existing_table", "names_in", "read_rows", "shown", "usual_name"]

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of tables, in lower case."""

_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[ \t]*(?=\r?\n)')
"""A first line with which spreadsheets are told the separator."""

Rows = Iterator[tuple[str, Mapping[str, object]]]
"""Where each row is in its table, and its values by what they say."""

Choose = Callable[[Sequence[str]], Mapping[str, str]]
"""From the names of all columns to those that are read, by what they say."""


def existing_table(path: Path) -> Path:
    """``path`` as an absolute path of a file.

    Raises:
        UserError: there is none; the message says what is there instead.
    """
    table = expanded(path).absolute()
    if ".." in table.parts:
        table = table.resolve()
    try:
        if table.is_file():
            return table
        if table.exists() and not table.is_dir():
            raise UserError(f"{path} is neither a file nor a folder")
        beside = [entry.name for entry in table.parent.iterdir()] if table.parent.is_dir() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    close = nearest(table.name, [name for name in beside if name.lower().endswith(TABLES)])
    raise UserError(f"there is no table {path}" + (f"; did you mean '{close}'?" if close else ""))


def columns_in(table: object, header: Sequence[str], wanted: Mapping[str, str], hint: str = "") -> None:
    """Check that every wanted column is in ``header``, once.

    Args:
        table: the table's name in messages.
        wanted: names of columns by what they say.
        hint: how to name another column, with ``WHAT`` for what it says.

    Raises:
        UserError: a column is not there, or is there twice.
    """
    if missing := [what for what, name in wanted.items() if name not in header]:
        known = ", ".join(map(shown, header[:12])) + (", …" if len(header) > 12 else "")
        named = " and ".join(f"'{wanted[what]}'" for what in missing)
        tail = f"; {hint.replace('WHAT', missing[0])}" if hint else ""
        raise UserError(f"{table} has no column {named}, only {known}{tail}")
    for name, count in Counter(header).items():
        if count > 1 and name in wanted.values():
            raise UserError(f"{table} has {count} columns '{name}'")


def usual_name(names: Sequence[str], header: Sequence[str]) -> str | None:
    """The first of some names that a header has, else in other capitals, unless several differ in these alone."""
    lower = [name.lower() for name in header]
    exact = next((name for name in names if name in header), None)
    return exact or next((header[lower.index(name)] for name in names if lower.count(name) == 1), None)


def read_rows(table: Path, choose: Choose, problems: list[str]) -> Rows:
    """Read the rows of a table, whose suffix says what it is.

    Args:
        table: path of the table.
        choose: which columns to read.
        problems: where a line for each row that cannot be read is appended.

    Raises:
        UserError: the table cannot be read as a whole, or ``choose`` raises it.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}") from error
    read = {".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}.get(table.suffix.lower(), _csv)
    return read(table, content, choose, problems)


def names_in(table: Path) -> set[str]:
    """Names of a table's columns, with every separator that its header may have.

    Raises:
        UserError: the table cannot be read.
    """
    found: set[str] = set()

    def choose(header: Sequence[str]) -> Mapping[str, str]:
        found.update(header)
        return {}

    for _ in read_rows(table, choose, []):
        break
    return found


def shown(text: str, most: int = 60) -> str:
    """A text in a message, of a long one the beginning."""
    return text if len(text) <= most else f"{text[:most]}…"


def _decoded(table: Path, content: bytes) -> str:
    """The text of a table in UTF-8, with or without a byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{table} is in UTF-16; save it in UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UserError(f"{table}: line {line} has a NUL byte; is it a table in UTF-8?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table}: line {line} is not UTF-8 (byte 0x{content[error.start]:02x})") from error
    if not text.strip():
        raise UserError(f"{table} is empty")
    return text


def _csv(table: Path, content: bytes, choose: Choose, problems: list[str]) -> Rows:
    """The rows below a header; columns are separated by what a line ``sep=`` says, else by the first in the header."""
    text = _decoded(table, content)
    separators: tuple[str, ...] = ("\t", ",", ";") if table.suffix.lower() == ".tsv" else (",", ";", "\t")
    if told := _SEPARATOR.match(text):
        separators, text = (told[1],), text[told.end() :]
    found = {each: _header(table, text, each) for each in separators}
    headers = {each: header for each, header in found.items() if not isinstance(header, UserError)}
    if not headers:
        raise next(header for header in found.values() if isinstance(header, UserError))
    # The first in which the columns are; where they are in none, that of most columns, for the message.
    separator = max(headers, key=lambda each: (_fits(choose, headers[each]), len(headers[each])))
    header = headers[separator]
    numbers = {what: header.index(name) for what, name in choose(header).items()}
    reader, below, place = _reader(text, separator), False, ""
    try:
        while True:
            place = f"line {reader.line_num + 1}"
            row = next(reader)
            if not any(map(str.strip, row)):
                continue
            if below and len(row) == len(header):
                yield place, {what: row[number] for what, number in numbers.items()}
            elif below:
                many = f"{len(row)} value{'s'[: len(row) != 1]} in {len(header)} columns"
                problems.append(f"{place} has {many}; a value with '{separator}' in it needs quotes")
            below = True
    except csv.Error as error:
        problems.append(f"{place}: {error}; is a quote not closed?")
    except StopIteration:
        return


def _fits(choose: Choose, header: Sequence[str]) -> int:
    """How many columns are chosen of a header; 0 where one is missing."""
    try:
        return len(choose(header))
    except UserError:
        return 0


def _reader(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)


def _header(table: Path, text: str, separator: str) -> list[str] | UserError:
    """The names of the columns, or why there are none with this separator: quoted names need their own."""
    try:
        return next([name.strip() for name in row] for row in _reader(text, separator) if any(map(str.strip, row)))
    except csv.Error as error:
        return UserError(f"{table}: line 1: {error}; is a quote not closed?")
    except StopIteration:
        raise UserError(f"{table} has no names of columns") from None


def _json_lines(table: Path, content: bytes, choose: Choose, problems: list[str]) -> Rows:
    """A row for each line, which is a JSON object; a column is what any of them has."""
    found: list[tuple[str, dict[str, object]]] = []
    for number, line in enumerate(_decoded(table, content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number} is not JSON: {getattr(error, 'msg', None) or error}")
            continue
        if isinstance(entry, dict):
            found.append((f"line {number}", entry))
        else:
            problems.append(f"line {number} is not a JSON object")
    if not found:
        return
    names = choose(list(dict.fromkeys(name for _, entry in found for name in entry)))
    for place, entry in found:
        yield place, {what: entry.get(name) for what, name in names.items()}


def _parquet(table: Path, content: bytes, choose: Choose, problems: list[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{table}: Parquet is read by pyarrow: pip install pyarrow (or largedrop[parquet])") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        names = choose(file.schema_arrow.names)
        read = file.read(columns=list(dict.fromkeys(names.values())))
        columns = [read.column(name).to_pylist() for name in names.values()]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # also of names that are no text
        told = str(error).partition("\n")[0]
        raise UserError(f"{table} cannot be read as Parquet: {told}") from error
    for number, values in enumerate(zip(*columns, strict=True), 1):
        yield f"row {number}", dict(zip(names, values, strict=True))
