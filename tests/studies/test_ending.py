"""studies/ending.py: a user's mistake is one line, and every study ends so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ending import exit_with
from largedrop.errors import UserError

ROOT = Path(__file__).parents[2]

TABLES = {"heads_report.py", "linear_report.py", "protocol_cost.py", "three_arms_report.py", "working_point_report.py"}
"""Studies that are given nothing, and make a page of what is recorded."""


def failing() -> None:
    raise UserError("no \x1b[1mfolder\nnor file")


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [(lambda: None, None, ""), (lambda: 1, 1, ""), (failing, 2, "study.py: no \\x1b[1mfolder\nnor file\n")],
)
def test_what_a_study_exits_with(
    main: object, code: int | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["somewhere/study.py", "--data", "none"])
    with pytest.raises(SystemExit) as caught:
        exit_with(main)  # type: ignore[arg-type]
    assert (caught.value.code, capsys.readouterr().err) == (code, said)


def test_every_study_ends_so() -> None:
    ends = {path.name: path.read_text("utf-8").rpartition('\nif __name__ == "__main__":\n') for path in studies()}
    others = {name for name, (_, guard, end) in ends.items() if guard and end != "    exit_with(main)\n"}
    assert others == TABLES


def studies() -> list[Path]:
    return sorted((ROOT / "studies").glob("*.py"))


def test_a_wrong_path_takes_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "studies/check.py", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    said = (
        f"check.py: there is no folder {tmp_path}/none; 'emoji' is the name of the dataset that comes with largedrop\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
