"""What a comparison measured: one record a run, the file they are kept in, and their summary over seeds and domains."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..errors import UserError, nearest, one_of
from ..files import write_json

__all__ = [
    "METHODS",
    "Estimate",
    "Record",
    "Results",
    "Row",
    "Score",
    "describe",
    "read_results",
    "summarise",
    "write_results",
]

METHODS = (
    *("fine-tuning", "ensemble", "weight-average", "swad"),
    *("ensemble-across", "weight-average-across", "greedy-soup"),
    *("linear-fine-tuning", "linear-probe"),
)
"""Names of the methods, in the order of every table. A new method is added here (and gets a marker in figures)."""

_UNIT = "fraction of images, 0 to 1"
_MOST_PROBLEMS = 12


@dataclass(frozen=True)
class Record:
    """What one run of one method reached, at its checkpoint of best i.i.d. accuracy.

    Attributes:
        method: one of ``METHODS``.
        dropout: rate on the representation, 0 ≤ rate < 1.
        test_domain: the domain that the run never saw.
        seed: of the split, the sample order, the augmentation and the dropout masks.
        iid_accuracy: on the held-out images of the training domains, fraction in [0, 1].
        ood_accuracy: on the test domain, fraction in [0, 1].
        steps: optimiser steps that were run.
        seconds: wall-clock time of the run.
        settings: whatever else names the run (learning rate, batch size, ...), as JSON can hold it.
    """

    method: str
    dropout: float
    test_domain: str
    seed: int
    iid_accuracy: float
    ood_accuracy: float
    steps: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types; ``from_json`` reads it back."""
        return {
            "method": self.method,
            "dropout": float(self.dropout),
            "test_domain": self.test_domain,
            "seed": int(self.seed),
            "iid_accuracy": float(self.iid_accuracy),
            "ood_accuracy": float(self.ood_accuracy),
            "steps": int(self.steps),
            "seconds": float(self.seconds),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Record:
        """Check ``content`` and make a record of it.

        Args:
            content: one entry of ``records`` of a results file.
            where: what to call the entry in a message: file and position.

        Raises:
            UserError: all that is wrong with the entry, each naming its field.
        """
        problems = _problems(content)
        if problems:
            raise UserError(f"{where}: " + "; ".join(problems))
        return cls(
            method=content["method"],
            dropout=float(content["dropout"]),
            test_domain=content["test_domain"],
            seed=content["seed"],
            iid_accuracy=float(content["iid_accuracy"]),
            ood_accuracy=float(content["ood_accuracy"]),
            steps=content["steps"],
            seconds=float(content["seconds"]),
            settings=dict(content.get("settings", {})),
        )


@dataclass(frozen=True)
class Results:
    """The content of a results file; see ``write_results``."""

    records: tuple[Record, ...]
    dataset: dict[str, Any]
    failed: tuple[dict[str, Any], ...]
    command: str
    version: str


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds (a fraction, not %) and its standard error, None where one seed cannot tell."""

    mean: float
    error: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """Mean and standard error (ddof = 1) of ``values``, or None where there are none.

        >>> Estimate.of([0.5, 0.7])
        Estimate(mean=0.6, error=0.1, n=2)
        """
        n = len(values)
        if n == 0:
            return None
        error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
        # Twelve digits are far beyond any test set's resolution; the rounding hides the sums' last bits.
        return cls(round(float(np.mean(values)), 12), None if error is None else round(error, 12), n)


@dataclass(frozen=True)
class Score:
    """One method on one test domain, or over all of them.

    ``gain`` is o.o.d. accuracy minus that of plain fine-tuning, paired by test domain and seed, so that what makes a
    seed's split easy or hard cancels; None for plain fine-tuning itself and where nothing can be paired.
    """

    iid: Estimate | None
    ood: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True)
class Row:
    """One method at one dropout rate.

    Attributes:
        method: one of ``METHODS``.
        dropout: rate on the representation.
        overall: first averaged over the test domains within each seed, then over the seeds that have all of them.
        domains: the score on each test domain, in the order of the grid.
        missing: the (test domain, seed) for which there is no record, though the grid has them.
    """

    method: str
    dropout: float
    overall: Score
    domains: dict[str, Score]
    missing: tuple[tuple[str, int], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no record is missing."""
        return not self.missing

    @property
    def baseline(self) -> bool:
        """Whether this is plain fine-tuning, against which gains are taken."""
        return _is_baseline(self.method, self.dropout)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts about ``dataset`` that results and pages keep, as JSON can hold them."""
    return {
        "name": dataset.name,
        "images": len(dataset),
        "domains": {domain: len(dataset.indices(domain)) for domain in dataset.domains},
        "classes": list(dataset.classes),
        "fingerprint": dataset.fingerprint,
        "skipped": len(dataset.skipped),
    }


def write_results(
    path: Path, records: Iterable[Record], *, dataset: dict[str, Any], failed: list[dict[str, Any]], command: str
) -> None:
    """Write ``records`` and where they come from to the JSON file ``path``, whole.

    Args:
        path: the file; replaced where it exists.
        records: what was measured.
        dataset: facts about the data, as ``describe`` gives them.
        failed: one entry for each run that gave no record: what names it, and its ``error``.
        command: the command line that did it all.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "largedrop": version(),
        "accuracy": _UNIT,
        "command": command,
        "dataset": dataset,
        "failed": failed,
        "records": [record.to_json() for record in records],
    }
    write_json(path, content)


def read_results(path: Path) -> Results:
    """Read what ``write_results`` wrote.

    Raises:
        UserError: no such file, not JSON, or not a results file; all that is wrong with its records at once.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    shapes: dict[str, tuple[type, str]] = {
        "largedrop": (str, "a version"),
        "accuracy": (str, f"'{_UNIT}'"),
        "command": (str, "text"),
        "dataset": (dict, "an object"),
        "failed": (list, "a list"),
        "records": (list, "a list"),
    }
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a results file: want an object with {', '.join(shapes)}")
    problems = [
        f"'{name}' is missing" if name not in content else f"'{name}' is not {what}"
        for name, (kind, what) in shapes.items()
        if not isinstance(content.get(name), kind)
    ]
    if isinstance(content.get("accuracy"), str) and content["accuracy"] != _UNIT:
        problems.append(f"'accuracy' is '{content['accuracy']}', want '{_UNIT}'")
    if isinstance(content.get("failed"), list) and not all(isinstance(entry, dict) for entry in content["failed"]):
        problems.append("'failed' has an entry that is not an object")
    if problems:
        raise UserError(f"{path} is not a results file: " + "; ".join(problems))
    records: list[Record] = []
    for position, entry in enumerate(content["records"]):
        try:
            records.append(Record.from_json(entry, f"{path}, records[{position}]"))
        except UserError as error:
            problems.append(str(error))
    if problems:
        left = len(problems) - _MOST_PROBLEMS
        listed = problems[:_MOST_PROBLEMS] + ([f"… and {left} more records like these"] if left > 0 else [])
        raise UserError("\n".join(listed))
    return Results(
        records=tuple(records),
        dataset=content["dataset"],
        failed=tuple(content["failed"]),
        command=content["command"],
        version=content["largedrop"],
    )


def summarise(records: Iterable[Record], *, expected: Iterable[tuple[str, int]] | None = None) -> list[Row]:
    """One row for each method and dropout rate: means and standard errors over seeds, by test domain and overall.

    Args:
        records: at most one for each method, dropout rate, test domain and seed.
        expected: the (test domain, seed) that every row should have; by default every test domain of the records with
            every seed of the records.

    Returns:
        Plain fine-tuning first, then the rows in the order of ``METHODS``, each by rising dropout rate.

    Raises:
        UserError: two records of the same method, dropout rate, test domain and seed.
    """
    cells = _cells(records)
    measured = dict.fromkeys(pair for row in cells.values() for pair in row)
    if expected is None:
        seeds = sorted({seed for _, seed in measured})
        grid = [(domain, seed) for domain in dict.fromkeys(domain for domain, _ in measured) for seed in seeds]
    else:
        grid = list(dict.fromkeys([*expected, *measured]))
    baseline = next((row for key, row in cells.items() if _is_baseline(*key)), {})
    return [_row(key, cells[key], {} if _is_baseline(*key) else baseline, grid) for key in sorted(cells, key=_order)]


def version() -> str:
    """The installed version of largedrop, or ``unreleased`` where it runs from a checkout."""
    try:
        return metadata.version("largedrop")
    except metadata.PackageNotFoundError:
        return "unreleased"


_Cell = dict[tuple[str, int], Record]
"""The records of one row by (test domain, seed)."""


def _cells(records: Iterable[Record]) -> dict[tuple[str, float], _Cell]:
    cells: dict[tuple[str, float], _Cell] = {}
    for record in records:
        row = cells.setdefault((record.method, record.dropout), {})
        pair = (record.test_domain, record.seed)
        if pair in row:
            one, other = row[pair].settings, record.settings
            differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
            how = f"they differ in {', '.join(differ)}" if differ else "with the same settings"
            raise UserError(
                f"two records of {record.method} with dropout {record.dropout:g}, test domain '{record.test_domain}', "
                f"seed {record.seed} ({how}); choose one by its i.i.d. accuracy, or summarise each setting by itself"
            )
        row[pair] = record
    return cells


def _row(key: tuple[str, float], cell: _Cell, baseline: _Cell, grid: list[tuple[str, int]]) -> Row:
    domains = list(dict.fromkeys(domain for domain, _ in grid))
    seeds = sorted({seed for _, seed in grid})
    return Row(
        method=key[0],
        dropout=key[1],
        overall=_score(cell, baseline, domains, seeds),
        domains={domain: _score(cell, baseline, [domain], seeds) for domain in domains},
        missing=tuple(pair for pair in grid if pair not in cell),
    )


def _score(cell: _Cell, baseline: _Cell, domains: list[str], seeds: list[int]) -> Score:
    """Average over ``domains`` within each seed that has all of them, then over those seeds."""
    whole = [seed for seed in seeds if all((domain, seed) in cell for domain in domains)]
    paired = [seed for seed in whole if all((domain, seed) in baseline for domain in domains)]

    def over(seeds: list[int], value: Callable[[tuple[str, int]], float]) -> Estimate | None:
        return Estimate.of([float(np.mean([value((domain, seed)) for domain in domains])) for seed in seeds])

    return Score(
        iid=over(whole, lambda pair: cell[pair].iid_accuracy),
        ood=over(whole, lambda pair: cell[pair].ood_accuracy),
        gain=over(paired, lambda pair: cell[pair].ood_accuracy - baseline[pair].ood_accuracy),
    )


def _is_baseline(method: str, dropout: float) -> bool:
    return method == "fine-tuning" and dropout == 0


def _order(key: tuple[str, float]) -> tuple[int, str, float]:
    method, dropout = key
    return (METHODS.index(method) if method in METHODS else len(METHODS), method, dropout)


def _problems(content: Any) -> list[str]:
    """All that is wrong with one entry of a results file."""
    if not isinstance(content, Mapping):
        return [f"want an object with {', '.join(_CHECKS)}"]
    problems = []
    for name in content:
        if name not in _CHECKS:
            close = nearest(str(name), _CHECKS)
            problems.append(f"unknown field '{name}'" + (f", did you mean '{close}'?" if close else ""))
    for name, (valid, want) in _CHECKS.items():
        if name not in content:
            if name != "settings":
                problems.append(f"'{name}' is missing")
        elif not valid(content[name]):
            if name == "method" and isinstance(content[name], str):
                want = one_of(content[name], METHODS)
            problems.append(f"'{name}' is {json.dumps(content[name], ensure_ascii=False)}, {want}")
    return problems


def _is_number(value: Any) -> bool:
    # Python's bool is an int, and JSON's true is no number.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value) and value >= 0


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: value in METHODS, "want the name of a method"),
    "dropout": (lambda value: _is_fraction(value) and value < 1, "want a rate, at least 0 and less than 1"),
    "test_domain": (lambda value: isinstance(value, str) and value != "", "want a name"),
    "seed": (_is_count, "want a whole number, at least 0"),
    "iid_accuracy": (_is_fraction, "want a fraction from 0 to 1, not %"),
    "ood_accuracy": (_is_fraction, "want a fraction from 0 to 1, not %"),
    "steps": (_is_count, "want a whole number, at least 0"),
    "seconds": (lambda value: _is_number(value) and 0 <= value < math.inf, "want a number, at least 0"),
    "settings": (lambda value: isinstance(value, dict), "want an object"),
}
