"""Predictions as a file: CSV, JSON lines or Parquet, with the same columns."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError, one_of
from ..files import replacing
from .predict import Prediction

__all__ = ["FORMATS", "check_output", "write_predictions"]

Rows = Iterable[list[Any]]

Writer = Callable[[BinaryIO, Sequence[str], Rows], None]


def check_output(path: Path | None, name: str | None, overwrite: bool) -> str:
    """The format to write, before anything is computed.

    Args:
        path: the file to write; None for standard output.
        name: name of the format; None for that of the file's ending, or CSV on standard output.
        overwrite: whether the file may exist.

    Returns:
        A key of ``FORMATS``.

    Raises:
        UserError: the format is unknown or cannot be written, or the file exists or is a folder or a device.
    """
    if name is None:
        name = "csv" if path is None else _ENDINGS.get(path.suffix.lower())
    if name is None:
        raise UserError(f"what format is {path}? its ending may be {', '.join(_ENDINGS)}; or name it with --format")
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'; {one_of(name, FORMATS)}")
    if name == "parquet":
        if path is None:
            raise UserError("Parquet is not written to standard output: name a file with --output")
        _pyarrow()
    if path is not None and path.exists():
        if not path.is_file():
            raise UserError(f"{path} is not a file, so it is not replaced: name another --output")
        if not overwrite:
            raise UserError(f"{path} exists: name another --output, or say --overwrite")
    return name


def write_predictions(found: Iterable[Prediction], to: Path | BinaryIO, format: str, top: int) -> None:
    """Write predictions as they come; a file is written whole, or not at all where there is an error.

    The columns are path, class, probability, class_2, probability_2, … up to ``top``, and error. Probabilities are
    rounded to six decimals; what is not known is empty, or null. Paths are written as they are, in CSV with the bytes
    of the file's name.

    Args:
        to: the file to write, or standard output.
        format: a key of ``FORMATS``.

    Raises:
        UserError: the file or standard output cannot be written.
        BrokenPipeError: whoever reads standard output has gone.
    """
    columns = ["path", "class", "probability"]
    columns += [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "probability")]
    with ExitStack() as stack:
        file = stack.enter_context(open(stack.enter_context(replacing(to)), "wb")) if isinstance(to, Path) else to
        try:
            FORMATS[format](file, [*columns, "error"], (_row(each, len(columns)) for each in found))
        except OSError as error:
            if isinstance(to, Path) or isinstance(error, BrokenPipeError):
                raise
            raise UserError(f"cannot write to standard output: {error.strerror or error}") from error


def _row(prediction: Prediction, width: int) -> list[Any]:
    ranked = [cell for name, probability in prediction.top for cell in (name, round(probability, 6))]
    cells = [prediction.path, prediction.label, *ranked[1:]]
    return [*cells, *[None] * (width - len(cells)), prediction.error]


def _write_csv(file: BinaryIO, columns: Sequence[str], rows: Rows) -> None:
    text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    try:
        plain.writerow(columns)
        for row in rows:
            # Readers take a bare carriage return for the end of a line, and the module does not quote it.
            (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
            text.flush()
    finally:
        text.detach()  # else it closes the file with itself


def _write_json_lines(file: BinaryIO, columns: Sequence[str], rows: Rows) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(columns, row, strict=True))).encode() + b"\n")
        file.flush()


def _write_parquet(file: BinaryIO, columns: Sequence[str], rows: Rows) -> None:
    arrow, parquet = _pyarrow()
    values = [[_text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    kinds = [arrow.float64() if name.startswith("probability") else arrow.string() for name in columns]
    arrays = [arrow.array([row[at] for row in values], kind) for at, kind in enumerate(kinds)]
    parquet.write_table(arrow.table(arrays, names=list(columns)), file)


def _text(name: str) -> str:
    """A name as Parquet takes it: a byte that is no text is written as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install pyarrow (or largedrop[parquet])") from None
    return pyarrow, pyarrow.parquet


FORMATS: dict[str, Writer] = {"csv": _write_csv, "jsonl": _write_json_lines, "parquet": _write_parquet}
"""What writes each format."""

_ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
