"""Images in tar archives in WebDataset's layout: ``key.jpg`` beside ``key.cls`` or ``key.json``."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path

from ..errors import UserError
from .formats import suffixes
from .inside import Inside
from .listing import Source
from .rows import shown
from .table import Columns, list_rows
from .tars import tar_members

__all__ = ["is_shards", "list_shards", "shards_in"]

_BRACES = re.compile(r"\{([^{}]*)\}")

_RANGE = re.compile(r"(\d+)\.\.(\d+)")

_MOST = 1_000_000
"""How many archives a range may stand for."""

_LARGEST = 16 << 20
"""Bytes of the text beside an image."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_shards(source: str) -> bool:
    """Whether a source's name is that of tar archives: one, or a pattern like ``shards-{000..009}.tar``."""
    return source.lower().endswith((".tar", *_COMPRESSED))


def shards_in(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order: ``{a,b}`` is either, ``{000..009}`` a range.

    Raises:
        UserError: a range is empty, or there are too many.

    >>> shards_in("s-{08..11}.tar")
    ['s-08.tar', 's-09.tar', 's-10.tar', 's-11.tar']
    """
    parts = _BRACES.split(pattern)  # every second is what stands in braces
    choices = [_choices(part) if number % 2 else [part] for number, part in enumerate(parts)]
    if prod(map(len, choices)) > _MOST:
        raise UserError(f"{pattern} stands for more than {_MOST:,} archives")
    return ["".join(each) for each in product(*choices)]


def _choices(text: str) -> list[str]:
    if not (match := _RANGE.fullmatch(text)):
        return text.split(",")
    first, last = match.groups()
    if not 0 <= int(last) - int(first) < _MOST:
        raise UserError(f"{{{text}}} must count upwards, through at most {_MOST:,} archives")
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def list_shards(root: str | Path, shards: list[Path], name: str, columns: Mapping[str, str] | None = None) -> Source:
    """List the images of tar archives without reading them.

    What an image's ``key.json`` says is read like a table's row, in which ``key.cls`` is the column ``cls``.

    Args:
        root: the archives' name in messages.
        shards: their paths.
        name: name of the dataset.
        columns: names of the fields where they are others than ``table.COLUMNS``.

    Raises:
        UserError: an archive cannot be read, or a field is missing everywhere. What is wrong with single images is in
            ``problems``.
    """
    problems: list[str] = []
    entries = [entry for shard in shards for entry in _entries(shard, problems)]
    if not entries and not problems:
        raise UserError(f"{root} holds no images (key.jpg with key.cls or key.json)")
    chosen = Columns(root, columns or {})
    header = dict.fromkeys(name for entry in entries for name in ("path", *entry.fields))
    names = chosen(list(header))
    rows = (
        (entry.place, {**{what: entry.fields.get(name) for what, name in names.items()}, "path": entry.image})
        for entry in entries
        if entry.image is not None
    )
    problems += [f"{entry.place} has no image" for entry in entries if entry.image is None]
    return list_rows(root, rows, Path(), chosen, problems, name)


@dataclass
class _Entry:
    """What an archive holds under one key.

    Attributes:
        place: archive and key, for messages.
        image: where the image is.
        fields: what ``key.json`` says, and ``cls``.
    """

    place: str
    image: Inside | None = None
    fields: dict[str, object] = field(default_factory=dict)


def _entries(shard: Path, problems: list[str]) -> Iterator[_Entry]:
    if shard.name.lower().endswith(_COMPRESSED):
        raise UserError(f"{shard} is compressed, so no image in it can be found without reading all; unpack it to .tar")
    found: dict[str, _Entry] = {}
    try:
        for member, open_member in tar_members(shard, "r:"):
            folder, slash, name = member.name.rpartition("/")
            key, dot, ending = name.partition(".")
            if not member.isreg() or not key or not dot:
                continue
            key = f"{folder}{slash}{key}".removeprefix("./")
            entry = found.setdefault(key, _Entry(f"{shard.name}: {key}"))
            if f".{ending.rpartition('.')[2]}".lower() in suffixes():
                if entry.image is not None:
                    problems.append(f"{entry.place} has several images")
                if member.issparse():
                    problems.append(f"{entry.place}: its {ending} is stored with holes, which are not filled")
                entry.image = Inside(shard, f"{key}.{ending}", member.offset_data, member.size)
            elif ending.lower() in ("cls", "json"):
                if member.size > _LARGEST:  # of holes alone, it takes no room in the archive
                    problems.append(f"{entry.place}: its {ending} is larger than {_LARGEST >> 20} MiB")
                    continue
                with open_member() as content:
                    _read(entry, ending.lower(), content.read(), problems)
    except (tarfile.TarError, OSError, EOFError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(f"{shard} cannot be read as a tar archive: {told}") from error
    yield from found.values()


def _read(entry: _Entry, ending: str, content: bytes, problems: list[str]) -> None:
    try:
        text = content.decode("utf-8")
        if ending == "cls":
            entry.fields = {"cls": text.strip(), **entry.fields}
            return
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        problems.append(f"{entry.place}: its {ending} cannot be read: {shown(str(error))}")
        return
    if isinstance(fields, dict):
        entry.fields |= fields
    else:
        problems.append(f"{entry.place}: its json is no object")
