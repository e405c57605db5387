"""One row of results: what a method reached in a run; and the file that rows are written to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..data.dataset import Dataset
from ..errors import UserError, nearest, one_of
from ..files import write_json
from .methods import METHODS

__all__ = ["Record", "describe", "write_results"]


def shown(value: Any) -> str:
    """A setting's value as people write it.

    >>> shown(5e-05), shown(True), shown((1, 2)), shown(None)
    ('5e-05', 'true', '1/2', 'none')
    """
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "/".join(map(shown, value))
    return str(value)


@dataclass(frozen=True)
class Record:
    """What one run of one method reached, at its checkpoint of best i.i.d. accuracy.

    Attributes:
        method: one of ``METHODS``.
        dropout: rate on the representation, 0 ≤ rate < 1.
        test_domain: the domain that the run never saw.
        seed: of the split, the sample order, the augmentation and the dropout masks.
        iid_accuracy: on the held-out images, the mean over the training domains, fraction in [0, 1].
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
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any, where: str) -> Record:
        """Check ``content`` and make a record of it.

        Args:
            content: what ``to_json`` gave.
            where: what to call the entry in a message: file and position.

        Raises:
            UserError: all that is wrong with the entry, each naming its field.
        """
        problems = _problems(content)
        if problems:
            raise UserError(f"{where}: " + "; ".join(problems))
        values: dict[str, Any] = {name: float(value) if name in _FLOATS else value for name, value in content.items()}
        return cls(**values)


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
        "largedrop": __version__,
        "accuracy": "fraction of images, 0 to 1",
        "command": command,
        "dataset": dataset,
        "failed": failed,
        "records": [record.to_json() for record in records],
    }
    write_json(path, content)


def _problems(content: Any) -> list[str]:
    """All that is wrong with a record as JSON holds it."""
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


_FLOATS = ("dropout", "iid_accuracy", "ood_accuracy", "seconds")

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
