"""Splits that are given: a column of a table, or a file with the key and the part of each image."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from .classes import named
from .rows import columns_in, existing_table, read_rows, shown

__all__ = ["PARTS", "is_part", "part_named", "parts_note", "read_split", "split_text"]

PARTS = ("train", "validation", "test")
"""Parts of a given split: trained on; held out for the i.i.d. score; neither, where its domain is trained on."""

_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "iid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def is_part(text: str) -> bool:
    """Whether a word names a part."""
    return text.strip().lower() in _SPELLINGS


def part_named(text: str) -> str:
    """The part that a word names, one of ``PARTS``.

    Raises:
        ValueError: it names none.

    >>> part_named("Val")
    'validation'
    """
    try:
        return _SPELLINGS[text.strip().lower()]
    except KeyError:
        raise ValueError(f"has the split {shown(repr(text))}, which is none of {', '.join(_SPELLINGS)}") from None


def parts_note(parts: Sequence[str], classes: Sequence[str], domains: Sequence[object]) -> str:
    """A line for people about a split that was given.

    Args:
        parts: part of each image; empty for an image in no part.
        classes: name of its class.
        domains: its domain.
    """
    counts = Counter(parts)
    told = [f"{counts[part]} {part}" for part in PARTS if counts[part]]
    if counts["test"]:
        told[-1] += " (left out in training domains)"
    without = [f"{counts['']} not in it, which are left out"] if counts[""] else []
    rows = list(zip(parts, classes, domains, strict=True))
    given = {domain for part, _, domain in rows if part == "validation"}
    # A domain without validation images has some of its training images held out.
    held_out = {
        name for part, name, domain in rows if part == "validation" or (part == "train" and domain not in given)
    }
    unscored = sorted({name for part, name, _ in rows if part == "train"} - held_out)
    missed = (
        f"; no validation image is of {named(unscored)}, of which the i.i.d. score says nothing" if unscored else ""
    )
    return f"split: as given, not by seed: {', '.join([*told, *without])}{missed}"


def read_split(path: str | Path) -> dict[str, str]:
    """The part of each image by its key, empty for none, from a table with the columns ``key`` and ``split``.

    Raises:
        UserError: there is no such table, or it cannot be read; the message lists all errors.
    """
    table = existing_table(Path(path))
    problems: list[str] = []
    found: dict[str, str] = {}

    def choose(header: Sequence[str]) -> Mapping[str, str]:
        names = {"key": "key", "split": "split"}
        columns_in(table, header, names)
        return names

    for place, row in read_rows(table, choose, problems):
        key, text = row["key"], row["split"]
        try:
            part = part_named(str(text)) if text else ""
        except ValueError as error:
            problems.append(f"{place} {error}")
            continue
        if not isinstance(key, str) or not key:
            problems.append(f"{place} has no key")
        elif key in found:
            problems.append(f"{place} lists {key} again")
        else:
            found[key] = part
    if not found and not problems:
        problems.append("lists no images")
    if problems:
        more = [f"… and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UserError("\n  ".join([f"{table} is no split:", *problems[:10], *more]))
    return found


def split_text(keys: Sequence[str], parts: Sequence[str], used: Sequence[str]) -> str:
    """A split as a CSV table that ``read_split`` reads.

    Args:
        keys: key of each image, (n,).
        parts: part of each image where its domain is trained on, empty for none, (n,).
        used: what a run did with each image, (n,).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("key", "split", "used"))
    writer.writerows(zip(keys, parts, used, strict=True))
    return text.getvalue()
