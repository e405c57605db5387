"""A list of commands: one line of shell for each worker, for any scheduler, or a person."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...errors import UserError
from ...files import write_text
from .worker import Worker

__all__ = ["write_commands"]


def write_commands(path: Path, worker: Worker, jobs: int) -> None:
    """Write a file with one command for each of ``jobs`` workers.

    Raises:
        UserError: the file cannot be written, or a name in a command has a line break.
    """
    for text in worker.arguments:
        if "\n" in text or "\r" in text:
            raise UserError(f"{text!r} has a line break, and each command is one line: rename it")
    write_text(path, (shlex.join(["largedrop", *worker.arguments]) + "\n") * jobs)
