"""What a comparison measured: one record a run, the file they are kept in, and their summary over seeds and domains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..runs.estimate import Estimate
from ..runs.methods import PLAIN, method_of, order
from ..runs.record import (
    Record,
)

__all__ = ["Row", "Score", "summarise"]


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
    return method_of(method, dropout) is PLAIN


def _order(key: tuple[str, float]) -> tuple[int, float]:
    method, dropout = key
    return order(method), dropout
