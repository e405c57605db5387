"""The list of commands."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.helpers import refusal

from largedrop.experiments.launchers.commands import write_commands
from largedrop.experiments.launchers.worker import Worker


def test_a_line_of_shell_for_each_worker(tmp_path: Path) -> None:
    arguments = ("sweep", "/my photos/it's.toml", "--worker", "1-x")
    write_commands(tmp_path / "new" / "commands.txt", Worker(arguments, tmp_path), 3)
    lines = (tmp_path / "new" / "commands.txt").read_text().splitlines()
    assert [shlex.split(line) for line in lines] == [["largedrop", *arguments]] * 3


def test_a_command_is_one_line(tmp_path: Path) -> None:
    said = refusal(write_commands, tmp_path / "commands.txt", Worker(("--data", "my\nphotos"), tmp_path), 1)
    assert said == "'my\\nphotos' has a line break, and each command is one line: rename it"
    assert not list(tmp_path.iterdir())
