"""Files of predictions: the same columns in each format, read back by other programs, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.errors import UserError
from largedrop.prediction.output import check_output, write_predictions
from largedrop.prediction.predict import Prediction

NAMES = [
    "a.jpg",
    "a,b.jpg",
    "new\nline.jpg",
    "car\rriage.jpg",
    '=cmd|"x".jpg',
    "é.jpg",
    "bad\udcff.jpg",
    "\x1b[31m.jpg",
]
FOUND = [Prediction(name, "dog", (("dog", 0.71234567), ("cat", 0.2))) for name in NAMES]
FOUND += [Prediction("b.jpg", None, (("dog", 0.4), ("cat", 0.3))), Prediction("c.jpg", None, (), "the file is empty")]


def text(format: str, found: list[Prediction] = FOUND, top: int = 2) -> bytes:
    file = io.BytesIO()
    write_predictions(found, file, format, top)
    return file.getvalue()


def test_csv_has_a_row_for_each_image_whatever_its_name() -> None:
    content = text("csv")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    assert [row["path"] for row in rows] == [*NAMES, "b.jpg", "c.jpg"]
    assert list(rows[0].values()) == ["a.jpg", "dog", "0.712346", "cat", "0.2", ""]
    assert list(rows[-2].values()) == ["b.jpg", "", "0.4", "cat", "0.3", ""]
    assert list(rows[-1].values()) == ["c.jpg", "", "", "", "", "the file is empty"]
    lines = content.split(b"\n")
    assert lines[0] == b"path,class,probability,class_2,probability_2,error"
    assert lines[2] == b'"a,b.jpg",dog,0.712346,cat,0.2,'
    assert b"bad\xff.jpg" in content
    assert b'"car\rriage.jpg"' in content


def test_json_lines_have_the_same_columns() -> None:
    rows = [json.loads(line) for line in text("jsonl").decode("ascii").splitlines()]
    assert [row["path"] for row in rows] == [*NAMES, "b.jpg", "c.jpg"]
    assert rows[-2] == {
        **{"path": "b.jpg", "class": None, "probability": 0.4},
        **{"class_2": "cat", "probability_2": 0.3, "error": None},
    }
    assert rows[-1]["probability"] is None
    assert rows[-1]["error"] == "the file is empty"


def test_parquet_has_the_same_columns() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(text("parquet"))).to_pydict()
    assert list(table) == ["path", "class", "probability", "class_2", "probability_2", "error"]
    shown = [name.replace("\udcff", "\\xff") for name in NAMES]
    assert table["path"] == [*shown, "b.jpg", "c.jpg"]
    assert table["probability"][-3:] == [0.712346, 0.4, None]
    assert table["class"][-3:] == ["dog", None, None]
    assert table["error"][-2:] == [None, "the file is empty"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "in" / "out.csv"

    def broken() -> Iterator[Prediction]:
        yield FOUND[0]
        raise UserError("the model is broken")

    assert refusal(write_predictions, broken(), path, "csv", 2) == "the model is broken"
    assert list(path.parent.iterdir()) == []
    write_predictions(FOUND, path, "csv", 2)
    assert path.read_bytes() == text("csv")
    standard_output = io.BytesIO()
    with pytest.raises(UserError):
        write_predictions(broken(), standard_output, "csv", 2)
    assert not standard_output.closed
    assert standard_output.getvalue().splitlines()[1] == b"a.jpg,dog,0.712346,cat,0.2,"


@pytest.mark.parametrize(
    ("name", "format", "found"),
    [
        (None, None, "csv"),
        (None, "jsonl", "jsonl"),
        ("a.csv", None, "csv"),
        ("a.JSONL", None, "jsonl"),
        ("a.ndjson", None, "jsonl"),
        ("a.txt", "csv", "csv"),
    ],
)
def test_the_format_is_that_of_the_ending(name: str | None, format: str | None, found: str, tmp_path: Path) -> None:
    assert check_output(None if name is None else tmp_path / name, format, False) == found


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.touch()
    assert refusal(check_output, path, None, False) == f"{path} exists: name another --output, or say --overwrite"
    assert check_output(path, None, True) == "csv"
    for other in (tmp_path, Path("/dev/null")):
        said = refusal(check_output, other, "csv", True)
        assert said == f"{other} is not a file, so it is not replaced: name another --output"
    said = refusal(check_output, tmp_path / "a.json", None, False)
    endings = ".csv, .jsonl, .ndjson, .parquet"
    assert said == f"what format is {tmp_path / 'a.json'}? its ending may be {endings}; or name it with --format"
    assert "did you mean 'jsonl'?" in refusal(check_output, path, "json", True)
    said = refusal(check_output, None, "parquet", False)
    assert said == "Parquet is not written to standard output: name a file with --output"
    absent: Any = None
    monkeypatch.setitem(sys.modules, "pyarrow", absent)
    said = refusal(check_output, tmp_path / "a.parquet", None, False)
    assert said == "Parquet needs the package pyarrow: pip install pyarrow (or largedrop[parquet])"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has one")
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_full_disk_under_standard_output_is_said(format: str) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        said = refusal(write_predictions, FOUND, full, format, 2)
    assert said == "cannot write to standard output: No space left on device"
