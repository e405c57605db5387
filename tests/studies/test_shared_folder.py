"""studies/shared_folder.py on a folder of this machine, and what it notices."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import shared_folder_parts as parts
from largedrop.files import write_stored

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("shared_folder", ROOT / "studies" / "shared_folder.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_folder_of_this_machine_can_be_shared(tmp_path: Path) -> None:
    short = [
        "--processes",
        "2",
        "--rounds",
        "0.5",
        "--tasks",
        "4",
        "--seconds",
        "0.1",
        "--kills",
        "0",
        "--entries",
        "3",
    ]
    command = [sys.executable, "studies/shared_folder.py", str(tmp_path), f"{tmp_path}/", *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1]) == (0, "this folder can be shared"), done.stderr
    assert [line.partition(":")[0] for line in lines[:4]] == ["holding", "take", "tasks", "entries"]
    assert "4 tasks" in lines[2]


def test_what_two_holders_at_once_would_do_is_noticed(tmp_path: Path) -> None:
    work = parts.Work(tmp_path, tmp_path / "report", time.monotonic())
    (tmp_path / "mark").touch()
    (tmp_path / "count").touch()
    parts.rounds(lambda work: nullcontext(), 0.01, work)
    assert work.said["wrong: two at once"] == 1
    (tmp_path / "count").write_bytes(b"")
    parts.judge_rounds(tmp_path, work.said)
    assert work.said["wrong: rounds lost"] == work.said["rounds"] > 0


def test_tasks_and_entries_that_are_not_whole_are_noticed(study: Any, tmp_path: Path) -> None:
    work = parts.Work(tmp_path, tmp_path / "report", time.monotonic())
    parts.tasks(2, 0.0, work)
    said = Counter[str]()
    parts.judge_tasks(tmp_path, 2, said)
    assert +said == {"tasks": 2}
    folder = tmp_path / "task-0001"
    (folder / "ended-2").touch()
    write_stored(folder / "result.json", parts.begun(folder))
    (folder / "state.json").unlink()
    parts.judge_tasks(tmp_path, 2, said)
    assert +said == {
        "tasks": 4,
        "tasks ended twice": 1,
        "wrong: result.json is not that of its task": 1,
        f"wrong: {folder / 'state.json'} cannot be read: No such file or directory": 1,
    }
    entry = tmp_path / "entry"
    assert [bytes(each) for each in parts.built(entry, alone=True)] == [bytes(each) for each in parts.load(entry)]
    (entry / "2").write_bytes(b"2")
    with pytest.raises(ValueError, match="entry/2 is not what was built"):
        parts.load(entry)
    (entry / "1").unlink()
    with pytest.raises(OSError, match="entry is there in part"):
        parts.load(entry)
    assert not study.say("entries", Counter({"wrong: it": 1}))
