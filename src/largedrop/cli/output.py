"""Standard output that no encoding, closed pipe or full disk breaks: work goes on, and its files are written."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TextIO

from ..errors import UserError

__all__ = ["Output", "printing"]

_PLAIN = {"–": "-", "−": "-", "±": "+-", "×": "x", "…": "...", "→": "->", "←": "<-", "λ": "lambda", "α": "alpha"}
"""What stands for the characters that we print where an encoding lacks them; others are escaped."""

_HANDLER = "largedrop"


class Output:
    """A stream of text that takes what is written also after it has failed.

    Attributes:
        error: why the stream takes nothing more; None while it does.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write to the stream; after its first failure nowhere."""
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.fail(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.fail(error)

    @property
    def closed_early(self) -> bool:
        """Whether whoever read the stream has gone, as ``head`` does."""
        return self.error is not None and self.error.errno in (errno.EPIPE, errno.EINVAL)

    def raw(self) -> BinaryIO:
        """The stream's bytes, for what is no text; what fails there is for ``fail``.

        Raises:
            UserError: the stream takes nothing.
        """
        if self.error is not None:
            raise UserError(f"cannot write to standard output: {self.error.strerror or self.error}")
        return self._stream.buffer

    def fail(self, error: OSError) -> None:
        """Take what is written from now on nowhere."""
        self.error = error
        # What is left in the stream's buffer would fail once more when Python ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printing() -> Iterator[Output]:
    """Within the block both streams are an ``Output``, and characters that an encoding lacks are replaced.

    Streams that were closed before, as by ``>&-``, are there and lead nowhere; where standard output was, the
    ``Output`` says so.

    Yields:
        ``sys.stdout``.
    """
    _open_closed()
    before: tuple[TextIO | None, TextIO | None] = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        output, errors = (Output(each or nowhere) for each in before)
        if before[0] is None:
            output.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        sys.stdout, sys.stderr = output, errors
        try:
            yield output
            output.flush()
        finally:
            sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Have the numbers of standard input, output and error lead somewhere: the next file that is opened would get one
    that is free, and what a library prints would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text), error.end


codecs.register_error(_HANDLER, _replaced)
