"""Standard output in narrow encodings, into pipes that close and onto full disks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import FAST, files
from tests.prediction.models import save

from largedrop.cli import main
from largedrop.cli.output import Output, printing

pytestmark = pytest.mark.usefixtures("quick_heads")

WRITTEN = {"comparison.json", "figure.png", "figure.svg", "report.html", "results.json"}


def narrow(encoding: str, monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """Standard output in ``encoding`` from now on."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    return written


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output into a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        yield


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp932"])
def test_what_an_encoding_lacks_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = narrow(encoding, monkeypatch)
    with printing():
        print("50.0 ± –, λ … 北 \udce9")
    said = written.getvalue().decode(encoding)
    assert said.startswith("50.0 ")
    assert said.endswith("北 \\udce9\n" if encoding == "cp932" else "\\u5317 \\udce9\n")
    if encoding == "ascii":
        assert said == "50.0 +- -, lambda ... \\u5317 \\udce9\n"


def test_a_comparison_in_ascii_is_the_same(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = narrow("ascii", monkeypatch)
    options = ["--test-domains", "ink", "--dropout", "0,0.9", "--output", str(tmp_path / "out")]
    assert main(["compare", str(toy), *options, *FAST]) == 0
    lines = written.getvalue().decode("ascii").splitlines()
    assert "  domains: 'ink' 18, 'oil' 18, 'photo' 18" in lines
    assert "  classes: 'blue' 18, 'green' 18, 'red' 18" in lines
    assert any(line.startswith("fine-tuning") and " +- -" in line for line in lines)
    assert set(files(tmp_path / "out")) > WRITTEN


def test_help_in_a_code_page(monkeypatch: pytest.MonkeyPatch) -> None:
    written = narrow("cp1252", monkeypatch)
    assert main(["train", "--help"]) == 0
    assert b"--dropout" in written.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has one")
def test_a_full_disk_under_standard_output_loses_no_file(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(toy), "--test-domain", "ink", *FAST, "--output", str(tmp_path / "out")]
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(command) == 2
    assert capsys.readouterr().err == (
        "largedrop: cannot write to standard output: No space left on device; what is written to files is whole\n"
    )
    assert set(files(tmp_path / "out")) > WRITTEN
    assert sys.stdout is full


@pytest.mark.usefixtures("closed")
def test_a_pipe_that_closes_loses_no_file(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(toy), "--test-domain", "ink", *FAST, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    assert set(files(tmp_path / "out")) > WRITTEN
    assert main(["--help"]) == 0
    assert main(["report", str(tmp_path / "out"), "--output", str(tmp_path / "report")]) == 0
    assert "report.md" in files(tmp_path / "report")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model.safetensors", 0)


@pytest.mark.usefixtures("closed")
def test_predictions_end_with_the_pipe_that_takes_them(
    model: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), str(toy), "--device", "cpu"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_progress_into_a_pipe_that_closes_loses_no_file(
    closed: None, model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert main(["predict", str(model), str(toy), "--device", "cpu", "--output", str(tmp_path / "out.csv")]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 54
    assert main(["predict", str(model), str(tmp_path / "nothing")]) == 2


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX systems")
@pytest.mark.parametrize(("closed", "code"), [(">&-", 2), ("2>&-", 0), ("<&- >&- 2>&-", 2)])
def test_streams_that_are_closed_from_the_start(closed: str, code: int, model: Path, tmp_path: Path) -> None:
    """No file that is opened gets the number of one, into which a library might print."""
    page = tmp_path / "command.py"
    page.write_text(
        "import os, sys\nfrom pathlib import Path\nimport largedrop.cli as cli\n"
        "def run(arguments):\n"
        "    with open(sys.argv[1], 'w') as file:\n"
        "        file.write(str(file.fileno()))\n"
        "    print('shown')\n"
        "    print('told', file=sys.stderr)\n"
        "    return 0\n"
        "cli._run = run\n"
        "sys.exit(cli.main([]))\n"
    )
    line = f'exec "{sys.executable}" "{page}" "{tmp_path / "number"}" {closed}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == code
    assert int((tmp_path / "number").read_text()) > 2
    assert done.stdout == ("shown\n" if closed == "2>&-" else "")
    told = "told\nlargedrop: cannot write to standard output: Bad file descriptor; what is written to files is whole\n"
    assert done.stderr == (told if closed == ">&-" else "")


def test_predictions_for_a_standard_output_that_is_closed(
    model: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["predict", str(model), str(toy), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == "largedrop: cannot write to standard output: Bad file descriptor\n"


def test_a_stream_is_a_stream() -> None:
    output = Output(io.StringIO())
    assert output.write("text") == 4
    output.flush()
    assert (output.error, output.closed_early, output.getvalue(), output.isatty()) == (None, False, "text", False)


def test_control_characters_are_seen_and_no_markup_is_read(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names with an escape sequence, a new line, brackets, a right-to-left override, a comma, and very long ones."""
    names = {"ink": "a, \x1b[31m\nb", "oil": "[bold]北京", "photo": "x\u202e" + "y" * 200}
    root = tmp_path / "set [x]\x07"
    root.mkdir()
    for domain, name in names.items():
        (root / name).symlink_to(toy / domain)
    out = tmp_path / "out [red]\r"
    domains = ["--test-domains", "[bold]北京", "--dropout", "0"]
    assert main(["compare", str(root), *domains, *FAST, "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert not [each for each in said if each != "\n" and not each.isprintable()]
    assert r"set [x]\x07: 54 images, 3 domains, 3 classes" in said
    long = r"x\u202e" + "y" * 32 + "…"
    assert rf"  domains: '[bold]北京' 18, 'a, \x1b[31m\nb' 18, '{long}' 18" in said
    assert rf"  {tmp_path}/out [red]\r/report.html" in said
    page = (out / "report.html").read_text("utf-8")
    assert "[bold]北京" in page
    assert not [each for each in page if each not in "\n\xa0" and not each.isprintable()]
    assert main(["report", str(out)]) == 0
    for name in ("report.md", "table.tex"):
        text = (out / "report" / name).read_text("utf-8")
        assert not [each for each in text if each != "\n" and not each.isprintable()]
        assert "北京" in text
    assert "% Needs XeLaTeX or LuaLaTeX" in text
