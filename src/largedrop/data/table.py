"""The images that a table lists: CSV, JSON lines, Parquet or a data frame, with what is known of one in each row."""

from __future__ import annotations

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, one_of
from ..paths import expanded
from .folder import portable
from .inside import Inside, Place
from .listing import ONE_DOMAIN, Listed, Source
from .parts import part_named
from .remote import Store, address, is_remote
from .rows import TABLES, Rows, columns_in, existing_table, read_rows, shown, usual_name

__all__ = ["COLUMNS", "TABLES", "Columns", "list_frame", "list_rows", "list_table"]

COLUMNS = ("path", "label", "domain", "group", "split")
"""What a row says; each is the default name of its column."""

_OPTIONAL = COLUMNS[2:]

_USUAL = {"path": ("path", "file_name"), "label": ("label", "cls")}
"""Names of a column where none is given; the second are those of Hugging Face's image folders and of WebDataset."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_ABSENT = frozenset(("NA", "N/A", "NaN", "nan", "#N/A", "NULL", "null", "<NA>"))
"""What R, pandas, spreadsheets and databases write where there is no value."""

_OF_GROUPS = re.compile(
    "(patient|subject|case|person|animal|individual|burst|sequence|seq|video|clip|study|series|specimen|slide|visit)s?"
    "([ _-]?(id|no|nr|number|name|uid))?$",
    re.IGNORECASE,
)
"""Columns whose values several images of one thing share, as most call them."""

_UNNAMED = "metadata"
"""A table of this name, as of Hugging Face's image folders, has the name of its folder."""


def list_table(
    path: str | Path, columns: Mapping[str, str] | None = None, store: Store | None = None, base: str = ""
) -> Source:
    """List the images of a table without opening any.

    Paths are relative to the table's folder. An image's key is ``domain/class/path``, with ``/`` in a domain or a class
    written as ``%2F``, so it does not depend on the order of the rows or on where the folder is.

    Args:
        path: path of the table; its suffix, one of ``TABLES``, says what it is.
        columns: names of the columns where they are others than ``COLUMNS``; an empty one is not read.
        store: fetches images of which the table has addresses; without it they are refused.
        base: address of the table's folder, where it has been fetched.

    Raises:
        UserError: there is no such table, or it cannot be read. What is wrong with its rows is in ``problems``.
    """
    table = existing_table(Path(path))
    chosen = Columns(table, columns or {})
    problems: list[str] = []
    rows = read_rows(table, chosen, problems)
    name = table.parent.name if table.stem == _UNNAMED else table.stem
    if store is not None:
        rows = _fetched(rows, store, base)
    return list_rows(table, rows, table.parent, chosen, problems, name, store)


def list_frame(
    frame: Any,
    folder: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    store: Store | None = None,
) -> Source:
    """List the images of a pandas DataFrame, like ``list_table``.

    Args:
        frame: the data frame.
        folder: where relative paths start; the current folder where None. It gives the dataset its name.
        columns: that of ``list_table``.
        store: that of ``list_table``.

    Raises:
        UserError: there is no such folder, or a column is missing.
    """
    root = Path(os.path.abspath(expanded(folder or ".")))  # noqa: PTH100  # without '..', so that it has a name
    if not root.is_dir():
        raise UserError(f"there is no folder {folder}")
    chosen = Columns(_FRAME, columns or {})
    header = {str(name): name for name in frame.columns}
    names = chosen([str(name) for name in frame.columns])
    read = {what: frame[header[name]] for what, name in names.items()}
    values = {what: column.astype(object).where(column.notna(), None).tolist() for what, column in read.items()}
    rows = ((f"row {row}", {what: each[n] for what, each in values.items()}) for n, row in enumerate(frame.index))
    read_all = rows if store is None else _fetched(rows, store, "")
    return list_rows(_FRAME, read_all, root, chosen, [], root.name, store)


class Columns:
    """Chooses columns of a table: those that were named, else those of the usual names that it has."""

    def __init__(self, table: object, columns: Mapping[str, str]) -> None:
        for what, name in columns.items():
            if what not in COLUMNS:
                raise UserError(f"a table has no {what!r} to name a column for; {one_of(what, COLUMNS)}")
            if not name.strip() and what == "path":
                raise UserError(f"the column of the {what} is named by nothing")
        self.table = table
        self.named = {what: name.strip() for what, name in columns.items()}
        self.chosen: Mapping[str, str] = {}
        self.unread: list[str] = []

    def __call__(self, header: Sequence[str]) -> Mapping[str, str]:
        usual: dict[str, str] = {}
        for what in COLUMNS:
            found = usual_name(_USUAL.get(what, (what,)), header)
            if found or what not in _OPTIONAL:
                usual[what] = found or what
        wanted = {what: name for what, name in {**usual, **self.named}.items() if name}
        columns_in(self.table, header, wanted, "--column WHAT=NAME says which it is")
        self.chosen = wanted
        self.unread = [name for name in header if name not in wanted.values()]
        return wanted

    def notes(self) -> Iterator[str]:
        """Lines about what is not in the rows: domains, and groups that a column which is not read may say."""
        if "domain" not in self.chosen:
            yield _NO_DOMAINS
        if "group" not in self.chosen and "group" not in self.named:
            for name in filter(_OF_GROUPS.match, self.unread):
                yield f"column '{name}' is not read; --column group={name} keeps together what shares a value of it"


def _fetched(rows: Rows, store: Store, base: str) -> Rows:
    """The same rows, when the images that are elsewhere have been fetched."""
    known = list(rows)
    paths = [str(values["path"]).strip() for _, values in known if values["path"]]
    store.fetch([path if is_remote(path) else address(base, path) for path in paths if is_remote(path) or base])
    yield from known


def list_rows(
    root: Path | str,
    rows: Rows,
    folder: Path,
    columns: Columns,
    problems: list[str],
    name: str,
    store: Store | None = None,
) -> Source:
    """The images of a table's rows, and lines about what is wrong with them.

    Args:
        root: the table's name in messages.
        rows: the rows; a path may be an ``Inside``.
        folder: where relative paths start.
        columns: the columns of the rows.
        problems: lines about the rows so far.
        name: name of the dataset.
        store: where images are of which a row has the address.
    """
    found: dict[tuple[str, str], list[Listed]] = {}
    unlabelled: dict[str, list[tuple[str, Place]]] = {}
    seen: dict[str, str] = {}
    absent: list[str] = []
    absences: Counter[tuple[str, str]] = Counter()
    for place, values in rows:
        said = {"domain": ONE_DOMAIN}
        inside = values["path"] if isinstance(values["path"], Inside) else None
        labelled = not _is_empty(values.get("label"))
        wrong = []
        for what, value in values.items():
            if not labelled and what not in ("path", "domain"):
                continue
            try:
                said[what] = _text(inside.name if inside and what == "path" else value, what)
            except ValueError as error:
                wrong.append(f"{place} {error}")
        problems += wrong
        if wrong:
            continue
        path, image, missing = (portable(said["path"]), inside, "") if inside else _file(folder, said["path"], store)
        if path in seen:
            problems.append(f"{place} lists {path}, which {seen[path]} lists already")
        elif missing:
            absent.append(f"{place}: {missing}")
            problems.append(absent[-1])
        elif not labelled:
            unlabelled.setdefault(said["domain"], []).append((place, image))
        else:
            absences.update((what, said[what]) for what in ("domain", "label", "group") if said.get(what) in _ABSENT)
            domain, label = said["domain"], said["label"]
            key = f"{_quoted(domain)}/{_quoted(label)}/{path}"
            found.setdefault((domain, label), []).append(Listed(key, image, said.get("group"), said.get("split")))
        seen.setdefault(path, place)
    if not seen and not problems:
        problems.append("lists no images")
    if len(absent) > 1 and len(absent) == len(seen):  # one reason for all
        start = f"relative paths start at {folder}{_ELSEWHERE if root == _FRAME else ''}"
        problems = [line for line in problems if line not in absent]
        problems.append(f"none of the {len(absent):,} files is there ({absent[0]}); {start}")
    notes = [*columns.notes(), *_absent_notes(absences)]
    return Source(root, found, name, tuple(problems), tuple(notes), unlabelled)


def _absent_notes(counts: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Lines about texts that other programs write where there is no value."""
    for (what, text), count in counts.items():
        yield f"{count:,} rows have the {what} '{text}', which is a name here; a cell is empty where there is none"


_FRAME = "the data frame"

_ELSEWHERE = ", or where folder= says"

_NO_DOMAINS = f"domains: no column says, so all images are of one, '{ONE_DOMAIN}' (--column domain=NAME names one)"


def _is_empty(value: object) -> bool:
    """Whether a row says nothing: no value, no text, or not a number, as pandas writes it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: object, what: str) -> str:
    """A value of a row as text, in one spelling; empty where an image has no group.

    Raises:
        ValueError: it is empty, no text, whole number or truth value, has control characters, or is no part of a split.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if _is_empty(value):
        if what == "group":
            return ""
        raise ValueError(f"has no {what}")
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"has a {what} that is no text, whole number or truth value: {shown(repr(value))}")
    if _CONTROL.search(value.strip()):
        raise ValueError(f"has a control character in its {what}: {shown(repr(value))}")
    if what == "split":
        return part_named(value)
    return value.strip() if what == "path" else portable(value.strip())


def _file(folder: Path, text: str, store: Store | None) -> tuple[str, Place, str]:
    """The name of an image in messages and keys, its path, and what is wrong with it, empty for nothing."""
    if store is not None and is_remote(text):
        path = store.local(text)
        return portable(text), path, "" if path.is_file() else f"there is no file {shown(portable(text))}"
    path = folder / text
    mode = _mode(path)
    if mode is None and "\\" in text:  # written on Windows
        path = folder / text.replace("\\", "/")
        mode = _mode(path)
    normal, below = os.path.normpath(path), f"{str(folder).rstrip('/')}/"
    name = portable(normal.removeprefix(below))
    if mode is None:
        return name, path, f"there is no file {shown(portable(text))}"
    return name, Path(normal), f"{name} is a folder" if stat.S_ISDIR(mode) else ""


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # there is none, or no file can have that name
        return None


def _quoted(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")
