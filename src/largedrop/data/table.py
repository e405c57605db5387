"""The images that a table lists: CSV, JSON lines or Parquet, with a path, a label and a domain in each row."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest, one_of
from .folder import portable
from .listing import Listing, make_listing

__all__ = ["COLUMNS", "TABLES", "list_table"]

COLUMNS = ("path", "label", "domain")
"""What a row says; each is the default name of its column."""

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of tables, in lower case."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_UNNAMED = "metadata"
"""A table of this name, as of Hugging Face's image folders, has the name of its folder."""


Rows = Iterator[tuple[str, Sequence[object]]]
"""Where each row is in its table, and its values of ``COLUMNS``."""


def list_table(path: str | Path, columns: Mapping[str, str] | None = None, classes: str = "union") -> Listing:
    """List the images of a table without opening any.

    Paths are relative to the table's folder. An image's key is ``domain/class/path``, with ``/`` in a domain or a class
    written as ``%2F``, so it does not depend on the order of the rows or on where the folder is.

    Args:
        path: path of the table; its suffix, one of ``TABLES``, says what it is.
        columns: names of the columns where they are others than ``COLUMNS``.
        classes: that of ``make_listing``.

    Raises:
        UserError: there is no such table or it cannot be read, a row lacks something, or a file is not there; the
            message lists all errors, with their lines.
    """
    table = _existing(Path(path))
    wanted = _names(columns or {})
    content = _content(table)
    read = {".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}.get(table.suffix.lower(), _csv)
    problems: list[str] = []
    found: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    seen: dict[str, str] = {}
    for place, values in read(table, content, wanted, problems):
        row = []
        for what, value in zip(COLUMNS, values, strict=True):
            try:
                row.append(_text(value, what))
            except ValueError as error:
                problems.append(f"{place} {error}")
        if len(row) < len(COLUMNS):
            continue
        name, label, domain = row
        name, image, wrong = _file(table.parent, name)
        if name in seen:
            problems.append(f"{place} lists {name}, which {seen[name]} lists already")
        elif wrong:
            problems.append(f"{place}: {wrong}")
        else:
            found.setdefault((domain, label), []).append((f"{_quoted(domain)}/{_quoted(label)}/{name}", image))
        seen.setdefault(name, place)
    if not seen and not problems:
        problems.append("lists no images")
    own = table.parent.name if table.stem == _UNNAMED else table.stem
    return make_listing(table, found, problems, classes, name=own)


def _existing(path: Path) -> Path:
    table = path.expanduser().absolute()
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


def _names(columns: Mapping[str, str]) -> dict[str, str]:
    for what, name in columns.items():
        if what not in COLUMNS:
            raise UserError(f"a table has no {what!r} to name a column for; {one_of(what, COLUMNS)}")
        if not name.strip():
            raise UserError(f"the column of the {what} is named by nothing")
    return {what: columns.get(what, what).strip() for what in COLUMNS}


def _content(table: Path) -> bytes:
    try:
        return table.read_bytes()
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}") from error


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


def _csv(table: Path, content: bytes, wanted: Mapping[str, str], problems: list[str]) -> Rows:
    """The rows below a header, of columns separated by the comma, semicolon or tab that the header has."""
    text = _decoded(table, content)
    separators = ("\t", ",", ";") if table.suffix.lower() == ".tsv" else (",", ";", "\t")
    headers = {each: _header(table, text, each) for each in separators}
    separator = max(headers, key=lambda each: ({*wanted.values()} <= {*headers[each]}, len(headers[each])))
    header = headers[separator]
    numbers = _numbers(table, header, wanted)
    reader, below, place = _reader(text, separator), False, ""
    try:
        while True:
            place = f"line {reader.line_num + 1}"
            row = next(reader)
            if not any(map(str.strip, row)):
                continue
            if below and len(row) == len(header):
                yield place, [row[number] for number in numbers]
            elif below:
                many = f"{len(row)} value{'s'[: len(row) != 1]} in {len(header)} columns"
                problems.append(f"{place} has {many}; a value with '{separator}' in it needs quotes")
            below = True
    except csv.Error as error:
        problems.append(f"{place}: {error}; is a quote not closed?")
    except StopIteration:
        return


def _reader(text: str, separator: str) -> Any:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)


def _header(table: Path, text: str, separator: str) -> list[str]:
    try:
        return next([name.strip() for name in row] for row in _reader(text, separator) if any(map(str.strip, row)))
    except csv.Error as error:
        raise UserError(f"{table}: line 1: {error}; is a quote not closed?") from error
    except StopIteration:
        raise UserError(f"{table} has no names of columns") from None


def _json_lines(table: Path, content: bytes, wanted: Mapping[str, str], problems: list[str]) -> Rows:
    """A row for each line, which is a JSON object; the first shows the names of the columns."""
    shown = False
    for number, line in enumerate(_decoded(table, content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number} is not JSON: {getattr(error, 'msg', None) or error}")
            continue
        if not isinstance(entry, dict):
            problems.append(f"line {number} is not a JSON object")
            continue
        if not shown:
            _numbers(table, list(entry), wanted)
        shown = True
        yield f"line {number}", [entry.get(name) for name in wanted.values()]


def _parquet(table: Path, content: bytes, wanted: Mapping[str, str], problems: list[str]) -> Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{table}: Parquet is read by pyarrow: pip install pyarrow (or largedrop[parquet])") from error
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        _numbers(table, file.schema_arrow.names, wanted)
        read = file.read(columns=list(wanted.values()))
        columns = [read.column(name).to_pylist() for name in wanted.values()]
    except (pyarrow.ArrowException, OSError) as error:
        told = str(error).partition("\n")[0]
        raise UserError(f"{table} cannot be read as Parquet: {told}") from error
    for number, values in enumerate(zip(*columns, strict=True), 1):
        yield f"row {number}", values


def _numbers(table: Path, header: Sequence[str], wanted: Mapping[str, str]) -> list[int]:
    """Where in ``header`` the wanted columns are; a UserError says which are not there or there twice."""
    known = ", ".join(map(_shown, header[:12])) + (", …" if len(header) > 12 else "")
    if missing := [what for what, name in wanted.items() if name not in header]:
        named = " and ".join(f"'{wanted[what]}'" for what in missing)
        hint = f"--column {missing[0]}=NAME says which it is"
        raise UserError(f"{table} has no column {named}, only {known}; {hint}")
    for name, count in Counter(header).items():
        if count > 1 and name in wanted.values():
            raise UserError(f"{table} has {count} columns '{name}'")
    return [header.index(name) for name in wanted.values()]


def _text(value: object, what: str) -> str:
    """A value of a row as text, in one spelling.

    Raises:
        ValueError: it is empty, no text or whole number, or has control characters.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"has no {what}")
    if not isinstance(value, str):
        raise ValueError(f"has a {what} that is neither text nor a whole number: {_shown(repr(value))}")
    if _CONTROL.search(value.strip()):
        raise ValueError(f"has a control character in its {what}: {_shown(repr(value))}")
    return value.strip() if what == "path" else portable(value.strip())


def _file(folder: Path, text: str) -> tuple[str, Path, str]:
    """The name of an image in messages and keys, its path, and what is wrong with it, empty for nothing."""
    path = folder / text
    mode = _mode(path)
    if mode is None and "\\" in text:  # written on Windows
        path = folder / text.replace("\\", "/")
        mode = _mode(path)
    normal, below = os.path.normpath(path), f"{str(folder).rstrip('/')}/"
    name = portable(normal.removeprefix(below))
    if mode is None:
        return name, path, f"there is no file {_shown(portable(text))}"
    return name, Path(normal), f"{name} is a folder" if stat.S_ISDIR(mode) else ""


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # there is none, or no file can have that name
        return None


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _shown(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
