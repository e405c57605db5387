"""Several names in one text, as in a line of comma-separated values."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import UserError

__all__ = ["counted", "is_names", "names_in", "text_of"]

_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",][^,]*?|))\s*(,|\Z)')


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(2000, "run")
    ('1 run', '2,000 runs')
    """
    return f"{count:,} {noun}{'s'[: count != 1]}"


def names_in(text: str) -> list[str]:
    """The names in ``text``, separated by commas; one with a comma or with quotes is in double quotes, these doubled.

    >>> names_in('photo, "San Jose, CA"')
    ['photo', 'San Jose, CA']

    Raises:
        UserError: a quote is not closed, or something follows a closed one.
    """
    if not text:
        return []
    names, at = [], 0
    while at <= len(text):
        found = _NAME.match(text, at)
        if not found:
            raise UserError(f'{text!r}: a name with a comma or with quotes goes in double quotes, as "San Jose, CA"')
        names.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        at = found.end() + (not found[3])
    return [name for name in names if name]


def is_names(text: str) -> bool:
    """Whether ``names_in`` can read ``text``."""
    try:
        names_in(text)
    except UserError:
        return False
    return True


def text_of(names: Iterable[str]) -> str:
    """The text that ``names_in`` reads back.

    >>> text_of(["photo", "San Jose, CA"])
    'photo,"San Jose, CA"'
    """
    return ",".join(_quoted(name) if name != name.strip() or set(name) & {",", '"'} else name for name in names)


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
