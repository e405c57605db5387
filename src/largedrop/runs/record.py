"""The record, one method's accuracies in one run, and the file results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeGuard

from .._version import __version__
from ..data.dataset import Dataset
from ..errors import UserError, nearest, one_of
from ..files import write_json
from .methods import METHODS

__all__ = ["ALPHA", "ALSO_TESTED", "Record", "describe", "is_count", "is_fraction", "mean_of_domains", "write_results"]

ALPHA = "alpha"
"""Key, in a record's settings, of the share of the way back to the start's weights: a method that has it gives a record
for each share in every run, and selection chooses one."""


ALSO_TESTED = "also_tested"
"""Key, in a record's settings, of the further test domains of its run."""


def shown(value: Any) -> str:
    """The value of a setting as text for people.

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


def mean_of_domains(accuracies: Sequence[float]) -> float | None:
    """Mean of the accuracies on several test domains, rounded to 12 decimals; that on a single one; None of none."""
    return round(fmean(accuracies), 12) if len(accuracies) > 1 else next(iter(accuracies), None)


@dataclass(frozen=True)
class Record:
    """The accuracies of one method in one run.

    Attributes:
        method: name of the method, one of ``METHODS``.
        dropout: dropout rate on the representation, in [0, 1).
        test_domain: name of a domain that the run was not trained on; empty where there is none. Of a run with several
            there is a record for each, with the same i.i.d. accuracy.
        seed: seed of the split, the sample order, the augmentation and the dropout masks.
        iid_accuracy: accuracy on the held-out images, mean over the training domains, fraction in [0, 1].
        ood_accuracy: accuracy on the test domain, fraction in [0, 1]; None where there is none.
        steps: number of optimiser steps.
        seconds: wall-clock time of the run.
        settings: the config's other fields (learning rate, batch size, …), as JSON types.
        iid_macro_accuracy: as ``iid_accuracy``, the mean over classes instead of images; None in a run of before.
        ood_macro_accuracy: as ``ood_accuracy``, the mean over classes instead of images; None in a run of before.
    """

    method: str
    dropout: float
    test_domain: str
    seed: int
    iid_accuracy: float
    ood_accuracy: float | None
    steps: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    iid_macro_accuracy: float | None = None
    ood_macro_accuracy: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON types; ``from_json`` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any, where: str) -> Record:
        """Check ``content`` and make a record of it.

        Args:
            content: object from ``to_json``.
            where: name of the entry in messages: file and index.

        Raises:
            UserError: fields are invalid; the message names each.
        """
        problems = _problems(content)
        if problems:
            raise UserError(f"{where}: " + "; ".join(problems))
        values: dict[str, Any] = {
            name: float(value) if name in _FLOATS and value is not None else value for name, value in content.items()
        }
        return cls(**values)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts about ``dataset`` in results and pages, as JSON types."""
    lacking = {domain: list(names) for domain, names in dataset.lacking.items()}
    return {
        "name": dataset.name,
        "images": len(dataset),
        "domains": {domain: len(dataset.indices(domain)) for domain in dataset.domains},
        "classes": list(dataset.classes),
        "fingerprint": dataset.fingerprint,
        "skipped": len(dataset.skipped),
        **({"lacking": lacking} if lacking else {}),
    }


def write_results(
    path: Path,
    records: Iterable[Record],
    *,
    dataset: dict[str, Any],
    failed: list[dict[str, Any]],
    command: str,
    learning_rates: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``records`` and their origin to the JSON file ``path``, whole.

    Args:
        dataset: facts about the data from ``describe``.
        failed: one entry for each run without a record: the fields that identify it, and its ``error``.
        command: command line that made the records.
        learning_rates: how they were chosen, where there were several.

    Raises:
        UserError: the file cannot be written.
    """
    content = {
        "largedrop": __version__,
        "accuracy": "fraction of images, 0 to 1",
        "command": command,
        "dataset": dataset,
        "failed": failed,
        **({"learning_rates": list(learning_rates)} if learning_rates else {}),
        "records": [record.to_json() for record in records],
    }
    write_json(path, content)


def _problems(content: Any) -> list[str]:
    """What is wrong with a record in JSON, one message for each field."""
    if not isinstance(content, Mapping):
        return [f"must be an object with {', '.join(_CHECKS)}"]
    problems = []
    for name in content:
        if name not in _CHECKS:
            close = nearest(str(name), _CHECKS)
            problems.append(f"unknown field '{name}'" + (f", did you mean '{close}'?" if close else ""))
    for name, (valid, expected) in _CHECKS.items():
        if name not in content:
            if name not in _OPTIONAL:
                problems.append(f"'{name}' is missing")
        elif not valid(content[name]):
            known = f"; {one_of(content[name], METHODS)}" if name == "method" and isinstance(content[name], str) else ""
            problems.append(f"'{name}' must be {expected}, not {json.dumps(content[name], ensure_ascii=False)}{known}")
        elif name == "settings" and not is_fraction(content[name].get(ALPHA, 0)):
            problems.append(f"'{ALPHA}' must be a number from 0 to 1, not {json.dumps(content[name][ALPHA])}")
    if not problems and (content["ood_accuracy"] is None) != (content["test_domain"] == ""):
        problems.append("there must be an 'ood_accuracy' where there is a 'test_domain', and only there")
    return problems


def _is_number(value: Any) -> bool:
    # Python's bool is an int, but JSON's true is not a number.
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether a value in JSON is a whole number, 0 or more."""
    return isinstance(value, int) and _is_number(value) and value >= 0


def is_fraction(value: Any) -> TypeGuard[float]:
    """Whether a value in JSON is a number from 0 to 1."""
    return (type(value) is float or _is_number(value)) and 0 <= value <= 1


def _is_fraction_or_none(value: Any) -> bool:
    return value is None or is_fraction(value)


_FLOATS = ("dropout", "iid_accuracy", "ood_accuracy", "iid_macro_accuracy", "ood_macro_accuracy", "seconds")

_OPTIONAL = ("settings", "iid_macro_accuracy", "ood_macro_accuracy")

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: value in METHODS, "the name of a method"),
    "dropout": (lambda value: is_fraction(value) and value < 1, "a number in [0, 1)"),
    "test_domain": (lambda value: isinstance(value, str), "a name, or empty"),
    "seed": (is_count, "a whole number, 0 or more"),
    "iid_accuracy": (is_fraction, "a fraction from 0 to 1 (not %)"),
    "ood_accuracy": (_is_fraction_or_none, "a fraction from 0 to 1 (not %)"),
    "steps": (is_count, "a whole number, 0 or more"),
    "seconds": (lambda value: _is_number(value) and 0 <= value < math.inf, "a number, 0 or more"),
    "settings": (lambda value: isinstance(value, dict), "an object"),
    "iid_macro_accuracy": (_is_fraction_or_none, "a fraction from 0 to 1 (not %)"),
    "ood_macro_accuracy": (_is_fraction_or_none, "a fraction from 0 to 1 (not %)"),
}
