"""Inspected runs compared: plain against dropout, averaged over test domains and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import UserError
from ..runs.estimate import Estimate, estimate_json
from ..runs.record import shown
from .inspection import Inspection

__all__ = ["Column", "Comparison", "compare_inspections", "inspection_json"]


@dataclass(frozen=True)
class Column:
    """The runs of one dropout rate in a comparison, which differ in test domain and seed only.

    Attributes:
        dropout: their rate.
        runs: of the seeds that have every test domain, a tuple for each seed.
        seeds: of ``runs``.
        missing: (test domain, seed) that other seeds or rates have; their seeds are left out.
    """

    dropout: float
    runs: tuple[tuple[Inspection, ...], ...]
    seeds: tuple[int, ...]
    missing: tuple[tuple[str, int], ...]

    def estimate(self, name: str) -> Estimate | None:
        """Mean over the test domains within each seed, then over seeds; None where a run lacks the number."""
        return next(iter(self.curve(lambda each: [each.numbers[name]] if name in each.numbers else None)), None)

    def curve(self, values: Callable[[Inspection], Sequence[float] | None]) -> list[Estimate]:
        """The same for each point of a curve, up to the end of the shortest; none where a run has none."""
        table = [[curve for each in seed if (curve := values(each)) is not None] for seed in self.runs]
        if any(len(curves) < len(seed) for curves, seed in zip(table, self.runs, strict=True)):
            return []
        by_seed = [[float(np.mean(point)) for point in zip(*curves, strict=False)] for curves in table]
        return [found for point in zip(*by_seed, strict=False) if (found := Estimate.of(point))]


@dataclass(frozen=True)
class Comparison:
    """Runs of the same settings but for dropout, test domain and seed.

    Attributes:
        settings: what tells this comparison from others, (name, value).
        domains: test domains.
        columns: by rising rate.
    """

    settings: tuple[tuple[str, Any], ...]
    domains: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def title(self) -> str:
        """The settings in words; empty where there is nothing to tell apart."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.settings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        names = dict.fromkeys(
            name for column in self.columns for seed in column.runs for each in seed for name in each.numbers
        )
        columns = [
            {
                "dropout": column.dropout,
                "seeds": list(column.seeds),
                "missing": [list(cell) for cell in column.missing],
                "numbers": {name: estimate_json(column.estimate(name)) for name in names},
            }
            for column in self.columns
        ]
        return {"settings": dict(self.settings), "domains": list(self.domains), "rates": columns}


def compare_inspections(inspections: Sequence[Inspection]) -> list[Comparison]:
    """Plain against dropout: runs grouped by all settings but dropout, test domain and seed.

    Rates are compared over the same test domains, and seeds that lack one are left out of the means.

    Raises:
        UserError: nothing to compare, two runs of one config, or a rate without a seed that has every test domain.
    """
    if not inspections:
        raise UserError("there is nothing to compare: no run")
    settings = [each.run.config.settings for each in inspections]
    varied = [name for name in settings[0] if any(other[name] != settings[0][name] for other in settings)]
    groups: dict[tuple[tuple[str, Any], ...], list[Inspection]] = {}
    for each, values in zip(inspections, settings, strict=True):
        groups.setdefault(tuple((name, values[name]) for name in varied), []).append(each)
    return [_comparison(key, members) for key, members in groups.items()]


def inspection_json(
    inspections: Sequence[Inspection], comparisons: Sequence[Comparison], **options: Any
) -> dict[str, Any]:
    """All that was measured, as JSON; ``options`` say how."""
    first = inspections[0].run.config
    return {
        "format": 1,
        "largedrop": __version__,
        "data": {"name": first.data, "fingerprint": first.fingerprint},
        **options,
        "comparisons": [comparison.to_json() for comparison in comparisons],
        "runs": [each.to_json() for each in inspections],
    }


def _comparison(key: tuple[tuple[str, Any], ...], members: list[Inspection]) -> Comparison:
    cells: dict[tuple[float, str, int], Inspection] = {}
    for each in members:
        config = each.run.config
        cell = (config.dropout, config.test_domain, config.seed)
        if cell in cells:
            raise UserError(f"{cells[cell].run.folder} and {each.run.folder} are runs of the same settings")
        cells[cell] = each
    domains = tuple(sorted({domain for _, domain, _ in cells}))
    columns = []
    for dropout in sorted({rate for rate, _, _ in cells}):
        seeds = sorted({seed for rate, _, seed in cells if rate == dropout})
        missing = tuple((domain, seed) for seed in seeds for domain in domains if (dropout, domain, seed) not in cells)
        whole = tuple(seed for seed in seeds if all((dropout, domain, seed) in cells for domain in domains))
        if not whole:
            raise UserError(
                f"dropout {dropout:g}: no seed has a run on every test domain ({', '.join(domains)}); "
                "name runs of one test domain, or train those that are missing"
            )
        runs = tuple(tuple(cells[dropout, domain, seed] for domain in domains) for seed in whole)
        columns.append(Column(dropout, runs, whole, missing))
    return Comparison(key, domains, tuple(columns))
