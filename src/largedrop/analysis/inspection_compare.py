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

__all__ = ["Comparison", "Rate", "compare_inspections", "inspection_json"]


@dataclass(frozen=True)
class Rate:
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
        return next(iter(self.curve(lambda each: [each.numbers[name]] if name in each.numbers else [])), None)

    def curve(self, values: Callable[[Inspection], Sequence[float]]) -> list[Estimate]:
        """The same at each point of a curve, up to the end of the shortest."""
        by_seed = [[float(np.mean(point)) for point in zip(*map(values, seed), strict=False)] for seed in self.runs]
        return [Estimate.of(point) for point in zip(*by_seed, strict=False)]


@dataclass(frozen=True)
class Comparison:
    """Runs of the same settings but for dropout, test domain and seed.

    Attributes:
        settings: what tells this comparison from others, (name, value).
        domains: test domains.
        rates: ascending.
    """

    settings: tuple[tuple[str, Any], ...]
    domains: tuple[str, ...]
    rates: tuple[Rate, ...]

    @property
    def runs(self) -> list[Inspection]:
        """Those that are averaged."""
        return [each for rate in self.rates for seed in rate.runs for each in seed]

    @property
    def title(self) -> str:
        """The settings in words; empty where there is nothing to tell apart."""
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


def compare_inspections(inspections: Sequence[Inspection]) -> list[Comparison]:
    """Plain against dropout: runs grouped by all settings but dropout, test domain and seed.

    Rates are compared over the same test domains, and seeds that lack one are left out of the means.

    Raises:
        UserError: two runs of one config, or a rate without a seed that has every test domain.
    """
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
    rates, domains, seeds = (sorted(set(values)) for values in zip(*cells, strict=True))
    found = []
    for rate in rates:
        own = [seed for seed in seeds if any((rate, domain, seed) in cells for domain in domains)]
        missing = tuple((domain, seed) for seed in own for domain in domains if (rate, domain, seed) not in cells)
        whole = tuple(seed for seed in own if seed not in {seed for _, seed in missing})
        if not whole:
            raise UserError(
                f"dropout {rate:g}: no seed has a run on every test domain ({', '.join(domains)}); "
                "name runs of one test domain, or train those that are missing"
            )
        runs = tuple(tuple(cells[rate, domain, seed] for domain in domains) for seed in whole)
        found.append(Rate(rate, runs, whole, missing))
    return Comparison(key, tuple(domains), tuple(found))
