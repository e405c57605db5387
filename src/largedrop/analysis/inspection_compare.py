"""Comparisons of inspections between dropout rates, averaged over test domains and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._version import __version__
from ..config import ABOUT
from ..errors import UserError
from ..runs.estimate import Estimate, estimate_json
from ..runs.record import shown
from .inspection import Inspection

__all__ = ["Rate", "RateComparison", "compare_inspections", "inspection_json"]


@dataclass(frozen=True)
class Rate:
    """The inspections at one dropout rate, which differ in test domain and seed only.

    Attributes:
        dropout: the dropout rate.
        runs: inspections of every test domain, one tuple for each complete seed.
        seeds: the complete seeds.
        missing: (test domain, seed) of missing inspections; their seeds are not in ``seeds``.
    """

    dropout: float
    runs: tuple[tuple[Inspection, ...], ...]
    seeds: tuple[int, ...]
    missing: tuple[tuple[str, int], ...]

    def estimate(self, name: str) -> Estimate | None:
        """Mean over the test domains within each seed, then over seeds; None where an inspection lacks the number."""
        return next(iter(self.curve(lambda each: [each.numbers[name]] if name in each.numbers else [])), None)

    def curve(self, values: Callable[[Inspection], Sequence[float]]) -> list[Estimate]:
        """The mean of ``estimate`` at each index of ``values``, up to the shortest length."""
        by_seed = [[float(np.mean(point)) for point in zip(*map(values, seed), strict=False)] for seed in self.runs]
        return [Estimate.of(point) for point in zip(*by_seed, strict=False)]


@dataclass(frozen=True)
class RateComparison:
    """Inspections of runs whose configs differ in dropout, test domain and seed only.

    Attributes:
        settings: (name, value) of the settings that differ from other comparisons.
        domains: names of the test domains.
        rates: inspections by dropout rate, ascending.
    """

    settings: tuple[tuple[str, Any], ...]
    domains: tuple[str, ...]
    rates: tuple[Rate, ...]

    @property
    def runs(self) -> list[Inspection]:
        """The inspections in the means."""
        return [each for rate in self.rates for seed in rate.runs for each in seed]

    @property
    def title(self) -> str:
        """The settings as text; empty where there is one comparison."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.settings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        names = dict.fromkeys(name for each in self.runs for name in each.numbers)
        rates = [
            {
                "dropout": rate.dropout,
                "seeds": list(rate.seeds),
                "missing": [list(cell) for cell in rate.missing],
                "numbers": {name: estimate_json(rate.estimate(name)) for name in names},
            }
            for rate in self.rates
        ]
        return {"settings": dict(self.settings), "domains": list(self.domains), "rates": rates}


def compare_inspections(inspections: Sequence[Inspection]) -> list[RateComparison]:
    """Comparisons between dropout rates, one for each value of the other settings that change the weights.

    Runs without dropout, which have no masks, are compared with those of every number of masks. Rates are compared over
    the same test domains; seeds without an inspection of each are not in the means. Of runs that differ only in what
    they keep beside, whose weights are the same, the first one stands for all.

    Raises:
        UserError: two runs of one config, or a rate without a complete seed.
    """
    masks = sorted({each.run.config.masks for each in inspections if each.run.config.dropout}) or [1]
    settings = [
        (each, {**each.run.config.settings, "masks": number})
        for each in inspections
        for number in ([each.run.config.masks] if each.run.config.dropout else masks)
    ]
    first = settings[0][1]
    varied = [
        name for name in first if not ABOUT[name].beside and any(values[name] != first[name] for _, values in settings)
    ]
    groups: dict[tuple[tuple[str, Any], ...], list[Inspection]] = {}
    for each, values in settings:
        groups.setdefault(tuple((name, values[name]) for name in varied), []).append(each)
    return [_comparison(key, members) for key, members in groups.items()]


def inspection_json(
    inspections: Sequence[Inspection], comparisons: Sequence[RateComparison], **options: Any
) -> dict[str, Any]:
    """The content of inspection.json; ``options`` are the command's."""
    first = inspections[0].run.config
    return {
        "format": 1,
        "largedrop": __version__,
        "data": {"name": first.data, "fingerprint": first.fingerprint},
        **options,
        "comparisons": [comparison.to_json() for comparison in comparisons],
        "runs": [each.to_json() for each in inspections],
    }


def _comparison(key: tuple[tuple[str, Any], ...], members: list[Inspection]) -> RateComparison:
    cells: dict[tuple[float, str, int], Inspection] = {}
    for each in members:
        config = each.run.config
        cell = (config.dropout, config.test_domain, config.seed)
        if cell in cells and cells[cell].run.config == config:
            raise UserError(f"{cells[cell].run.folder} and {each.run.folder} are runs of the same settings")
        cells.setdefault(cell, each)
    rates, domains, seeds = (sorted(set(values)) for values in zip(*cells, strict=True))
    found = []
    for rate in rates:
        own = [seed for seed in seeds if any((rate, domain, seed) in cells for domain in domains)]
        missing = tuple((domain, seed) for seed in own for domain in domains if (rate, domain, seed) not in cells)
        whole = tuple(seed for seed in own if seed not in {seed for _, seed in missing})
        if not whole:
            raise UserError(
                f"dropout {rate:g}: no seed has a run on every test domain ({', '.join(domains)}); "
                "name runs of one test domain, or train the missing ones"
            )
        runs = tuple(tuple(cells[rate, domain, seed] for domain in domains) for seed in whole)
        found.append(Rate(rate, runs, whole, missing))
    return RateComparison(key, tuple(domains), tuple(found))
