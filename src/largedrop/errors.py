"""Errors that a user can cause, and the nearest valid name for messages."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BusyError",
    "CollapseError",
    "DamagedError",
    "InTheWayError",
    "Interrupted",
    "NoMemoryError",
    "RunError",
    "UserError",
    "brief",
    "check_type",
    "nearest",
    "one_of",
    "out_of_memory",
    "plain",
    "several",
    "unanswered",
    "visible",
]


class UserError(Exception):
    """An error that the user can correct; the message says what is wrong, where, and what to do.

    The command line prints the message and exits with code 2; nothing that was written before is lost.
    """


class DamagedError(UserError):
    """A file that this program wrote is missing, or is not what it wrote."""


class RunError(UserError):
    """One run cannot be had; others can."""


class InTheWayError(UserError):
    """Something else has the name of what is to be written, as a folder that of a file."""


class CollapseError(RunError):
    """A fine-tuning has collapsed or diverged, so it is stopped."""


class BusyError(RunError):
    """Another process has a run, or has taken it."""


class NoMemoryError(RunError):
    """A run needs more memory than is free; what it has saved is on disk."""


class Interrupted(Exception):  # noqa: N818  # nothing went wrong
    """A run was stopped on request; its state is on disk, and the same call resumes it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was full, in words where torch has no class for it."""
    said = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(text in str(error) for text in said)


_UNANSWERED = frozenset((errno.EIO, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN))
"""What a file system says that failed, or whose server did not answer: NFS that is mounted ``soft``, FUSE, SMB."""


def unanswered(error: BaseException) -> str:
    """What to tell of an error of a file system that failed or did not answer; empty for any other error."""
    if not isinstance(error, OSError) or error.errno not in _UNANSWERED:
        return ""
    where = f"{error.filename}: " if error.filename else ""
    told = "the file system failed or did not answer; what is saved is kept, and the same command goes on"
    return f"{where}{error.strerror}; {told}"


def check_type(value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Check that an argument is of one of the types that it may have.

    Args:
        value: the argument.
        kinds: the types; a ``bool`` is no number.
        what: name of the argument and what it must be, for the message.

    Raises:
        UserError: it is of another type.

    >>> check_type([3], str, "domain must be a name")
    Traceback (most recent call last):
    largedrop.errors.UserError: domain must be a name, not [3]
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise UserError(f"{what}, not {brief(value)}")


def brief(value: object, most: int = 60) -> str:
    """A value as Python writes it, for a message; of a long text the beginning, else the type, or a number's size.

    >>> brief("a"), brief(10**5000), brief(list(range(100)))
    ("'a'", 'a number of 16,610 bits', 'a list')
    """
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"
    try:
        shown = visible(repr(value))
    except ValueError:  # such a number in it, which Python does not write
        shown = ""
    if 0 < len(shown) <= most:
        return shown
    return f"{shown[:most]}…" if isinstance(value, str) else f"a {type(value).__name__}"


def plain(value: Any) -> Any:
    """A number of numpy's or a tensor's as one of Python's; anything else as it is.

    >>> plain(7), plain("7")
    (7, '7')
    """
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value


def several(names: str | Iterable[str], what: str) -> tuple[str, ...]:
    """One name or several as a tuple.

    Args:
        what: name of the argument and what it must be, for the message.

    Raises:
        UserError: they are something else.
    """
    if isinstance(names, str):
        return (names,)
    check_type(names, Iterable, what)
    found = tuple(names)
    for name in found:
        check_type(name, str, what)
    return found


def visible(text: str) -> str:
    r"""``text`` from outside as it can be shown: what moves a cursor, turns the direction, or is no text, is escaped.

    >>> print(visible("a\nb \x1b[1m\udce9"), visible("北京 [x]"))
    a\nb \x1b[1m\udce9 北京 [x]
    """
    if text.isprintable():
        return text
    return "".join(character if _is_seen(character) else _escaped(character) for character in text)


def _is_seen(character: str) -> bool:
    joiner = character in "\u200c\u200d"  # in Persian words, and in emoji
    return joiner or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The entry of ``valid`` that is most similar to ``name``; None where none is similar."""
    valid = list(valid)
    folded = {entry.casefold(): entry for entry in reversed(valid)}
    matches = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[matches[0]] if matches else None


def one_of(name: str, valid: Iterable[str], most: int = 12) -> str:
    """The end of a message about an unknown ``name``: the nearest valid name, and the valid names.

    >>> one_of("skech", ["art_painting", "sketch"])
    "did you mean 'sketch'? (there are: art_painting, sketch)"
    """
    valid = list(valid)
    listed = ", ".join(valid[:most]) + (f", … ({len(valid)} in all)" if len(valid) > most else "")
    close = nearest(name, valid)
    return f"did you mean '{close}'? (there are: {listed})" if close else f"there are: {listed}"
