"""A few of the file events at which studies/kills.py kills; the whole was run once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_command_that_is_killed_ends_like_an_undisturbed_one() -> None:
    command = [sys.executable, "studies/kills.py", "--sample", "3", "--only", "open", "train"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "open: 6 of 6 the same\ntrain: 6 of 6 the same\n"), done.stderr
